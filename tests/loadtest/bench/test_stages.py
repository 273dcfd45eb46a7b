"""loadtest.bench.stages: what a stage makes of what was measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest.bench import stages
from loadtest.bench.measures import Crowd
from loadtest.bench.process import HERE
from loadtest.bench.rows import ROWS, SIZES
from loadtest.bench.stages import Order
from loadtest.bench.world import Room, World


def test_what_a_larger_room_costs_more_is_without_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of 400 µs and deliveries of 6 are 46 µs a delivery in a room of ten, and 6 for each delivery more. The
    first messages of a server do not count. There is a figure for each row."""
    sizes = []

    def crowd(server: Any, members: list[Any], conversation: str, seconds: float, size: int) -> Crowd:
        sizes.append(size)
        message = 400 if len(sizes) > 1 else 9000
        return Crowd(message / size + 6, size / 100)

    @contextmanager
    def parley(*arguments: Any, **options: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr("loadtest.bench.measures.crowd", crowd)
    monkeypatch.setattr(stages, "parley", parley)
    room = Room("conversation", [])
    world = World(Path(), HERE, [], [], "", [], "", [], None, 640, [room] * len(SIZES))
    found = dict(stages.fan(world, Order((), 1.0, 640)))
    assert found.keys() == {row.key for row in ROWS if row.stage == "fan"}
    assert found["fan.10"] == 46 and found["fan.last"] == SIZES[-1] / 100
    assert [found[f"fan.from_{size}"] for size in SIZES[:-1]] == [pytest.approx(6)] * 3
    assert sizes == [SIZES[0], *SIZES]


def test_the_memory_of_a_process_is_that_of_an_instance_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two instances as they are served for production are started, and the mean of what they take is said, in MiB: a
    `parley dev` of one process has more in it."""
    started = []

    @contextmanager
    def parley(*arguments: Any, **options: Any) -> Iterator[Any]:
        started.append(options["instances"])
        yield SimpleNamespace(instances=lambda: [70 * 1024.0, 74 * 1024.0])

    monkeypatch.setattr(stages, "parley", parley)
    world = World(Path(), HERE, [], [], "", [], "", [], None, 640)
    assert dict(stages.bare(world, Order((), 1.0, 640))) == {"process": 72.0} and started == [2]
    assert stages.OURS["bare"] is stages.bare and [row.key for row in ROWS if row.stage == "bare"] == ["process"]
