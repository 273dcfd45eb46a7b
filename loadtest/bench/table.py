"""What a bench prints: ratios first, then what they are made of.

Owns the words. Nothing is measured here.
"""

import sys
from collections.abc import Sequence

from rich.table import Table

from loadtest.bench.measured import JUDGED, STEADY, Measured, spread
from loadtest.bench.rows import BY_KEY, PYTHON, REFERENCES, Budget, C, Row
from loadtest.report.charts import number
from server.protocol import terminal

COLUMNS = ("what", "ratio", "to", "budget", "", "measured")
WIDTH = 110  # columns, where it is not a terminal that is written to
COMPARED = {
    "floor.event": "floor in C",
    "floor.burst": "floor in C, in bursts, too",
    "floor.crowd": "floor in C, 5,000, too",
    "ws.echo": "echo of Node's ws",
    "ws.event": "Node's ws",
    "storm.alone": "without them",
    "hello": "bare Quart-Trio",
}


def lines(found: Measured) -> list[tuple[str, ...]]:
    """The cells of the table: a line for each budget of a row, one for a row without any. No references."""
    cells: list[tuple[str, ...]] = []
    for key, row in BY_KEY.items():
        middle = found.median(key)
        if middle is None or row.is_reference:
            continue
        first = True
        for budget in row.budgets:
            ratio = found.ratio(key, budget)
            if ratio is not None:
                what, value = (row.what, amount(row, middle)) if first else ("", "")
                cells.append((what, factor(ratio), to(row, budget), factor(budget.most), verdict(budget, ratio), value))
                first = False
        if first:
            cells.append((row.what, "", "", "", "", amount(row, middle)))
    return cells


def references(found: Measured) -> list[tuple[str, ...]]:
    """Each with its median, and how far it moved."""
    return [
        (BY_KEY[key].what, amount(BY_KEY[key], middle), f"{spread(found.values(key)):.0%}")
        for key in REFERENCES
        if (middle := found.median(key)) is not None
    ]


def factor(ratio: float) -> str:
    return f"{ratio:.2f} ×"


def verdict(budget: Budget, ratio: float) -> str:
    return "holds" if budget.holds(ratio) else "missed"


def to(row: Row, budget: Budget) -> str:
    """What the ratio is to."""
    if budget.reference:
        return COMPARED.get(budget.reference) or BY_KEY[budget.reference].what
    plain = f"{budget.limit:g} {row.unit}".strip()
    return f"{plain} at speed 1.00" if budget.scaled else plain


def amount(row: Row, value: float) -> str:
    if row.key in (PYTHON, C):
        return f"{value:.2f}"
    return f"{number(value)} {row.unit}".strip()


def speeds(found: Measured) -> str:
    """`0.98 in Python, 1.01 in C`."""
    known = {"Python": found.median(PYTHON), "C": found.median(C)}
    return ", ".join(f"{value:.2f} in {name}" for name, value in known.items() if value is not None)


def conditions(found: Measured) -> str:
    """Where, what and how, in a line."""
    rounds = len(found.rounds)
    of = f"medians of {rounds} rounds" if rounds > 1 else "one round"
    return (
        f"{found.machine.cores} cores, {found.machine.cpu}; speed {speeds(found)}; Parley {found.versions['parley']}, "
        f"Python {found.versions['python']}; {of} of {found.seconds:g} s; events of {found.event_bytes} bytes"
    )


def remarks(found: Measured) -> list[str]:
    """What is to be known before a figure is believed, and what was missed."""
    said = faults(found)
    if not found.moved() and len(found.rounds) < JUDGED:
        said.append(f"fewer than {JUDGED} rounds: it cannot be seen whether anything was disturbed")
    missed = [f"{verdict.row.what.strip()} ({factor(verdict.ratio)})" for verdict in found.missed]
    if missed:
        said.append(f"missed: {', '.join(missed)}")
    return said


def faults(found: Measured) -> list[str]:
    """What could not be measured, and whether any figure counts."""
    said = [f"left out: {stage}: {why}" for stage, why in found.left_out.items()]
    said += [f"FAILED: {stage}: {why}" for stage, why in found.failed.items()]
    moved = found.moved()
    if moved:
        far = ", ".join(f"{BY_KEY[key].what} by {share:.0%}" for key, share in moved.items())
        said.append(f"DISTURBED: references moved by more than {STEADY:.0%} within the run, so no figure counts: {far}")
    return said


def show(found: Measured) -> None:
    colours = {"holds": "green", "missed": "red"}
    rows = [(*line[:4], f"[{colours[line[4]]}]{line[4]}[/]" if line[4] else "", line[5]) for line in lines(found)]
    draw("server process, one core: ratios", COLUMNS, rows)
    draw(*of_references(found))
    for text in (conditions(found), *remarks(found)):
        terminal.echo(text)


def of_references(found: Measured) -> tuple[str, Sequence[str], list[tuple[str, ...]]]:
    """Their table, for `draw`."""
    return "what is compared with", ("reference", "measured", "moved"), references(found)


def draw(title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table; none without rows."""
    if not rows:
        return
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if not index or column in ("to", "", "verdict") else "right")
    for row in rows:
        table.add_row(*row)
    terminal.console(width=None if sys.stdout.isatty() else WIDTH, highlight=False).print(table)
