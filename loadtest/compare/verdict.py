"""From two sets of runs to a verdict.

Owns the rule. A measure is a regression when it is worse by more than its threshold and chance is ruled out: Welch's
test over the repeated runs, corrected for the number of measures. A promise that broke needs no statistics.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec

from loadtest.compare.measures import Better, Measure, measures, why_missing
from loadtest.compare.welch import Difference, difference, holm
from loadtest.results import Result

SAME, BETTER, WORSE, SLIGHTLY_WORSE, UNCLEAR, SHOWN = "same", "better", "worse", "slightly worse", "unclear", ""
UNCHANGED = "unchanged"  # the same values, to the last digit
REPEATS = 3  # runs of each side that are asked for


class NotComparable(Exception):
    """These are runs of different things; the message says which."""


class Line(msgspec.Struct, frozen=True, rename="camel"):
    """One measure."""

    name: str
    unit: str
    base: list[float]
    other: list[float]
    change: float | None  # of the mean, 0.1 is 10 % more; None when it was nothing before
    low: float | None  # the interval of the change; None without confidence
    high: float | None
    verdict: str
    threshold: float


class Finding(msgspec.Struct, frozen=True, rename="camel"):
    lines: list[Line]
    confident: bool
    confidence: float
    broken: list[str]  # promises that held before
    remarks: list[str]
    left_out: list[str] = []  # measures that some of the runs lack, and why

    @property
    def regressions(self) -> list[str]:
        return [line.name for line in self.lines if line.verdict == WORSE] + self.broken


def judge(
    base: Sequence[Result],
    other: Sequence[Result],
    *,
    threshold: float = 0.05,
    thresholds: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    without_confidence: bool = False,
    unlike: bool = False,
) -> Finding:
    """`thresholds` by a part of the measure's name; `unlike`: compare what was measured under different conditions,
    too. Raises NotComparable."""
    scenarios = {result.scenario for result in (*base, *other)}
    if len(scenarios) != 1:
        raise NotComparable(f"these are runs of different scenarios: {', '.join(sorted(scenarios))}")
    differences = unequal(base, other)
    if differences and not unlike:
        raise NotComparable(f"{'; '.join(differences)}. --unlike compares them all the same")
    found = _common([measures(result) for result in base], [measures(result) for result in other])
    compared = {measure: difference(*values, confidence) for measure, values in found.items()}
    judged = [measure for measure in found if measure.better is not Better.NEITHER]
    chances = dict(zip(judged, holm([compared[measure].p for measure in judged]), strict=True))
    lines = []
    for measure, (before, after) in found.items():
        limit = _threshold(measure, threshold, thresholds or {})
        change = _relative(compared[measure], statistics.fmean(before))
        proven = chances.get(measure, 1.0) <= 1 - confidence or (without_confidence and not compared[measure].confident)
        verdict = _verdict(measure, compared[measure], change, limit, proven)
        if measure.better is not Better.NEITHER and sorted(before) == sorted(after):
            verdict = UNCHANGED
        low, high = change[1:] if compared[measure].confident else (None, None)
        lines.append(Line(measure.name, measure.unit, before, after, change[0], low, high, verdict, limit))
    confident = min(len(base), len(other)) > 1
    broken, remarks = _newly_broken(base, other), [*differences, *_remarks(base, other)]
    return Finding(lines, confident, confidence, broken, remarks, left_out(base, other))


def _common(
    base: Sequence[dict[Measure, float]], other: Sequence[dict[Measure, float]]
) -> dict[Measure, tuple[list[float], list[float]]]:
    """The measures that every run has."""
    return {
        measure: ([each[measure] for each in base], [each[measure] for each in other])
        for measure in base[0]
        if all(measure in each for each in (*base, *other))
    }


def _threshold(measure: Measure, default: float, special: Mapping[str, float]) -> float:
    fitting = [part for part in special if part.lower() in measure.name.lower()]
    return special[max(fitting, key=len)] if fitting else default


def _relative(found: Difference, before: float) -> tuple[float | None, float | None, float | None]:
    if before == 0:
        return (0.0, 0.0, 0.0) if found.value == 0 else (None, None, None)
    ends = sorted((found.low / before, found.high / before))
    return found.value / before, ends[0], ends[1]


def _verdict(
    measure: Measure,
    found: Difference,
    change: tuple[float | None, float | None, float | None],
    threshold: float,
    proven: bool,
) -> str:
    if measure.better is Better.NEITHER:
        return SHOWN
    worse = found.value > 0 if measure.better is Better.LOWER else found.value < 0
    size = abs(change[0]) if change[0] is not None else float("inf")
    if proven and found.value:
        if not worse:
            return BETTER if size > threshold else SAME
        return WORSE if size > threshold else SLIGHTLY_WORSE
    low, high = change[1], change[2]
    if not found.confident:
        return UNCLEAR
    inside = low is not None and high is not None and -threshold <= low and high <= threshold
    return SAME if inside else UNCLEAR


def _newly_broken(base: Sequence[Result], other: Sequence[Result]) -> list[str]:
    before = {promise for result in base for promise in result.oracle.breached}
    after = {promise for result in other for promise in result.oracle.breached}
    return sorted(after - before)


def unequal(base: Sequence[Result], other: Sequence[Result]) -> list[str]:
    """What makes a comparison unfair: differences other than of the server's version."""
    everything = [*base, *other]
    found = []
    for name, value in _CONDITIONS.items():
        values = list(dict.fromkeys(value(result) for result in everything))
        if len(values) > 1:
            found.append(f"the runs have different {name}: {' and '.join(each or 'none' for each in values)}")
    names = sorted({name for result in everything for name in result.parameters})
    for name in names:
        values = list(dict.fromkeys(_written(result.parameters.get(name)) for result in everything))
        if len(values) > 1:
            found.append(f"the runs have different --{name.replace('_', '-')}: {' and '.join(values)}")
    found += _different_settings(everything)
    if any(result.interrupted_at is not None for result in everything):
        found.append("some of the runs were interrupted")
    return found


def _different_settings(everything: Sequence[Result]) -> list[str]:
    """Of the servers, as far as they are known: every `parley dev` has some that are not as by default, so a run
    without any did not see its servers'."""
    known = [result.settings for result in everything if result.settings]
    found = []
    for name in sorted({name for settings in known for name in settings} - _ADDRESSES):
        values = list(dict.fromkeys(_setting(name, settings.get(name)) for settings in known))
        if len(values) > 1:
            found.append(f"the servers have different {name}: {' and '.join(values)}")
    return found


def _setting(name: str, value: str | None) -> str:
    """As it counts here: servers of one run that differ, in any order; that there is a certificate, and not where."""
    if value is None:
        return "the default"
    return "set" if name in _PLACES else ", ".join(sorted(value.split(", ")))


def _written(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _faults(result: Result) -> str:
    """What was broken on purpose. When each came is never the same to the millisecond."""
    return ", ".join(sorted(f"{event.kind} {event.target}" for event in result.chaos))


_ADDRESSES = {"LISTEN", "PEER_LISTEN", "ADMIN_LISTEN", "INSTANCE"}  # where a server is makes no difference
_PLACES = {"TLS_CERT", "TLS_KEY", "OBJECTS"}  # whether there is one does; which one is another in each `parley dev`
_CONDITIONS: dict[str, Callable[[Result], str]] = {
    "machines": lambda result: f"{result.machine.cores} cores, {result.machine.cpu}",
    "clients": lambda result: result.client,
    "numbers of workers": lambda result: str(result.workers),
    "faults": _faults,
}


def left_out(base: Sequence[Result], other: Sequence[Result]) -> list[str]:
    """Why a measure that some run has is in no line: a reason for each."""
    sides = {"A": [measures(result) for result in base], "B": [measures(result) for result in other]}
    everything = [run for runs in sides.values() for run in runs]
    reasons: dict[str, list[str]] = {}
    for measure in dict.fromkeys(measure for run in everything for measure in run):
        lacking = [f"{sum(measure not in run for run in runs)} of {side}" for side, runs in sides.items()
                   if any(measure not in run for run in runs)]  # fmt: skip
        if lacking:
            reasons.setdefault(f"{why_missing(measure)} (in {' and '.join(lacking)})", []).append(measure.name)
    return [f"{', '.join(names)}: {why}" for why, names in reasons.items()]


def _remarks(base: Sequence[Result], other: Sequence[Result]) -> list[str]:
    remarks = []
    if list(base) == list(other):
        remarks.append("A and B are the same runs")
    if any(not result.oracle.holds for result in base):
        remarks.append("promises were broken in the base runs already")
    unseen = [result for result in (*base, *other) if not result.settings]
    if 0 < len(unseen) < len(base) + len(other):
        remarks.append("the settings of some servers were not seen, so they may differ")
    return remarks
