"""What one worker counts and times, by second and by phase.

Owns the counters and histograms, and cuts them into samples. Latencies are recorded under the phase in which the
operation was due, whenever it ends: what a stalled server finishes late still belongs where it was wanted.
"""

from collections import Counter
from collections.abc import Callable

import msgspec

from loadtest.histogram import Histogram
from loadtest.results import GENERATOR_LATE, Latency, Phase, Sample

LATE = GENERATOR_LATE  # the generator's own part of every latency


class Recorder:
    """Times are seconds since the start of the run, as `now` returns them."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.errors: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.gauges: dict[str, float] = {}
        self._phases: list[tuple[Phase, dict[str, Histogram]]] = []
        self._counters: Counter[str] = Counter()
        self._latencies: dict[str, Histogram] = {}
        self._last = 0.0

    def begin(self, phase: Phase) -> None:
        self._phases.append((phase, {}))

    def stop(self) -> None:
        """The load ends now: no phase lasts longer, and none begins any more."""
        now = round(self.now(), 3)
        self._phases = [
            (msgspec.structs.replace(phase, end=min(phase.end, now), rate_at_end=_rate_at(phase, now)), histograms)
            for phase, histograms in self._phases
            if phase.start < now
        ]

    @property
    def phases(self) -> list[Phase]:
        return [phase for phase, _ in self._phases]

    def count(self, name: str, number: int = 1) -> None:
        self._counters[name] += number

    def error(self, code: str) -> None:
        self.errors[code] += 1
        self._counters["errors"] += 1

    def record(self, operation: str, due: float, end: float | None = None) -> None:
        """It was due at `due` and has just ended (or at `end`)."""
        seconds = (self.now() if end is None else end) - due
        _histogram(self._latencies, operation).record(seconds)
        for phase, histograms in reversed(self._phases):
            if due >= phase.start:
                _histogram(histograms, operation).record(seconds)
                return

    def cut(self) -> Sample:
        """The sample of the interval that ends now."""
        at = self.now()
        sample = Sample(
            at=round(at, 3),
            seconds=round(at - self._last, 3) or 0.001,
            counters=dict(self._counters),
            gauges=dict(self.gauges),
            latencies={name: Latency.of(histogram) for name, histogram in self._latencies.items()},
        )
        self._last = at
        self._counters.clear()
        self._latencies.clear()
        self.samples.append(sample)
        return sample

    def restart(self) -> None:
        """The run starts now: what was counted while everybody connected is forgotten."""
        self._last = self.now()
        self._counters.clear()
        self._latencies.clear()

    def of_phase(self, name: str) -> dict[str, Histogram]:
        return next(histograms for phase, histograms in self._phases if phase.name == name)

    def measured(self) -> dict[str, Histogram]:
        """Of all measured phases, by operation."""
        whole: dict[str, Histogram] = {}
        for phase, histograms in self._phases:
            if phase.measured:
                for name, histogram in histograms.items():
                    _histogram(whole, name).add(histogram)
        return whole


def _rate_at(phase: Phase, at: float) -> float | None:
    """Of a ramp that ends at `at`, if that is before its end."""
    if phase.rate_at_end is None or at >= phase.end:
        return phase.rate_at_end
    return phase.rate + (phase.rate_at_end - phase.rate) * (at - phase.start) / (phase.end - phase.start)


def _histogram(histograms: dict[str, Histogram], name: str) -> Histogram:
    found = histograms.get(name)
    if found is None:
        found = histograms[name] = Histogram()
    return found
