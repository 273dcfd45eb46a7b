"""What `loadtest peers` found: the JSON that it writes, the medians of the rounds, and the table."""

import math
import statistics
from collections.abc import Iterator

import msgspec

from loadtest.results import Machine

PARLEY = "Parley"


class Latency(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Deliveries at one rate, from when each message was due; or why there is none."""

    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    why: str = ""


class Round(msgspec.Struct, frozen=True, rename="camel"):
    """One server's turn."""

    cpu_us: float  # of the server's processes for one message
    database_us: float  # of PostgreSQL for one message
    client_us: float  # of the driver for one message
    per_second: float
    paced: list[Latency]  # one for each rate


class Score(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    made_of: str
    rounds: list[Round]
    failed: str = ""

    def median(self, field: str) -> float:
        return statistics.median(float(getattr(each, field)) for each in self.rounds)

    def latency(self, rate: float) -> Latency:
        """Medians of the rounds. A round without a latency counts as one that took for ever: when it is the median, the
        server has none."""
        found = [latency for each in self.rounds for latency in each.paced if latency.rate == rate]
        p50, p99 = (
            statistics.median(math.inf if part is None else part for part in parts)
            for parts in ([each.p50_ms for each in found], [each.p99_ms for each in found])
        )
        if math.isfinite(p50) and math.isfinite(p99):
            return Latency(rate, p50, p99)
        return Latency(rate, why=statistics.mode(each.why for each in found if each.why))


class Comparison(msgspec.Struct, frozen=True, rename="camel"):
    """What is written as JSON."""

    rates: list[float]
    pairs: int
    seconds: float
    machine: Machine
    versions: dict[str, str]
    scores: list[Score]
    skipped: dict[str, str]  # name: why it has no figures


def columns(found: Comparison) -> list[str]:
    fixed = ["server", "CPU/message", "ratio", "PostgreSQL CPU", "client CPU", "messages/s", "ratio"]
    return fixed + [f"p50 / p99 at {rate:,g}/s" for rate in found.rates]


def rows(found: Comparison) -> list[list[str]]:
    """One for each server; the ratios are to Parley's."""
    ours = next(score for score in found.scores if score.name == PARLEY)
    return [list(_cells(score, ours, found)) for score in found.scores]


def _cells(score: Score, ours: Score, found: Comparison) -> Iterator[str]:
    yield score.name if score is ours else score.made_of
    if not score.rounds:
        yield f"failed: {score.failed}"
        yield from [""] * (len(columns(found)) - 2)
        return
    comparable = score is not ours and bool(ours.rounds)
    cpu, rate = score.median("cpu_us"), score.median("per_second")
    yield f"{cpu:.0f} µs"
    yield f"{cpu / ours.median('cpu_us'):.2f} ×" if comparable else ""
    yield f"{score.median('database_us'):.0f} µs"
    yield f"{score.median('client_us'):.0f} µs"
    yield f"{rate:,.0f}"
    yield f"{rate / ours.median('per_second'):.2f} ×" if comparable else ""
    for each in found.rates:
        latency = score.latency(each)
        yield latency.why or f"{latency.p50_ms:.1f} / {latency.p99_ms:.1f} ms"


def title(found: Comparison) -> str:
    turns = max(len(score.rounds) for score in found.scores)
    return f"one server each, medians of {turns} rounds of {found.seconds:g} s"


def as_markdown(found: Comparison) -> list[str]:
    head = columns(found)
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(found)]
    lines += ["", f"{title(found)}. {found.machine.cores} cores, {found.machine.cpu}."]
    return lines + [f"{note}." for note in notes(found)]


def notes(found: Comparison) -> list[str]:
    """What the figures do not say."""
    failed = [f"{each.name} failed in a round: {each.failed}" for each in found.scores if each.failed and each.rounds]
    return failed + [f"{name} is left out: {reason}" for name, reason in found.skipped.items()]
