"""`make figures`: writes the figures of the pages from what was measured, so that none is written by hand.

Owns the blocks between `<!-- figures: NAME -->` and `<!-- figures end -->` in `PAGES`. What was measured is in
`docs/figures`, as the commands write it that a block names where there is nothing yet. Touches these pages only.
"""

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from loadtest.bench import table
from loadtest.bench.measured import Measured
from loadtest.capacity.command import cost_rows
from loadtest.rehearsal.command import Rehearsal, texts
from loadtest.results import Machine
from server.protocol import terminal

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md")
BEGIN, END = "<!-- figures: {name} -->", "<!-- figures end -->"
MISUSED = 2


class FiguresError(Exception):
    """The pages cannot be written; the message says why."""


class Block(NamedTuple):
    file: str
    command: str  # that writes the file
    make: Callable[[bytes], list[str]]  # its lines, from the file


def main() -> int:
    try:
        pages = {page: written(page.read_text()) for page in PAGES}
    except FiguresError as error:
        terminal.echo(f"figures: {error}", err=True)
        return MISUSED
    for page, text in pages.items():
        if page.read_text() != text:
            page.write_text(text)
            terminal.echo(f"{page.name}: written")
    return 0


def written(text: str, figures: Path = FIGURES) -> str:
    """A page with its blocks as they follow from what was measured. Raises FiguresError."""
    for name, block in BLOCKS.items():
        begin = BEGIN.format(name=name)
        if begin not in text:
            continue
        before, _, rest = text.partition(begin)
        inside, end, after = rest.partition(END)
        if not end or "<!--" in inside or begin in after:
            raise FiguresError(f"the block {name} is there twice, or has no end: {END}")
        text = "\n".join([before + begin, *_lines(block, figures / block.file), END + after])
    return text


def _lines(block: Block, path: Path) -> list[str]:
    if not path.exists():
        return [f"Not measured yet: `{block.command}`."]
    try:
        return block.make(path.read_bytes())
    except msgspec.DecodeError as error:
        raise FiguresError(f"{path}: {error}") from None


# -- the bench ----------------------------------------------------------------------------------


def _bench(data: bytes) -> list[str]:
    """The table of `make bench`, what it is compared with, and under which conditions."""
    found = msgspec.json.decode(data, type=Measured)
    head = ("what (CPU of the server process)", "ratio", "to", "budget", "", "measured")
    rows = [(_bold(line[0], line[4]), *line[1:]) for line in table.lines(found)]
    said = [f"{_conditions(found)}.", "", *_table(head, "lrlrlr", rows), ""]
    said += _table(("what is compared with", "measured", "moved within the run"), "lrr", table.references(found))
    return [*said, *(line for remark in table.remarks(found) for line in ("", f"{remark[0].upper()}{remark[1:]}."))]


def _bold(what: str, verdict: str) -> str:
    return f"**{what.strip()}**" if what and verdict == "missed" else what


def _conditions(found: Measured) -> str:
    return f"{table.conditions(found)}; {found.at:%Y-%m-%d}"


SENTENCES = (
    ("event", "floor.event", "A delivered event takes {} times the CPU of a bare epoll server in C, byte for byte"),
    ("event", "ws.event", "A delivered event takes {} times that of Node's `ws`"),
    ("burst", "floor.event", "In bursts of ten an event takes {} times what the epoll server takes for one"),
    ("noop", "ws.echo", "A hub invocation with its completion takes {} times the CPU of an echo of `ws`"),
)


def _bench_in_short(data: bytes) -> list[str]:
    """The ratios of `make bench` in sentences; what was not measured is left out."""
    found = msgspec.json.decode(data, type=Measured)
    ratios = ((found.times(key, reference), sentence) for key, reference, sentence in SENTENCES)
    said = [f"- {sentence.format(f'{ratio:.2f}')}." for ratio, sentence in ratios if ratio is not None]
    verdicts = found.verdicts()
    missed = list(dict.fromkeys(verdict.row.what.strip() for verdict in found.missed))
    what = f"; missed: {', '.join(missed)}" if missed else ""
    held = sum(verdict.holds for verdict in verdicts)
    disturbed = "; something else used the machine in part of it" if found.moved() else ""
    return [f"{_conditions(found)}{disturbed}:", *said, f"- {held} of {len(verdicts)} budgets hold{what}."]


# -- other servers ------------------------------------------------------------------------------


PARLEY = "Parley"
TWO = ", two processes"


class _Latency(msgspec.Struct, rename="camel"):
    rate: float
    p50_ms: float | None = None  # None: it cannot keep up
    p99_ms: float | None = None
    why: str = ""


class _Round(msgspec.Struct, rename="camel"):
    cpu_us: float
    database_us: float
    per_second: float
    client_us: float = 0.0  # 0: it was not measured
    paced: list[_Latency] = []


class _Score(msgspec.Struct, rename="camel"):
    name: str
    made_of: str
    rounds: list[_Round]
    failed: str = ""

    def median(self, field: str) -> float:
        return statistics.median(float(getattr(each, field)) for each in self.rounds)

    def latency(self, rate: float, field: str) -> float:
        """The median of the rounds, in ms; a round without one took for ever."""
        found = [getattr(each, field) for one in self.rounds for each in one.paced if each.rate == rate]
        return statistics.median(math.inf if value is None else value for value in found) if found else math.inf


class _Peers(msgspec.Struct, rename="camel"):
    """What is needed of the file that `loadtest peers` writes."""

    seconds: float
    machine: Machine
    versions: dict[str, str]
    scores: list[_Score]
    skipped: dict[str, str]

    @property
    def measured(self) -> list[_Score]:
        return [score for score in self.scores if score.rounds]

    @property
    def ours(self) -> _Score:
        """Raises FiguresError."""
        for score in self.measured:
            if score.name == PARLEY:
                return score
        raise FiguresError("Parley is not among the servers that were compared")

    @property
    def rates(self) -> list[float]:
        return sorted({latency.rate for each in self.measured for one in each.rounds for latency in one.paced})


class _Field(NamedTuple):
    name: str
    title: str
    unit: str = ""
    is_ratio: bool = True  # to Parley's


_FIELDS = (
    _Field("cpu_us", "CPU/message", " µs"),
    _Field("database_us", "PostgreSQL", " µs"),
    _Field("client_us", "client", " µs", is_ratio=False),
    _Field("per_second", "messages/s"),
)


def _peers(data: bytes) -> list[str]:
    """Each server's ratios to Parley, then its latencies."""
    found = msgspec.json.decode(data, type=_Peers)
    ours, rates = found.ours, found.rates
    shown = [field for field in _FIELDS if any(score.median(field.name) for score in found.measured)]
    paced = (f"p50 · p99 at {rate:,g}/s, ms" for rate in rates)
    head = ["server", *(field.title for field in shown), *paced]
    rows: list[tuple[str, ...]] = []
    for score in found.measured:
        cells = [
            f"{score.median(field.name):,.0f}{field.unit}"
            if score is ours or not field.is_ratio
            else f"{score.median(field.name) / ours.median(field.name):.2f} ×"
            for field in shown
        ]
        rows.append((score.name if score is ours else score.made_of, *cells, *_paced(score, rates)))
    rounds = max(len(score.rounds) for score in found.measured)
    said = [
        f"Medians of {rounds} rounds of {found.seconds:g} s in turns; ratios to Parley. {found.machine.cores} cores, "
        f"{found.machine.cpu}; Parley {found.versions.get('parley', '?')}, Python {found.versions.get('python', '?')}."
    ]
    said += [f"{score.made_of} failed: {score.failed}." for score in found.scores if score.failed]
    said += [f"{name} is left out: {reason}." for name, reason in found.skipped.items()]
    return [*_table(tuple(head), "l" + "r" * (len(head) - 1), rows), "", *said]


def _paced(score: _Score, rates: Sequence[float]) -> list[str]:
    pairs = [(score.latency(rate, "p50_ms"), score.latency(rate, "p99_ms")) for rate in rates]
    return [f"{p50:.1f} · {p99:.1f}" if math.isfinite(p50 + p99) else "cannot keep up" for p50, p99 in pairs]


def _peers_in_short(data: bytes) -> list[str]:
    """For each other server in one process what it takes for a message, and the lowest latency at each rate, as ratios;
    then the latency in two processes."""
    found = msgspec.json.decode(data, type=_Peers)
    ours = found.ours
    others = [score for score in found.measured if not score.name.startswith(PARLEY) and TWO not in score.name]
    spread = [score for score in found.measured if TWO in score.name]
    said = []
    for other in others:
        cpu, rate = (ours.median(field) / other.median(field) for field in ("cpu_us", "per_second"))
        times = f"{cpu:.2f} times the server CPU of {other.made_of}, at {rate:.1f} times the rate"
        said.append(f"- A durable message takes {times}.")
    said += _latencies("The median latency", ours, others, found.rates)
    if spread and spread[0].name.startswith(PARLEY):
        said += _latencies("In two processes it", spread[0], spread[1:], found.rates)
    return said


def _latencies(what: str, ours: _Score, others: Sequence[_Score], rates: Sequence[float]) -> list[str]:
    """One sentence on all rates at which somebody else keeps up."""
    said = []
    for rate in rates:
        lowest, of = min(((each.latency(rate, "p50_ms"), each.made_of) for each in others), default=(math.inf, ""))
        mine = ours.latency(rate, "p50_ms")
        if math.isfinite(lowest + mine):
            said.append(f"{mine / lowest:.2f} times at {rate:,g} messages/s ({of})")
    return [f"- {what} is, to the lowest of the others, {', '.join(said)}."] if said else []


def _rehearsal(data: bytes) -> list[str]:
    return texts(msgspec.json.decode(data, type=Rehearsal))


def _costs(data: bytes) -> list[str]:
    head, *rows = cost_rows(msgspec.json.decode(data, type=Rehearsal).costs)
    return _table(head, "lrrr", rows)


def _table(head: tuple[str, ...], sides: str, rows: Sequence[tuple[str, ...]]) -> list[str]:
    marks = {"l": "---", "r": "---:"}
    lines = [head, tuple(marks[side] for side in sides), *rows]
    return ["| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines]


BENCH = "bench.json", 'make bench ARGS="--json docs/figures/bench.json"'
PEERS = "peers.json", "parley loadtest peers --rate 100,500,2000 --json docs/figures/peers.json"
REHEARSAL = "rehearsal.json", "parley loadtest rehearsal --json docs/figures/rehearsal.json"
BLOCKS = {
    "bench": Block(*BENCH, _bench),
    "bench in short": Block(*BENCH, _bench_in_short),
    "peers": Block(*PEERS, _peers),
    "peers in short": Block(*PEERS, _peers_in_short),
    "costs": Block(*REHEARSAL, _costs),
    "rehearsal": Block(*REHEARSAL, _rehearsal),
}

if __name__ == "__main__":
    sys.exit(main())
