"""P10 under load: instances on one port are restarted one after another, without downtime.

Short in `make test`; `make rolling-restart` takes four instances and prints what docs/operations.md shows.
"""

from collections.abc import Iterable
from typing import Any

import pytest
import trio

from tests.rolling.fleet import Member, Restart, open_fleet
from tests.rolling.load import Seen, Talker, ask, populate, settle
from tests.waiting import wait_until

ASKERS = 2
PAUSE = 2.0  # seconds between two restarts


async def restart_all(members: list[Member], pause: float) -> list[Restart]:
    took = []
    for member in members:
        took.append(await member.restart())
        await trio.sleep(pause)  # between two restarts
    return took


async def roll(members: list[Member], talkers: list[Talker], seen: Seen, *, rate: float, calm: float) -> str:
    """Load, calm at first, then with every instance restarted. What was seen, in words; raises at a broken promise."""
    async with trio.open_nursery() as people:
        for talker in talkers:
            people.start_soon(talker.live)
        await wait_until(lambda: seen.online >= len(talkers))
        async with trio.open_nursery() as load:
            for talker in talkers:
                load.start_soon(talker.talk, rate)
            for _ in range(ASKERS):
                load.start_soon(ask, members[0].running.port, seen, 0.02)
            await trio.sleep(min(PAUSE, calm))  # caches and code are warm
            start = trio.current_time()
            await trio.sleep(calm)  # what is compared: a time without restarts
            middle = trio.current_time()
            took = await restart_all(members, min(PAUSE, calm))
            end = trio.current_time()
            load.cancel_scope.cancel()
        await settle(talkers, members[0].running)
        people.cancel_scope.cancel()
    calm_p99 = seen.p99((start, middle))
    moving = seen.p99(*((one.asked, one.gone) for one in took))
    starting = seen.p99(*((one.gone, one.ready) for one in took))
    return "\n".join(
        [
            "",
            f"instances restarted: {len(took)}; gone after {_listed(one.gone - one.asked for one in took)} s, "
            f"the next one ready after another {_listed(one.ready - one.gone for one in took)} s",
            f"connections each sent away: {', '.join(str(member.drained[0]) for member in members)}",
            f"messages delivered: {len(seen.deliveries)}; lost 0, duplicated 0 (or the run would have failed)",
            f"connections that came back: {len(seen.reconnects)}; refused {sum(seen.refused.values())} "
            f"{dict(seen.refused) or ''}; asked to go on once more {seen.sent_on}",
            f"requests on new connections: {dict(seen.requests)}",
            f"out for (median, longest): {_share(seen, 0.5) * 1000:.0f} ms, {_share(seen, 1.0) * 1000:.0f} ms",
            f"p99 of delivery: calm {calm_p99 * 1000:.0f} ms; while clients move {moving * 1000:.0f} ms, "
            f"{moving / calm_p99:.2f} times; while the next process starts {starting * 1000:.0f} ms, "
            f"{starting / calm_p99:.2f} times",
            "in each second: connections that came back, p99 of what was said (ms)",
            *_drawn(seen, middle, end),
        ]
    )


def _listed(seconds: Iterable[float]) -> str:
    return ", ".join(f"{one:.1f}" for one in seconds)


def _share(seen: Seen, share: float) -> float:
    times = sorted(seconds for _, seconds in seen.reconnects)
    return times[min(int(len(times) * share), len(times) - 1)]


def _drawn(seen: Seen, start: float, end: float) -> list[str]:
    curve = seen.curve(start, end, 1.0)
    scale = max(1, -(-max(curve) // 40))
    lines = []
    for second, count in enumerate(curve):
        p99 = seen.p99((start + second, start + second + 1))
        lines.append(f"{second:4d} s {count:5d} {p99 * 1000:6.0f} {'#' * (count // scale)}")
    return lines


async def test_two_instances(database: str, redis_url: str) -> None:
    """Nothing lost, nothing duplicated, nothing refused; each instance ends well; its clients are back at once."""
    seen = Seen()
    async with open_fleet(database, redis_url, instances=2, shared=True, drain_seconds=1.5) as members:
        talkers = await populate(members[0].running, 15, seen)
        print(await roll(members, talkers, seen, rate=1.0, calm=1.0))  # noqa: T201
        assert not seen.refused and list(seen.requests) == ["answered"]
        assert len(seen.reconnects) >= len(talkers) and [member.exits for member in members] == [[0], [0]]


async def test_four_instances(request: pytest.FixtureRequest, database: str, redis_url: str) -> None:
    """The same with four under more load. The p99 is printed, not judged: it depends on the machine, too."""
    listening = request.config.getoption("--rolling")
    if not listening:
        pytest.skip("`make rolling-restart` runs it")
    seen = Seen()
    options: dict[str, Any] = {"drain_seconds": 10, "forked": False}  # what a start takes is among the figures
    async with open_fleet(database, redis_url, instances=4, shared=listening == "shared", **options) as members:
        talkers = await populate(members[0].running, 100, seen)
        print(await roll(members, talkers, seen, rate=0.5, calm=30.0))  # noqa: T201
        assert [member.exits for member in members] == [[0]] * 4
        if listening == "shared":
            assert not seen.refused and list(seen.requests) == ["answered"]
