"""A sign-in under way: what must be the same when the browser comes back from the provider.

Owns the sealed cookie that carries it, so that no instance needs to remember anything and only the browser that began
can finish. Sans-I/O. RFC 7636 (PKCE), RFC 6749 10.12 (state), OpenID Connect Core 3.1.2.1 (nonce).
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
COOKIE = "parley_sign_in_"  # and the start of the state: two windows may be at it at once
COOKIE_KEY_LENGTH = 16


class Attempt(msgspec.Struct, frozen=True):
    """`link_to` is the user who wants to add an identity to her own; `return_url` where the browser goes at the end."""

    provider: str
    state: str
    nonce: str
    verifier: str
    redirect_uri: str
    return_url: str = ""
    challenge_of_app: str = ""  # whoever exchanges the code shows the verifier of it
    link_to: UUID | None = None
    session_id: UUID | None = None  # of her token

    @property
    def challenge(self) -> str:
        """S256 (RFC 7636, 4.2)."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def begin(
    provider: str, redirect_uri: str, *, return_url: str = "", challenge: str = "", caller: Caller | None = None
) -> Attempt:
    """`challenge` is the application's; `caller` wants to add an identity."""
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
    """Signs attempts with a key of their own, derived from the process's."""

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys.derive(b"parley sign-in v1")

    def seal(self, attempt: Attempt) -> str:
        claims = {"aud": AUDIENCE, "exp": int(time.time()) + TTL, "att": msgspec.to_builtins(attempt)}
        return jwt.encode(claims, self._keys.current, algorithm="HS256")

    def open(self, sealed: str) -> Attempt | None:
        """None for what is not ours, or too old."""
        for key in self._keys.accepted:
            try:
                claims = jwts.decode(
                    sealed, key, algorithms=["HS256"], audience=AUDIENCE, options={"require": ["exp", "att"]}
                )
                return msgspec.convert(claims["att"], Attempt)
            except (jwt.PyJWTError, msgspec.ValidationError):
                continue
        return None
