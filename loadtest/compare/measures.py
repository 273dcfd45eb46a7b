"""What of a run is compared: a few numbers, each with its unit and which way is better."""

from collections import Counter
from enum import Enum
from typing import NamedTuple

from loadtest import results
from loadtest.report.charts import operations, spent
from loadtest.results import MS, Process, Result

PERCENTILES = ((50.0, "p50", 1), (99.0, "p99", 500), (99.9, "p99.9", 5000))  # and how many operations it takes
LOWER_UNITS = ("us", "ms", "kib", "mib", "bytes", "seconds")
HIGHER_WORDS = ("knee", "rate", "per_second", "throughput")


class Better(Enum):
    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = ""


class Measure(NamedTuple):
    name: str
    unit: str
    better: Better


def measures(result: Result) -> dict[Measure, float]:
    found: dict[Measure, float] = {}
    measured = result.measured()
    seconds = sum(sample.seconds for sample in measured)
    if seconds:
        for counter in (results.SENT, results.ACKNOWLEDGED, results.DELIVERED, results.CONNECTS):
            if total := result.total(counter):
                found[Measure(counter, "/s", Better.HIGHER)] = total / seconds
    for operation in operations(result):
        histogram = result.histogram(operation)
        for percent, name, least in PERCENTILES:
            if histogram.count >= least:
                better = Better.NEITHER if operation == results.GENERATOR_LATE else Better.LOWER
                found[Measure(f"{operation} {name}", "ms", better)] = histogram.percentile(percent) * MS
    done = result.total(results.ACKNOWLEDGED) or result.total(results.SENT) or result.total(results.CONNECTS)
    errors = sum(result.errors.values())
    if done or errors:
        found[Measure("errors", "% of operations", Better.LOWER)] = 100 * errors / ((done + errors) or 1)
    found.update(_costs(result, done))
    for name, value in result.figures.items():
        found[Measure(name.replace("_", " "), "", _direction(name))] = value
    return found


def why_missing(measure: Measure) -> str:
    """What a run lacks that does not have it."""
    operation, _, last = measure.name.rpartition(" ")
    for _, name, least in PERCENTILES:
        if last == name and measure.unit == "ms":
            return f"no {operation}" if least == 1 else f"under {least:,} of {operation}"
    if measure.name in (results.SENT, results.ACKNOWLEDGED, results.DELIVERED, results.CONNECTS):
        return "none"
    if measure.name.startswith(("server", "database", "redis")):
        return "its processes were not seen (--dev, a server on this machine, or --metrics)"
    return "not found by it"


def _costs(result: Result, done: int) -> dict[Measure, float]:
    found = {}
    for role in ("server", "database", "redis"):
        processes = [process for process in result.processes if process.role == role and process.samples]
        if not processes:
            continue
        if done:
            cost = sum(spent(process, result) for process in processes) / done * 1e6
            found[Measure(f"{role} CPU per operation", "µs", Better.LOWER)] = cost
        if role == "server":
            found[Measure("server memory, peak", "MiB", Better.LOWER)] = peak(processes) / 2**20
    return found


def peak(processes: list[Process]) -> int:
    """Of all together: one that was killed and the one in its place do not add up."""
    together: Counter[int] = Counter()
    for process in processes:
        together.update({round(sample.at): sample.rss_bytes for sample in process.samples})
    return max(together.values())


def _direction(name: str) -> Better:
    """A scenario's own figures say by their unit which way is better."""
    words = name.lower()
    if any(word in words for word in HIGHER_WORDS):
        return Better.HIGHER
    return Better.LOWER if words.endswith(LOWER_UNITS) else Better.NEITHER
