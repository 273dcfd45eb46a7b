"""server.identity.jwts: what is read the short way is what PyJWT would have read."""

import json
import string
import time
from typing import Any

import jwt
import pytest

from server.config.loading import load
from server.identity import jwts
from server.identity.access_tokens import LEEWAY, mint_token
from store.ids import new_id

KEY, OLD = "k" * 40, "o" * 40
SETTINGS = load({}, None, jwt_key=KEY)
CHECKS: dict[str, Any] = {"audience": SETTINGS.jwt_audience, "issuer": SETTINGS.jwt_issuer, "leeway": LEEWAY}
NOW = int(time.time())
PLAIN: dict[str, Any] = {
    "iss": SETTINGS.jwt_issuer,
    "aud": SETTINGS.jwt_audience,
    "sub": str(new_id()),
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 3600,
    "jti": "x",
}


def signed(payload: bytes, key: str = KEY) -> str:
    return jwt.api_jws.encode(payload, key, "HS256")


def token(**changes: Any) -> str:
    claims = {name: value for name, value in {**PLAIN, **changes}.items() if value is not None}
    return signed(json.dumps(claims).encode())


def read(text: str) -> dict[str, Any] | None:
    return jwts.read_plain(text, (KEY, OLD), **CHECKS)


def decoded(text: str) -> dict[str, Any] | None:
    try:
        return jwts.decode(
            text, [(KEY, "HS256"), (OLD, "HS256")], options={"require": ["exp", "sub"], "verify_aud": True}, **CHECKS
        )
    except jwt.PyJWTError:
        return None


def test_our_own_tokens_are_plain() -> None:
    """What this service mints is read the short way, by a key that is on its way out, too, with the same claims."""
    minted = mint_token(SETTINGS, new_id(), admin=True, session_id=new_id())
    assert jwts.header(minted) in jwts.PLAIN_HEADERS
    assert read(minted) is not None and read(minted) == decoded(minted)
    assert read(signed(json.dumps(PLAIN).encode(), OLD)) == PLAIN
    assert read(token(jti=None, iat=None, nbf=None, role=["x"])) is not None


STRANGE: tuple[object, ...] = (1.5, True, "1", -1, 2**60, [1], {})
ODD = [
    *(token(**{name: None}) for name in ("iss", "aud", "sub", "exp")),
    *(token(**{name: value}) for name in ("exp", "nbf", "iat") for value in STRANGE),
    token(exp=NOW - 60),
    token(exp=NOW - 2),
    token(exp=NOW + 0.5),
    token(nbf=NOW + 60),
    token(iat=NOW + 60),
    token(nbf=NOW + 2, iat=NOW + 2),
    token(iss="other"),
    token(iss=[SETTINGS.jwt_issuer]),
    token(aud="other"),
    token(aud=["other", SETTINGS.jwt_audience]),
    token(sub=5),
    token(sub=""),
    token(jti=5),
    token(jti=["x"]),
    token(name="\ud800"),
    signed(json.dumps(PLAIN).encode(), "x" * 40),
    signed(json.dumps(PLAIN).replace('"exp"', '"exp": 1, "exp"').encode()),
    signed(json.dumps(PLAIN).replace('"exp"', '"nbf": NaN, "exp"').encode()),
    signed(b"\xef\xbb\xbf" + json.dumps(PLAIN).encode()),
    signed(json.dumps(PLAIN).encode("utf-16")),
    signed(json.dumps([PLAIN]).encode()),
    signed(b"[" * 100_000),
    signed(b""),
    signed(json.dumps(PLAIN).encode() + b" "),
    token() + "=",
    token() + ".",
    "." + token(),
    token().replace(".", "=.", 1),
    token().replace(".", "..", 1),
    " " + token(),
    token() + "\n",
    "",
    "..",
    "é.é.é",
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_tokens(text: str) -> None:
    """The short way accepts nothing that PyJWT refuses, and reads the same out of what it accepts."""
    found = read(text)
    assert found is None or found == decoded(text)


def test_each_letter_of_a_token_counts() -> None:
    """A token in which any one character is another is not read the short way."""
    text = token()
    letters = string.ascii_letters + string.digits + "-_+/=. "
    for at, letter in enumerate(text):
        other = letters[(letters.index(letter) + 1 + at % (len(letters) - 1)) % len(letters)]
        assert other != letter and read(text[:at] + other + text[at + 1 :]) is None, at


@pytest.mark.parametrize("length", range(3))
def test_a_payload_is_written_in_one_way(length: int) -> None:
    """Bits that mean nothing at the end of a payload make a token that is not plain, though it is signed."""
    head, payload, _ = signed(json.dumps({**PLAIN, "jti": "x" * length}).encode()).split(".")
    for letter in string.ascii_letters + string.digits + "-_":
        written = f"{head}.{payload[:-1]}{letter}".encode()
        text = f"{written.decode()}.{jwts._signature(KEY, written).decode()}"
        assert (found := read(text)) is None or found == decoded(text)
    assert read(f"{head}.{payload}.{jwts._signature(KEY, f'{head}.{payload}'.encode()).decode()}") is not None


def test_a_key_that_may_be_none() -> None:
    """What looks like a public key signs nothing by HMAC."""
    assert jwts.read_plain(token(), ("-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----",), **CHECKS) is None
