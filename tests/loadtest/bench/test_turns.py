"""loadtest.bench.turns: the order of stages, and one that fails."""

from collections.abc import Callable

import pytest

from loadtest.bench import stages
from loadtest.bench.process import BenchError, Unavailable
from loadtest.bench.rows import chosen
from loadtest.bench.stages import Figures, Order
from loadtest.bench.turns import Faults, Turn, needs_world, play, turns


def figures(*found: tuple[str, float], then: BaseException | None = None) -> Figures:
    yield from found
    if then is not None:
        raise then


def test_a_stage_that_fails_keeps_what_it_found_and_lets_others_go_on() -> None:
    """Nor is it tried again in the next round; a reference that cannot be had is left out, which is no failure."""
    faults, tried = Faults({}, {}), list[str]()

    def talk() -> Figures:
        tried.append("talk")
        return figures(("noop", 2.0), then=BenchError("bench: it ended"))

    plan = [
        Turn("floor", lambda: figures(("floor.echo", 1.0), then=Unavailable("no compiler"))),
        Turn("talk", talk),
        Turn("idle", lambda: figures(("connect", 3.0))),
    ]
    assert play(plan, faults, lambda stage: None) == {"floor.echo": 1.0, "noop": 2.0, "connect": 3.0}
    assert faults == ({"floor": "no compiler"}, {"talk": "bench: it ended"})
    assert play(plan, faults, lambda stage: None) == {"floor.echo": 1.0, "connect": 3.0}
    assert len(tried) == 1


def test_references_come_first_and_only_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages of the rows that are asked for, in their order, with the keys and the size of the event."""
    seen: list[tuple[str, Order]] = []

    def stage(name: str) -> Callable[[Order], Figures]:
        def measure(order: Order) -> Figures:
            seen.append((name, order))
            return figures()

        return measure

    for name in stages.REFERENCES:
        monkeypatch.setitem(stages.REFERENCES, name, stage(name))
    rows = chosen(("event",))
    assert needs_world(rows)
    play(turns(rows, None, 2.0, 481), Faults({}, {}), lambda stage: None)
    assert [name for name, _ in seen] == ["speed", "floor", "ws"]
    assert seen[1][1].event_bytes == 481 and seen[1][1].seconds == 2.0
    assert "event" in seen[1][1].wanted and "burst" not in seen[1][1].wanted
    assert not needs_world(chosen(("floor", "ws")))
