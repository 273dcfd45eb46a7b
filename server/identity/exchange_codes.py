"""The code that an application exchanges for tokens after a sign-in in the browser.

Owns its format: signed, valid for one minute, bound to the challenge that the application gave at the start (RFC 7636,
with S256 only). Its single use is enforced where the session is created. Sans-I/O.
"""

import base64
import hashlib
import hmac
import re
import time
from uuid import UUID, uuid4

import jwt
import msgspec

from server.identity import jwts
from store.signing import SigningKeys

TTL = 60  # seconds between the redirect and the exchange
AUDIENCE = "parley-sign-in-code"
CHALLENGE = "[A-Za-z0-9_-]{43}"  # S256 (RFC 7636, 4.2)

_challenge = re.compile(CHALLENGE)


class Grant(msgspec.Struct, frozen=True):
    """The contents of a code. `session_id`: of the access token with which adding an identity was requested."""

    user_id: UUID
    provider: str
    id: UUID = msgspec.field(default_factory=uuid4)
    session_id: UUID | None = None
    challenge: str = ""


def is_challenge(text: str) -> bool:
    return _challenge.fullmatch(text) is not None


class Codes:
    """Signs grants with a key derived from the signing key."""

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys.derive(b"parley sign-in code v1")

    def issue(self, grant: Grant) -> str:
        claims = {"aud": AUDIENCE, "exp": int(time.time()) + TTL, "grt": msgspec.to_builtins(grant)}
        return jwt.encode(claims, self._keys.current, algorithm="HS256")

    def redeem(self, code: str, verifier: str | None) -> Grant | None:
        """Return the grant of a code; None if it is invalid or expired, or if the verifier does not match."""
        keys = [(key, "HS256") for key in self._keys.accepted]
        try:
            claims = jwts.decode(code, keys, audience=AUDIENCE, options={"require": ["exp", "grt"]})
            grant = msgspec.convert(claims["grt"], Grant)
        except (jwt.PyJWTError, msgspec.ValidationError):
            return None
        return grant if _fits(grant.challenge, verifier) else None


def _fits(challenge: str, verifier: str | None) -> bool:
    """Return True if the verifier matches. One without a challenge is refused (RFC 9700, 2.1.1)."""
    if not challenge or verifier is None:
        return not challenge and verifier is None
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
    return hmac.compare_digest(digest, challenge.encode())
