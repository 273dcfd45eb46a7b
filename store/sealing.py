"""Secrets that are kept sealed: who reads the database, or a copy of it, learns none.

Owns the form of a sealed secret: AES-256-GCM (`cryptography`) under a key that is derived from the signing keys, bound
to what it is a secret of. Touches nothing. What was sealed before an exchange of the signing key is opened as long as
the old one is accepted, and is to be sealed anew meanwhile.
"""

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from store.signing import DerivedKeys

VERSION = b"\1"
NONCE = 12  # octets


class Unreadable(Exception):
    """None of the accepted keys opens it."""


def seal(keys: DerivedKeys, secret: bytes, of: bytes) -> bytes:
    """`of`: what it is a secret of; it is opened by the same word only."""
    nonce = os.urandom(NONCE)
    return VERSION + nonce + AESGCM(_key(keys.current)).encrypt(nonce, secret, of)


def unseal(keys: DerivedKeys, sealed: bytes, of: bytes) -> tuple[bytes, bool]:
    """Return (the secret, whether it is sealed with the current key). Raise Unreadable."""
    nonce, rest = sealed[1 : 1 + NONCE], sealed[1 + NONCE :]
    if sealed[:1] == VERSION and len(nonce) == NONCE:
        for number, key in enumerate(keys.accepted):
            try:
                return AESGCM(_key(key)).decrypt(nonce, rest, of), number == 0
            except InvalidTag:
                continue
    raise Unreadable("no accepted key opens the secret")


def _key(derived: bytes) -> bytes:
    return hashlib.sha256(b"sealing" + derived).digest()
