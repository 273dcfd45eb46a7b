"""Read JSON Web Tokens of any issuer, and raise `jwt.PyJWTError` for every fault in one.

Owns the checks that PyJWT lacks: unbounded numbers and nesting (OverflowError, RecursionError), and invalid dates. The
date of a claim is a finite number (RFC 7519, 2), neither a string nor a boolean, and no later than `MAX_DATE`. Also
the kinds of token that a header may name (RFC 8725, 3.11): one of another kind is refused, however it is signed.
"""

import hmac
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

import jwt
from jwt.algorithms import HMACAlgorithm

MAX_DATE = 2**53  # seconds since 1970: the largest range in which floats are exact
DATES = ("exp", "nbf", "iat")
ACCESS_TOKENS = frozenset({"jwt", "at+jwt"})  # kinds of an access token (RFC 9068, 2.1)
ID_TOKENS = frozenset({"jwt"})

_UNREADABLE = (ValueError, TypeError, ArithmeticError, RecursionError)  # raised by PyJWT for unexpected contents


class _RememberedKeys(HMACAlgorithm):
    """HS256 that looks once, not with each token, whether a key may be one of HMAC."""

    def __init__(self) -> None:
        super().__init__(HMACAlgorithm.SHA256)

    def prepare_key(self, key: str | bytes) -> bytes:
        return _prepared(key)

    def sign(self, msg: bytes, key: bytes) -> bytes:
        return hmac.digest(key, msg, "sha256")


_prepared = lru_cache(maxsize=32)(HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key)
jwt.unregister_algorithm("HS256")
jwt.register_algorithm("HS256", _RememberedKeys())


def decode(token: str, keys: Iterable[tuple[Any, str]], *, options: Any, **checks: Any) -> dict[str, Any]:
    """Return the claims of a token that is valid with one of these keys, each with its algorithm.

    The next key is tried after a wrong signature only. Raise jwt.PyJWTError, and nothing else.
    """
    for key, algorithm in keys:
        try:
            return _decode(token, key, algorithms=[algorithm], options=options, **checks)
        except jwt.InvalidSignatureError:
            continue
    raise jwt.InvalidSignatureError("none of the keys has signed it")


def _decode(token: str, key: Any, **checks: Any) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(token, key, **checks)
    except jwt.PyJWTError:
        raise
    except _UNREADABLE:
        raise jwt.InvalidTokenError("a claim is not what it should be") from None
    for name in DATES:
        if name in claims and not _is_date(claims[name]):
            raise jwt.InvalidTokenError(f"the claim {name} is no date")
    return claims


def header(token: str) -> dict[str, Any]:
    """Return the unverified header of a token. Raise jwt.PyJWTError, and nothing else."""
    try:
        return jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise
    except _UNREADABLE:
        raise jwt.DecodeError("the header is not what it should be") from None


def is_of_kind(head: dict[str, Any], kinds: Collection[str]) -> bool:
    """Return True if the header names one of these kinds of token, or none.

    The name is a media type: its case does not matter, and `application/` may be left out (RFC 7515, 4.1.9).
    """
    kind = head.get("typ")
    return kind is None or (isinstance(kind, str) and kind.lower().removeprefix("application/") in kinds)


def _is_date(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= MAX_DATE  # false for NaN
