"""Who is calling: access tokens (JWT) and the signed, single-use connection tokens of negotiate.

Owns the rules of verification (RFC 7519, RFC 8725). The algorithm is never taken from the token: HS256
goes with our key only, anything else with a key of the JWKS, by that key's own type. Keys from a URL
are in `server.identity.jwks`.
"""

import secrets
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import jwt

from handlers.errors import ChatError
from handlers.model import Caller
from server.config.settings import Settings
from server.identity import jwts
from server.identity.jwks import KeySet
from store.errors import StoreError
from store.outage import Outage
from store.redis import keys
from store.signing import SigningKeys

LEEWAY = 5  # seconds of clock difference that is forgiven, when a token is shown and while a connection lives on it
ACCESS_TTL = 15 * 60  # seconds an access token of ours lives
CONNECTION_TTL = 30  # seconds between negotiate and connect
CONNECTION_AUDIENCE = "parley-connection"
WRONG_SIGNATURE = "The signature of the access token is wrong."
USED_MAX = 100_000  # connection tokens remembered as used; each for CONNECTION_TTL
VERIFIED_MAX = 10_000  # access tokens remembered as good: a client shows the same one to negotiate, connect and ask
_MAX_HEADER = 1024  # characters of a token's header that are remembered; no honest one has more

_OPTIONS: Any = {"require": ["exp", "sub"], "verify_aud": True}


def mint_token(
    settings: Settings,
    user_id: UUID,
    ttl_seconds: float = ACCESS_TTL,
    *,
    admin: bool = False,
    session_id: UUID | None = None,
) -> str:
    """An access token of ours for `user_id`; it ends with the sign-in session, if it is from one."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "sub": str(user_id),
        "iat": now,
        "nbf": now,
        "exp": now + int(ttl_seconds),
        "jti": secrets.token_urlsafe(12),
    }
    if admin:
        claims["role"] = "admin"
    if session_id is not None:
        claims["sid"] = str(session_id)
    return jwt.encode(claims, settings.jwt_key, algorithm="HS256")


def signing_keys(settings: Settings) -> SigningKeys:
    return SigningKeys(settings.jwt_key, *settings.jwt_old_keys)


def unauthenticated(sentence: str) -> ChatError:
    return ChatError("unauthenticated", sentence)


class Verifier:
    """Checks access tokens. `keys` is None where no JWKS URL is configured."""

    def __init__(self, signing: SigningKeys, *, issuer: str, audience: str, keys: KeySet | None = None) -> None:
        self._signing = signing
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._verified: dict[str, Caller] = {}  # ours only, by token: for as long as these keys are accepted
        self._verified_by: tuple[str, ...] = ()

    async def verify(self, token: str) -> Caller:
        """Raises ChatError("unauthenticated") that says what is wrong. Waits only for a key not seen before."""
        known = self._recall(token)
        if known is not None:
            return known
        header = _header(token)
        if header.get("alg") == "HS256" and self._signing.current:
            caller = self._decode_ours(token)
            if len(self._verified) >= VERIFIED_MAX:
                del self._verified[next(iter(self._verified))]
            self._verified[token] = caller
            return caller
        if self._keys is None or header.get("alg") in (None, "none", "HS256", "HS384", "HS512"):
            raise unauthenticated("The access token is signed in a way that is not accepted.")
        key = await self._keys.find(header.get("kid"))
        if key is None:
            raise unauthenticated("The access token is signed with an unknown key.")
        return self._decode(token, key, key.algorithm_name)

    def _recall(self, token: str) -> Caller | None:
        """Who showed this token before; None when nobody did, it has expired, or the keys are others now."""
        if self._verified_by is not self._signing.accepted:
            self._verified_by = self._signing.accepted
            self._verified.clear()
        caller = self._verified.get(token)
        return caller if caller is not None and caller.expires_at > time.time() else None

    def _decode_ours(self, token: str) -> Caller:
        """With whichever of our keys it was signed."""
        *others, last = self._signing.accepted
        for key in others:
            try:
                return self._decode(token, key, "HS256", is_ours=True)
            except ChatError as error:
                if error.sentence != WRONG_SIGNATURE:
                    raise
        return self._decode(token, last, "HS256", is_ours=True)

    def _decode(self, token: str, key: Any, algorithm: str, *, is_ours: bool = False) -> Caller:
        try:
            claims = jwts.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options=_OPTIONS,
            )
            user_id = UUID(claims["sub"])
            return Caller(
                user_id=user_id,
                expires_at=float(claims["exp"]) + LEEWAY,
                is_admin=_is_admin(claims),
                session_id=UUID(claims["sid"]) if is_ours and "sid" in claims else None,
            )
        except jwt.ExpiredSignatureError:
            raise unauthenticated("The access token has expired.") from None
        except jwt.ImmatureSignatureError:
            raise unauthenticated("The access token is not valid yet.") from None
        except jwt.InvalidAudienceError:
            raise unauthenticated("The access token is for another audience.") from None
        except jwt.InvalidIssuerError:
            raise unauthenticated("The access token is from another issuer.") from None
        except jwt.MissingRequiredClaimError as error:
            raise unauthenticated(f"The access token lacks the claim '{error.claim}'.") from None
        except jwt.InvalidSignatureError:
            raise unauthenticated(WRONG_SIGNATURE) from None
        except jwt.DecodeError:
            raise _malformed() from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):  # UUID's words for a number, a list, null
            raise unauthenticated("The access token is not acceptable.") from None


def _malformed() -> ChatError:
    return unauthenticated("The access token is malformed.")


def _header(token: str) -> dict[str, Any]:
    """What a token says of itself. Raises ChatError("unauthenticated")."""
    header = token.partition(".")[0]
    try:
        return _decoded_header(header) if len(header) <= _MAX_HEADER else jwts.header(token)
    except jwt.PyJWTError:
        raise _malformed() from None


@lru_cache(maxsize=256)
def _decoded_header(header: str) -> dict[str, Any]:
    """Tokens of one issuer differ in the rest."""
    return jwts.header(f"{header}..")


def _is_admin(claims: dict[str, Any]) -> bool:
    roles = claims.get("roles", claims.get("role", ()))
    return any(str(role).casefold() == "admin" for role in ([roles] if isinstance(roles, str) else roles or ()))


class Claimer(Protocol):
    """What makes a token single-use across instances (`store.redis.client`)."""

    async def claim(self, key: str, ttl: float) -> bool: ...


class Redeemed(NamedTuple):
    caller: Caller
    connection_id: str
    stateful: bool = False  # stateful reconnect was asked for and granted


def new_connection_id() -> str:
    """The public name of a connection: nobody can guess another's. A dash in front would be an option to a command."""
    made = secrets.token_urlsafe(16)
    return f"_{made[1:]}" if made.startswith("-") else made


class UsedToken(Exception):
    """The connection token was used before."""


class ConnectionTokens:
    """Issues what negotiate gives out, and takes it back once. Any instance with the same key can."""

    def __init__(self, signing: SigningKeys, claimer: Claimer) -> None:
        # Keys of their own, so that no connection token is ever an access token or the other way round.
        self._keys = signing.derive(b"parley connection token v1")
        self._claimer = claimer
        self.outage = Outage("parley.auth", "connection_tokens_unchecked", advice="Redis is out of reach")
        self._used: dict[str, float] = {}

    def issue(self, caller: Caller, *, stateful: bool = False) -> tuple[str, str]:
        """(public connection id, secret connection token)."""
        connection_id = new_connection_id()
        claims = {
            "aud": CONNECTION_AUDIENCE,
            "sub": str(caller.user_id),
            "adm": caller.is_admin,
            "tok": caller.expires_at,
            "exp": time.time() + CONNECTION_TTL,
            "jti": connection_id,
            "rec": stateful,
            "sid": None if caller.session_id is None else str(caller.session_id),
        }
        return connection_id, jwt.encode(claims, self._keys.current, algorithm="HS256")

    async def redeem(self, token: str, require: Callable[[UUID], Awaitable[None]] | None = None) -> Redeemed | None:
        """Who negotiated, or None for a token that is not ours or has expired. Raises UsedToken.

        `require` may raise for the user who negotiated: the token then stays good.
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
                return None  # its session is gone, or on another instance: the client begins anew
            raise
        caller = Caller(
            user_id=UUID(claims["sub"]),
            expires_at=float(claims["tok"]),
            is_admin=bool(claims["adm"]),
            session_id=UUID(claims["sid"]) if claims.get("sid") else None,
        )
        return Redeemed(caller, claims["jti"], stateful)

    def identify(self, token: str) -> str:
        """The connection id of a token of ours, however old; empty for any other."""
        claims = self._claims(token, verify_exp=False)
        return "" if claims is None else str(claims["jti"])

    def _claims(self, token: str, *, verify_exp: bool = True) -> dict[str, Any] | None:
        options: Any = {"require": ["exp", "jti"], "verify_exp": verify_exp}
        for key in self._keys.accepted:
            try:
                return jwts.decode(token, key, algorithms=["HS256"], audience=CONNECTION_AUDIENCE, options=options)
            except jwt.PyJWTError:
                continue
        return None

    async def _claim(self, connection_id: str) -> None:
        now = time.monotonic()
        while self._used and (len(self._used) >= USED_MAX or next(iter(self._used.values())) < now):
            del self._used[next(iter(self._used))]
        if connection_id in self._used:
            raise UsedToken
        self._used[connection_id] = now + CONNECTION_TTL + 1
        try:
            fresh = await self._claimer.claim(keys.claim("connection", connection_id), CONNECTION_TTL + 1)
        except StoreError as error:
            # Better to let people in for the half minute in which only another instance could be fooled.
            self.outage.failed(str(error))
            return
        self.outage.over()
        if not fresh:
            raise UsedToken
