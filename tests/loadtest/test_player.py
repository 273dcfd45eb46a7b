"""loadtest.player: what counts, when a connection is lost in between."""

from types import SimpleNamespace
from typing import Any

import msgspec

from loadtest.oracle.oracle import Oracle
from loadtest.payloads import Message, Synced
from loadtest.plan import Conversation, Person
from loadtest.player import SEND, Player

TALK = "talk"
DUE = 1.0


class Line:
    """A wire that remembers its calls, and answers none."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any]] = []

    def call(self, target: str, arguments: Any, done: Any, kind: Any = None) -> None:
        self.calls.append((target, arguments, done))

    def ping(self) -> None:
        pass

    def done(self, target: str) -> Any:
        """What is told of the last call of this method."""
        return [done for name, _, done in self.calls if name == target][-1]


class World:
    """A stage with one player, at the time that the test says it is."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[Line] = []
        self.recorded: list[tuple[str, float]] = []
        self.laters: list[Any] = []
        meter = SimpleNamespace(
            count=lambda name, by=1: None,
            error=lambda code: None,
            record=lambda name, due: self.recorded.append((name, due)),
        )
        stage: Any = SimpleNamespace(
            run="run",
            oracle=Oracle("run", lambda: self.now, ("u0",)),
            meter=meter,
            attach="sync",
            conversations={TALK: Conversation(TALK, (0,), 0)},
            rng=SimpleNamespace(uniform=lambda low, high: 1.0),
            now=lambda: self.now,
            open=self._open,
            later=lambda delay, what: self.laters.append(what),
            arrived=lambda player: None,
            departed=lambda player: None,
        )
        self.player = Player(stage, Person(0, "u0", ""), [TALK])

    def _open(self, *_: object) -> Line:
        self.lines.append(Line())
        return self.lines[-1]

    def arrive(self) -> Line:
        """The connection that was opened last gets its answers."""
        line = self.lines[-1]
        self.player.opened()
        line.done("Sync")(None, Synced(heads={TALK: 0}, resync=()))
        return line


def test_a_send_that_is_repeated_counts_from_when_it_was_due() -> None:
    """Sent, lost with its connection, sent again, acknowledged: its time is all of that, not that of the last try."""
    world = World()
    world.player.connect()
    line = world.arrive()
    world.now = 1.5  # a busy generator is late itself
    world.player.send(TALK, DUE, 60)
    first = line.calls[-1]
    world.now = 4.0
    first[2]("lost", None)
    world.player.lost("reset")
    world.now = 8.0
    world.laters.pop()()
    line = world.arrive()
    target, (body,), done = line.calls[-1]
    assert (target, body) == ("SendMessage", first[1][0])  # under the same key
    world.now = 9.0
    message = msgspec.convert(
        {"id": "m1", "seq": 1, "changedSeq": 1, "senderId": "u0", "type": "Text", **body}, Message
    )
    done(None, message)
    assert [due for name, due in world.recorded if name == SEND] == [DUE]
    assert not world.player.pending
