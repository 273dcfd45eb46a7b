"""The page: what of a run is shown, in which order, and in what words.

Owns the sections and their tables; `charts` makes the curves, `plots` draws them. Style and script are put into the
page, so that the file can be mailed, kept with a build, and opened without a network.
"""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from loadtest import results
from loadtest.report import charts
from loadtest.report.plots import draw
from loadtest.results import MS, Oracle, Process, Result

HERE = Path(__file__).parent
PERCENTS = (50.0, 90.0, 99.0, 99.9, 100.0)


def write_report(result: Result, path: Path) -> tuple[Path, Path]:
    """PATH.html and PATH.json beside it; returns both."""
    page, data = path.with_suffix(".html"), path.with_suffix(".json")
    results.write(result, data)
    page.write_text(render(result))
    return page, data


def render(result: Result) -> str:
    style, script = (HERE / "style.css").read_text(), (HERE / "script.js").read_text()
    title = f"{result.scenario} · load test"
    body = "".join(
        (
            _header(result),
            _verdict(result.oracle, result.has_measured),
            _tiles(result),
            _section("Over time", _charts(result)),
            _section("Latency", _latency(result)),
            _section("Processes", _processes(result)),
            _section("What was checked", _oracle(result)),
            _section("Events and errors", _events(result)),
            _section("The run", _run(result)),
        )
    )
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>{escape(title)}</title><style>{style}</style><body>{body}"
        f"<footer>Latencies count from when each operation was due, so a stalled server shows in them. "
        f"Warm-up is in the curves and in no other figure.</footer><script>{script}</script></body></html>\n"
    )


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inside}</section>" if inside else ""


def _header(result: Result) -> str:
    started = result.started_at.strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    profile = f" · profile {result.profile}" if result.profile else ""
    about = f"{started} · {result.seconds:.0f} s · {result.target}{profile} · seed {result.seed}"
    name = result.scenario.replace("_", " ").replace("-", " ")
    return (
        f"<header><div><h1>{escape(name[:1].upper() + name[1:])}</h1><p>{escape(about)}</p></div>"
        "<button type=button>light / dark</button></header>"
    )


def _verdict(oracle: Oracle, has_measured: bool) -> str:
    checked = sum(oracle.checked.values())
    if not oracle.holds:
        broken = ", ".join(f"{name} ({count:,})" for name, count in oracle.breached.items())
        first = f"<small>{escape(oracle.breaches[0].text)}</small>" if oracle.breaches else ""
        return f'<div class="verdict bad">Promises were broken: {escape(broken)}{first}</div>'
    if not has_measured:
        return "<div class=verdict>Nothing was measured in this run</div>"
    if checked:
        return f'<div class="verdict good">Every promise held: {checked:,} checks, no breach</div>'
    return "<div class=verdict>Nothing was checked in this run</div>"


# -- the figures on top -------------------------------------------------------------------------


def _tiles(result: Result) -> str:
    tiles = [_rate_tile(result), *_latency_tiles(result), _error_tile(result)]
    peak = max((sample.gauges.get(results.CONNECTIONS, 0) for sample in result.samples), default=0)
    if peak:
        tiles.append(_tile("connections", f"{peak:,.0f}", "at the peak"))
    tiles += _cost_tiles(result)
    tiles += [_tile(name.replace("_", " "), f"{value:,.4g}", "") for name, value in result.figures.items()]
    return f"<div class=tiles>{''.join(tiles)}</div>"


def _tile(name: str, value: str, more: str = "", *, unit: str = "", bad: bool = False) -> str:
    small = f" <small>{escape(unit)}</small>" if unit else ""
    kind = '"tile bad"' if bad else "tile"
    return f"<div class={kind}><span>{escape(name)}</span><b>{escape(value)}{small}</b><em>{escape(more)}</em></div>"


def _rate_tile(result: Result) -> str:
    """Where arrivals are all messages, what was intended can be held against what was acknowledged."""
    seconds = sum(sample.seconds for sample in result.measured()) or 1.0
    intended, sent = result.total(results.INTENDED), result.total(results.SENT)
    done = result.total(results.ACKNOWLEDGED) or sent or result.total(results.CONNECTS)
    alike = 0 < sent <= intended <= 1.1 * sent
    more = f"of {intended / seconds:,.0f}/s intended" if alike else "messages" if sent else "connects" if done else ""
    return _tile("achieved", f"{done / seconds:,.0f}", more, unit="/s", bad=alike and done < 0.98 * intended)


def _latency_tiles(result: Result) -> list[str]:
    operation = charts.busiest(result)
    if operation is None:
        return []
    values = result.histogram(operation).percentiles((50, 99, 99.9))
    names = ("p50", "p99", "p99.9")
    return [
        _tile(f"{operation} {name}", charts.number(value * MS), unit="ms")
        for name, value in zip(names, values, strict=True)
    ]


def _error_tile(result: Result) -> str:
    errors = sum(result.errors.values())
    kinds = ", ".join(list(result.errors)[:3])
    return _tile("errors", f"{errors:,}", kinds, bad=errors > 0)


def _cost_tiles(result: Result) -> list[str]:
    done = result.total(results.ACKNOWLEDGED)
    servers = [process for process in result.processes if process.role == "server"]
    tiles = []
    if done and servers:
        spent = sum(charts.spent(process, result) for process in servers)
        tiles.append(_tile("server CPU", f"{spent / done * 1e6:,.0f}", "per acknowledged operation", unit="µs"))
    generators = [process for process in result.processes if process.role == "generator"]
    if generators and "generator_load" not in result.figures:
        load = sum(charts.mean_load(process) for process in generators)
        tiles.append(
            _tile("generator", f"{load:.0%}", "of one core, its own overhead", bad=load > 0.9 * len(generators))
        )
    return tiles


# -- curves and tables --------------------------------------------------------------------------


def _charts(result: Result) -> str:
    return f"<div class=charts>{''.join(draw(chart) for chart in charts.over_time(result))}</div>"


def _latency(result: Result) -> str:
    if not result.histograms:
        return ""
    rows = []
    for operation in charts.operations(result):
        histogram = result.histogram(operation)
        values = [histogram.mean, *histogram.percentiles(PERCENTS)]
        rows.append([operation, f"{histogram.count:,}", *(charts.number(value * MS) for value in values)])
    head = ["operation", "count", "mean, ms", "p50", "p90", "p99", "p99.9", "max"]
    return (
        f"<div class=charts>{draw(charts.percentile_curve(result))}{_card(_table(head, rows))}</div>"
        if len(rows) > 3
        else f"{_card(_table(head, rows))}<p></p><div class=charts>{draw(charts.percentile_curve(result))}</div>"
    )


def _processes(result: Result) -> str:
    rows = []
    for process in result.processes:
        if len(process.samples) > 1:
            loads = [load for _, load in charts.loads(process)]
            memory = [sample.rss_bytes for sample in process.samples]
            rows.append(
                [*_named(process), f"{charts.mean_load(process):.0%}", f"{max(loads):.0%}", *_mebibytes(memory)]
            )
    head = ["process", "role", "CPU, mean", "CPU, peak", "memory, first", "memory, peak"]
    return _card(_table(head, rows)) if rows else ""


def _named(process: Process) -> tuple[str, str]:
    return f"{process.name} ({process.pid})" if process.pid else process.name, process.role


def _mebibytes(memory: Sequence[int]) -> tuple[str, str]:
    return f"{memory[0] / 2**20:,.0f} MiB", f"{max(memory) / 2**20:,.0f} MiB"


def _oracle(result: Result) -> str:
    oracle = result.oracle
    names = dict.fromkeys([*oracle.checked, *oracle.breached])
    rows = [[name, f"{oracle.checked.get(name, 0):,}", f"{oracle.breached.get(name, 0):,}"] for name in names]
    parts = [_card(_table(["promise", "checks", "breaches"], rows))] if rows else []
    for breach in oracle.breaches:
        trace = escape("\n".join(breach.trace))
        head = f"{breach.promise} at {breach.at:.2f} s: {breach.text}"
        parts.append(
            f"<div class=card><table class=text><caption>{escape(head)}</caption></table><pre>{trace}</pre></div>"
        )
    return f"<div class=columns>{''.join(parts)}</div>" if parts else ""


def _events(result: Result) -> str:
    parts = []
    if result.chaos:
        rows = [
            [
                str(number),
                f"{event.at:.1f} s",
                event.kind,
                event.target,
                "" if event.until is None else f"{event.until:.1f} s",
            ]
            for number, event in enumerate(result.chaos, 1)
        ]
        parts.append(_card(_table(["", "at", "what", "whom", "until"], rows, caption="Broken on purpose", text=True)))
    if result.errors:
        most = sorted(result.errors.items(), key=lambda item: -item[1])
        rows = [[code, f"{count:,}"] for code, count in most]
        parts.append(_card(_table(["code", "count"], rows, caption="Errors")))
    if result.notes:
        rows = [["", note] for note in result.notes]
        parts.append(_card(_table([], rows, caption="Notes", text=True)))
    return f"<div class=columns>{''.join(parts)}</div>" if parts else ""


def _run(result: Result) -> str:
    machine = result.machine
    configuration = [
        ["scenario", result.scenario],
        ["target", result.target],
        ["client", f"{result.client}, {result.workers} worker{'s' if result.workers > 1 else ''}"],
        *([["shard", result.shard]] if result.shard else []),
        *([name.replace("_", " "), _text(value)] for name, value in result.parameters.items()),
    ]
    where = [
        ["processor", f"{machine.cpu}, {machine.cores} cores"],
        ["memory", f"{machine.memory_bytes / 2**30:.1f} GiB"],
        ["system", machine.system],
        *([name, version] for name, version in result.versions.items()),
    ]
    settings = sorted([name, value] for name, value in result.settings.items())
    phases = [
        [
            phase.name,
            f"{phase.start:g}–{phase.end:g} s",
            _rates(phase.rate, phase.rate_at_end),
            "" if phase.measured else "no",
        ]
        for phase in result.phases
    ]
    cards = [
        _card(_table([], configuration, caption="Configuration", text=True)),
        _card(_table([], where, caption="Machine and versions", text=True)),
    ]
    if settings:
        cards.append(_card(_table([], settings, caption="Settings of the server that are not the default", text=True)))
    if phases:
        cards.append(_card(_table(["phase", "when", "rate", "measured"], phases, caption="Phases", text=True)))
    return f"<div class=columns>{''.join(cards)}</div>"


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _rates(begin: float, end: float | None) -> str:
    return f"{begin:,.0f}/s" if end is None else f"{begin:,.0f} → {end:,.0f}/s"


def _card(inside: str) -> str:
    return f"<div class=card>{inside}</div>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", text: bool = False) -> str:
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table{' class=text' if text else ''}>{title}{top}{body}</table>"
