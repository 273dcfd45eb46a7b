"""Refresh tokens: what they look like. Owns the format, touches nothing.

A token is the id of its session, a secret, its number, and our seal over all. PostgreSQL has only the hash of the one
that is good now. Each token follows from the one before and our key, so that a refresh whose answer was lost can be
answered once more with the same token. The seal distinguishes a token that was good once (and so was stolen, or is used
by two clients) from a forged one, which must not end the sessions of other users. The number says how many came before
it: one with a higher number than PostgreSQL knows was made by us, too, and PostgreSQL has lost that.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import NamedTuple
from uuid import UUID

from store.signing import SigningKeys

ID_BYTES, SECRET_BYTES, NUMBER_BYTES, SEAL_BYTES = 16, 28, 4, 16


class Presented(NamedTuple):
    """A token that a client shows. `is_sealed`: it was made by us, sometime. `number`: None for one that has none, of a
    version before."""

    session_id: UUID
    hash: bytes
    is_sealed: bool
    raw: bytes
    number: int | None = None


class RefreshTokens:
    def __init__(self, keys: SigningKeys) -> None:
        """Tokens are sealed with a key derived from the process's."""
        self._keys = keys.derive(b"parley refresh token v1")

    def issue(self, session_id: UUID) -> tuple[str, bytes]:
        """(the token, its hash)"""
        return _make(self._keys.current, session_id, secrets.token_bytes(SECRET_BYTES), 0)

    def follow(self, presented: Presented, number: int, token_hash: bytes = b"") -> tuple[str, bytes]:
        """The token that comes after this one, with this number, and its hash: always the same as long as the key is.

        With `token_hash`, the one with that hash, should it have been made with another of our keys, or by an instance
        of the version before, which gives out tokens without a number.
        """
        secrets_by_key = [(key, hmac.digest(key, b"next" + presented.raw, "sha256")) for key in self._keys.accepted]
        made = [_make(key, presented.session_id, secret, number) for key, secret in secrets_by_key]
        made += [_make_old(key, presented.session_id, secret) for key, secret in secrets_by_key]
        return next((one for one in made if hmac.compare_digest(one[1], token_hash)), made[0])

    def read(self, token: str) -> Presented | None:
        """None for what is no token at all."""
        try:
            raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(raw) != ID_BYTES + SECRET_BYTES + NUMBER_BYTES + SEAL_BYTES:
            return None
        body, seal = raw[:-SEAL_BYTES], raw[-SEAL_BYTES:]
        is_numbered = any(hmac.compare_digest(seal, _seal(key, body)) for key in self._keys.accepted)
        is_sealed = is_numbered or any(hmac.compare_digest(seal, _old_seal(key, body)) for key in self._keys.accepted)
        number = int.from_bytes(body[-NUMBER_BYTES:]) if is_numbered else None
        return Presented(UUID(bytes=raw[:ID_BYTES]), hashlib.sha256(raw).digest(), is_sealed, raw, number)


def _make(key: bytes, session_id: UUID, secret: bytes, number: int) -> tuple[str, bytes]:
    body = session_id.bytes + secret[:SECRET_BYTES] + number.to_bytes(NUMBER_BYTES)
    raw = body + _seal(key, body)
    return base64.urlsafe_b64encode(raw).decode(), hashlib.sha256(raw).digest()


def _make_old(key: bytes, session_id: UUID, secret: bytes) -> tuple[str, bytes]:
    """Without a number."""
    body = session_id.bytes + secret
    raw = body + _old_seal(key, body)
    return base64.urlsafe_b64encode(raw).decode(), hashlib.sha256(raw).digest()


def _seal(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, b"numbered" + body, "sha256")[:SEAL_BYTES]


def _old_seal(key: bytes, body: bytes) -> bytes:
    """Return the seal of a token without a number, whose secret is longer by as much."""
    return hmac.digest(key, body, "sha256")[:SEAL_BYTES]
