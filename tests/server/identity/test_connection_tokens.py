"""server.identity.connection_tokens: who negotiated, and that each token is used once."""

from uuid import UUID

import jwt
import pytest

from handlers.errors import ChatError
from handlers.model import Caller
from server.identity.access_tokens import mint_token
from server.identity.connection_tokens import ConnectionTokens, UsedToken, new_connection_id
from store.errors import Unavailable
from store.signing import SigningKeys
from tests.server.identity.test_access_tokens import DEEP, KEY, SETTINGS, USER, verifier


class Claims:
    """Redis, as far as connection tokens need it."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.away = False

    async def claim(self, key: str, ttl: float) -> bool:
        if self.away:
            raise Unavailable("Redis is away")
        fresh = key not in self.taken
        self.taken.add(key)
        return fresh


async def test_connection_tokens_are_redeemed_once() -> None:
    """A second use is detected on every instance; without Redis, on the instance of the first use."""
    shared = Claims()
    one, two = ConnectionTokens(SigningKeys(KEY), shared), ConnectionTokens(SigningKeys(KEY), shared)
    caller = Caller(user_id=UUID(int=7), expires_at=9e9, is_admin=True, session_id=UUID(int=8))
    connection_id, token = one.issue(caller)
    redeemed = await two.redeem(token)
    assert redeemed is not None and (redeemed.caller, redeemed.connection_id) == (caller, connection_id)
    for tokens in (one, two):
        with pytest.raises(UsedToken):
            await tokens.redeem(token)
    shared.away = True
    _, token = one.issue(caller)
    assert await one.redeem(token) is not None
    with pytest.raises(UsedToken):
        await one.redeem(token)


async def test_connection_tokens_are_no_access_tokens() -> None:
    """Access and connection tokens are not interchangeable, and a token of another key is refused."""
    tokens = ConnectionTokens(SigningKeys(KEY), Claims())
    _, token = tokens.issue(Caller(user_id=USER, expires_at=9e9))
    with pytest.raises(ChatError):
        await verifier().verify(token)
    assert await tokens.redeem(mint_token(SETTINGS, USER)) is None
    assert await ConnectionTokens(SigningKeys("x" * 40), Claims()).redeem(token) is None


def test_connection_ids_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No id begins like an option, so that `parley inspect kill ID` takes each."""
    monkeypatch.setattr("server.identity.connection_tokens._drawn", [b"\xf8" + bytes(15)])
    assert new_connection_id() == "_" + "A" * 21
    assert len({new_connection_id() for _ in range(200)}) == 200


async def test_tokens_nested_without_end() -> None:
    """Unbounded nesting is refused, in the header, which is not signed, and in signed claims."""
    encoded = jwt.utils.base64url_encode(DEEP.encode()).decode()
    tokens = ConnectionTokens(SigningKeys(KEY), Claims())
    for token in (f"{encoded}.{encoded}.x", jwt.api_jws.encode(DEEP.encode(), KEY, "HS256")):
        assert tokens.identify(token) == "" and await tokens.redeem(token) is None
