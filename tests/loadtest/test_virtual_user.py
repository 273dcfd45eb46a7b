"""loadtest.virtual_user: what counts, when a connection is lost in between."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from loadtest.oracle import invariants
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.threads import Threads
from loadtest.payloads import Message, Synced
from loadtest.plan import Conversation, Person
from loadtest.virtual_user import RETRYABLE, SEND, VirtualUser

TALK = "talk"
DUE = 1.0


class Line:
    """A connection that remembers its calls, and answers none."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any]] = []

    def call(self, target: str, arguments: Any, done: Any, kind: Any = None) -> None:
        self.calls.append((target, arguments, done))

    def ping(self) -> None:
        pass

    def done(self, target: str) -> Any:
        """Return the callback of the last call of this method."""
        return [done for name, _, done in self.calls if name == target][-1]


class World:
    """A world with one virtual user, at the time that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[Line] = []
        self.recorded: list[tuple[str, float]] = []
        self.errors: list[str] = []
        self.laters: list[Any] = []
        recorder = SimpleNamespace(
            count=lambda name, by=1: None,
            error=self.errors.append,
            record=lambda name, due: self.recorded.append((name, due)),
        )
        oracle = Oracle("run", lambda: self.now, ("u0",))
        world: Any = SimpleNamespace(
            run="run",
            recording=None,
            oracle=oracle,
            threads=Threads(oracle),
            recorder=recorder,
            attach="sync",
            conversations={TALK: Conversation(TALK, (0,), 0)},
            rng=SimpleNamespace(uniform=lambda low, high: 1.0),
            now=lambda: self.now,
            open=self._open,
            later=lambda delay, what: self.laters.append(what),
            arrived=lambda virtual_user: None,
            left=lambda virtual_user: None,
        )
        self.virtual_user = VirtualUser(world, Person(0, "u0", ""), [TALK])

    def answer(self, body: dict[str, object], **differs: object) -> Message:
        """The message that the server says it has stored."""
        said = {"id": "m1", "seq": 1, "changedSeq": 1, "senderId": "u0", "type": "Text", **body, **differs}
        return msgspec.convert(said, Message)

    def _open(self, *_: object) -> Line:
        self.lines.append(Line())
        return self.lines[-1]

    def arrive(self) -> Line:
        """The connection that was opened last gets its answers."""
        line = self.lines[-1]
        self.virtual_user.opened()
        line.done("Sync")(None, Synced(heads={TALK: 0}, resync=()))
        return line


def test_a_send_that_is_repeated_counts_from_when_it_was_due() -> None:
    """Sent, lost with its connection, sent again, acknowledged: its time is all of that, not that of the last try."""
    world = World()
    world.virtual_user.connect()
    line = world.arrive()
    world.now = 1.5  # a busy generator is late itself
    world.virtual_user.send(TALK, DUE, 60)
    first = line.calls[-1]
    world.now = 4.0
    first[2]("lost", None)
    world.virtual_user.lost("reset")
    world.now = 8.0
    world.laters.pop()()
    line = world.arrive()
    target, (body,), done = line.calls[-1]
    assert (target, body) == ("SendMessage", first[1][0])  # under the same key
    world.now = 9.0
    done(None, world.answer(body))
    assert [due for name, due in world.recorded if name == SEND] == [DUE]
    assert not world.virtual_user.pending


@pytest.mark.parametrize("code", [*RETRYABLE[1:], "forbidden", "internal"])
def test_a_refused_send(code: str) -> None:
    """What may be tried again is, under the same key; what may not is given up, and no longer under way."""
    world = World()
    world.virtual_user.connect()
    line = world.arrive()
    world.virtual_user.send(TALK, DUE, 60)
    first = line.calls[-1]
    first[2](f"{code}: no", None)
    assert world.errors == [code]
    if code in RETRYABLE:
        world.laters.pop()()
        assert line.calls[-1][:2] == first[:2] and line.calls[-1] is not first and world.virtual_user.pending
        [send] = world.virtual_user.pending.values()
        assert send.due == DUE  # it has been late since then
    else:
        assert not world.laters and not world.virtual_user.pending and line.calls[-1] is first


def test_repeated_once_for_each_connection() -> None:
    """A send that waits to be tried again when the connection is lost, and one that was acknowledged, are not sent
    twice over the next one."""
    world = World()
    world.virtual_user.connect()
    line = world.arrive()
    for _ in range(3):
        world.virtual_user.send(TALK, DUE, 60)
    sent = [call for call in line.calls if call[0] == "SendMessage"]
    sent[0][2](None, world.answer(sent[0][1][0]))
    sent[1][2]("unavailable: later", None)
    retry = world.laters.pop()
    sent[2][2]("lost", None)
    world.virtual_user.lost("reset")
    retry()  # while offline: it goes after the reconnect
    world.laters.pop()()
    line = world.arrive()
    again = [call[1][0]["clientMessageId"] for call in line.calls if call[0] == "SendMessage"]
    assert again == [call[1][0]["clientMessageId"] for call in sent[1:]]


@pytest.mark.parametrize(
    ("second", "breach"),
    [({}, None), ({"id": "m2", "seq": 2, "changedSeq": 2}, invariants.DUPLICATED)],
    ids=["the same", "another"],
)
def test_answered_twice(second: dict[str, object], breach: str | None) -> None:
    """A repeat is answered with the first message: with another one, the send was duplicated. It counts once."""
    world = World()
    world.virtual_user.connect()
    line = world.arrive()
    world.virtual_user.send(TALK, DUE, 60)
    _, (body,), done = line.calls[-1]
    done(None, world.answer(body))
    done(None, world.answer(body, **second))
    oracle = world.virtual_user.world.oracle
    assert dict(oracle.breached) == ({breach: 1} if breach else {})
    assert [name for name, _ in world.recorded].count(SEND) == 1 and oracle.checked[invariants.MISSING] == 1


@pytest.mark.parametrize("name", ["content", "clientMessageId", "conversationId"])
def test_answered_with_something_else(name: str) -> None:
    """The acknowledgement is of what was sent, to the byte, or the server has altered it."""
    world = World()
    world.virtual_user.connect()
    line = world.arrive()
    world.virtual_user.send(TALK, DUE, 60)
    _, (body,), done = line.calls[-1]
    done(None, world.answer(body, **{name: "another"}))
    assert world.virtual_user.world.oracle.breached[invariants.ALTERED] == 1


@pytest.mark.parametrize("differs", [{"content": "old"}, {"id": "m2"}, {"changedSeq": 1}, {"deletedAt": "now"}, {}])
def test_an_edit_is_answered_with_what_it_wrote(differs: dict[str, object]) -> None:
    """Another content, another message, one that was not changed, or a deleted one: the edit was not done."""
    world = World()
    world.virtual_user.connect()
    line = world.arrive()
    world.virtual_user.send(TALK, DUE, 60)
    _, (body,), done = line.calls[-1]
    done(None, world.answer(body))
    world.virtual_user.edit(2.0, 60)
    target, (_, content), done = line.calls[-1]
    assert target == "EditMessage"
    done(None, world.answer({**body, "content": content, "changedSeq": 2, **differs}))
    assert dict(world.virtual_user.world.oracle.breached) == ({invariants.ALTERED: 1} if differs else {})


def test_who_left_stays_away() -> None:
    """A virtual user that was cut off reconnects; one that left does not."""
    world = World()
    world.virtual_user.connect()
    world.arrive()
    world.virtual_user.lost("cut")
    assert len(world.laters) == 1 and world.errors == []
    world.virtual_user.wanted = False
    world.laters.pop()()
    assert len(world.lines) == 1
    world.virtual_user.connect()
    world.arrive()
    world.virtual_user.wanted = False
    world.virtual_user.lost("finished")
    assert not world.laters and len(world.lines) == 2
