"""server.fanout.ephemeral_events: events that are announced and not kept, in virtual time."""

from collections.abc import Iterable, Sequence
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from handlers.model import StatusUpdate
from server.fanout.ephemeral_events import (
    MAX_PER_TICK,
    MAX_TYPING,
    REPEAT,
    SLACK,
    STARTED,
    STOPPED,
    TICK,
    TYPING_TTL,
    UPDATED,
    EphemeralEvents,
)
from server.fanout.privacy import PrivacySettings
from server.fanout.recent_events import Broadcast
from server.fanout.rooms import Rooms
from store.ids import new_id
from store.model import MessageStatus, Privacy
from store.redis.inbox_entries import InstanceMessage, PrivacyNotice, Receipt, Typing, entry_of

ROOM, ALICE, BOB = new_id(), new_id(), new_id()


class Recorder:
    """Rooms, of which one is open, and the other instances; records what is announced to each."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, Any]] = []
        self.sent: list[Any] = []
        self.privacy = PrivacySettings()

    def set_privacy(self, user_id: UUID, privacy: Privacy, version: int) -> None:
        self.privacy.set(user_id, privacy, version)

    def is_open(self, conversation_id: UUID) -> bool:
        return conversation_id == ROOM

    def notify_conversation(
        self, conversation_id: UUID, event: str, arguments: tuple[Any, ...], *, but: UUID | None = None
    ) -> None:
        self.announced.append((event, arguments[0]))

    async def broadcast(self, broadcasts: Sequence[Broadcast]) -> None:
        self.announced += [(one.event, one.arguments[0]) for one in broadcasts]

    def send(self, messages: Iterable[InstanceMessage]) -> None:
        self.sent += messages

    def events(self) -> list[str]:
        announced, self.announced = self.announced, []
        return [event for event, _ in announced]


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> tuple[Recorder, EphemeralEvents]:
    recorder = Recorder()
    ephemeral_events = EphemeralEvents(cast(Rooms, recorder), recorder, recorder)
    await nursery.start(ephemeral_events.run)
    return recorder, ephemeral_events


async def test_typing_stops_by_itself(world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock) -> None:
    """Typing ends 6 s after the last sign of it; signs prolong it, and other instances hear of few of them."""
    recorder, ephemeral_events = world
    for _ in range(10):
        ephemeral_events.type(ROOM, ALICE)
        await trio.sleep(1.0)
    assert recorder.events() == [STARTED]
    assert 10 / REPEAT - 1 <= len(recorder.sent) <= 10 / REPEAT + 1
    await trio.sleep(TYPING_TTL - 1.5)
    assert recorder.events() == []
    await trio.sleep(1.0)
    assert recorder.events() == [STOPPED]


async def test_typing_is_stopped(world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock) -> None:
    """Typing ends by StopTyping, and by the end of the last connection; it is announced once."""
    recorder, ephemeral_events = world
    ephemeral_events.type(ROOM, ALICE)
    ephemeral_events.type(ROOM, BOB)
    await trio.sleep(2 * TICK)
    ephemeral_events.stop_typing(ROOM, ALICE)
    ephemeral_events.stop_typing(ROOM, ALICE)
    await trio.sleep(2 * TICK)
    assert recorder.events() == [STARTED, STARTED, STOPPED]
    assert recorder.sent[-1] == Typing(ROOM, ALICE, False)
    ephemeral_events.user_left(BOB)
    await trio.sleep(2 * TICK)
    assert recorder.events() == [STOPPED] and recorder.sent[-1] == Typing(ROOM, BOB, False)


async def test_typing_on_and_off(world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock) -> None:
    """However often a user begins and stops, connections and other instances get one event a tick at most."""
    recorder, ephemeral_events = world
    for _ in range(50):
        for _ in range(100):
            ephemeral_events.type(ROOM, ALICE)
            ephemeral_events.stop_typing(ROOM, ALICE)
        ephemeral_events.type(ROOM, ALICE)
        await trio.sleep(TICK)
        ephemeral_events.stop_typing(ROOM, ALICE)
    await trio.sleep(2 * TICK)
    events = recorder.events()
    assert 2 <= len(events) <= 52 and events[-1] == STOPPED
    assert events[::2] == [STARTED] * (len(events) // 2) and len(recorder.sent) <= 52


async def test_many_type_at_once(world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock) -> None:
    """A bounded number of users of one conversation is announced in a tick; the others in the next ones."""
    recorder, ephemeral_events = world
    for _ in range(3 * MAX_TYPING):
        ephemeral_events.type(ROOM, new_id())
    await trio.sleep(TICK / 2)
    assert recorder.events() == [STARTED] * MAX_TYPING
    await trio.sleep(3 * TICK)
    assert recorder.events() == [STARTED] * 2 * MAX_TYPING


async def test_a_dead_instance_types_no_more(
    world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock
) -> None:
    """Typing reported by another instance expires here, a little later than there, and is not passed on."""
    recorder, ephemeral_events = world
    ephemeral_events.receive(entry_of([Typing(ROOM, BOB, True)]))
    await trio.sleep(TYPING_TTL + 0.5)
    assert recorder.events() == [STARTED]
    await trio.sleep(SLACK)
    assert recorder.events() == [STOPPED] and recorder.sent == []


async def test_receipts_coalesce(world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock) -> None:
    """A flood of receipts of one member becomes one event a tick, with the furthest seq; Read before Delivered."""
    recorder, ephemeral_events = world
    for seq in range(1, 1001):
        ephemeral_events.announce_receipts([Receipt(ROOM, ALICE, seq, seq - 1, "t")])
    assert len(recorder.sent) == 1000  # others coalesce for themselves
    await trio.sleep(1.0)
    updates = [update for event, update in recorder.announced if event == UPDATED]
    assert [(update.status, update.seq) for update in updates] in (
        [(MessageStatus.READ, 999), (MessageStatus.DELIVERED, 1000)],
        [(MessageStatus.DELIVERED, 1), (MessageStatus.READ, 999), (MessageStatus.DELIVERED, 1000)],
    )


async def test_many_members_at_once(world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock) -> None:
    """Past a bound the rest waits for the next tick, and coalesces meanwhile: a busy room is not flooded."""
    recorder, ephemeral_events = world
    members = [new_id() for _ in range(3 * MAX_PER_TICK)]
    for seq in range(1, 21):
        ephemeral_events.receive(entry_of(Receipt(ROOM, member, seq, seq, "t") for member in members))
        await trio.sleep(0.05)
    assert len(recorder.announced) <= 11 * MAX_PER_TICK
    await trio.sleep(2.0)
    last: dict[UUID, StatusUpdate] = {update.user_id: update for _, update in recorder.announced}
    assert {update.seq for update in last.values()} == {20} and last.keys() == set(members)


async def test_receipts_never_fall(world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock) -> None:
    """Two instances write receipts of one member and arrive in another order: the older one is not announced."""
    recorder, ephemeral_events = world
    for delivered, read in ((9, 7), (5, 5), (9, 7), (6, 8), (10, 0)):
        ephemeral_events.receive(entry_of([Receipt(ROOM, ALICE, delivered, read, "t")]))
        await trio.sleep(0.5)
    announced = [(update.status.value, update.seq) for _, update in recorder.announced]
    assert announced == [("Read", 7), ("Delivered", 9), ("Read", 8), ("Delivered", 10)]


async def test_each_cursor_for_itself(world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock) -> None:
    """Delivered 7, then read 4, is (7, 4): neither is announced again, nor what is delivered below 7."""
    recorder, ephemeral_events = world
    for delivered, read in ((7, 0), (4, 4), (7, 0), (7, 4), (6, 0)):
        ephemeral_events.receive(entry_of([Receipt(ROOM, ALICE, delivered, read, "t")]))
        await trio.sleep(0.5)
    announced = [(update.status.value, update.seq) for _, update in recorder.announced]
    assert announced == [("Delivered", 7), ("Read", 4)]


async def test_no_room_open(world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock) -> None:
    """Receipts of conversations that are not open here are not kept."""
    recorder, ephemeral_events = world
    ephemeral_events.receive(entry_of([Receipt(new_id(), ALICE, 1, 1, "t")]))
    await trio.sleep(1.0)
    assert recorder.announced == []


async def test_the_same_seqs_again(world: tuple[Recorder, EphemeralEvents]) -> None:
    """After a history went back, receipts for seqs that were announced before are announced again; those that still
    waited are dropped."""
    recorder, events = world
    events.announce_receipts([Receipt(ROOM, ALICE, 11, 11)])
    await trio.sleep(2 * TICK)  # virtual time
    events.announce_receipts([Receipt(ROOM, BOB, 11, 11)])
    events.forget(ROOM)
    await trio.sleep(2 * TICK)  # virtual time
    assert recorder.events() == [UPDATED]
    events.announce_receipts([Receipt(ROOM, ALICE, 7, 7)])
    await trio.sleep(2 * TICK)  # virtual time
    assert recorder.events() == [UPDATED]


async def test_typing_that_is_hidden(world: tuple[Recorder, EphemeralEvents], autojump_clock: MockClock) -> None:
    """From another instance's notice on it is taken back and not announced; when it is shown again, it is."""
    recorder, ephemeral_events = world
    ephemeral_events.type(ROOM, ALICE)
    ephemeral_events.type(ROOM, BOB)
    await trio.sleep(1.0)
    assert sorted(recorder.events()) == [STARTED, STARTED]
    ephemeral_events.receive(entry_of([PrivacyNotice(ALICE, True, False, True, 2)]))
    ephemeral_events.receive(entry_of([PrivacyNotice(ALICE, True, True, True, 1)]))  # on its way for longer
    ephemeral_events.type(ROOM, ALICE)
    await trio.sleep(1.0)
    assert recorder.events() == [STOPPED]
    notice = PrivacyNotice(ALICE, True, True, True, 3)
    ephemeral_events.announce_privacy(notice)
    assert notice in recorder.sent
    ephemeral_events.type(ROOM, ALICE)
    await trio.sleep(1.0)
    assert recorder.events() == [STARTED]
