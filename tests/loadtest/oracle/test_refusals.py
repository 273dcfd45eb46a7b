"""loadtest.oracle.refusals: what is refused is not stored, and who is kept from something is, no longer."""

import pytest

from loadtest.oracle import invariants
from loadtest.oracle.audit import removal
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.refusals import BANNED, EVERYWHERE, MUTED, SHOWN, UNAVAILABLE, Kept, Refusals
from loadtest.payloads import Message

GROUP = "g"


class Clock:
    """It is what the test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.oracle = Oracle("run", self.clock)
        self.refusals = Refusals(self.oracle, 0)

    @property
    def breaches(self) -> int:
        assert set(self.oracle.breached) <= {invariants.RESTRICTED}
        return sum(self.oracle.breached.values())

    def kept(self, code: str = MUTED, where: str = GROUP, *, until: float | None = None) -> Kept:
        """From second 10 (asked) and 11 (answered) to `until` (asked) and a second later (answered)."""
        self.clock.now = 10
        kept = self.refusals.keep(code, where)
        kept.answer(11.0)
        if until is not None:
            kept.end(until)
            kept.finish(until + 1)
        return kept


def stored(id_: str = "m", content: str = "hello", type_: str = "Text", seq: int = 1) -> Message:
    return Message(id_, GROUP, seq, seq, "u", type_, content)


@pytest.fixture
def world() -> World:
    return World()


def test_what_was_refused_is_not_stored(world: World) -> None:
    """Unless an attempt of before had no answer: that one may have been written."""
    world.kept()
    world.clock.now = 12
    world.refusals.refuse(0, MUTED, GROUP, 11.5)
    world.refusals.check(1, stored())
    assert world.breaches == 0
    world.refusals.check(0, stored())
    assert world.breaches == 1
    world.refusals.refuse(2, "lost", GROUP, 11.5)
    world.refusals.refuse(2, MUTED, GROUP, 11.6)
    world.refusals.check(2, stored())
    assert world.breaches == 1


@pytest.mark.parametrize(
    ("began", "ended", "is_breach"),
    [
        (9.0, 9.5, False),
        (9.0, 30.0, False),
        (10.5, 12.0, False),  # it began before the answer
        (11.0, 12.0, True),
        (19.0, 20.0, True),
        (19.0, 20.5, False),  # it may have been written when it was over
        (20.5, 22.0, False),
    ],
)
def test_accepted_while_kept(world: World, began: float, ended: float, is_breach: bool) -> None:
    """An attempt that begins and ends while it is certain is not acknowledged."""
    world.kept(until=20.0)
    world.clock.now = ended
    world.refusals.accept(0, GROUP, began)
    world.refusals.accept(1, "elsewhere", began)
    assert world.breaches == is_breach


@pytest.mark.parametrize(
    ("began", "ended", "is_breach"), [(8.0, 9.0, True), (9.0, 10.0, False), (20.5, 22.0, False), (21.5, 22.0, True)]
)
def test_refused_while_free(world: World, began: float, ended: float, is_breach: bool) -> None:
    """A refusal has its reason, at some moment of the attempt; everywhere is here, too."""
    world.kept(BANNED, EVERYWHERE, until=20.0)
    world.clock.now = ended
    world.refusals.refuse(0, BANNED, GROUP, began)
    assert world.breaches == is_breach
    world.refusals.refuse(1, MUTED, GROUP, began)
    world.refusals.refuse(2, "rate_limited", GROUP, began)
    assert world.breaches == is_breach + 1


def test_a_repeat_that_is_answered(world: World) -> None:
    """An attempt of before may be the one that was written; after a refusal nothing is acknowledged."""
    world.kept()
    world.clock.now = 12
    world.refusals.refuse(0, "unavailable", GROUP, 9.0)
    world.refusals.accept(0, GROUP, 11.5)
    assert world.breaches == 0
    world.refusals.refuse(1, UNAVAILABLE, "direct", 11.5)
    assert world.breaches == 1  # without a reason
    world.refusals.accept(1, "direct", 11.6)
    assert world.breaches == 2


def test_what_is_hidden(world: World) -> None:
    """Nothing is shown of who is hidden, once the news had time to come, until it is over."""
    world.refusals.hide("bob", world.kept(UNAVAILABLE, "direct", until=20.0))
    for now, breaches in ((9.0, 0), (11.0 + SHOWN / 2, 0), (11.0 + 1.1 * SHOWN, 1), (19.0, 2), (20.5, 2)):
        world.clock.now = now
        world.refusals.see("bob", "Online")
        world.refusals.see("carol", "typing")
        assert world.breaches == breaches, now


def test_who_was_removed(world: World) -> None:
    """Gets nothing behind the change that removed them."""
    gone = '{"event":"memberRemoved","by":"a","userId":"bob"}'
    changes = [stored(), stored("s", gone, "System", 5), stored("t", gone.replace("bob", "eve"), "System", 6)]
    assert removal(changes, "bob") == 5 and removal(changes, "alice") is None
    world.refusals.see_change(GROUP, 5, 5)
    assert world.breaches == 0
    world.refusals.see_change(GROUP, 6, 5)
    assert world.breaches == 1
