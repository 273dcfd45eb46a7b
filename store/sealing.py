"""Secrets that are kept sealed: who reads the database, or a copy of it, learns none.

Owns the form of a sealed secret: AES-256-GCM (`cryptography`) under a key that is derived from the signing keys, bound
to what it is a secret of. Touches nothing; the library is not loaded before the first secret. What was sealed before an
exchange of the signing key is opened as long as the old one is accepted, and is to be sealed anew meanwhile.
"""

import hashlib
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import trio

from store.signing import DerivedKeys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = b"\1"
NONCE = 12  # octets
LIBRARY = "cryptography.hazmat.primitives.ciphers.aead"


class Unreadable(Exception):
    """The secret cannot be opened: it was sealed with none of the accepted keys."""


async def load() -> None:
    """Load the library in a thread, which takes tens of milliseconds, before the first secret."""
    if LIBRARY not in sys.modules:
        await trio.to_thread.run_sync(import_module, LIBRARY)


def seal(keys: DerivedKeys, secret: bytes, of: bytes) -> bytes:
    """`of`: what it is a secret of; it is opened by the same word only."""
    nonce = os.urandom(NONCE)
    return VERSION + nonce + _cipher(keys.current).encrypt(nonce, secret, of)


def unseal(keys: DerivedKeys, sealed: bytes, of: bytes) -> tuple[bytes, bool]:
    """Return (the secret, whether it is sealed with the current key). Raise Unreadable."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415

    nonce, rest = sealed[1 : 1 + NONCE], sealed[1 + NONCE :]
    if sealed[:1] == VERSION and len(nonce) == NONCE:
        for number, key in enumerate(keys.accepted):
            try:
                return _cipher(key).decrypt(nonce, rest, of), number == 0
            except InvalidTag:
                continue
    raise Unreadable("no accepted key opens the secret")


def _cipher(derived: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    return AESGCM(hashlib.sha256(b"sealing" + derived).digest())
