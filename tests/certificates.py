"""Certificates for tests: an authority that lives as long as the test, and what it signs."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Authority:
    """Signs certificates for 127.0.0.1, or another host; `client` trusts no other authority."""

    def __init__(self, name: str = "Parley tests") -> None:
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._root = self._sign(self._name, self._key, None)
        self.pem = self._root.public_bytes(serialization.Encoding.PEM).decode()
        self.client = ssl.create_default_context(cadata=self.pem)

    def issue(self, directory: Path, *, days: float = 1, host: str = "127.0.0.1") -> tuple[str, str]:
        """New files `cert.pem` and `key.pem`, in place of older ones."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        cert = self._sign(name, key, host, days)
        places = directory / "cert.pem", directory / "key.pem"
        places[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        places[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(places[0]), str(places[1])

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, host: str | None, days: float = 1
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        )
        if host is not None:
            is_address = host[-1].isdecimal()
            name_of_it = x509.IPAddress(ip_address(host)) if is_address else x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([name_of_it]), critical=False)
        return builder.sign(self._key, hashes.SHA256())
