"""Rounds: all stages in turns, again and again, so that a slow minute of the machine hits none of them alone.

Owns the order of the stages, and what happens to one that fails: the others go on.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from loadtest.bench import stages
from loadtest.bench.process import BenchError, Unavailable
from loadtest.bench.rows import Row
from loadtest.bench.stages import Figures, Order
from loadtest.bench.world import World

Progress = Callable[[str], None]


class Faults(NamedTuple):
    """Why figures are missing, by stage."""

    left_out: dict[str, str]
    failed: dict[str, str]


class Turn(NamedTuple):
    """One stage, ready to be measured."""

    stage: str
    measure: Callable[[], Figures]


def turns(rows: Sequence[Row], world: World | None, seconds: float, event_bytes: int) -> list[Turn]:
    """The stages of these rows, the references first. `world` None: nothing of Parley's is among them."""
    order = Order(frozenset(row.key for row in rows), seconds, event_bytes)
    wanted = {row.stage for row in rows}
    found = [_of_reference(name, order) for name in stages.REFERENCES if name in wanted]
    if world is not None:
        found += [_of_world(name, world, order) for name in stages.OURS if name in wanted]
    return found


def needs_world(rows: Iterable[Row]) -> bool:
    return any(row.stage in stages.OURS for row in rows)


def _of_reference(name: str, order: Order) -> Turn:
    return Turn(name, lambda: stages.REFERENCES[name](order))


def _of_world(name: str, world: World, order: Order) -> Turn:
    return Turn(name, lambda: stages.OURS[name](world, order))


def play(plan: Sequence[Turn], faults: Faults, progress: Progress) -> dict[str, float]:
    """One round. What could not be measured is noted in `faults`, and not tried again."""
    found: dict[str, float] = {}
    for turn in plan:
        if turn.stage in faults.failed:
            continue
        progress(turn.stage)
        try:
            for key, value in turn.measure():
                found[key] = value
        except Unavailable as error:
            faults.left_out[turn.stage] = str(error)
        except BenchError as error:
            faults.failed[turn.stage] = str(error)
    return found
