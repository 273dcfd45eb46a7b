"""store.signing, and everything that is signed: a change of keys that no client notices, in three steps."""

import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import pytest

from handlers.errors import ChatError
from handlers.model import Caller
from handlers.refresh_tokens import RefreshTokens
from server.config.loading import load
from server.identity.access_tokens import Verifier, mint_token
from server.identity.connection_tokens import ConnectionTokens
from server.identity.sign_in_state import Sealer, begin
from store.objects.directory import DirectoryObjects
from store.signing import SigningKeys

OLD, NEW = "o" * 32, "n" * 32
USER = UUID(int=7)


class Claims:
    async def claim(self, key: str, ttl: float) -> bool:
        return True


async def access(one: SigningKeys, other: SigningKeys) -> bool:
    token = mint_token(load({}, None, jwt_key=one.current), USER, session_id=UUID(int=8))
    try:
        caller = await Verifier(other, issuer="ChatBackend", audience="ChatBackendUsers").verify(token)
    except ChatError as error:
        assert "signature" in error.sentence
        return False
    return (caller.user_id, caller.session_id) == (USER, UUID(int=8))


async def connection(one: SigningKeys, other: SigningKeys) -> bool:
    _, token = ConnectionTokens(one, Claims()).issue(Caller(user_id=USER, expires_at=time.time() + 60))
    return await ConnectionTokens(other, Claims()).redeem(token) is not None


async def refresh(one: SigningKeys, other: SigningKeys) -> bool:
    token, _ = RefreshTokens(one).issue(USER)
    presented = RefreshTokens(other).read(token)
    return presented is not None and presented.is_sealed


async def sign_in(one: SigningKeys, other: SigningKeys) -> bool:
    attempt = begin("google", "https://us")
    return Sealer(other).open(Sealer(one).seal(attempt)) == attempt


async def object_url(one: SigningKeys, other: SigningKeys) -> bool:
    url = await DirectoryObjects(Path("/"), one).download_url("k" * 32, name="n", content_type="t", seconds=60)
    query = dict(parse_qsl(urlsplit(url).query))
    return DirectoryObjects(Path("/"), other).verify("GET", "k" * 32, query) is not None


@pytest.mark.parametrize("accepted", [access, connection, refresh, sign_in, object_url])
async def test_exchange(accepted: Callable[[SigningKeys, SigningKeys], Awaitable[bool]]) -> None:
    """First all accept the new key, then all sign with it, then the old one goes: at each step, instances that have
    taken it and instances that have not accept what the others sign; afterwards the old key is worth nothing."""
    steps = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]
    for before, after in pairwise(steps):
        one, other = SigningKeys(*before), SigningKeys(*before)
        other.replace(*after)
        assert await accepted(one, other) and await accepted(other, one), (before, after)
    assert not await accepted(SigningKeys(OLD), SigningKeys(NEW))


def test_derived_keys_follow() -> None:
    """A derived key that is held somewhere uses the new key."""
    keys = SigningKeys(OLD)
    derived = keys.derive(b"a")
    before = derived.current
    keys.replace(NEW, OLD)
    assert derived.current != before and derived.accepted == (derived.current, before)
    assert keys.derive(b"b").current != derived.current


def test_a_refresh_repeated_across_an_exchange() -> None:
    """The answer was lost, the key exchanged: the repeat gets the token that is stored."""
    keys = SigningKeys(OLD)
    tokens = RefreshTokens(keys)
    presented = tokens.read(tokens.issue(USER)[0])
    assert presented is not None
    given = tokens.follow(presented, 1)
    keys.replace(NEW, OLD)
    assert tokens.follow(presented, 1, given[1]) == given != tokens.follow(presented, 1)
