"""server.process.spared_imports: what a server loads, and what it does without."""

import os
import subprocess
import sys

import pytest

from server.process.spared_imports import spared

PLAIN = {
    "PARLEY_DATABASE_URL": "postgresql://parley@localhost/parley",
    "PARLEY_REDIS_URL": "redis://localhost",
    "PARLEY_JWT_KEY": "k" * 40,
    "PARLEY_REGISTRATION": "closed",
}
ISSUER = {"PARLEY_JWKS_URL": "https://issuer.example/keys"}
RUN = """
import sys, trio
from server.cli.main import main
trio.run = lambda *ignored: print(*sys.modules)
main(["serve"], standalone_mode=False)
"""
# Packages of what is not configured, or not used, in a plain server.
UNUSED = {
    "ada_url",
    "boto3",
    "botocore",
    "cryptography",
    "imagesize",
    "loadtest",
    "opentelemetry",
    "parley_client",
    "puremagic",
    "pydantic",
    "pydantic_core",
    "pygments",
    "rich",
}


def loaded(settings: dict[str, str]) -> set[str]:
    """The packages that `parley serve` has imported when it begins."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PARLEY_", "OTEL_"))}
    command = [sys.executable, "-c", RUN]
    found = subprocess.run(command, env=environ | settings, capture_output=True, text=True, check=True).stdout
    return {name.partition(".")[0] for name in found.split()}


def test_a_plain_server_loads_nothing_of_what_is_not_configured() -> None:
    """Nothing of `UNUSED` is imported before it is needed; the rest of the server is."""
    found = loaded(PLAIN)
    assert "quart" in found and "coredis" in found and not found & UNUSED


def test_a_server_with_an_issuer_loads_what_checks_public_keys() -> None:
    """Where JWKS_URL is set, PyJWT finds `cryptography`."""
    assert "cryptography" in loaded(PLAIN | ISSUER)


def test_what_is_spared_is_missing_meanwhile_only() -> None:
    """A package cannot be imported while it is spared, and can be afterwards; what is loaded already stays."""
    with spared("tabnanny", "json"):
        import json  # noqa: PLC0415, F401

        with pytest.raises(ImportError):
            import tabnanny  # noqa: PLC0415
    import tabnanny  # noqa: PLC0415

    assert callable(tabnanny.check)
