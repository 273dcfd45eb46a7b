"""handlers.presence: how users are shown, and to whom."""

from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace

from handlers.model import Caller
from handlers.presence import MAX_ASKED, MAX_AUDIENCE
from store.ids import PackedIds, new_id
from store.model import Role, UserStatus
from tests.handlers.database import EXPIRES
from tests.handlers.memory import Memory, refused

OFFLINE = UserStatus.OFFLINE
ANYBODY = Caller(new_id(), EXPIRES)


def chooses(memory: Memory, caller: Caller, status: UserStatus, text: str | None = None) -> None:
    memory.tables.users[caller.user_id] = replace(memory.tables.users[caller.user_id], status=status, status_text=text)


async def test_asked(memory: Memory) -> None:
    """In the order asked, each once, without those who do not exist; with what each chose, or Offline."""
    people = {(status, there): memory.user() for status, there in product(UserStatus, (True, False))}
    for (status, _), caller in people.items():
        chooses(memory, caller, status, "text")
    memory.connected.there = {caller.user_id for (_, there), caller in people.items() if there}
    asked = [caller.user_id for caller in people.values()][::-1]
    found = await memory.presence.get(ANYBODY, memory.connected, [new_id(), *asked, *asked, new_id()])
    expected = {caller.user_id: status if there else OFFLINE for (status, there), caller in people.items()}
    assert [(one.user_id, one.status, one.status_text) for one in found] == [
        (user_id, expected[user_id], "text") for user_id in asked
    ]


@pytest.mark.parametrize(("count", "is_good"), [(0, True), (MAX_ASKED, True), (MAX_ASKED + 1, False)])
async def test_so_many_at_once(memory: Memory, count: int, is_good: bool) -> None:
    """To the bound; beyond it the error says it, and nothing is read."""
    call = memory.presence.get(ANYBODY, memory.connected, [new_id() for _ in range(count)])
    if is_good:
        assert list(await call) == []
    else:
        error = await refused(memory, call)
        assert error.code == "too_large" and str(MAX_ASKED) in error.sentence and memory.database.steps == []


async def test_while_redis_is_away(memory: Memory) -> None:
    """It is not known who is there: that is said, and no user is shown as offline for it."""
    memory.connected.is_away = True
    call = memory.presence.get(ANYBODY, memory.connected, [memory.user().user_id])
    assert (await refused(memory, call)).code == "unavailable"


@pytest.mark.parametrize("status", UserStatus)
@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("chosen", [None, False, True])
async def test_announced(memory: Memory, status: UserStatus, is_there: bool, chosen: bool | None) -> None:
    """Who chose to appear offline comes and goes unseen, and is shown as Offline when the choice is new; others as they
    chose while they are there."""
    caller = memory.user()
    chooses(memory, caller, status)
    options: Any = {} if chosen is None else {caller.user_id: chosen}
    found = await memory.presence.status_notices([caller.user_id], {caller.user_id} if is_there else (), options)
    if status is OFFLINE and not chosen:
        assert found == []
    else:
        assert [(one.user_id, one.status) for one in found] == [(caller.user_id, status if is_there else OFFLINE)]


async def test_shown_so_already(memory: Memory) -> None:
    """Who is shown as is known is left out, and their conversations, which may be thousands, are not read."""
    one, other = memory.user(), memory.user()
    ids = [one.user_id, other.user_id]
    known = {each.user_id: each for each in await memory.presence.status_notices(ids, ids, {})}
    memory.database.steps.clear()
    assert await memory.presence.status_notices(ids, ids, {}, known) == []
    assert not [step for step in memory.database.steps if "audiences" in str(step)]
    [left] = await memory.presence.status_notices(ids, [one.user_id], {}, known)
    assert (left.user_id, left.status) == (other.user_id, OFFLINE)
    chooses(memory, one, UserStatus.BUSY)
    [busy] = await memory.presence.status_notices(ids, ids, {}, known)
    assert (busy.user_id, busy.status) == (one.user_id, UserStatus.BUSY)
    assert [step for step in memory.database.steps if "audiences" in str(step)]


@pytest.mark.parametrize(("members", "is_shown"), [(1, True), (MAX_AUDIENCE, True), (MAX_AUDIENCE + 1, False)])
async def test_to_whom(memory: Memory, members: int, is_shown: bool) -> None:
    """In conversations up to a size; in larger ones people do not hear of each other's coming and going."""
    people = [memory.user() for _ in range(members)]
    group = memory.group(*[(one, Role.MEMBER) for one in people])
    memory.group((memory.user(), Role.OWNER))
    [seen] = await memory.presence.status_notices([people[0].user_id], {people[0].user_id}, {})
    assert seen.conversation_ids == PackedIds.of((group,) if is_shown else ())


async def test_last_seen(memory: Memory) -> None:
    """Of those who have just left, and of no other."""
    one, other = memory.user(), memory.user()
    await memory.presence.keep_last_seen([one.user_id])
    assert memory.tables.users[one.user_id].last_seen_at is not None
    assert memory.tables.users[other.user_id].last_seen_at is None
