"""Refresh tokens: what they look like. Owns the format, touches nothing.

A token is the id of its session, a secret, and our seal over both. PostgreSQL knows only the hash of the one that is
good now. Each follows from the one before and our key, so that a refresh whose answer was lost can be answered once
more with the same token. The seal tells a token that was good once (and so was stolen, or is used by two) from one that
somebody made up, who must not be able to end other people's sessions.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import NamedTuple
from uuid import UUID

ID_BYTES, SECRET_BYTES, SEAL_BYTES = 16, 32, 16


class Presented(NamedTuple):
    """A token that a client shows. `is_sealed`: it was made by us, sometime."""

    session_id: UUID
    hash: bytes
    is_sealed: bool
    raw: bytes


class RefreshTokens:
    def __init__(self, key: str) -> None:
        """`key` is the process's signing key; tokens are sealed with one derived from it."""
        self._key = hmac.digest(key.encode(), b"parley refresh token v1", "sha256")

    def issue(self, session_id: UUID) -> tuple[str, bytes]:
        """(the token, its hash)"""
        return self._make(session_id, secrets.token_bytes(SECRET_BYTES))

    def follow(self, presented: Presented) -> tuple[str, bytes]:
        """The token that comes after this one, and its hash: always the same."""
        return self._make(presented.session_id, hmac.digest(self._key, b"next" + presented.raw, "sha256"))

    def _make(self, session_id: UUID, secret: bytes) -> tuple[str, bytes]:
        body = session_id.bytes + secret
        raw = body + self._seal(body)
        return base64.urlsafe_b64encode(raw).decode(), hashlib.sha256(raw).digest()

    def read(self, token: str) -> Presented | None:
        """None for what is no token at all."""
        try:
            raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(raw) != ID_BYTES + SECRET_BYTES + SEAL_BYTES:
            return None
        body, seal = raw[:-SEAL_BYTES], raw[-SEAL_BYTES:]
        is_sealed = hmac.compare_digest(seal, self._seal(body))
        return Presented(UUID(bytes=raw[:ID_BYTES]), hashlib.sha256(raw).digest(), is_sealed, raw)

    def _seal(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:SEAL_BYTES]
