"""`loadtest peers`: one durable direct message, side by side, in one run on one machine and one database.

Owns the rounds, the medians and the table. All servers have one process each and the same PostgreSQL; they take turns,
so that a slow minute of the machine hits none of them alone.
"""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import psycopg
from rich.table import Table

from loadtest.bench.people import Rest
from loadtest.bench.process import Server, free_port, parley, running, wait_for
from loadtest.parameters import Finite
from loadtest.peers.contestants import CONTESTANTS, SERVERS, Contestant, Unavailable, default_cache
from loadtest.peers.dialects import Dialect, Hub, Seat
from loadtest.peers.driver import Measured, Pairs, PeerError
from loadtest.processes import joint_usage, services
from loadtest.results import Machine, installed_versions, this_machine
from server.protocol import terminal

DATABASE = "peers"
PARLEY = "Parley"
NAMES = [PARLEY, *(contestant.made_of for contestant in CONTESTANTS)]
WARM_UP = 1.0  # seconds before anything is measured
US, MS = 1e6, 1e3
WIDTH = 110  # columns, where it is not a terminal that is written to


class Ready(NamedTuple):
    """A server that can be started, and who is in it."""

    name: str
    made_of: str
    dialect: Dialect
    seats: Sequence[tuple[Seat, Seat]]
    command: list[str] | None  # None: it runs already


class Round(msgspec.Struct, frozen=True, rename="camel"):
    """One server's turn."""

    cpu_us: float  # of the server process for one message
    database_us: float  # of PostgreSQL for one message
    per_second: float
    p50_ms: float  # delivery at the given rate
    p99_ms: float


class Score(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    made_of: str
    rounds: list[Round]
    failed: str = ""

    def median(self, field: str) -> float:
        return statistics.median(float(getattr(each, field)) for each in self.rounds)


class Comparison(msgspec.Struct, frozen=True, rename="camel"):
    """What is written as JSON."""

    rate: float
    pairs: int
    seconds: float
    machine: Machine
    versions: dict[str, str]
    scores: list[Score]
    skipped: dict[str, str]


@click.command("peers")
@click.option("--seconds", default=5.0, show_default=True, type=Finite(0.2, 3600), help="Of each measurement.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="Turns; medians are shown.")
@click.option("--pairs", default=50, show_default=True, type=click.IntRange(1, 1000), help="Direct conversations.")
@click.option(
    "--rate",
    default=500.0,
    show_default=True,
    type=Finite(0, 1e6, min_open=True),
    help="Messages/s at which latency is measured.",
)
@click.option("--only", multiple=True, help="Part of a server's name; may be repeated. Parley always runs.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Where the servers are installed.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write every round here, too.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
def peers(
    seconds: float,
    rounds: int,
    pairs: int,
    rate: float,
    only: tuple[str, ...],
    cache: Path | None,
    output: Path | None,
    markdown: bool,
) -> None:
    """Compare Parley with small servers on other libraries, doing the same durable work.

    Each checks membership, commits the message to the same PostgreSQL, answers the sender and delivers to both sides.
    They are installed on first use (npm, pip; pinned versions) into a cache; what cannot be had is skipped.
    """
    unknown = [part for part in only if not any(_is_meant(part, name) for name in NAMES)]
    if unknown:
        raise click.BadParameter(f"no server is called {', '.join(unknown)}: {', '.join(NAMES)}", param_hint="--only")
    skipped: dict[str, str] = {}
    installed = list(_installed(cache or default_cache(), only, skipped))
    with tempfile.TemporaryDirectory(prefix="parley-peers-") as directory:
        data = Path(directory, "data")
        with parley(data) as ours:
            ready = [_at_parley(ours, pairs), *(at_peer(each, command, data, pairs) for each, command in installed)]
            scores = _take_turns(ready, ours, data, rounds, seconds, rate)
    versions = installed_versions()
    found = Comparison(rate, pairs, seconds, this_machine(), versions, scores, skipped)
    if output is not None:
        output.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    if markdown:
        terminal.echo("\n".join(as_markdown(found)))
    else:
        _print(found)


def _is_meant(part: str, name: str) -> bool:
    return part.lower() in name.lower()


def _installed(cache: Path, only: tuple[str, ...], skipped: dict[str, str]) -> Iterator[tuple[Contestant, list[str]]]:
    for contestant in CONTESTANTS:
        if only and not any(_is_meant(part, contestant.made_of) for part in only):
            skipped[contestant.name] = "not asked for"
            continue
        try:
            yield contestant, contestant.install(cache)
        except Unavailable as error:
            skipped[contestant.name] = str(error)
            terminal.echo(f"{contestant.name} is left out: {error}", err=True)


def _at_parley(server: Server, pairs: int) -> Ready:
    seats = []
    with Rest(server.port) as rest:
        for number in range(pairs):
            one, other = rest.user(f"one{number}"), rest.user(f"other{number}")
            conversation = rest.direct(one, other)
            seats.append((Seat(one.token, conversation), Seat(other.token, conversation)))
    return Ready(PARLEY, "Trio, psycopg, group commit", Hub(), seats, None)


def at_peer(contestant: Contestant, command: list[str], data: Path, pairs: int) -> Ready:
    seats = [(Seat(str(2 * number), str(number)), Seat(str(2 * number + 1), str(number))) for number in range(pairs)]
    arguments = [str(data / "run"), DATABASE, str(SERVERS)]
    return Ready(contestant.name, contestant.made_of, contestant.dialect, seats, [*command, "PORT", *arguments])


def _take_turns(
    ready: Sequence[Ready], ours: Server, data: Path, rounds: int, seconds: float, rate: float
) -> list[Score]:
    taken: dict[str, list[Round]] = {each.name: [] for each in ready}
    failed: dict[str, str] = {}
    for number in range(rounds):
        for each in ready:
            terminal.echo(f"round {number + 1} of {rounds}: {each.name} ...", err=True)
            try:
                with (
                    nullcontext(ours)
                    if each.command is None
                    else started(each.command, data, len(each.seats)) as server
                ):
                    taken[each.name].append(_turn(each, server, ours, data, seconds, rate))
            except PeerError as error:
                failed[each.name] = str(error)
                terminal.echo(f"  {error}", err=True)
    return [Score(each.name, each.made_of, taken[each.name], failed.get(each.name, "")) for each in ready]


@contextmanager
def started(command: Sequence[str], data: Path, pairs: int) -> Iterator[Server]:
    """A server under comparison, on empty tables, with the PostgreSQL of the `parley dev` in `data`."""
    _empty_database(data, pairs)
    port = free_port()
    with running([str(port) if word == "PORT" else word for word in command], port=port) as server:
        wait_for(port)
        yield server


def _empty_database(data: Path, pairs: int) -> None:
    with psycopg.connect(_conninfo(data, "postgres"), autocommit=True) as connection:
        known = connection.execute("select from pg_database where datname = %s", [DATABASE]).fetchone()
        if known is None:
            connection.execute("create database peers")
    with psycopg.connect(_conninfo(data, DATABASE)) as connection:
        connection.execute((SERVERS / "schema.sql").read_bytes())
        connection.execute("insert into conversations (id) select generate_series(0, %s - 1)", [pairs])
        connection.execute(
            "insert into members select user_id / 2, user_id from generate_series(0, 2 * %s - 1) user_id", [pairs]
        )


def _conninfo(data: Path, database: str) -> str:
    return f"host={data / 'run'} port=5432 user=postgres dbname={database}"


def _turn(each: Ready, server: Server, ours: Server, data: Path, seconds: float, rate: float) -> Round:
    """Raises PeerError."""
    database = services(ours.process.pid).get("postgres", [])
    pairs = Pairs(server.port, each.dialect, each.seats)
    try:
        warm = pairs.saturate(WARM_UP)
        database = services(ours.process.pid).get("postgres", database)  # with this server's connections
        spent, at_database = server.cpu(), joint_usage(database).cpu_seconds
        full = pairs.saturate(seconds)
        spent, at_database = server.cpu() - spent, joint_usage(database).cpu_seconds - at_database
        paced = pairs.paced(rate, seconds)
    finally:
        pairs.close()
    if each.command is not None:
        check_kept(data, [warm, full, paced])
    p50, p99 = paced.delays.percentiles((50, 99))
    return Round(
        cpu_us=spent / full.sent * US,
        database_us=at_database / full.sent * US,
        per_second=full.sent / full.seconds,
        p50_ms=p50 * MS,
        p99_ms=p99 * MS,
    )


def check_kept(data: Path, parts: Sequence[Measured]) -> None:
    """A server that answers before it commits would win by cheating."""
    with psycopg.connect(_conninfo(data, DATABASE)) as connection:
        row = connection.execute("select count(*) from messages").fetchone()
    kept, sent = row[0] if row else 0, sum(part.sent for part in parts)
    if kept != sent:
        raise PeerError(f"{sent} messages were sent, and {kept} are in the database")


# -- what is printed ----------------------------------------------------------------------------

COLUMNS = ("server", "CPU/message", "ratio", "PostgreSQL CPU", "messages/s", "ratio", "p50", "p99")


def rows(found: Comparison) -> list[tuple[str, ...]]:
    """One for each server; the ratios are to Parley's."""
    ours = next(score for score in found.scores if score.name == PARLEY)
    table: list[tuple[str, ...]] = []
    for score in found.scores:
        name = score.name if score is ours else score.made_of
        if not score.rounds:
            table.append((name, f"failed: {score.failed}", "", "", "", "", "", ""))
            continue
        cpu, rate = score.median("cpu_us"), score.median("per_second")
        comparable = score is not ours and bool(ours.rounds)
        table.append(
            (
                name,
                f"{cpu:.0f} µs",
                f"{cpu / ours.median('cpu_us'):.2f} ×" if comparable else "",
                f"{score.median('database_us'):.0f} µs",
                f"{rate:,.0f}",
                f"{rate / ours.median('per_second'):.2f} ×" if comparable else "",
                f"{score.median('p50_ms'):.1f} ms",
                f"{score.median('p99_ms'):.1f} ms",
            )
        )
    return table


def _title(found: Comparison) -> str:
    turns = max(len(score.rounds) for score in found.scores)
    return f"one process each, medians of {turns} rounds of {found.seconds:g} s; p50 and p99 at {found.rate:,.0f}/s"


def as_markdown(found: Comparison) -> list[str]:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(found)]
    lines += ["", f"{_title(found)}. {found.machine.cores} cores, {found.machine.cpu}."]
    return lines + [f"{name} is left out: {reason}." for name, reason in found.skipped.items()]


def _print(found: Comparison) -> None:
    console = terminal.console()
    table = Table(title=f"durable direct message: {_title(found)}")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left")
    for row in rows(found):
        table.add_row(*row)
    (console if console.is_terminal else terminal.console(width=WIDTH)).print(table)
    for name, reason in found.skipped.items():
        console.print(f"{name} is left out: {reason}", highlight=False, markup=False)
