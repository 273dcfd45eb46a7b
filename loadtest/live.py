"""The run as it goes, in the terminal: progress, rates, percentiles, errors, connections.

Owns what is shown while a run lasts. On a terminal a table that is drawn again each second; otherwise, in a log or
a pipe, one plain line now and then. It is fed with samples and keeps only the last and the sums.
"""

from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest import results
from loadtest.results import Phase, Process, Sample
from server.protocol import terminal

PLAIN_INTERVAL = 5.0  # seconds between lines
STALE = 6.0  # seconds without a sample: the process is gone (metrics pages are read every five)
PLAIN_OPERATIONS = 3  # in such a line: those with most samples
RECENT = 6  # notes that are shown
BARS = " ▁▂▃▄▅▆▇█"
HISTORY = 60  # seconds of the small curves
RATES = (results.INTENDED, results.SENT, results.ACKNOWLEDGED, results.DELIVERED, results.CONNECTS)


class LiveView:
    """`with LiveView(...) as view`, then `view.update(sample)` once a second; `view.note(text)` for what happens, and
    `view.warn(text)` for what should not."""

    def __init__(
        self, title: str, phases: Sequence[Phase], *, console: Console | None = None, plain: bool | None = None
    ) -> None:
        self._title = title
        self._phases = phases
        self._seconds = max((phase.end for phase in phases), default=0.0)
        self._console = console or terminal.console(stderr=True)
        self._plain = not self._console.is_terminal if plain is None else plain
        self._live = None if self._plain else Live(console=self._console, auto_refresh=False)
        self._sums: Counter[str] = Counter()
        self._p99: list[float] = []
        self._notes: list[Text] = []
        self._next_line = 0.0

    def __enter__(self) -> "LiveView":
        if self._live is not None:
            self._live.start()
        else:
            self._console.print(self._title, highlight=False, markup=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, sample: Sample, processes: Sequence[Process] = ()) -> None:
        self._sums.update(sample.counters)
        served = (latency for name, latency in sample.latencies.items() if name != results.GENERATOR_LATE)
        busiest = max(served, key=lambda latency: latency.count, default=None)
        self._p99 = [*self._p99[1 - HISTORY :], busiest.p99 if busiest else 0.0]
        if self._live is not None:
            self._live.update(self._drawn(sample, processes), refresh=True)
        elif sample.at >= self._next_line or sample.at >= self._seconds:
            self._next_line = sample.at + PLAIN_INTERVAL
            self._console.print(self._line(sample, processes), highlight=False, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """What happens as it should: who is connected, what is waited for, what is broken on purpose."""
        self._say(Text(f"  {text}", "dim"))

    def warn(self, text: str) -> None:
        """What should not be: a breach, something that is not mended in time, an interruption."""
        self._say(Text(f"! {text}", "yellow"))

    def _say(self, text: Text) -> None:
        self._notes = [*self._notes[1 - RECENT :], text]
        if self._live is None:
            self._console.print(f"  {text.plain}", highlight=False, markup=False, soft_wrap=True)

    def _phase(self, at: float) -> Phase | None:
        return next((phase for phase in self._phases if phase.start < at <= phase.end), None)

    def _line(self, sample: Sample, processes: Sequence[Process]) -> str:
        phase = self._phase(sample.at)
        parts = [f"{sample.at:4.0f}/{self._seconds:.0f} s", phase.name if phase else "end"]
        parts += [f"{name} {sample.rate(name):,.0f}/s" for name in RATES if name in sample.counters]
        served = [item for item in sample.latencies.items() if item[0] != results.GENERATOR_LATE]
        for name, latency in sorted(served, key=lambda item: -item[1].count)[:PLAIN_OPERATIONS]:
            parts.append(f"{name} p50 {latency.p50:.1f} p99 {latency.p99:.1f} max {latency.max:.1f} ms")
        parts += [f"{name} {value:,.0f}" for name, value in sample.gauges.items()]
        parts.append(f"errors {self._sums[results.ERRORS]:,}")
        parts += [f"{process.name} {load:.0%}" for process, load in _loads(processes)]
        return "  ".join(parts)

    def _drawn(self, sample: Sample, processes: Sequence[Process]) -> RenderableType:
        phase = self._phase(sample.at)
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._seconds or 1, completed=min(sample.at, self._seconds), width=40)
        name = phase.name + ("" if phase.measured else " (not measured)") if phase else "ending"
        head.add_row(Text(self._title, "bold"), bar, f"{sample.at:.0f}/{self._seconds:.0f} s", Text(name, "cyan"))
        parts: list[RenderableType] = [head, self._rates(sample), self._latencies(sample)]
        if processes:
            parts.append(_table(processes))
        parts += self._notes
        return Group(*parts)

    def _rates(self, sample: Sample) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("rate")
        for column in ("now", "in all"):
            table.add_column(column, justify="right")
        for name in [*RATES, *(name for name in sample.counters if name not in RATES)]:
            if name in sample.counters or name in self._sums:
                wrong = name == results.ERRORS and self._sums[name] > 0
                style = "red" if wrong else ""
                table.add_row(name, f"{sample.rate(name):,.0f}/s", f"{self._sums[name]:,}", style=style)
        for name, value in sample.gauges.items():
            table.add_row(name.replace("_", " "), f"{value:,.0f}", "")
        return table

    def _latencies(self, sample: Sample) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("latency, ms")
        for column in ("p50", "p90", "p99", "p99.9", "max"):
            table.add_column(column, justify="right", min_width=8)
        for name, latency in sample.latencies.items():
            values = (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
            table.add_row(name, *(f"{value:,.1f}" for value in values))
        table.caption = f"p99 {sparkline(self._p99)}"
        table.caption_justify = "left"
        return table


def _table(processes: Sequence[Process]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("process")
    for column in ("CPU", "memory"):
        table.add_column(column, justify="right")
    for process, load in _loads(processes):
        table.add_row(process.name, f"{load:.0%}", f"{process.samples[-1].rss_bytes / 2**20:,.0f} MiB")
    return table


def _loads(processes: Sequence[Process]) -> list[tuple[Process, float]]:
    """Of those that are still there."""
    newest = max((process.samples[-1].at for process in processes if process.samples), default=0.0)
    return [
        (process, load)
        for process in processes
        if (load := recent_load(process)) is not None and process.samples[-1].at > newest - STALE
    ]


def recent_load(process: Process) -> float | None:
    """The share of one core that it took between its last two samples."""
    if len(process.samples) < 2:
        return None
    before, last = process.samples[-2:]
    return (last.cpu_seconds - before.cpu_seconds) / max(last.at - before.at, 1e-3)


def sparkline(values: Sequence[float]) -> str:
    top = max(values, default=0.0)
    return "".join(BARS[round(value / top * (len(BARS) - 1))] if top else BARS[0] for value in values)
