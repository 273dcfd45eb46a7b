"""Verify access tokens (JWT), and issue those of this service.

Owns the rules of verification (RFC 7519, RFC 8725). The algorithm is never taken from the token: HS256
goes with our key only, anything else with a key of the JWKS, by that key's own type. Keys from a URL
are in `server.identity.jwks`.
"""

import hashlib
import secrets
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from uuid import UUID

import jwt
import msgspec

from handlers.api_keys import is_key
from handlers.errors import ChatError
from handlers.model import Caller
from server.config.settings import Settings
from server.identity import jwts
from server.identity.jwks import KeySet
from server.identity.subjects import Subjects
from store.signing import SigningKeys

LEEWAY = 5  # seconds of clock difference that is tolerated, at verification and while a connection depends on the token
ACCESS_TTL = 15 * 60  # seconds for which an access token of this service is valid
VERIFIED_MAX = (
    10_000  # access tokens remembered as valid: clients use the same one to negotiate, to connect and over REST
)
_MAX_HEADER = 1024  # characters of a token's header that is cached; genuine ones are shorter

_OPTIONS: Any = {"require": ["exp", "sub"], "verify_aud": True}


def mint_token(
    settings: Settings,
    user_id: UUID,
    ttl_seconds: float = ACCESS_TTL,
    *,
    admin: bool = False,
    session_id: UUID | None = None,
) -> str:
    """Return an access token for `user_id`, which ends with the sign-in session `session_id`, if given."""
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


def presented(authorization: str, in_query: str) -> str:
    """Return the access token that a request of the hub shows: in its header, or in the query; empty if in neither.

    Raise ChatError if it shows two different ones: it is not known which of them is meant (RFC 6750, 2 and 3.1).
    """
    scheme, _, bearer = authorization.partition(" ")
    in_header = bearer.strip() if scheme.lower() == "bearer" else ""
    if in_header and in_query and in_header != in_query:
        sentence = "The header and the query have different access tokens. Send one, in one place."
        raise ChatError("invalid_request", sentence)
    return in_header or in_query


class Verifier:
    """Checks access tokens. `keys` is None where no JWKS URL is configured."""

    def __init__(
        self,
        signing: SigningKeys,
        *,
        issuer: str,
        audience: str,
        keys: KeySet | None = None,
        subjects: Subjects | None = None,
    ) -> None:
        """`subjects` finds the users of tokens that do not name them by our ids; without, there are none."""
        self._signing = signing
        self._subjects = subjects
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._verified: dict[bytes, Caller] = {}  # of this service, by digest, while these keys are accepted
        self._verified_by: tuple[str, ...] = ()

    async def verify(self, token: str) -> Caller:
        """Return the caller of a valid token. Raise ChatError("unauthenticated") with what is wrong.

        The algorithm of the header only selects the kind of key: HS256 is verified with a key of this service, and
        anything else with a key of the JWKS, by that key's own type. So a token signed by HS256 with a public key is
        never accepted (RFC 8725, 3.1). Tokens of this service are remembered until they expire or the keys change;
        those of others are verified each time, since their keys may be withdrawn. Waits only to fetch unknown or
        stale keys.
        """
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()  # a tenth of the token
        known = self._recall(digest)
        if known is not None:
            return known
        if is_key(token):
            raise unauthenticated("An API key is no access token: mint one with POST /api/users/{id}/tokens.")
        header = _header(token)
        if not jwts.is_of_kind(header, jwts.ACCESS_TOKENS):
            raise unauthenticated("The token is of another kind than an access token (see its header's typ).")
        if header.get("alg") == "HS256" and self._signing.current:
            claims = self._decode(token, [(key, "HS256") for key in self._signing.accepted])
            user_id = _parsed_id(claims["sub"])
            if user_id is None:
                if self._subjects is not None:
                    return await self._caller_of(claims)
                raise _unacceptable()
            caller = _caller(claims, user_id, is_ours=True)
            if len(self._verified) >= VERIFIED_MAX:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = caller
            return caller
        if self._keys is None or header.get("alg") in (None, "none", "HS256", "HS384", "HS512"):
            raise unauthenticated("The access token is signed in a way that is not accepted.")
        keys = await self._keys.find(header.get("kid"), header.get("alg"))
        if not keys:
            raise unauthenticated("The access token is signed with an unknown key.")
        return await self._caller_of(self._decode(token, [(key, key.algorithm_name) for key in keys]))

    async def _caller_of(self, claims: dict[str, Any]) -> Caller:
        """Return the caller of a token that an application's own issuer has made."""
        user_id = _id_of(claims) if self._subjects is None else await self._subjects.find(claims)
        return _caller(claims, user_id)

    def _recall(self, digest: bytes) -> Caller | None:
        """Return the caller of a token verified before; None if it was not, has expired, or the keys have changed."""
        if self._verified_by is not self._signing.accepted:
            self._verified_by = self._signing.accepted
            self._verified.clear()
        caller = self._verified.get(digest)
        return caller if caller is not None and caller.expires_at > time.time() else None

    def _decode(self, token: str, keys: Iterable[tuple[Any, str]]) -> dict[str, Any]:
        try:
            return jwts.decode(
                token,
                keys,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options=_OPTIONS,
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
            raise unauthenticated("The signature of the access token is wrong.") from None
        except jwt.DecodeError:
            raise _malformed() from None
        except jwt.PyJWTError:
            raise _unacceptable() from None


def _caller(claims: dict[str, Any], user_id: UUID, *, is_ours: bool = False) -> Caller:
    try:
        return Caller(
            user_id=user_id,
            expires_at=float(claims["exp"]) + LEEWAY,
            is_admin=_is_admin(claims),
            session_id=UUID(claims["sid"]) if is_ours and "sid" in claims else None,
        )
    except (ValueError, TypeError, AttributeError):  # from UUID, for a number, a list, null
        raise _unacceptable() from None


def _id_of(claims: dict[str, Any]) -> UUID:
    found = _parsed_id(claims["sub"])
    if found is None:
        raise _unacceptable()
    return found


def _parsed_id(subject: object) -> UUID | None:
    try:
        return msgspec.convert(subject, UUID)  # as ids are written, as a rule: in a third of the time
    except msgspec.ValidationError:
        pass
    try:
        return UUID(subject)  # type: ignore[arg-type]  # whatever it is
    except (ValueError, TypeError, AttributeError):
        return None


def _unacceptable() -> ChatError:
    return unauthenticated("The access token is not acceptable.")


def _malformed() -> ChatError:
    return unauthenticated("The access token is malformed.")


def _header(token: str) -> dict[str, Any]:
    """Return the unverified header of a token. Raise ChatError("unauthenticated")."""
    header = token.partition(".")[0]
    try:
        return _decoded_header(header) if len(header) <= _MAX_HEADER else jwts.header(token)
    except jwt.PyJWTError:
        raise _malformed() from None


@lru_cache(maxsize=256)
def _decoded_header(header: str) -> dict[str, Any]:
    """Decode a header. Cached, since the tokens of one issuer have the same one."""
    return jwts.header(f"{header}..")


def _is_admin(claims: dict[str, Any]) -> bool:
    roles = claims.get("roles", claims.get("role", ()))
    return any(str(role).casefold() == "admin" for role in ([roles] if isinstance(roles, str) else roles or ()))
