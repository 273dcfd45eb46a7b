"""Read JSON Web Tokens of any issuer, and raise `jwt.PyJWTError` for every fault in one.

Owns the checks that PyJWT lacks: unbounded numbers and nesting (OverflowError, RecursionError), and invalid dates. The
date of a claim is a finite number (RFC 7519, 2), neither a string nor a boolean, and no later than `MAX_DATE`. Also
the kinds of token that a header may name (RFC 8725, 3.11): one of another kind is refused, however it is signed. And a
short way for tokens as plain as ours are (`read_plain`), which each connection brings.
"""

import binascii
import hmac
import time
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm

MAX_DATE = 2**53  # seconds since 1970: the largest range in which floats are exact
DATES = ("exp", "nbf", "iat")
ACCESS_TOKENS = frozenset({"jwt", "at+jwt"})  # kinds of an access token (RFC 9068, 2.1)
ID_TOKENS = frozenset({"jwt"})

PLAIN_HEADERS = ({"alg": "HS256", "typ": "JWT"}, {"alg": "HS256"})

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")  # what is not of base64url is not of base64 either, afterwards

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


@lru_cache(maxsize=32)
def _keyed(key: str) -> hmac.HMAC:
    """The HMAC of this key, to be copied. Raise jwt.PyJWTError if it may be none."""
    return hmac.new(_prepared(key), digestmod="sha256")


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


def read_plain(token: str, keys: Iterable[str], *, audience: str, issuer: str, leeway: float) -> dict[str, Any] | None:
    """Return the claims of a token that is valid with one of these keys by HS256, and as plain as can be; else None.

    What is neither valid nor plain, `decode` finds out, and says: this accepts nothing that it would refuse. To be
    called for tokens with one of `PLAIN_HEADERS`. It takes a fifth of the time.
    """
    try:
        signed, _, signature = token.encode("ascii").rpartition(b".")
        if not any(hmac.compare_digest(_signature(key, signed), signature) for key in keys):
            return None
        claims = msgspec.json.decode(_segment(signed.partition(b".")[2]))
    except (*_UNREADABLE, jwt.PyJWTError):  # of ASCII, base64, JSON; of the key
        return None
    if type(claims) is not dict or claims.get("iss") != issuer or claims.get("aud") != audience:
        return None
    now = time.time()
    return claims if _is_current(claims, now, leeway) and type(claims.get("jti", "")) is str else None


def _signature(key: str, signed: bytes) -> bytes:
    """As the third part of a token has it."""
    mac = _keyed(key).copy()
    mac.update(signed)
    return binascii.b2a_base64(mac.digest(), newline=False).translate(_URL_SAFE).rstrip(b"=")


def _segment(text: bytes) -> bytes:
    """Decode a part of a token. Raise binascii.Error unless it is written in the one way in which it should be."""
    standard = text.translate(_STANDARD) + b"=" * (-len(text) % 4)
    data = binascii.a2b_base64(standard, strict_mode=True)
    if binascii.b2a_base64(data, newline=False) != standard:
        raise binascii.Error("more than one way to write it")
    return data


def _is_current(claims: dict[str, Any], now: float, leeway: float) -> bool:
    """Return True if the token of these claims has a subject, and dates in whole seconds, and it is its time."""
    expires = claims.get("exp")
    if type(claims.get("sub")) is not str or type(expires) is not int or not now - leeway < expires <= MAX_DATE:
        return False
    return all(type(date := claims.get(name, 0)) is int and 0 <= date <= now + leeway for name in ("nbf", "iat"))


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
