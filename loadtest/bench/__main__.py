"""`python -m loadtest.bench`: measures the budgets of the socket path on this machine, in one run, and prints a table.

Owns the order of measurements, the budgets and the table. Load goes to loopback only, and ends by itself.
Exit code 0; with --strict 1 when a budget does not hold.
"""

import argparse
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from loadtest.bench import measures
from loadtest.bench.people import Rest, User
from loadtest.bench.process import parley, reference
from loadtest.bench.storm import storm
from server.protocol import terminal

MEMBERS = 200  # of the big room; ten connections each
USERS = 2100
CONNECTIONS = 9000  # for connect and memory: five of each user, few enough for a limit of 20,000 descriptors
MANY = 20  # conversations of each user in the second memory row
DESCRIPTORS = 20_000
WIDTH = 100  # columns, where it is not a terminal that is written to

console = terminal.console(stderr=True)


class Row:
    """One line of the table. `limit` None: nothing to compare with, only shown."""

    def __init__(self, what: str, value: float, unit: str, limit: float | None = None, against: str = "") -> None:
        self.what, self.value, self.unit, self.limit, self.against = what, value, unit, limit, against

    @property
    def holds(self) -> bool:
        return self.limit is None or self.value <= self.limit

    def cells(self) -> tuple[str, ...]:
        if self.limit is None:
            return self.what, f"{self.value:.1f} {self.unit}", "", "", self.against
        verdict = "[green]holds[/]" if self.holds else "[red]missed[/]"
        ratio = f"{self.value / self.limit:.2f}"
        return self.what, f"{self.value:.1f} {self.unit}", f"{self.limit:.1f} {self.unit}", ratio, verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each row runs (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a budget does not hold")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    table = Table("what", "measured", "budget", "of budget", "", title="server process, one core")
    rows = []
    for row in _rows(options.seconds):
        rows.append(row)
        table.add_row(*row.cells())
    terminal.console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    missed = [row.what for row in rows if not row.holds]
    if missed:
        console.print(f"missed: {', '.join(missed)}")
    return 1 if missed and options.strict else 0


def _rows(seconds: float) -> Iterator[Row]:
    floor_fan = ws_fan = ws_echo = None
    for name in ("floor", "ws"):
        console.print(f"measuring {'the floor in C' if name == 'floor' else 'ws on Node'} ...")
        with reference(name) as server:
            if server is None:
                console.print(f"  {name}: not here (needs its source, and a compiler or Node); its ratios are left out")
                continue
            echo, fan = measures.echo(server, seconds), measures.fan_out(server, seconds)
        yield Row(f"{name}: echo", echo, "us", against="reference")
        yield Row(f"{name}: delivery to {measures.FAN} sockets", fan, "us", against="reference")
        if name == "floor":
            floor_fan = fan
        else:
            ws_echo, ws_fan = echo, fan
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as directory:
        yield from _parley(Path(directory, "data"), seconds, floor_fan, ws_fan, ws_echo)


def _parley(
    data: Path, seconds: float, floor_fan: float | None, ws_fan: float | None, ws_echo: float | None
) -> Iterator[Row]:
    console.print(f"making {USERS} users ...")
    with parley(data) as server, Rest(server.port) as rest:
        users = [rest.user(f"user{number}") for number in range(USERS)]
        pairs = [(one, other, rest.direct(one, other)) for one, other in zip(users[::2], users[1::2], strict=True)]
        big = rest.group(users[0], users[:MEMBERS], "big")
    console.print("measuring idle connections ...")
    with parley(data) as server:
        cost, size = measures.idle(server, users[MEMBERS:], CONNECTIONS)
        yield Row("connect, authenticated and attached", cost, "us", 400)
        yield Row("memory, idle, 1 conversation", size, "KiB", 6)
    with parley(data) as server, Rest(server.port) as rest:
        console.print("measuring invocations, rooms and direct messages ...")
        noop = measures.invocation(server, users[MEMBERS:], seconds)
        yield Row("no-op invocation", noop, "us", ws_echo and 1.25 * ws_echo)
        single = measures.room(server, users[:MEMBERS], big, seconds, 1).cost
        limits = [limit for limit in (floor_fan and 1.25 * floor_fan, ws_fan) if limit]
        yield Row(f"delivered event, {measures.FAN} sockets", single, "us", min(limits, default=None))
        burst = measures.room(server, users[:MEMBERS], big, seconds, measures.BURST).cost
        yield Row(f"the same in bursts of {measures.BURST}", burst, "us", floor_fan and 0.4 * floor_fan)
        durable = measures.durable(server, pairs[MEMBERS:][: measures.PAIRS], seconds)
        yield Row("durable direct message", durable.cost, "us", 140)
        yield Row("  messages", durable.rate, "/s")
        yield Row("  p99 delivery at half of that rate", durable.p99, "ms", 20)
        yield Row("history page of 50", measures.history(server, rest, users[-1], pairs[-1][2], seconds), "us", 2000)
        _fill(rest, users[MEMBERS:])
        crowd = rest.group(users[-1], users[2 * measures.PAIRS :], "crowd")
    console.print("measuring direct messages beside a storm of reactions ...")
    with parley(data) as server:
        found = storm(server, users[2 * measures.PAIRS :], crowd, pairs[: measures.PAIRS])
        yield Row("p99 of direct messages at 200/s", found.alone, "ms")
        yield Row(f"the same beside {USERS - 2 * measures.PAIRS} reactions in 1 s", found.beside, "ms", 2 * found.alone)
        yield Row("  changes to each client", found.events, "/s", 10)
        yield Row("  reactions that are not counted", found.missing, "", 0)
    console.print(f"measuring idle connections with {MANY} conversations ...")
    with parley(data) as server:
        cost, size = measures.idle(server, users[MEMBERS:], CONNECTIONS)
        yield Row(f"connect with {MANY} conversations", cost, "us")
        yield Row(f"memory, idle, {MANY} conversations", size, "KiB", 10)


def _fill(rest: Rest, users: list[User]) -> None:
    """Put every user into conversations of 50 until each has `MANY`."""
    for round_number in range(MANY - 1):
        shifted = users[round_number:] + users[:round_number]
        step = 50
        for start in range(0, len(shifted), step):
            members = shifted[start : start + step]
            rest.group(members[0], members, f"group {round_number}-{start}")


if __name__ == "__main__":
    sys.exit(main())
