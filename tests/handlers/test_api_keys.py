"""handlers.api_keys: what a key looks like, and for how long it is believed."""

from uuid import UUID

import pytest
import trio

from handlers.api_keys import KNOWN_MAX, NOTE_EVERY, PREFIX, REMEMBERED, SCOPES, Grant, is_key, issue, require_scope
from handlers.errors import ChatError
from store.errors import Unavailable
from store.ids import new_id
from store.postgres.api_keys import ApiKey, Presented
from tests.handlers.database import NOW
from tests.handlers.memory import Memory


def add(memory: Memory, **how: bool) -> tuple[UUID, str]:
    """(the id, the key)"""
    key_id = new_id()
    token, secret_hash = issue(key_id)
    key = ApiKey(key_id, "shop", frozenset({"users:read"}), None, NOW, None, None, None, None)
    state = {"is_revoked": False, "is_expired": False, "is_noted": False, **how}
    memory.tables.api_keys[key_id] = Presented(key, **state), secret_hash
    return key_id, token


def no_limit() -> None:
    pass


async def refusal(memory: Memory, token: str) -> str:
    with pytest.raises(ChatError) as caught:
        await memory.api_keys.verify(token, no_limit)
    assert caught.value.code == "unauthenticated"
    return caught.value.sentence


async def test_a_key(memory: Memory) -> None:
    """It begins with what scanners of secrets look for, names its id, and is what was made; no two are the same."""
    key_id, token = add(memory)
    assert token.startswith(f"{PREFIX}{key_id.hex}_") and len(token) == len(PREFIX) + 32 + 1 + 43 and is_key(token)
    assert issue(key_id)[0] != issue(key_id)[0]
    assert await memory.api_keys.verify(token, no_limit) == Grant(key_id, "shop", frozenset({"users:read"}))


async def test_what_is_refused(memory: Memory) -> None:
    """A key that is cut off, longer, of another id, with another secret, revoked or expired; each says which it is."""
    _, token = add(memory)
    _, other = add(memory)
    for wrong in (PREFIX, token[:-1], f"{token}x", token.replace("_key_", "_key_ "), token.upper()):
        assert not is_key(wrong) or "malformed" in await refusal(memory, wrong)
    for wrong in (f"{token[:-43]}{other[-43:]}", issue(new_id())[0]):
        assert "not one of ours" in await refusal(memory, wrong)
    assert "revoked" in await refusal(memory, add(memory, is_revoked=True)[1])
    assert "expired" in await refusal(memory, add(memory, is_expired=True)[1])
    assert memory.api_keys.accepted == 0 and memory.api_keys.refused > 4


async def test_looked_up_once_a_second(memory: Memory, autojump_clock: trio.testing.MockClock) -> None:
    """A key that is good is not looked up again for a second, and not longer: a revoked one is refused from then on,
    also while PostgreSQL is away. One that was refused is looked up each time, after the caller's limit was asked."""
    key_id, token = add(memory)
    asked: list[str] = []
    for _ in range(3):
        await memory.api_keys.verify(token, lambda: asked.append(token))
    assert len(asked) == memory.database.steps.count("fetch_key") == 1
    found, secret_hash = memory.tables.api_keys[key_id]
    memory.tables.api_keys[key_id] = Presented(found.key, True, False, False), secret_hash
    await memory.api_keys.verify(token, no_limit)
    await trio.sleep(REMEMBERED)
    memory.database.fails_at = len(memory.database.steps) + 1
    with pytest.raises(Unavailable):
        await memory.api_keys.verify(token, no_limit)
    memory.database.fails_at = 0
    for _ in range(2):
        assert "revoked" in await refusal(memory, token)
    assert memory.database.steps.count("fetch_key") >= 3

    def limit() -> None:
        raise ChatError("rate_limited", "too many")

    before = len(memory.database.steps)
    for wrong in (PREFIX, token):
        with pytest.raises(ChatError, match="rate_limited"):
            await memory.api_keys.verify(wrong, limit)
    assert len(memory.database.steps) == before


async def test_many_at_once_ask_once(memory: Memory) -> None:
    """A thousand requests with one key that come together are one look-up; should it fail, each finds that out."""
    _, token = add(memory)
    _, revoked = add(memory, is_revoked=True)
    asked: list[str] = []
    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(memory.api_keys.verify, token, lambda: asked.append(token))
        for _ in range(5):
            nursery.start_soon(refusal, memory, revoked)
    assert len(asked) == 1 and memory.api_keys.refused == 5 and memory.api_keys.accepted == 1000
    assert memory.api_keys._asked == {}


async def test_what_is_remembered_is_bounded(memory: Memory) -> None:
    """However many keys there are: the one that was remembered first goes first."""
    tokens = [add(memory)[1] for _ in range(KNOWN_MAX + 10)]
    for token in tokens:
        await memory.api_keys.verify(token, no_limit)
    assert len(memory.api_keys._known) == KNOWN_MAX


async def test_the_last_use_is_noted_behind_requests(memory: Memory, autojump_clock: trio.testing.MockClock) -> None:
    """Once for many uses, by a task; not when it was noted lately; again later if PostgreSQL is away."""
    key_id, token = add(memory)
    _, noted = add(memory, is_noted=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(memory.api_keys.run)
        for one in (token, token, noted):
            await memory.api_keys.verify(one, no_limit)
        assert memory.tables.noted == {}
        memory.database.fails_at = len(memory.database.steps) + 1
        memory.database.blinks = True
        await trio.sleep(2.5 * NOTE_EVERY)
        await memory.api_keys.verify(token, no_limit)
        await trio.sleep(2 * NOTE_EVERY)
        assert memory.tables.noted == {key_id: 1}
        nursery.cancel_scope.cancel()


def test_scopes() -> None:
    """A key does what its scopes say, and the refusal names the one that it lacks."""
    for scope in SCOPES:
        require_scope(Grant(new_id(), "x", frozenset({scope})), scope)
        with pytest.raises(ChatError, match="scope_required") as caught:
            require_scope(Grant(new_id(), "x", frozenset(SCOPES) - {scope}), scope)
        assert scope in caught.value.sentence
