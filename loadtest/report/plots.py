"""Line charts as SVG.

Owns scales, ticks and the drawing. A chart knows nothing of load tests: series of points over a common x axis, bands
and marks behind them. Colours are classes, so that the page's light and dark styles decide; the points are repeated as
JSON for the page's script, which shows the values under the pointer.
"""

import json
import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 640, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 18, 24
MOST_POINTS = 400  # of one series; more are joined, which no screen can show
TICKS = 5
LOG_DECADES = 3.5  # up to so many decades, 2 and 5 have a line, too
LABEL_ROOM = 48  # a band narrower than this has no label

Point = tuple[float, float]
Format = Callable[[float], str]


class Series(NamedTuple):
    name: str
    points: Sequence[Point]
    colour: str  # a class of the style sheet
    dashed: bool = False
    area: bool = False


class Band(NamedTuple):
    """A stretch of the x axis: a phase of the run."""

    start: float
    end: float
    name: str
    quiet: bool = False  # hatched: what happens in it does not count


class Mark(NamedTuple):
    """Something that happened, until `end` if it lasted."""

    at: float
    end: float | None
    label: str
    title: str


class Ticks(NamedTuple):
    """Where the x axis has lines, and what stands there."""

    at: Sequence[float]
    labels: Sequence[str]


class Chart(NamedTuple):
    title: str
    series: Sequence[Series]
    format: Format
    x_end: float
    note: str = ""
    log: bool = False
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()
    x_ticks: Ticks | None = None  # None: seconds
    y_end: float | None = None  # at least up to here
    linked: bool = True  # the pointer is shown in all linked charts


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most MOST_POINTS: of several, the highest, so that no peak is hidden."""
    step = -(-len(points) // MOST_POINTS)
    if step <= 1:
        return points
    groups = (points[start : start + step] for start in range(0, len(points), step))
    return [max(group, key=lambda point: point[1]) for group in groups]


def nice_ticks(end: float, count: int = TICKS) -> list[float]:
    """Round values from 0 to the first one that is not below `end`."""
    if end <= 0:
        return [0.0, 1.0]
    rough = end / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [index * step for index in range(math.ceil(end / step * 0.9999) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= LOG_DECADES else (1,)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    inside = [tick for tick in ticks if tick <= 10.0**last]
    floor = max((tick for tick in inside if tick <= low), default=inside[0])
    ceiling = min((tick for tick in inside if tick >= high), default=inside[-1])
    return [tick for tick in inside if floor <= tick <= ceiling]


class _Scale:
    """From values to the picture's units."""

    def __init__(self, chart: Chart) -> None:
        self.log = chart.log
        self.x_end = chart.x_end or 1.0
        values = [value for series in chart.series for _, value in series.points]
        high = max([*values, chart.y_end or 0.0], default=1.0)
        if chart.log:
            positive = [value for value in values if value > 0] or [1.0]
            self.ticks = log_ticks(min(positive), max(positive))
            if len(self.ticks) < 2:
                self.ticks = [self.ticks[0], self.ticks[0] * 10]
        else:
            self.ticks = nice_ticks(high)
        self.low, self.high = self.ticks[0], self.ticks[-1]

    def x(self, value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(max(value / self.x_end, 0), 1), 1)

    def y(self, value: float) -> float:
        if self.log:
            low, span = math.log10(self.low), math.log10(self.high / self.low)
            share = (math.log10(max(value, self.low)) - low) / span
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)


def draw(chart: Chart) -> str:
    """A figure with its heading, its legend and the picture."""
    kept = [series._replace(points=thinned(series.points)) for series in chart.series if series.points]
    chart = chart._replace(series=kept)
    legend = "".join(_key(series) for series in kept)
    note = f"<p class=note>{escape(chart.note)}</p>" if chart.note else ""
    linked = " data-linked" if chart.linked else ""
    return (
        f"<figure class=chart{linked}><figcaption><h3>{escape(chart.title)}</h3><div class=legend>{legend}</div>"
        f"</figcaption>{_picture(chart)}{note}"
        f'<script type="application/json">{_data(chart)}</script></figure>'
    )


def _key(series: Series) -> str:
    dashed = " dashed" if series.dashed else ""
    return f'<span class="key {series.colour}{dashed}"><i></i>{escape(series.name)} <b></b></span>'


def _picture(chart: Chart) -> str:
    scale = _Scale(chart)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_spoken(chart), quote=True)}">']
    parts += [_band(band, number, scale) for number, band in enumerate(chart.bands)]
    parts += [_y_tick(tick, chart, scale) for tick in scale.ticks]
    parts += _x_ticks(chart, scale)
    parts += [_mark(mark, scale) for mark in chart.marks]
    parts += [_line(series, scale) for series in chart.series]
    parts.append(f'<line class=cursor y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="0" x2="0"/></svg>')
    return "".join(parts)


def _spoken(chart: Chart) -> str:
    peaks = (f"{series.name} at most {chart.format(max(y for _, y in series.points))}" for series in chart.series)
    return f"{chart.title}: {', '.join(peaks)}"


def _band(band: Band, number: int, scale: _Scale) -> str:
    left, right = scale.x(band.start), scale.x(band.end)
    kind = "quiet" if band.quiet else ("odd" if number % 2 else "even")
    box = (
        f'<rect class="band {kind}" x="{left}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
    )
    if right - left < LABEL_ROOM:
        return box
    return f'{box}<text class=phase x="{(left + right) / 2:.1f}" y="{TOP - 6}">{escape(band.name)}</text>'


def _y_tick(tick: float, chart: Chart, scale: _Scale) -> str:
    y = scale.y(tick)
    return (
        f'<line class=grid x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text class=tick text-anchor=end x="{LEFT - 6}" y="{y + 3.5:.1f}">{escape(chart.format(tick))}</text>'
    )


def _x_ticks(chart: Chart, scale: _Scale) -> list[str]:
    ticks = chart.x_ticks
    if ticks is None:
        at = [tick for tick in nice_ticks(scale.x_end, 8) if tick <= scale.x_end]
        ticks = Ticks(at, [f"{tick:g} s" for tick in at])
    return [
        f'<text class=tick text-anchor=middle x="{scale.x(value)}" y="{HEIGHT - 8}">{escape(label)}</text>'
        for value, label in zip(ticks.at, ticks.labels, strict=True)
    ]


def _mark(mark: Mark, scale: _Scale) -> str:
    left = scale.x(mark.at)
    lasting = ""
    if mark.end is not None:
        width = max(scale.x(mark.end) - left, 1)
        lasting = f'<rect x="{left}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
    return (
        f"<g class=mark><title>{escape(mark.title)}</title>{lasting}"
        f'<line x1="{left}" x2="{left}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<circle cx="{left}" cy="{TOP + 7}" r="7"/><text x="{left}" y="{TOP + 10}">{escape(mark.label)}</text></g>'
    )


def _line(series: Series, scale: _Scale) -> str:
    points = [f"{scale.x(x)},{scale.y(y)}" for x, y in series.points]
    kind = f"{series.colour}{' dashed' if series.dashed else ''}"
    if len(points) == 1:
        x, y = points[0].split(",")
        return f'<circle class="dot {kind}" cx="{x}" cy="{y}" r="2.5"/>'
    line = f'<path class="line {kind}" d="M{" ".join(points)}"/>'
    if not series.area:
        return line
    floor = HEIGHT - BOTTOM
    first, last = points[0].split(",")[0], points[-1].split(",")[0]
    return f'<path class="area {series.colour}" d="M{first},{floor} {" ".join(points)} {last},{floor}Z"/>{line}'


def _data(chart: Chart) -> str:
    """For the script: where each point is in the picture, what its value says, and what x says there."""
    scale = _Scale(chart)
    series = [[[scale.x(x), chart.format(y)] for x, y in each.points] for each in chart.series]
    data = {"left": LEFT, "right": WIDTH - RIGHT, "width": WIDTH, "seconds": scale.x_end, "series": series}
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
