"""server.cluster.publisher: each instance gets what concerns its rooms and users, and nothing else."""

from collections.abc import Callable, Collection, Sequence
from typing import cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from server.cluster.publisher import ASKED, GATHER, MAX_WAITING, Publisher
from server.cluster.subscriptions import Subscriptions
from store.errors import Unavailable
from store.ids import PackedIds, new_id
from store.model import Change, Message, MessageStatus, MessageType, UserStatus
from store.postgres import outbox
from store.postgres.pool import Pool
from store.redis.inbox_entries import Entry, Receipt, StatusNotice, Typing, disconnection_of, entry_of, unpack
from store.redis.instances import Instances

ROOM, OTHER, ALICE, BOB = new_id(), new_id(), new_id(), new_id()


class World:
    """Redis and PostgreSQL as dicts: interest, deliveries, and the outbox rows that were deleted."""

    def __init__(self) -> None:
        self.interested: dict[UUID, list[str]] = {}
        self.present: dict[UUID, list[str]] = {}
        self.delivered: list[tuple[str, Entry]] = []
        self.cleared: list[tuple[UUID, int]] = []
        self.guessed: list[str] = []  # deliveries that went with a question
        self.unregistered: list[tuple[str, list[UUID]]] = []
        self.gone: set[str] = set()
        self.away = False
        self.is_defective: Callable[[Entry], object] = lambda entry: False
        self.instance = "me"
        self.is_alone = False
        self.looks = 0
        self.most_asked = 0  # conversations in one look
        self.publisher = Publisher(cast(Instances, self), cast(Subscriptions, self), cast(Pool, self))

    async def deliver_and_ask(
        self,
        packed: Sequence[tuple[str, bytes]],
        conversation_ids: Collection[UUID],
        user_ids: Collection[UUID] = (),
        *,
        but: str = "",
    ) -> tuple[dict[UUID, list[str]], dict[UUID, list[str]], set[str]]:
        self.looks += 1
        self.most_asked = max(self.most_asked, len(conversation_ids))
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")
        gone = await self.deliver(packed)
        self.guessed += [name for name, _ in packed]
        return (
            {key: self.interested.get(key, []) for key in conversation_ids},
            {key: self.present.get(key, []) for key in user_ids},
            gone,
        )

    async def list_listening(self, conversation_ids: Sequence[bytes], *, but: str = "") -> dict[str, list[bool]]:
        found, _, _ = await self.deliver_and_ask((), [UUID(bytes=one) for one in conversation_ids], but=but)
        names = {name for names in found.values() for name in names}
        return {name: [name in its for its in found.values()] for name in sorted(names)}

    async def deliver(self, packed: Sequence[tuple[str, bytes]]) -> set[str]:
        entries = [(name, unpack(data)) for name, data in packed]
        if any(self.is_defective(entry) for _, entry in entries):
            raise ArithmeticError("a defect")
        self.delivered += entries
        return {name for name, _ in packed} & self.gone

    async def unregister(self, name: str, conversation_ids: list[bytes], user_ids: Collection[UUID]) -> None:
        self.unregistered.append((name, [UUID(bytes=one) for one in conversation_ids]))

    def connection(self) -> "World":
        return self

    async def __aenter__(self) -> "World":
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    def names(self) -> list[str]:
        return sorted(name for name, _ in self.delivered)


def change(
    conversation_id: UUID, seq: int, *, size: int = 1, added: tuple[UUID, ...] = (), removed: tuple[UUID, ...] = ()
) -> Change:
    message = Message(
        id=new_id(),
        conversation_id=conversation_id,
        seq=seq,
        changed_seq=seq,
        sender_id=ALICE,
        type=MessageType.TEXT,
        content="x" * size,
        file=None,
        reply_to_id=None,
        client_message_id=None,
        created_at="2026-01-01T00:00:00.000Z",
        edited_at=None,
        deleted_at=None,
        status=MessageStatus.SENT,
    )
    return Change(conversation_id, seq, message, True, added, removed)


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    async def delete_outbox(conn: object, keys: Collection[tuple[UUID, int]]) -> None:
        world.cleared += keys

    monkeypatch.setattr(outbox, "delete_outbox", delete_outbox)
    nursery.start_soon(world.publisher.run)
    return world


async def test_only_who_needs_it(world: World, autojump_clock: MockClock) -> None:
    """A batch is one entry, in order, for each other instance interested; its outbox row is deleted after that."""
    world.interested = {ROOM: ["me", "a", "b"], OTHER: ["me", "b"]}
    changes = [change(ROOM, 1), change(OTHER, 5), change(ROOM, 2)]
    world.publisher.publish(changes)
    await trio.sleep(1)
    assert world.names() == ["a", "b"]
    assert dict(world.delivered)["a"].changes == (changes[0], changes[2])
    assert dict(world.delivered)["b"].changes == tuple(changes)
    assert world.cleared == [(ROOM, 1)]


async def test_the_presence_of_who_is_in_thousands(world: World, autojump_clock: MockClock) -> None:
    """It is asked in pieces who listens; each instance that does in any of the conversations gets it once, whole."""
    ids = tuple(new_id() for _ in range(2 * ASKED + 1))
    for name in ("a", "b"):
        world.interested |= {one: ["me", name] for one in ids[ord(name) - ord("a") :: ASKED]}
    notices = [StatusNotice(one, UserStatus.ONLINE, None, None, PackedIds.of(ids)) for one in (ALICE, BOB)]
    world.publisher.send([*notices, StatusNotice(new_id(), UserStatus.ONLINE, None, None, PackedIds())])
    await trio.sleep(1)
    assert world.names() == ["a", "a", "b", "b"] and world.most_asked <= ASKED
    for name in ("a", "b"):
        assert [one for to, entry in world.delivered if to == name for one in entry.statuses] == notices


async def test_presence_does_not_keep_changes_waiting(world: World, autojump_clock: MockClock) -> None:
    """A change that comes while it is asked who listens to the presence of users in thousands goes with the next look;
    and what those conversations are is not what is remembered of changes."""
    ids = [new_id() for _ in range(ASKED)]
    world.interested = {ROOM: ["a"], **{key: ["b"] for key in ids}}
    world.publisher.publish([change(ROOM, 1)])
    await trio.sleep(1)
    packed = PackedIds.of(ids)
    world.publisher.send([StatusNotice(new_id(), UserStatus.ONLINE, None, None, packed) for _ in range(20)])
    await wait_until_asked(world, world.looks + 3)
    sent = len(world.delivered)
    world.publisher.publish([change(ROOM, 2)])
    await trio.sleep(1)
    names = [name for name, _ in world.delivered[sent:]]
    assert "a" in names[:2] and names.count("b") >= 15
    assert world.guessed == ["a"]
    await world.publisher.drain()
    assert sum(len(entry.statuses) for _, entry in world.delivered) == 20


async def wait_until_asked(world: World, looks: int) -> None:
    while world.looks < looks:
        await trio.lowlevel.checkpoint()


async def test_a_defect_in_a_status(world: World, autojump_clock: MockClock) -> None:
    """It costs that status, and none that comes behind it."""
    world.interested = {ROOM: ["a"], OTHER: ["a"]}
    world.is_defective = lambda entry: any(one.user_id == ALICE for one in entry.statuses)
    for user_id in (ALICE, BOB):
        world.publisher.send([StatusNotice(user_id, UserStatus.ONLINE, None, None, PackedIds.of((ROOM,)))])
        await trio.sleep(1)
    assert [one.user_id for _, entry in world.delivered for one in entry.statuses] == [BOB]
    await world.publisher.drain()


async def test_the_status_of_who_is_on_an_instance_that_was_reaped(world: World, autojump_clock: MockClock) -> None:
    """What that instance has left of the conversations in question is unregistered."""
    world.interested, world.gone = {ROOM: ["a"], OTHER: ["b"]}, {"a"}
    world.publisher.send([StatusNotice(ALICE, UserStatus.ONLINE, None, None, PackedIds.of((ROOM, OTHER)))])
    await trio.sleep(1)
    assert world.unregistered == [("a", [ROOM])]


async def test_who_listened_last(world: World, autojump_clock: MockClock) -> None:
    """They are sent the next change with the question. Who turns out to listen besides gets it, too; each once."""
    world.interested = {ROOM: ["me", "a"]}
    for seq in (1, 2):
        world.publisher.publish([change(ROOM, seq)])
        await trio.sleep(1)
    assert (world.names(), world.guessed, world.looks) == (["a", "a"], ["a"], 2)
    world.interested = {ROOM: ["a", "b"]}
    world.publisher.publish([change(ROOM, 3)])
    await trio.sleep(1)
    assert [(name, entry.changes[0].seq) for name, entry in world.delivered[2:]] == [("a", 3), ("b", 3)]
    world.interested = {}
    for seq in (4, 5):  # after the first it is known that they have left
        world.publisher.publish([change(ROOM, seq)])
        await trio.sleep(1)
    assert [(name, entry.changes[0].seq) for name, entry in world.delivered[4:]] == [("a", 4), ("b", 4)]
    assert world.cleared == [(ROOM, seq) for seq in range(1, 6)]


async def test_members_who_come_are_no_guess(world: World, autojump_clock: MockClock) -> None:
    """A conversation whose members change is asked about before anything of it is sent: all of it keeps its order."""
    world.interested, world.present = {ROOM: ["a"]}, {BOB: ["b"]}
    world.publisher.publish([change(ROOM, 1)])
    await trio.sleep(1)
    changes = [change(ROOM, 2), change(ROOM, 3, added=(BOB,))]
    world.publisher.publish(changes)
    await trio.sleep(1)
    assert world.guessed == []
    assert dict(world.delivered[1:])["a"].changes == tuple(changes)
    assert dict(world.delivered[1:])["b"].changes == (changes[1],)


async def test_one_that_listened_last_and_is_gone(world: World, autojump_clock: MockClock) -> None:
    """An instance whose inbox is gone when a guess is sent to it is unregistered, as any other."""
    world.interested = {ROOM: ["a"]}
    world.publisher.publish([change(ROOM, 1)])
    await trio.sleep(1)
    world.gone = {"a"}
    world.publisher.publish([change(ROOM, 2)])
    await trio.sleep(1)
    assert world.guessed == ["a"] and world.unregistered == [("a", [ROOM])]


async def test_no_instance_is_interested(world: World, autojump_clock: MockClock) -> None:
    """If no instance is interested, nothing is sent, and the outbox row is deleted."""
    world.publisher.publish([change(ROOM, 1)])
    await trio.sleep(1)
    assert world.delivered == [] and world.cleared == [(ROOM, 1)]


async def test_people_who_come_and_go(world: World, autojump_clock: MockClock) -> None:
    """A change of membership is sent to the instances of the users concerned, interested or not."""
    world.present = {ALICE: ["a", "me"], BOB: ["b"]}
    world.publisher.publish([change(ROOM, 1, added=(ALICE,), removed=(BOB,))])
    world.publisher.publish([], disconnection_of(BOB))
    await trio.sleep(1)
    assert world.names() == ["a", "b"]
    assert dict(world.delivered)["b"].disconnections == (disconnection_of(BOB),)
    assert world.cleared == [(ROOM, 1), (BOB, 0)]


@pytest.mark.parametrize("way", ["added", "removed"])
async def test_one_who_comes_or_goes(world: World, autojump_clock: MockClock, way: str) -> None:
    """An added or a removed user is reason enough to send a change to their instance, without interest there."""
    world.present = {BOB: ["b"]}
    said = change(ROOM, 1, added=(BOB,)) if way == "added" else change(ROOM, 1, removed=(BOB,))
    world.publisher.publish([said])
    await trio.sleep(1)
    assert [(name, entry.changes) for name, entry in world.delivered] == [("b", (said,))]


async def test_the_rest(world: World, autojump_clock: MockClock) -> None:
    """Receipts, typing and presence are sent to the instances on which the conversation is open."""
    world.interested = {ROOM: ["a"], OTHER: ["a", "b"]}
    receipt, typing = Receipt(ROOM, ALICE, 2, 1, "t"), Typing(OTHER, ALICE, True)
    status = StatusNotice(ALICE, UserStatus.BUSY, "x", None, PackedIds.of((ROOM, OTHER)))
    world.publisher.send([receipt, typing, status])
    await trio.sleep(1)
    assert dict(world.delivered) == {
        "a": Entry((), (), (), (), (status,)),
        "b": Entry((), (), (), (), (status,)),
    }
    assert [(name, [*entry.messages()]) for name, entry in world.delivered[:2]] == [
        ("a", [receipt, typing]),
        ("b", [typing]),
    ]


async def test_large_batches_are_divided(world: World, autojump_clock: MockClock) -> None:
    """A large batch is split into entries near the bound."""
    world.interested = {ROOM: ["a"]}
    world.publisher.publish([change(ROOM, seq, size=32_000) for seq in range(1, 101)])
    await trio.sleep(1)
    assert len(world.delivered) > 5
    assert [one.seq for _, entry in world.delivered for one in entry.changes] == list(range(1, 101))


async def test_a_reaped_instance(world: World, autojump_clock: MockClock) -> None:
    """The remaining interest of an instance that has no inbox any more is removed."""
    world.interested, world.gone = {ROOM: ["a", "b"]}, {"a"}
    world.publisher.publish([change(ROOM, 1)])
    await trio.sleep(1)
    assert world.unregistered == [("a", [ROOM])]


async def test_bounds(world: World, autojump_clock: MockClock) -> None:
    """Without membership, or past the bound of the queue, changes are left to the relay: their outbox rows stay."""
    batch = change(ROOM, 1)
    for _ in range(MAX_WAITING + 9):
        world.publisher.publish([batch])
    world.instance = ""
    world.publisher.publish([change(OTHER, 1)])
    await trio.sleep(1)
    assert len(world.cleared) == MAX_WAITING and world.publisher.dropped == 10


async def test_a_defect_in_one_message(world: World, autojump_clock: MockClock) -> None:
    """What was to be sent with it is sent without it, and is not sent again."""
    world.interested, world.present = {ROOM: ["a"]}, {BOB: ["a"]}
    world.is_defective = lambda entry: entry.typing
    receipt, said = Receipt(ROOM, ALICE, 2, 1, "t"), change(ROOM, 1)
    world.publisher.publish([said], disconnection_of(BOB))
    world.publisher.send([Typing(ROOM, ALICE, True), receipt])
    await trio.sleep(1)
    got = [entry for _, entry in world.delivered]
    assert got == [entry_of((), [said]), entry_of([disconnection_of(BOB)]), entry_of([receipt])]
    assert world.cleared == [(ROOM, 1)]


async def test_a_defect_in_a_disconnection(world: World, autojump_clock: MockClock) -> None:
    """The rows of the outbox stay: one of them has it, and the relay announces it."""
    world.interested, world.present = {ROOM: ["a"]}, {BOB: ["a"]}
    world.is_defective = lambda entry: entry.disconnections
    world.publisher.publish([change(ROOM, 1)], disconnection_of(BOB))
    world.publisher.send([Typing(ROOM, ALICE, True)])
    await trio.sleep(1)
    assert [entry.typing for _, entry in world.delivered] == [(), (Typing(ROOM, ALICE, True),)]
    assert world.cleared == []


async def test_alone(world: World, autojump_clock: MockClock) -> None:
    """While no other instance is there, it is asked once for what is queued within a while. One that came meanwhile
    gets all of it, in order, and from then on each change is sent at once."""
    world.is_alone = True
    changes = [change(ROOM, seq) for seq in range(1, 11)]
    for each in changes:
        world.publisher.publish([each])
        await trio.sleep(GATHER / 20)
    assert world.looks == 0
    world.interested = {ROOM: ["a", "me"]}
    await trio.sleep(GATHER)
    assert world.looks == 1 and [(name, entry.changes) for name, entry in world.delivered] == [("a", tuple(changes))]
    world.is_alone = False
    began = trio.current_time()
    world.publisher.publish([change(ROOM, 11)])
    await world.publisher.drain()
    assert world.looks == 2 and len(world.delivered) == 2 and trio.current_time() == began


async def test_alone_at_the_end(world: World, autojump_clock: MockClock) -> None:
    """Who waits for the queue to be empty does not wait until more has come; after that it gathers again."""
    world.is_alone = True
    began = trio.current_time()
    for seq in (1, 2):
        world.publisher.publish([change(ROOM, seq)])
        await trio.testing.wait_all_tasks_blocked()
        await world.publisher.drain()
        assert world.looks == seq and trio.current_time() == began
    world.publisher.publish([change(ROOM, 3)])
    await trio.sleep(GATHER / 2)
    assert world.looks == 2
