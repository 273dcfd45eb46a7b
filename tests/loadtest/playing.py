"""Runs of the suite inside a test: short, and without a display."""

from collections.abc import Sequence

import trio

from loadtest.chaos import parse
from loadtest.coordinator import Coordinator, Options
from loadtest.parameters import make
from loadtest.results import ACKNOWLEDGED, Process, Result, Sample
from loadtest.scenarios import SCENARIOS
from loadtest.targets import Target
from tests.running import JWT_KEY


class Silent:
    """A view that shows nothing. `connected` is set when all are connected: the run starts half a second later."""

    def __init__(self) -> None:
        self.connected, self.acknowledged = trio.Event(), trio.Event()

    def update(self, sample: Sample, processes: Sequence[Process] = ()) -> None:
        if sample.counters.get(ACKNOWLEDGED):
            self.acknowledged.set()

    def note(self, text: str) -> None:
        if text.startswith("connected"):
            self.connected.set()

    def warn(self, text: str) -> None:
        pass


async def play(
    target: str | Target,
    name: str,
    *,
    workers: int = 1,
    client: str = "lean",
    key: str = JWT_KEY,
    settle: float = 60.0,
    chaos: str = "",
    shard: tuple[int, int] = (1, 1),
    view: Silent | None = None,
    record: str = "",
    **given: object,
) -> Result:
    """One run of a scenario, without a warm-up unless it is given."""
    kind = SCENARIOS[name]
    scenario = kind(make(kind.Parameters, {"warmup": 0.0, "seconds": 1.5, **given}))
    options = Options(workers=workers, client=client, settle=settle, shard=shard, record=record)
    where = Target(target, key=key) if isinstance(target, str) else target
    return await Coordinator(scenario, where, options, view or Silent(), parse(chaos)).run()
