"""handlers.reactions: who may react with what, and that many acts become few changes with exact counts."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from trio.testing import MockClock

from handlers import reactions as handler
from handlers.errors import ChatError
from handlers.model import Caller
from handlers.rate_limits import Limiter, Rate
from handlers.reactions import ANSWERED_AT_ONCE, INTERVAL, MAX_KINDS, MAX_OWN, STEP, Act, Reactions, Settled, settling
from store.ids import new_id
from store.model import FOR_EVER, Message, MessageType, Reaction, Role
from store.postgres import reactions as store
from tests.handlers.database import message_at
from tests.handlers.memory import Memory, refused

THUMB, HEART = "\U0001f44d", "\u2764\ufe0f"


@pytest.fixture
async def world(memory: Memory, nursery: trio.Nursery) -> AsyncIterator[Memory]:
    await nursery.start(memory.reactions.run)
    yield memory
    nursery.cancel_scope.cancel()


def shown(message: Message) -> dict[str, int]:
    return {one.emoji: one.count for one in message.reactions}


async def test_react_and_take_back(world: Memory, autojump_clock: MockClock) -> None:
    """Each is one change of the message, which is answered with its reactions; the same again changes nothing."""
    alice, bob = world.user(), world.user()
    said = world.say(world.group((alice, Role.OWNER), (bob, Role.MEMBER)), alice)
    first = await world.reactions.react(alice, said.id, THUMB)
    assert shown(first) == {THUMB: 1} and first.changed_seq == said.seq + 1
    assert (await world.reactions.react(alice, said.id, THUMB)) == first
    second = await world.reactions.react(bob, said.id, THUMB + "\ufe0f")
    assert second.reactions == (Reaction(THUMB, 2, (alice.user_id, bob.user_id)),)
    third = await world.reactions.unreact(alice, said.id, THUMB)
    assert third.reactions == (Reaction(THUMB, 1, (bob.user_id,)),)
    assert (await world.reactions.unreact(alice, said.id, THUMB)) == third
    last = await world.reactions.unreact(bob, said.id, THUMB)
    assert last.reactions == ()
    assert [change.message for change in world.publisher.changes] == [first, second, third, last]
    assert not any(change.created for change in world.publisher.changes)


async def test_who_may_not(world: Memory, autojump_clock: MockClock) -> None:
    """Strangers and those who were removed learn nothing of the message; muted members only take theirs back, and hear
    until when; what was deleted takes no reactions, nor do System messages, nor a conversation that is gone."""
    owner, muted, removed, stranger = (world.user() for _ in range(4))
    group = world.group(*[(one, Role.MEMBER) for one in (owner, muted, removed)])
    said = world.say(group, owner)
    await world.reactions.react(muted, said.id, THUMB)
    await world.reactions.react(removed, said.id, THUMB)
    world.tables.muted[group, muted.user_id] = None
    del world.tables.members[group, removed.user_id]
    system = world.tables.say(group, owner.user_id, "", MessageType.SYSTEM)
    deleted = world.say(group, owner)
    await world.messages.delete(owner, deleted.id)
    world.publisher.published.clear()
    for caller, message_id, code in (
        (stranger, said.id, "not_found"),
        (removed, said.id, "not_found"),
        (owner, new_id(), "not_found"),
        (muted, said.id, "muted"),
        (owner, system.id, "forbidden"),
        (owner, deleted.id, "gone"),
    ):
        error = await refused(world, world.reactions.react(caller, message_id, HEART))
        assert (error.code, error.until) == (code, FOR_EVER if code == "muted" else None)
    for caller, message_id, code in ((stranger, said.id, "not_found"), (removed, said.id, "not_found")):
        assert (await refused(world, world.reactions.unreact(caller, message_id, THUMB))).code == code
        call = world.reactions.list(caller, message_id, emoji=None, limit=10, cursor=None)
        assert (await refused(world, call)).code == code
    assert shown(await world.reactions.unreact(muted, said.id, THUMB)) == {THUMB: 1}
    world.publisher.published.clear()
    world.tables.dissolved[group] = None
    assert (await refused(world, world.reactions.react(owner, said.id, THUMB))).code == "not_found"


@pytest.mark.parametrize("text", ["", "a", THUMB * 2, ":No:", "\ud83d"])
async def test_what_is_no_emoji(world: Memory, autojump_clock: MockClock, text: str) -> None:
    """Is refused before anything is asked, by all three."""
    alice = world.user()
    said = world.say(world.group((alice, Role.OWNER)), alice)
    for call in (
        world.reactions.react(alice, said.id, text),
        world.reactions.unreact(alice, said.id, text),
        world.reactions.list(alice, said.id, emoji=text, limit=10, cursor=None),
    ):
        error = await refused(world, call)
        assert error.code == "invalid_request" and list(error.errors) == ["emoji"]


async def test_a_storm(world: Memory, autojump_clock: MockClock) -> None:
    """A thousand react to one message in a second: the count is exact, each is answered behind their own commit, and
    there are ten changes at most in that second; another message does not wait for it."""
    people = [world.user() for _ in range(1000)]
    group = world.group(*[(one, Role.MEMBER) for one in people])
    said, other = world.say(group, people[0]), world.say(group, people[0])
    began = trio.current_time()

    async def act(number: int) -> None:
        await trio.sleep(number / 1000)
        answer = await world.reactions.react(people[number], said.id, THUMB)
        assert (said.id, people[number].user_id, THUMB) in world.tables.reactions
        assert answer.reactions[0].count >= 1

    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(act, number)
        await trio.sleep(0.5)
        at = trio.current_time()
        await world.reactions.react(people[0], other.id, HEART)
        assert trio.current_time() == at
    took = trio.current_time() - began
    [kind] = world.tables.messages[said.id].reactions
    assert (kind.count, len(kind.user_ids)) == (1000, 10)
    changes = [change for change in world.publisher.changes if change.message.id == said.id]
    assert len(changes) <= 1 + round(took / INTERVAL)
    assert [change.message.reactions[0].count for change in changes][-1] == 1000
    await trio.sleep(2 * INTERVAL)
    assert not world.reactions._waiting and world.reactions.waiting == 0, "nothing of it is kept"


async def test_answers_come_a_few_in_a_step(world: Memory) -> None:
    """Many are answered by one batch, but only a few tasks go on in each scheduler step: others' work goes between."""
    people = [world.user() for _ in range(10 * ANSWERED_AT_ONCE)]
    said = world.say(world.group(*((one, Role.MEMBER) for one in people)), people[0])
    steps, answered = 0, Counter[int]()

    async def react(caller: Caller) -> None:
        await world.reactions.react(caller, said.id, THUMB)
        answered[steps] += 1

    async with trio.open_nursery() as reacting:
        for one in people:
            reacting.start_soon(react, one)
        while answered.total() < len(people):
            await trio.lowlevel.checkpoint()
            steps += 1
    assert max(answered.values()) <= 2 * ANSWERED_AT_ONCE


def settle(message: Message, reactors: store.Reactors, acts: Sequence[Act]) -> Settled:
    """All at once."""
    steps = settling(message, reactors, acts)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            settled: Settled = end.value
            return settled


def test_many_are_weighed_in_steps() -> None:
    """Others have their turn after each few acts, whatever these come to."""
    message = message_at(1, new_id(), new_id(), "hello")
    people = [new_id() for _ in range(10 * STEP)]
    members = {user_id: store.Reactor(None, frozenset({HEART})) for user_id in people[STEP:]}
    acts = [Act(user_id, THUMB, lambda outcome: None, adds=True) for user_id in people]
    steps = sum(1 for _ in settling(message, store.Reactors(members, None), acts))
    assert steps >= 2 * (len(acts) // STEP)
    added, removed, refused = settle(message, store.Reactors(members, None), acts)
    assert [one.user_id for one in added] == people[STEP:] and not removed
    assert [act.user_id for act, _ in refused] == people[:STEP]


async def test_a_callback_that_fails(world: Memory, autojump_clock: MockClock) -> None:
    """Each act is answered once, in the order in which they came, though the one before could not be; nothing is kept
    of any. What is wrong at once is raised, and answered by nothing else."""
    people = [world.user() for _ in range(3)]
    stranger = world.user()
    said = world.say(world.group(*((one, Role.MEMBER) for one in people)), people[0])
    heard: list[tuple[int, object]] = []

    def done_of(number: int) -> handler.Done:
        def done(outcome: Message | ChatError) -> None:
            heard.append((number, outcome))
            raise RuntimeError("a defect")

        return done

    for number, one in enumerate([*people, stranger]):
        world.reactions.act_nowait(one, said.id, THUMB, done_of(number), adds=True)
    with pytest.raises(ChatError, match="invalid_request"):
        world.reactions.act_nowait(people[0], said.id, "no", done_of(4), adds=True)
    await trio.sleep(3 * INTERVAL)
    shown_to = dict(heard)
    assert sorted(number for number, _ in heard) == [0, 1, 2, 3]
    assert [number for number, _ in heard if number != 3] == [0, 1, 2]
    assert {shown_to[number] for number in range(3)} == {world.tables.messages[said.id]}
    assert isinstance(shown_to[3], ChatError) and shown_to[3].code == "not_found"
    assert not world.reactions._waiting and world.reactions.waiting == 0 and world.reactions.written == 3


async def test_together_and_apart(world: Memory, autojump_clock: MockClock) -> None:
    """What is done and undone while a batch waits is no change; who is refused costs the others nothing."""
    alice, bob, stranger = world.user(), world.user(), world.user()
    said = world.say(world.group((alice, Role.OWNER), (bob, Role.MEMBER)), alice)
    await world.reactions.react(alice, said.id, THUMB)
    codes: list[str] = []
    answers: list[dict[str, int]] = []

    async def act(caller: Caller, emoji: str, adds: bool = True) -> None:
        call = world.reactions.react if adds else world.reactions.unreact
        try:
            answers.append(shown(await call(caller, said.id, emoji)))
        except ChatError as error:
            codes.append(error.code)

    world.publisher.published.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(act, bob, HEART)
        await trio.sleep(0.001)
        nursery.start_soon(act, bob, HEART, False)
        nursery.start_soon(act, stranger, THUMB)
        nursery.start_soon(act, bob, THUMB)
    assert codes == ["not_found"]
    assert answers == [{THUMB: 2}] * 3 or {THUMB: 2} in answers
    assert shown(world.tables.messages[said.id]) == {THUMB: 2}


async def test_limits(world: Memory, autojump_clock: MockClock) -> None:
    """Twenty of one user and fifty kinds, however they come; what is there already is no new kind."""
    people = [world.user() for _ in range(4)]
    said = world.say(world.group(*[(one, Role.MEMBER) for one in people]), people[0])
    names = [f":{number}:" for number in range(MAX_KINDS + 1)]
    for number in range(MAX_KINDS):
        await world.reactions.react(people[number // MAX_OWN], said.id, names[number])
    world.publisher.published.clear()
    assert (await refused(world, world.reactions.react(people[0], said.id, names[49]))).code == "conflict"
    assert (await refused(world, world.reactions.react(people[3], said.id, names[50]))).code == "conflict"
    await world.reactions.react(people[3], said.id, names[0])
    await world.reactions.unreact(people[0], said.id, names[1])
    assert names[1] not in shown(await world.reactions.react(people[0], said.id, names[49]))
    await world.reactions.react(people[3], said.id, names[50])


async def test_a_rate(memory: Memory, nursery: trio.Nursery) -> None:
    """Reactions take of the rate of sends."""
    sends: Limiter[Any] = Limiter(Rate(2, 10.0), "messages")
    reactions = Reactions(memory.database, memory.transactions, sends)
    await nursery.start(reactions.run)
    alice = memory.user()
    said = memory.say(memory.group((alice, Role.OWNER)), alice)
    await reactions.react(alice, said.id, THUMB)
    await reactions.unreact(alice, said.id, THUMB)
    with pytest.raises(ChatError, match="rate_limited"):
        await reactions.react(alice, said.id, THUMB)
    nursery.cancel_scope.cancel()


async def test_wherever_the_database_goes_away(
    memory: Memory, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It is written and published, or neither; the same again does it; and the task serves the next."""
    await nursery.start(memory.reactions.run)
    alice = memory.user()
    said = memory.say(memory.group((alice, Role.OWNER)), alice)
    for number in range(1, 100):
        before = memory.tables.copy()
        memory.publisher.published.clear()
        memory.database.steps.clear()
        memory.database.fails_at, memory.database.blinks = number, True
        try:
            await memory.reactions.react(alice, said.id, f":{number}:")
        except ChatError as error:
            assert error.code == "unavailable"
            assert (memory.tables.copy() == before) == (memory.publisher.published == [])
            memory.database.fails_at = 0
            await memory.reactions.react(alice, said.id, f":{number}:")
        else:
            break
        await memory.reactions.unreact(alice, said.id, f":{number}:")
    assert number > 5 and memory.reactions.waiting == 0
    nursery.cancel_scope.cancel()


async def test_other_instances_change_it(
    world: Memory, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch waits until the message's last change is long enough ago, but not for ever: then it is written."""
    alice = world.user()
    said = world.say(world.group((alice, Role.OWNER)), alice)
    ages = [0.02, 0.05, 5.0]
    asked: list[float] = []
    known = store.list_reactors

    async def list_reactors(*args: Any) -> store.Reactors:
        asked.append(trio.current_time())
        return (await known(*args))._replace(since_change=ages.pop(0) if ages else 0.0)

    monkeypatch.setattr(store, "list_reactors", list_reactors)
    await world.reactions.react(alice, said.id, THUMB)
    assert [later - earlier for earlier, later in pairwise(asked)] == pytest.approx([0.08, 0.05])
    began = trio.current_time()
    await world.reactions.react(alice, said.id, HEART)
    assert trio.current_time() - began < handler.PATIENCE + 3 * INTERVAL
    assert len(world.publisher.changes) == 2


async def test_the_end(memory: Memory) -> None:
    """Who waits when the process ends is answered; who comes then is refused at once."""
    alice = memory.user()
    said = memory.say(memory.group((alice, Role.OWNER)), alice)
    codes: list[str] = []

    async def act() -> None:
        try:
            await memory.reactions.react(alice, said.id, THUMB)
        except ChatError as error:
            codes.append(error.code)

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as part:
            await part.start(memory.reactions.run)
            nursery.start_soon(act)
            while not memory.reactions.waiting:
                await trio.lowlevel.checkpoint()
            part.cancel_scope.cancel()
    await act()
    assert codes[-1] == "unavailable" and set(codes) == {"unavailable"}
    assert memory.reactions.waiting == 0


async def test_too_many_wait(world: Memory, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused, and the others are served."""
    alice = world.user()
    said = world.say(world.group((alice, Role.OWNER)), alice)
    monkeypatch.setattr(handler, "MAX_WAITING", 0)
    assert (await refused(world, world.reactions.react(alice, said.id, THUMB))).code == "overloaded"
    monkeypatch.undo()


async def test_the_list(world: Memory, autojump_clock: MockClock) -> None:
    """By emoji, then by time, over pages; of one emoji alone; nothing of a message that was deleted."""
    people = [world.user() for _ in range(5)]
    said = world.say(world.group(*[(one, Role.MEMBER) for one in people]), people[0])
    for one in people:
        await world.reactions.react(one, said.id, THUMB)
        await world.reactions.react(one, said.id, ":a:")

    async def all_of(emoji: str | None) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        cursor: str | None = None
        while True:
            items, cursor = await world.reactions.list(people[0], said.id, emoji=emoji, limit=2, cursor=cursor)
            assert 0 < len(items) <= 2
            found += [(one.emoji, one.user_id) for one in items]
            if cursor is None:
                return found

    by_time = sorted(world.tables.reactions.items(), key=lambda item: item[1].bytes)
    expected = {
        emoji: [(emoji, user_id) for (_, user_id, its), _ in by_time if its == emoji] for emoji in (":a:", THUMB)
    }
    assert await all_of(None) == expected[":a:"] + expected[THUMB] and len(expected[THUMB]) == 5
    assert await all_of(THUMB) == expected[THUMB]
    for cursor in ("AAAA", "YWJj"):
        await world.reactions.list(people[0], said.id, emoji=None, limit=2, cursor=cursor)
    with pytest.raises(ChatError, match="invalid_cursor"):
        await world.reactions.list(people[0], said.id, emoji=None, limit=2, cursor="A")
    await world.messages.delete(people[0], said.id)
    assert await world.reactions.list(people[0], said.id, emoji=None, limit=2, cursor=None) == ((), None)


async def test_who_is_banned(world: Memory, autojump_clock: MockClock) -> None:
    """A user whose connection has not ended yet does not react, nor take a reaction away, and hears until when; once
    that is over, they do."""
    alice, bob = world.user(), world.user()
    said = world.say(world.group((alice, Role.OWNER), (bob, Role.MEMBER)), alice)
    await world.reactions.react(bob, said.id, HEART)
    world.publisher.published.clear()
    for until in (FOR_EVER, "2999-01-01T00:00:00.000Z"):
        world.tables.bans[bob.user_id] = until
        for act, emoji in ((world.reactions.react, THUMB), (world.reactions.unreact, HEART)):
            error = await refused(world, act(bob, said.id, emoji))
            assert (error.code, error.until) == ("banned", until)
    world.tables.bans[bob.user_id] = "2020-01-01T00:00:00.000Z"
    assert shown(await world.reactions.react(bob, said.id, THUMB)) == {HEART: 1, THUMB: 1}
    assert shown(await world.reactions.unreact(bob, said.id, HEART)) == {THUMB: 1}


USERS = [new_id() for _ in range(3)]
ACTS = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from([f":{n}:" for n in range(6)]), st.booleans()))


@given(ACTS, ACTS)
def test_any_acts(first: Sequence[Any], second: Sequence[Any]) -> None:
    """Whatever comes together: what is written is what it comes to one after the other, and nothing besides."""
    message = message_at(1, new_id(), new_id(), "hello")
    there: dict[Any, frozenset[str]] = dict.fromkeys(USERS, frozenset())
    for batch in (first, second):
        acts = [Act.__new__(Act) for _ in batch]
        expected = {user: set(emojis) for user, emojis in there.items()}
        for act, (user, emoji, adds) in zip(acts, batch, strict=True):
            act.user_id, act.emoji, act.adds = user, emoji, adds
            (expected[user].add if adds else expected[user].discard)(emoji)
        reactors = store.Reactors({user: store.Reactor(None, emojis) for user, emojis in there.items()}, None)
        added, removed, refusals = settle(message, reactors, acts)
        assert not refusals
        now = {user: set(emojis) for user, emojis in there.items()}
        for gone in removed:
            now[gone.user_id].remove(gone.emoji)
        for one in added:
            assert one.emoji not in now[one.user_id]
            now[one.user_id].add(one.emoji)
        assert now == expected
        there = {user: frozenset(emojis) for user, emojis in now.items()}
        counts = {emoji: sum(emoji in emojis for emojis in now.values()) for emojis in now.values() for emoji in emojis}
        message = replace(message, reactions=tuple(Reaction(emoji, count, ()) for emoji, count in counts.items()))


async def test_an_erased_user(world: Memory, autojump_clock: MockClock) -> None:
    """Takes their reactions along, each a change of its message, so that counts stay exact."""
    alice, bob = world.user(), world.user()
    group = world.group((alice, Role.OWNER), (bob, Role.MEMBER))
    said = [world.say(group, alice) for _ in range(45)]
    for one in said:
        for caller in (alice, bob):
            await world.reactions.react(caller, one.id, THUMB)
    world.publisher.published.clear()
    await world.users.delete(bob, bob.user_id)
    assert {key[1] for key in world.tables.reactions} == {alice.user_id}
    assert all(shown(world.tables.messages[one.id]) == {THUMB: 1} for one in said)
    changed = [change.message.id for change in world.publisher.changes if change.message.type is MessageType.TEXT]
    assert sorted(changed) == sorted(one.id for one in said)
