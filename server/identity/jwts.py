"""Reading JSON Web Tokens, ours and others': whatever stands in one, a fault of it is a `jwt.PyJWTError`.

Owns what PyJWT leaves open: numbers and nesting without end (OverflowError, RecursionError), and dates that are none. A
date of a claim is a finite number (RFC 7519, 2), no text and no truth value, and no later than MAX_DATE.
"""

from collections.abc import Sequence
from typing import Any

import jwt

MAX_DATE = 2**53  # seconds since 1970: beyond it no float is exact, and nobody means it
DATES = ("exp", "nbf", "iat")

_UNREADABLE = (ValueError, TypeError, ArithmeticError, RecursionError)  # of what PyJWT does not expect


def decode(token: str, key: Any, *, algorithms: Sequence[str], options: Any, **checks: Any) -> dict[str, Any]:
    """The claims of a good token. Raises jwt.PyJWTError, and nothing else."""
    try:
        claims: dict[str, Any] = jwt.decode(token, key, algorithms=list(algorithms), options=options, **checks)
    except jwt.PyJWTError:
        raise
    except _UNREADABLE:
        raise jwt.InvalidTokenError("a claim is not what it should be") from None
    for name in DATES:
        if name in claims and not _is_date(claims[name]):
            raise jwt.InvalidTokenError(f"the claim {name} is no date")
    return claims


def header(token: str) -> dict[str, Any]:
    """What a token says of itself. Raises jwt.PyJWTError, and nothing else."""
    try:
        return jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise
    except _UNREADABLE:
        raise jwt.DecodeError("the header is not what it should be") from None


def _is_date(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= MAX_DATE  # false for NaN
