"""Benches that were never measured, to judge."""

from datetime import UTC, datetime
from typing import Any

from loadtest.bench.measured import Measured
from loadtest.results import Machine

MACHINE = Machine(cpu="a processor", cores=2, memory_bytes=1, system="Linux")
CALM = {
    "speed.python": 1.0, "speed.c": 1.0, "floor.echo": 1.5, "floor.event": 6.0, "floor.burst": 5.5,
    "floor.together": 0.8, "ws.echo": 8.0, "ws.event": 10.0, "noop": 8.0, "event": 6.3, "burst": 1.25, "durable": 90.0,
    "durable_rate": 8000.0, "memory": 4.4,
}  # fmt: skip


def measured(*rounds: dict[str, float], **changes: Any) -> Measured:
    given: dict[str, Any] = {"seconds": 2.0, "event_bytes": 480, "versions": {"parley": "0.1.0+g1", "python": "3.11"}}
    at = datetime(2026, 11, 29, 12, tzinfo=UTC)
    return Measured(at=at, machine=MACHINE, rounds=list(rounds), **given | changes)
