"""What one load run found: the typed record that scenarios fill and that views, reports and comparisons read.

Owns the JSON format (`FORMAT`) and the merge of what several workers and machines measured of the same run. Times
are seconds since the start of the run unless a name says otherwise; latencies are milliseconds.
"""

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from loadtest import steps
from loadtest.histogram import Histogram
from loadtest.steps import Step

FORMAT = 1
BREACHES_KEPT = 12  # of each class, with their traces; all are counted
MS = 1000.0
PERCENTILES = (50.0, 90.0, 99.0, 99.9)

# Counters of a sample: what happened in its interval. Scenarios may add their own.
INTENDED = "intended"  # arrivals that were due
SENT = "sent"
ACKNOWLEDGED = "acknowledged"
DELIVERED = "delivered"
CONNECTS = "connects"
DISCONNECTS = "disconnects"
TYPING = "typing_updates"
ERRORS = "errors"
DROPPED = "dropped"  # was due while its client was away, or lost with the connection: not repeated, in no histogram

# Gauges of a sample: how it stood at its end.
CONNECTIONS = "connections"
STREAM_LAG = "stream_lag_ms"  # from an entry's being written to an instance's inbox to its being read: the mean

# An operation that is none of the server's: how long after it was due an arrival was begun by the generator.
GENERATOR_LATE = "generator_late"


class ResultError(Exception):
    """What was given is no result of a load run; the message says why."""


class Machine(msgspec.Struct, frozen=True, rename="camel"):
    """Where the generator ran (and the server, when it is local)."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str


class Phase(msgspec.Struct, frozen=True, rename="camel"):
    """A part of the run with its intended rate of arrivals per second, from its begin to its end."""

    name: str
    start: float
    end: float
    rate: float = 0.0
    rate_at_end: float | None = None  # a ramp; otherwise as at the begin
    measured: bool = True  # False: warm-up, in no histogram of the whole run


class Latency(msgspec.Struct, frozen=True, rename="camel"):
    """One operation's latencies in one interval, from when each was due, in ms. The histogram is what merges."""

    count: int
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    histogram: str = ""

    @classmethod
    def of(cls, histogram: Histogram) -> "Latency":
        p50, p90, p99, p999 = (round(value * MS, 3) for value in histogram.percentiles(PERCENTILES))
        highest = round(histogram.highest * MS, 3)
        return cls(
            count=histogram.count, p50=p50, p90=p90, p99=p99, p999=p999, max=highest, histogram=histogram.encode()
        )


class Sample(msgspec.Struct, frozen=True, rename="camel"):
    """One interval, usually a second, that ended at `at`."""

    at: float
    seconds: float = 1.0
    counters: dict[str, int] = {}
    gauges: dict[str, float] = {}
    latencies: dict[str, Latency] = {}

    def rate(self, counter: str) -> float:
        return self.counters.get(counter, 0) / self.seconds


class ProcessSample(msgspec.Struct, frozen=True, rename="camel"):
    at: float
    cpu_seconds: float  # of processor time since the process began
    rss_bytes: int


class Process(msgspec.Struct, frozen=True, rename="camel"):
    """One process of the system under test; or, with role `generator`, of the load test itself."""

    name: str
    pid: int
    role: str = "server"  # server, database, redis, generator
    samples: list[ProcessSample] = []


class Chaos(msgspec.Struct, frozen=True, rename="camel"):
    """Something broken on purpose."""

    at: float
    kind: str  # kill, stop, restart, cut
    target: str
    until: float | None = None
    detail: str = ""


class Breach(msgspec.Struct, frozen=True, rename="camel"):
    """A promise that was seen broken, with what led to it."""

    promise: str  # the oracle's class: order, gap, repeat, missing, stranger, receipt, presence, ...
    at: float
    text: str
    trace: list[str] = []


class Oracle(msgspec.Struct, frozen=True, rename="camel"):
    """What was checked how often, and what did not hold. `breaches` keeps the first BREACHES_KEPT of each class."""

    checked: dict[str, int] = {}
    breached: dict[str, int] = {}
    breaches: list[Breach] = []

    @property
    def holds(self) -> bool:
        return not self.breached and not self.breaches


class Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One run, or one worker's part of it."""

    format: int = FORMAT
    scenario: str
    started_at: datetime
    seconds: float
    target: str
    seed: int
    parameters: dict[str, Any] = {}
    profile: str = ""
    client: str = "lean"
    workers: int = 1
    shard: str = ""
    machine: Machine
    versions: dict[str, str] = {}
    settings: dict[str, str] = {}  # of the servers, where they are not as by default
    phases: list[Phase] = []
    samples: list[Sample] = []
    histograms: dict[str, str] = {}  # by operation, of all measured phases
    errors: dict[str, int] = {}  # by code
    processes: list[Process] = []
    chaos: list[Chaos] = []
    oracle: Oracle = Oracle()
    steps: list[Step] = []  # of shape `step`
    interrupted_at: float | None = None  # seconds of the run at which it was ended before its time
    figures: dict[str, float] = {}  # single numbers (`loadtest.summary`), such as the knee; the name says the unit
    notes: list[str] = []

    def histogram(self, operation: str) -> Histogram:
        return Histogram.decode(self.histograms[operation])

    def total(self, counter: str) -> int:
        """Of the measured samples."""
        return sum(sample.counters.get(counter, 0) for sample in self.measured())

    @property
    def has_measured(self) -> bool:
        """Has anything come of the load? Otherwise that every promise held says nothing."""
        operations = self.histograms.keys() - {GENERATOR_LATE}
        return any(self.histogram(name).count for name in operations) or self.total(TYPING) > 0

    def measured(self) -> list[Sample]:
        """The samples that lie in measured phases, not the waiting and the audit after them; all, without phases."""
        if not self.phases:
            return self.samples
        measured = [phase for phase in self.phases if phase.measured]
        return [
            sample
            for sample in self.samples
            if any(phase.start <= sample.at - sample.seconds / 2 < phase.end for phase in measured)
        ]


def encode(result: Result) -> bytes:
    return msgspec.json.format(msgspec.json.encode(result), indent=1)


def decode(data: bytes) -> Result:
    """Raises ResultError."""
    try:
        version = msgspec.json.decode(data, type=_Versioned).format
        if version != FORMAT:
            raise ResultError(f"this result has format {version}; this version of the load test reads format {FORMAT}")
        return msgspec.json.decode(data, type=Result)
    except msgspec.DecodeError as error:
        raise ResultError(f"not a result of a load run: {error}") from None


class _Versioned(msgspec.Struct):
    format: int


def write(result: Result, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(result))


def read(path: Path) -> Result:
    """Raises ResultError, which names the file."""
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from None
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from None


def this_machine() -> Machine:
    return Machine(
        cpu=_processor(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.machine()


def installed_versions() -> dict[str, str]:
    """Of the generator's own parts. Blocks for some 0.3 s: Parley's is what its command line says."""
    found = {"python": platform.python_version()}
    command = [sys.executable, "-m", "server", "--version"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        found["parley"] = asked.stdout.split()[-1]
    for name in ("trio", "msgspec"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# -- merging ------------------------------------------------------------------------------------


def merge(results: Sequence[Result]) -> Result:
    """One run out of what its workers or machines measured of it. Raises ResultError for parts of different runs."""
    if not results:
        raise ResultError("nothing to merge")
    alike = {(result.scenario, result.target, result.seed, repr(result.parameters)) for result in results}
    if len(alike) > 1:
        raise ResultError("these are not parts of one run: scenario, parameters, target or seed differ")
    twice = [name for name, times in Counter(result.shard for result in results).items() if name and times > 1]
    if twice:
        raise ResultError(f"shard {twice[0]} is there twice")
    first = min(results, key=lambda result: result.started_at)
    moved = [_moved(result, (result.started_at - first.started_at).total_seconds()) for result in results]
    return msgspec.structs.replace(
        first,
        seconds=max(result.seconds for result in moved),
        workers=sum(result.workers for result in results),
        shard=", ".join(result.shard for result in results if result.shard),
        phases=_merged_phases([result.phases for result in moved]),
        samples=merge_samples([sample for result in moved for sample in _in_turn(result.samples)]),
        histograms=_merged_histograms([result.histograms for result in moved]),
        errors=_summed(result.errors for result in moved),
        processes=_merged_processes([process for result in moved for process in result.processes]),
        chaos=sorted((event for result in moved for event in result.chaos), key=lambda event: event.at),
        interrupted_at=min((one.interrupted_at for one in moved if one.interrupted_at is not None), default=None),
        oracle=_merged_oracle([result.oracle for result in moved]),
        steps=steps.merge([result.steps for result in moved]),
        figures={},  # none is a part's: `loadtest.summary` finds those of the whole
        notes=list(dict.fromkeys(note for result in moved for note in result.notes)),
    )


def _moved(result: Result, by: float) -> Result:
    """The same with its times counted from a start that lies `by` seconds earlier."""
    if not by:
        return result
    replace = msgspec.structs.replace

    def later(until: float | None) -> float | None:
        return None if until is None else until + by

    oracle = result.oracle
    return replace(
        result,
        seconds=result.seconds + by,
        phases=[replace(phase, start=phase.start + by, end=phase.end + by) for phase in result.phases],
        samples=[replace(sample, at=sample.at + round(by)) for sample in result.samples],  # ticks stay ticks
        interrupted_at=later(result.interrupted_at),
        processes=[
            replace(process, samples=[replace(sample, at=sample.at + by) for sample in process.samples])
            for process in result.processes
        ],
        chaos=[replace(event, at=event.at + by, until=later(event.until)) for event in result.chaos],
        oracle=replace(oracle, breaches=[replace(breach, at=breach.at + by) for breach in oracle.breaches]),
    )


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    whole: Counter[str] = Counter()
    for each in counts:
        whole.update(each)
    return dict(whole)


def _merged_histograms(parts: Sequence[dict[str, str]]) -> dict[str, str]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: Histogram.merged(Histogram.decode(part[name]) for part in parts if name in part).encode()
        for name in names
    }


def _merged_phases(parts: Sequence[list[Phase]]) -> list[Phase]:
    """Workers share a phase's rate, so its parts add up."""
    whole: dict[str, Phase] = {}
    for phase in (phase for part in parts for phase in part):
        known = whole.get(phase.name)
        if known is None:
            whole[phase.name] = phase
            continue
        ramps = known.rate_at_end is not None or phase.rate_at_end is not None
        whole[phase.name] = msgspec.structs.replace(
            known,
            start=min(known.start, phase.start),
            end=max(known.end, phase.end),
            rate=known.rate + phase.rate,
            rate_at_end=_end_rate(known) + _end_rate(phase) if ramps else None,
        )
    return sorted(whole.values(), key=lambda phase: phase.start)


def _end_rate(phase: Phase) -> float:
    return phase.rate if phase.rate_at_end is None else phase.rate_at_end


def _in_turn(samples: Sequence[Sample]) -> list[Sample]:
    """Join those of one part that end within the same second: one came after the other, and the last says how things
    stood. (The last beat and the end of a run are often in one second.)"""
    found: list[Sample] = []
    for sample in samples:
        if found and round(found[-1].at) == round(sample.at):
            both = _merged_sample(round(sample.at), [found[-1], sample])
            found[-1] = msgspec.structs.replace(
                both,
                at=sample.at,
                seconds=round(found[-1].seconds + sample.seconds, 3),
                gauges={**found[-1].gauges, **sample.gauges},
            )
        else:
            found.append(sample)
    return found


def merge_samples(samples: Sequence[Sample]) -> list[Sample]:
    """Join what several parts measured in the same second: connections add up."""
    by_second: dict[int, list[Sample]] = {}
    for sample in samples:
        by_second.setdefault(round(sample.at), []).append(sample)
    return [_merged_sample(second, group) for second, group in sorted(by_second.items())]


def _merged_sample(second: int, group: list[Sample]) -> Sample:
    if len(group) == 1:
        return group[0]
    parts = [{name: latency.histogram for name, latency in sample.latencies.items()} for sample in group]
    merged = _merged_histograms(parts)
    return Sample(
        at=float(second),
        seconds=max(sample.seconds for sample in group),
        counters=_summed(sample.counters for sample in group),
        gauges=_merged_gauges([sample.gauges for sample in group]),
        latencies={name: Latency.of(Histogram.decode(text)) for name, text in merged.items()},
    )


def _merged_gauges(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Add up the connections. All other gauges are of the servers, the same in every part."""
    whole: dict[str, float] = {}
    for name, value in (item for part in parts for item in part.items()):
        known = whole.get(name, 0.0)
        whole[name] = known + value if name == CONNECTIONS else max(known, value)
    return whole


def _merged_processes(processes: Iterable[Process]) -> list[Process]:
    """Merge the samples of a server process that several workers watched: those of the worker with most samples."""
    whole: dict[tuple[str, int], Process] = {}
    size: Callable[[Process], int] = lambda process: len(process.samples)  # noqa: E731
    for process in processes:
        key = (process.name, process.pid)
        whole[key] = max(whole.get(key, process), process, key=size)
    return list(whole.values())


def _merged_oracle(parts: Sequence[Oracle]) -> Oracle:
    kept: list[Breach] = []
    of_class: Counter[str] = Counter()
    for breach in sorted((breach for part in parts for breach in part.breaches), key=lambda breach: breach.at):
        of_class[breach.promise] += 1
        if of_class[breach.promise] <= BREACHES_KEPT:
            kept.append(breach)
    return Oracle(
        checked=_summed(part.checked for part in parts),
        breached=_summed(part.breached for part in parts),
        breaches=kept,
    )
