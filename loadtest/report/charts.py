"""The curves of a run: which there are, and what is in them.

Owns the way from samples to series. A curve that would be empty is left out.
"""

import math
from collections.abc import Iterable, Sequence

from loadtest import results
from loadtest.report.plots import Band, Chart, Mark, Point, Series, Ticks
from loadtest.results import MS, Phase, Process, Result, Sample

COLOURS = tuple(f"c{number}" for number in range(8))
MOST_OPERATIONS = 6  # charts of latency; the rest is in the table
PERCENTILE_TICKS = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
RATES = (
    (results.INTENDED, "c7"),
    (results.SENT, "c0"),
    (results.ACKNOWLEDGED, "c2"),
    (results.DELIVERED, "c3"),
    (results.CONNECTS, "c1"),
)


def number(value: float) -> str:
    """Three digits are what can be relied on."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def short(value: float) -> str:
    """For axes and legends: 12k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.3g}{letter}"
    return f"{value:g}" if value == int(value) else number(value)


def _milliseconds(value: float) -> str:
    return f"{short(value / MS)} s" if value >= 1000 else f"{short(value)} ms"


def _per_second(value: float) -> str:
    return f"{short(value)}/s"


def _percent(value: float) -> str:
    return f"{value * 100:.0f} %"


def _mebibytes(value: float) -> str:
    return f"{value / 1024:.3g} GiB" if value >= 10_000 else f"{value:.0f} MiB"


def operations(result: Result) -> list[str]:
    """The ones with most samples first; the generator's own lateness last."""
    counts = {operation: result.histogram(operation).count for operation in result.histograms}
    return sorted(counts, key=lambda operation: (operation == results.GENERATOR_LATE, -counts[operation]))


def busiest(result: Result) -> str | None:
    return next(iter(operations(result)), None)


def loads(process: Process) -> list[Point]:
    """The share of one core that it took, between each two samples."""
    return [
        (now.at, max(now.cpu_seconds - before.cpu_seconds, 0.0) / max(now.at - before.at, 1e-3))
        for before, now in zip(process.samples, process.samples[1:], strict=False)
    ]


def mean_load(process: Process) -> float:
    if len(process.samples) < 2:
        return 0.0
    first, last = process.samples[0], process.samples[-1]
    return (last.cpu_seconds - first.cpu_seconds) / max(last.at - first.at, 1e-3)


def spent(process: Process, result: Result) -> float:
    """Seconds of processor time within the measured phases."""
    measured = result.measured()
    if not measured:
        return 0.0
    begin, end = measured[0].at - measured[0].seconds, measured[-1].at
    inside = [sample.cpu_seconds for sample in process.samples if begin - 0.5 <= sample.at <= end + 0.5]
    return max(inside) - min(inside) if inside else 0.0


def over_time(result: Result) -> list[Chart]:
    """All charts over the time of the run, in the order of the page."""
    frame = _Frame(result)
    names = [name for name in operations(result) if any(name in sample.latencies for sample in result.samples)]
    found = [
        _rate(result, frame),
        *(_latency(result, name, frame) for name in names[:MOST_OPERATIONS]),
        _cpu(result, frame),
        _memory(result, frame),
        *_gauges(result, frame),
        _errors(result, frame),
    ]
    return [chart for chart in found if any(series.points for series in chart.series)]


class _Frame:
    """What all charts over time share."""

    def __init__(self, result: Result) -> None:
        self.end = max([result.seconds, *(sample.at for sample in result.samples)])
        self.bands = [Band(phase.start, phase.end, phase.name, not phase.measured) for phase in result.phases]
        self.marks = [
            Mark(event.at, event.until, str(index), f"{event.kind} {event.target} {event.detail}".strip())
            for index, event in enumerate(result.chaos, 1)
        ]

    def apply(self, chart: Chart) -> Chart:
        return chart._replace(bands=self.bands, marks=self.marks)


def _counter(samples: Iterable[Sample], name: str) -> list[Point]:
    return [(sample.at, sample.rate(name)) for sample in samples]


def _rate(result: Result, frame: _Frame) -> Chart:
    samples = result.samples
    there = {name for sample in samples for name, count in sample.counters.items() if count}
    series = [
        Series(name, _counter(samples, name), colour, dashed=name == results.INTENDED)
        for name, colour in RATES
        if name in there
    ]
    if results.INTENDED not in there and any(phase.rate or phase.rate_at_end for phase in result.phases):
        series.insert(0, Series(results.INTENDED, _planned(result.phases), "c7", dashed=True))
    return frame.apply(Chart("Rate", series, _per_second, frame.end))


def _planned(phases: Sequence[Phase]) -> list[Point]:
    points = []
    for phase in phases:
        points += [
            (phase.start, phase.rate),
            (phase.end, phase.rate if phase.rate_at_end is None else phase.rate_at_end),
        ]
    return points


def _latency(result: Result, operation: str, frame: _Frame) -> Chart:
    found = [(sample.at, sample.latencies[operation]) for sample in result.samples if operation in sample.latencies]
    found = [(at, latency) for at, latency in found if latency.count]
    series = [
        Series("max", [(at, latency.max) for at, latency in found], "c7"),
        Series("p99.9", [(at, latency.p999) for at, latency in found], "c5"),
        Series("p99", [(at, latency.p99) for at, latency in found], "c1"),
        Series("p50", [(at, latency.p50) for at, latency in found], "c0"),
    ]
    return frame.apply(Chart(f"Latency: {operation}", series, _milliseconds, frame.end, log=True))


def _cpu(result: Result, frame: _Frame) -> Chart:
    series = [
        Series(process.name, loads(process), COLOURS[index % len(COLOURS)], dashed=process.role == "generator")
        for index, process in enumerate(result.processes)
    ]
    return frame.apply(Chart("CPU of each process, of one core", series, _percent, frame.end, y_end=1.0))


def _memory(result: Result, frame: _Frame) -> Chart:
    series = [
        Series(
            process.name,
            [(sample.at, sample.rss_bytes / 2**20) for sample in process.samples],
            COLOURS[index % len(COLOURS)],
            dashed=process.role == "generator",
        )
        for index, process in enumerate(result.processes)
    ]
    return frame.apply(Chart("Memory of each process", series, _mebibytes, frame.end))


def _gauges(result: Result, frame: _Frame) -> list[Chart]:
    names = dict.fromkeys(name for sample in result.samples for name in sample.gauges)
    found = []
    for name in sorted(names, key=lambda name: (name != results.CONNECTIONS, name != results.STREAM_LAG)):
        points = [(sample.at, sample.gauges[name]) for sample in result.samples if name in sample.gauges]
        if not any(value for _, value in points):
            continue
        title = name.removesuffix("_ms").replace("_", " ").capitalize()
        unit = _milliseconds if name.endswith("_ms") else short
        found.append(frame.apply(Chart(title, [Series(title.lower(), points, "c0", area=True)], unit, frame.end)))
    return found


def _errors(result: Result, frame: _Frame) -> Chart:
    points = _counter(result.samples, results.ERRORS)
    if not any(value for _, value in points):
        points = []
    return frame.apply(Chart("Errors", [Series("errors", points, "c5", area=True)], _per_second, frame.end))


def percentile_curve(result: Result) -> Chart:
    """Latency against the percentile, each nine as wide as the one before: HDR's picture."""
    names = operations(result)[: len(COLOURS)]
    series, deepest = [], 1.0
    for index, name in enumerate(names):
        histogram = result.histogram(name)
        limit = math.log10(max(histogram.count, 10))
        points = [(_nines(fraction, limit), seconds * MS) for fraction, seconds in histogram.cumulative()]
        deepest = max(deepest, limit)
        series.append(Series(name, points, COLOURS[index]))
    ticks = [(_nines(each, 9), f"{each * 100:.6g} %") for each in PERCENTILE_TICKS]
    shown = [(at, label) for at, label in ticks if at <= deepest]
    x_ticks = Ticks([at for at, _ in shown], [label for _, label in shown])
    note = "Milliseconds that so many of the operations did not exceed."
    return Chart("Percentiles", series, _milliseconds, deepest, note, log=True, x_ticks=x_ticks, linked=False)


def _nines(fraction: float, limit: float) -> float:
    """0.9 is 1, 0.99 is 2; everything is as far as `limit`."""
    return limit if fraction >= 1 else min(-math.log10(1 - fraction), limit)
