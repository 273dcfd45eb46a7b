"""Runs made up for the tests of views, reports and comparisons: no server, no clock."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from loadtest.histogram import Histogram
from loadtest.results import (
    Breach,
    Chaos,
    Latency,
    Machine,
    Oracle,
    Phase,
    Process,
    ProcessSample,
    Result,
    Sample,
)

START = datetime(2026, 11, 25, 12, tzinfo=UTC)
MACHINE = Machine(cpu="a processor", cores=2, memory_bytes=2**34, system="Linux 6")


def sample(at: int, millis: float = 5.0, count: int = 200, seed: int = 0, connections: int = 100) -> Sample:
    drawn = random.Random(f"{seed}-{at}")
    histogram = Histogram()
    for _ in range(count):
        histogram.record(millis / 1000 * drawn.lognormvariate(0, 0.4))
    return Sample(
        at=float(at),
        counters={
            "intended": count,
            "sent": count,
            "acknowledged": count,
            "delivered": 2 * count,
            "errors": int(at == 7),
        },
        gauges={"connections": float(connections), "stream_lag_ms": float(at % 4)},
        latencies={"send": Latency.of(histogram)},
    )


def run(millis: float = 5.0, seconds: int = 10, seed: int = 0, cpu: float = 0.5, **changes: Any) -> Result:
    """A run at 200 messages/s; `cpu` is the share of a core that the server takes."""
    samples = [sample(at, millis, seed=seed) for at in range(1, seconds + 1)]
    phases = [
        Phase(name="warm-up", start=0, end=2, rate=0, rate_at_end=200, measured=False),
        Phase(name="hold", start=2, end=float(seconds), rate=200),
    ]
    whole = Histogram.merged(Histogram.decode(each.latencies["send"].histogram) for each in samples[2:])
    watched = [ProcessSample(at=at, cpu_seconds=1 + at * cpu, rss_bytes=(90 + at) << 20) for at in range(seconds + 1)]
    fields: dict[str, Any] = {
        "scenario": "direct",
        "started_at": START,
        "seconds": float(seconds),
        "target": "http://127.0.0.1:5000",
        "seed": 1,
        "parameters": {"rate": 200, "users": 100, "arrivals": "poisson"},
        "profile": "steady",
        "machine": MACHINE,
        "versions": {"parley": "0.1.0", "python": "3.11.7"},
        "phases": phases,
        "samples": samples,
        "histograms": {"send": whole.encode()},
        "errors": {"unavailable": 1},
        "processes": [Process(name="parley 1", pid=11, samples=watched)],
        "chaos": [Chaos(at=6.0, kind="kill", target="parley 1", until=7.5)],
        "oracle": Oracle(checked={"order": 4000, "missing": 2000}),
    }
    return Result(**fields | changes)


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def breached() -> Oracle:
    breach = Breach(promise="gap", at=4.2, text="seq 18 after seq 16", trace=["ReceiveMessage seq 16", "seq 18 <b>"])
    return Oracle(checked={"order": 10}, breached={"gap": 3}, breaches=[breach])
