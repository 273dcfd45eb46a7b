"""The state of a sign-in in progress, which must match when the browser returns from the provider.

Owns the sealed cookie that carries it, so that instances keep no state, and only the browser that began a sign-in can
finish it. Sans-I/O. RFC 7636 (PKCE), RFC 6749 10.12 (state), OpenID Connect Core 3.1.2.1 (nonce).
"""

import base64
import hashlib
import secrets
import time
from uuid import UUID

import jwt
import msgspec

from handlers.model import Caller
from server.identity import jwts
from store.signing import SigningKeys

TTL = 600  # seconds a user may take at the provider
AUDIENCE = "parley-sign-in"
COOKIE = "parley_sign_in_"  # followed by the start of the state, since two windows may sign in at once
COOKIE_KEY_LENGTH = 16


class Attempt(msgspec.Struct, frozen=True):
    """One attempt. `link_to`: the user who adds an identity to their account; `return_url`: where it ends."""

    provider: str
    state: str
    nonce: str
    verifier: str
    redirect_uri: str
    return_url: str = ""
    challenge_of_app: str = ""  # the application shows its verifier when it exchanges the code
    link_to: UUID | None = None
    session_id: UUID | None = None  # of the access token of `link_to`

    @property
    def challenge(self) -> str:
        """The S256 challenge of `verifier` (RFC 7636, 4.2)."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def begin(
    provider: str, redirect_uri: str, *, return_url: str = "", challenge: str = "", caller: Caller | None = None
) -> Attempt:
    """Return a new attempt. `challenge`: of the application; `caller`: the user who adds an identity, if any."""
    return Attempt(
        provider=provider,
        state=secrets.token_urlsafe(24),
        nonce=secrets.token_urlsafe(24),
        verifier=secrets.token_urlsafe(48),
        redirect_uri=redirect_uri,
        return_url=return_url,
        challenge_of_app=challenge,
        link_to=None if caller is None else caller.user_id,
        session_id=None if caller is None else caller.session_id,
    )


def cookie_name(state: str) -> str:
    return COOKIE + "".join(c for c in state[:COOKIE_KEY_LENGTH] if c.isascii() and (c.isalnum() or c in "-_"))


class Sealer:
    """Signs attempts with a key derived from the signing key."""

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys.derive(b"parley sign-in v1")

    def seal(self, attempt: Attempt) -> str:
        claims = {"aud": AUDIENCE, "exp": int(time.time()) + TTL, "att": msgspec.to_builtins(attempt)}
        return jwt.encode(claims, self._keys.current, algorithm="HS256")

    def open(self, sealed: str) -> Attempt | None:
        """Return the attempt; None if it is invalid or expired."""
        keys = [(key, "HS256") for key in self._keys.accepted]
        try:
            claims = jwts.decode(sealed, keys, audience=AUDIENCE, options={"require": ["exp", "att"]})
            return msgspec.convert(claims["att"], Attempt)
        except (jwt.PyJWTError, msgspec.ValidationError):
            return None
