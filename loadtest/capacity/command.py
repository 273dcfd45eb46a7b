"""`loadtest capacity`: measures, computes, and prints both, so that the result can be checked."""

import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from rich.table import Table

from loadtest.bench.pairs import PeerError
from loadtest.bench.process import Unavailable
from loadtest.capacity.measured import TooFew, measure
from loadtest.capacity.population import Cost, Costs, Needs, Population, needs
from loadtest.parameters import Finite
from loadtest.report.charts import number
from loadtest.results import Machine, installed_versions, this_machine
from server.protocol import terminal

FAILED = 1
MISUSED = 2
UNCOUNTED = 4
SPARE_FILES = 500  # descriptors beside the connections
WIDTH = 110  # columns, where it is not a terminal that is written to
HELP = {
    "users": "Everybody who is registered.",
    "online": "Share of the users who are online at the busiest moment.",
    "devices": "Connections of one who is online.",
    "messages_per_user_day": "Messages a user sends a day, averaged over all.",
    "deliveries": "Connections a message reaches, the sender's own included.",
    "receipts": "Read marks a message leads to.",
    "peak_hour": "Share of a day's messages in its busiest hour.",
    "burst": "The busiest seconds of that hour, to its mean.",
    "session_minutes": "Until a client connects anew.",
    "history_pages": "Pages of history read with each connect.",
    "utilisation": "How busy a core may be at the busiest moment.",
    "connections_per_process": "MAX_CONNECTIONS of a process.",
    "spare": "Processes that may be gone.",
    "retention_days": "How long messages are kept.",
}


class Capacity(msgspec.Struct, frozen=True, rename="camel"):
    """What is written as JSON, and can be read again to compute for other populations."""

    costs: Costs
    connections: int
    seconds: float
    machine: Machine
    versions: dict[str, str]
    format: int = 1


def _assumptions(command: click.Command) -> click.Command:
    """An option for each field of the population, with its default."""
    for field in msgspec.structs.fields(Population):
        kind = click.IntRange(min=0) if field.type is int else Finite(min=0)
        flag = f"--{field.name.replace('_', '-')}"
        option = click.Option([flag], default=field.default, show_default=True, type=kind, help=HELP[field.name])
        command.params.append(option)
    return command


@_assumptions
@click.command("capacity")
@click.option("--connections", default=4000, show_default=True, type=click.IntRange(500), help="To measure with.")
@click.option("--seconds", default=5.0, show_default=True, type=Finite(0.2, 3600), help="Of each measurement.")
@click.option("--costs", type=click.Path(dir_okay=False, path_type=Path), help="Measure nothing: read these (--json).")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write the costs here, too.")
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown.")
def capacity(
    connections: int, seconds: float, costs: Path | None, output: Path | None, markdown: bool, **assumed: Any
) -> None:
    """What a population needs: processes, cores, memory, PostgreSQL, Redis.

    Measures on this machine, in some minutes, what a connect, an idle connection, a durable message, a delivery,
    a receipt and a page of history cost the server, PostgreSQL and Redis; the rest is computed from that and from the
    population. The figures are for cores like this machine's. Exit code 4: too little was done to name a cost.
    """
    population = Population(**assumed)
    if not 0 < population.utilisation <= 1 or not population.session_minutes or not population.connections_per_process:
        fail("utilisation must be over 0 and up to 1; sessions and processes cannot be empty", MISUSED)
    found = read_costs(costs) if costs else measured_costs(connections, seconds)
    if output is not None:
        output.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    show: Callable[[str, Sequence[tuple[str, ...]], str], None] = _markdown if markdown else _print
    needed = needs(found.costs, population)
    show("measured", cost_rows(found.costs), f"{_machine(found)}; {found.connections:,} connections")
    show(f"{population.users:,} users at the busiest moment", work_rows(needed), stated(population))
    show(f"what {population.users:,} users need", need_rows(needed, population), "")


def fail(message: str, code: int) -> NoReturn:
    terminal.echo(f"loadtest capacity: {message}", err=True)
    sys.exit(code)


def measured_costs(connections: int, seconds: float) -> Capacity:
    wanted, (soft, hard) = connections + SPARE_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        fail(f"{connections} connections need {wanted} open files; the limit is {hard} (ulimit -n)", FAILED)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        costs = measure(connections, seconds, lambda text: terminal.echo(text, err=True))
    except (PeerError, Unavailable) as error:
        fail(str(error), FAILED)
    except TooFew as error:
        fail(str(error), UNCOUNTED)
    return Capacity(costs, connections, seconds, this_machine(), installed_versions())


def read_costs(path: Path) -> Capacity:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Capacity)
    except (OSError, msgspec.DecodeError) as error:
        fail(f"{path}: {error}", MISUSED)


# -- the tables ---------------------------------------------------------------------------------


def cost_rows(costs: Costs) -> list[tuple[str, ...]]:
    kinds = {
        "connect, authenticated and attached": costs.connect,
        "idle connection, for an hour": costs.idle_second.times(3600),
        "durable message, acknowledged, 2 deliveries": costs.message,
        "more for each other process it goes to": costs.across,
        "delivery to one more connection": costs.delivery,
        "read receipt, durable": costs.receipt,
        "history page of 50": costs.history,
    }
    rows: list[tuple[str, ...]] = [("CPU, µs", "server", "PostgreSQL", "Redis")]
    rows += [(name, *_cells(cost)) for name, cost in kinds.items()]
    rows.append(("memory of a connection, KiB", number(costs.connection_kib), "", number(costs.redis_connection_kib)))
    rows.append(("memory of a process without connections, MiB", number(costs.process_mib), "", ""))
    rows.append(("stored for a message, with indexes, bytes", "", number(costs.message_bytes), ""))
    return rows


def work_rows(needed: Needs) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("cores busy with", "a second", "server", "PostgreSQL", "Redis")]
    for part in needed.parts:
        rows.append((part.name, f"{part.per_second:,.0f}", *_cells(part.cores)))
    return [*rows, ("together", "", *_cells(needed.cores))]


def need_rows(needed: Needs, population: Population) -> list[tuple[str, ...]]:
    return [
        ("what", "how much", "why"),
        ("connections", f"{needed.connections:,}", f"{population.online:.0%} online, {population.devices:g} each"),
        ("messages a second", f"{needed.messages_per_second:,.0f}", "in the busiest seconds"),
        (
            "server processes, one core each",
            f"{needed.processes}",
            f"bound by {needed.bound_by}; {population.spare} of them spare",
        ),
        ("memory of the servers", f"{needed.memory_gib:,.1f} GiB", ""),
        ("PostgreSQL", _cores(needed.database_cores), f"at {population.utilisation:.0%} busy"),
        ("PostgreSQL, stored", f"{needed.database_gib:,.0f} GiB", f"{population.retention_days} days of messages"),
        ("Redis", f"{_cores(needed.redis_cores)}, {needed.redis_gib * 1024:,.0f} MiB", "beside its streams' few MiB"),
        ("everybody connecting anew", f"{needed.reconnect_seconds:,.0f} s", "on all processes, at full load"),
    ]


def stated(population: Population) -> str:
    """The assumptions, in words."""
    said = population
    return (
        f"Assumed: {said.messages_per_user_day:g} messages a user and day, {said.peak_hour:.0%} of them in the busiest "
        f"hour and {said.burst:g} times that in bursts; {said.deliveries:g} deliveries and {said.receipts:g} receipts "
        "a message, each delivery but the sender's own in another process; sessions of "
        f"{said.session_minutes:g} minutes with {said.history_pages:g} pages of history; cores "
        f"{said.utilisation:.0%} busy."
    )


def _cells(cost: Cost) -> tuple[str, str, str]:
    return number(cost.server), number(cost.database), number(cost.redis)


def _cores(count: int) -> str:
    return f"{count} core{'s' if count > 1 else ''}"


def _machine(found: Capacity) -> str:
    return f"{found.machine.cores} cores, {found.machine.cpu}"


def _markdown(title: str, rows: Sequence[tuple[str, ...]], note: str) -> None:
    head, *rest = rows
    lines = [f"**{title[:1].upper()}{title[1:]}**", "", "| " + " | ".join(head) + " |"]
    lines += ["|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rest]
    terminal.echo("\n".join([*lines, "", *([note, ""] if note else [])]))


def _print(title: str, rows: Sequence[tuple[str, ...]], note: str) -> None:
    console = terminal.console()
    table = Table(title=title, caption=note or None, caption_justify="left")
    for index, column in enumerate(rows[0]):
        table.add_column(column, justify="right" if index else "left")
    for row in rows[1:]:
        table.add_row(*row)
    (console if console.is_terminal else terminal.console(width=WIDTH)).print(table)
