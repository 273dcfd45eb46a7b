"""What `make bench` measures: each row with its name, its unit, and its budgets, which are ratios.

Owns the table of rows, and no figure. A budget is a multiple of a reference that was measured in the same round; or,
where there is nothing alike to compare with, an amount on a machine of speed 1.00 (`loadtest.bench.speed`), which
slower machines have more of.
"""

from collections.abc import Mapping
from typing import NamedTuple

from loadtest.bench.measures import BURST, FAN
from loadtest.bench.reading import BEHIND

PYTHON, C = "speed.python", "speed.c"
MANY = 20  # conversations of each user in the last rows
THOUSAND = 1000  # conversations of a user who connects
CROWD = 2000  # users who react to one message
SIZES = (10, 100, 1000, 5000)  # sockets in a room
COMERS = 5000  # who connect at once


class Budget(NamedTuple):
    """`limit` times the row `reference`. Without one: so much of the unit, at the speed that `scaled` names."""

    limit: float
    reference: str = ""
    scaled: str = ""

    def ratio(self, value: float, found: Mapping[str, float]) -> float | None:
        """Of a value to what it is compared with, among the other values of its round; None if that is not there."""
        if self.reference:
            base = found.get(self.reference)
            return value / base if base else None
        if not self.limit:
            return value and float("inf")
        return value * found.get(self.scaled, 1.0) / self.limit

    @property
    def most(self) -> float:
        """What the ratio may be."""
        return self.limit if self.reference else 1.0

    def holds(self, ratio: float) -> bool:
        return round(ratio, 2) <= self.most  # as it is printed


class Row(NamedTuple):
    key: str
    what: str
    unit: str
    stage: str
    budgets: tuple[Budget, ...] = ()
    higher: bool = False  # is better

    @property
    def is_reference(self) -> bool:
        return self.key in REFERENCES


def _rows(stage: str, *rows: tuple[str, str, str, tuple[Budget, ...]], higher: tuple[str, ...] = ()) -> list[Row]:
    return [Row(key, what, unit, stage, budgets, key in higher) for key, what, unit, budgets in rows]


def _python(amount: float) -> tuple[Budget, ...]:
    return (Budget(amount, scaled=PYTHON),)


def _c(amount: float) -> tuple[Budget, ...]:
    return (Budget(amount, scaled=C),)


ROWS = [
    *_rows(
        "speed",
        (PYTHON, "speed index, pure Python", "", ()),
        (C, "speed index, C", "", ()),
        higher=(PYTHON, C),
    ),
    *_rows(
        "floor",
        ("floor.echo", "floor in C: echo of 100 bytes", "µs", ()),
        ("floor.event", f"floor in C: delivery to {FAN:,} sockets", "µs", ()),
        ("floor.burst", f"floor in C: the same in bursts of {BURST}", "µs", ()),
        ("floor.together", "floor in C: bursts, each sent as one", "µs", ()),
        ("floor.crowd", f"floor in C: delivery to {SIZES[-1]:,} sockets", "µs", ()),
    ),
    *_rows(
        "ws",
        ("ws.echo", "Node's ws: echo of 100 bytes", "µs", ()),
        ("ws.event", f"Node's ws: delivery to {FAN:,} sockets", "µs", ()),
    ),
    *_rows("hello", ("hello", "bare Quart-Trio on Hypercorn: GET", "µs", ())),
    *_rows(
        "idle",
        ("connect", "connect, with a token not seen before", "µs", _python(250)),
        ("memory", "memory of an idle connection, 1 conversation", "KiB", (Budget(4.5),)),
    ),
    *_rows("bare", ("process", "memory of a process without connections", "MiB", (Budget(80),))),
    *_rows("pings", ("idle_hour", "an idle connection's pings, for an hour", "µs", _python(7500))),
    *_rows(
        "thousand",
        ("connect_1000", f"connect with {THOUSAND:,} conversations", "µs", (Budget(5, "connect"),)),
    ),
    *_rows("logged", ("connect_logged", "connect, with LOG_LEVEL=info", "µs", _python(320))),
    *_rows(
        "talk",
        ("noop", "no-op invocation with completion", "µs", (Budget(1.25, "ws.echo"),)),
        (
            "event",
            f"delivered event, one room of {FAN:,} sockets",
            "µs",
            (Budget(1.12, "floor.event"), Budget(1.0, "ws.event")),
        ),
        ("burst", f"the same in bursts of {BURST}", "µs", (Budget(0.25, "floor.event"), Budget(1.0, "floor.burst"))),
        ("durable", "durable direct message", "µs", _python(75)),
        ("durable_database", "  PostgreSQL for it", "µs", _c(60)),
        ("durable_rate", "  messages", "/s", ()),
        ("durable_p99", "  p99 of delivery at half of that rate", "ms", (Budget(20),)),
        higher=("durable_rate",),
    ),
    *_rows(
        "fan",
        *(
            (f"fan.{size}", f"delivered event, one room of {size:,} sockets", "µs", budgets)
            for size, budgets in zip(SIZES, ((), (), (), (Budget(1.25, "floor.crowd"),)), strict=True)
        ),
        *(
            (f"fan.from_{few}", f"  each delivery more, from {few:,} on", "µs", budgets)
            for few, budgets in zip(SIZES[:-1], (*2 * ((Budget(1.25, "floor.event"),),), ()), strict=True)
        ),
        ("fan.last", f"event to the last of {SIZES[-1]:,} sockets", "ms", (Budget(100),)),
    ),
    *_rows(
        "reads",
        ("history", "history page of 50", "µs", _python(350)),
        ("history_packed", "the same in MessagePack", "µs", _python(350)),
        ("catch_up", f"one of {BEHIND:,} changes caught up", "µs", _python(10)),
        ("rest_message", "GET of a message", "µs", (Budget(1.5, "hello"),)),
        ("rest_list", "GET of 50 conversations", "µs", _python(3000)),
    ),
    *_rows(
        "storm",
        ("storm.alone", "p99 of direct messages at 200/s", "ms", ()),
        ("storm", f"the same beside {CROWD:,} reactions in 1 s", "ms", (Budget(2, "storm.alone"),)),
        ("storm_changes", "  changes to each client", "/s", (Budget(10),)),
        ("storm_missing", "  reactions that are not counted", "", (Budget(0),)),
    ),
    *_rows(
        "reconnects",
        ("reconnects", f"p99 of direct messages beside {COMERS:,} connects", "ms", _python(50)),
        ("reconnects_done", "  until all are connected", "s", ()),
    ),
    *_rows(
        "many",
        ("connect_many", f"connect with {MANY} conversations", "µs", ()),
        ("memory_many", f"memory of an idle connection, {MANY} conversations", "KiB", (Budget(10),)),
    ),
]
BY_KEY = {row.key: row for row in ROWS}
# What is measured only to compare with. It does the same work in each round, so that it moves is the machine's doing.
REFERENCES = [PYTHON, C, *(row.key for row in ROWS if row.stage in ("floor", "ws", "hello"))]


class Unknown(Exception):
    """A row is asked for that there is not; the message says which there are."""


def chosen(names: tuple[str, ...]) -> list[Row]:
    """The rows with such names, or whose names begin so with a dot behind; with the references that they are compared
    with. All, without names. Raises Unknown."""
    if not names:
        return ROWS
    wanted: set[str] = set()
    for name in names:
        found = {row.key for row in ROWS if name == row.key or name == row.stage or row.key.startswith(f"{name}.")}
        if not found:
            raise Unknown(f"there is no row {name}: {', '.join(BY_KEY)}")
        wanted |= found
    wanted |= {budget.reference for key in wanted for budget in BY_KEY[key].budgets if budget.reference}
    wanted |= {PYTHON, C, "floor.echo"}  # how disturbed it is
    return [row for row in ROWS if row.key in wanted]
