"""The signed, single-use connection tokens of negotiate.

Owns their issue and their single use, on this instance and, through `Claimer`, on the others (docs/hub-protocol.md 1).
A token says who has negotiated, and until when their access token is good.
"""

import base64
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import jwt

from handlers.model import Caller
from server.identity import jwts
from store.errors import StoreError
from store.outage import Outage
from store.redis import keys
from store.signing import SigningKeys

TTL = 30  # seconds between negotiate and connect
AUDIENCE = "parley-connection"
USED_MAX = 100_000  # tokens remembered as used; each for TTL
ID_BYTES = 16  # of randomness, in a connection id
DRAWN = 64  # ids for which it is drawn at once, as in `store.ids`

_drawn: list[bytes] = []
os.register_at_fork(after_in_child=_drawn.clear)  # parent and child make different ones


class Claimer(Protocol):
    """Makes a token single-use across instances (`store.redis.client`)."""

    async def claim(self, key: str, ttl: float) -> bool: ...


class Redeemed(NamedTuple):
    caller: Caller
    connection_id: str
    stateful: bool = False  # stateful reconnect was requested and granted


def new_connection_id() -> str:
    """Return a random public id. It does not begin with a dash, which commands would read as an option."""
    if not _drawn:
        drawn = os.urandom(ID_BYTES * DRAWN)
        _drawn.extend(drawn[at : at + ID_BYTES] for at in range(0, len(drawn), ID_BYTES))
    made = base64.urlsafe_b64encode(_drawn.pop()).rstrip(b"=").decode()
    return f"_{made[1:]}" if made.startswith("-") else made


class UsedToken(Exception):
    """The connection token was used before."""


class ConnectionTokens:
    """Issues connection tokens at negotiate, and redeems each once, on any instance with the same key."""

    def __init__(self, signing: SigningKeys, claimer: Claimer) -> None:
        # Derived keys, so that a connection token is never valid as an access token, or the reverse.
        self._keys = signing.derive(b"parley connection token v1")
        self._claimer = claimer
        self.outage = Outage("parley.auth", "connection_tokens_unchecked", advice="Redis is out of reach")
        self._used: dict[str, float] = {}

    def issue(self, caller: Caller, *, stateful: bool = False) -> tuple[str, str]:
        """Return a public connection id, and the secret connection token for it."""
        connection_id = new_connection_id()
        claims = {
            "aud": AUDIENCE,
            "sub": str(caller.user_id),
            "adm": caller.is_admin,
            "tok": caller.expires_at,
            "exp": time.time() + TTL,
            "jti": connection_id,
            "rec": stateful,
            "sid": None if caller.session_id is None else str(caller.session_id),
        }
        return connection_id, jwt.encode(claims, self._keys.current, algorithm="HS256")

    async def redeem(self, token: str, require: Callable[[UUID], Awaitable[None]] | None = None) -> Redeemed | None:
        """Return the caller who negotiated; None for an invalid or expired token. Raise UsedToken.

        `require` may raise for that user; the token is not used up then. The token is marked as used on this instance
        first, and then in Redis for the others. Without Redis it is accepted nevertheless: for the `TTL` of
        a token, another instance might accept it too. A used token of stateful reconnect gives None, not UsedToken:
        its connection has ended, or is on another instance, and the client starts a new one.
        """
        claims = self._claims(token)
        if claims is None:
            return None
        if require is not None:
            await require(UUID(claims["sub"]))
        stateful = bool(claims.get("rec"))
        try:
            await self._claim(claims["jti"])
        except UsedToken:
            if stateful:
                return None
            raise
        caller = Caller(
            user_id=UUID(claims["sub"]),
            expires_at=float(claims["tok"]),
            is_admin=bool(claims["adm"]),
            session_id=UUID(claims["sid"]) if claims.get("sid") else None,
        )
        return Redeemed(caller, claims["jti"], stateful)

    def identify(self, token: str) -> str:
        """Return the connection id of a token of this service, even an expired one; empty for any other."""
        claims = self._claims(token, verify_exp=False)
        return "" if claims is None else str(claims["jti"])

    def _claims(self, token: str, *, verify_exp: bool = True) -> dict[str, Any] | None:
        options: Any = {"require": ["exp", "jti"], "verify_exp": verify_exp}
        accepted = [(key, "HS256") for key in self._keys.accepted]
        try:
            return jwts.decode(token, accepted, audience=AUDIENCE, options=options)
        except jwt.PyJWTError:
            return None

    async def _claim(self, connection_id: str) -> None:
        now = time.monotonic()
        while self._used and (len(self._used) >= USED_MAX or next(iter(self._used.values())) < now):
            del self._used[next(iter(self._used))]
        if connection_id in self._used:
            raise UsedToken
        self._used[connection_id] = now + TTL + 1
        try:
            fresh = await self._claimer.claim(keys.claim("connection", connection_id), TTL + 1)
        except StoreError as error:
            self.outage.failed(str(error))
            return
        self.outage.over()
        if not fresh:
            raise UsedToken
