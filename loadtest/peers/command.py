"""`loadtest peers`: one durable direct message, side by side, in one run on one machine and one database.

Owns the rounds; `scores` has the medians and the table. All servers work on the same PostgreSQL (Parley in two
processes on one like it), and they take turns, so that a slow minute of the machine hits none of them alone.
"""

import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import psycopg
from psycopg import sql
from rich.table import Table

from loadtest.bench.dialect import Dialect, Hub, Seat
from loadtest.bench.pairs import DRIVER, Measured, Pairs, PeerError
from loadtest.bench.people import Rest
from loadtest.bench.process import START_TIMEOUT, Server, compiled, free_port, parley, running
from loadtest.bench.process import Unavailable as NoDriver
from loadtest.parameters import Finite
from loadtest.peers.contestants import CONTESTANTS, SERVERS, Contestant, Unavailable, default_cache
from loadtest.peers.scores import PARLEY, Comparison, Latency, Round, Score, as_markdown, columns, notes, rows, title
from loadtest.processes import by_role, family, joint_usage, services
from loadtest.results import installed_versions, this_machine
from server.protocol import terminal

DATABASE = "peers"
SPREAD = "Parley, two processes"
NAMES = [PARLEY, SPREAD, *(contestant.made_of for contestant in CONTESTANTS)]
WARM_UP = 1.0  # seconds before anything is measured
POLL = 0.05  # seconds
MAX_RATE = 1_000_000
US, MS = 1e6, 1e3
WIDTH = 160  # columns, where it is not a terminal that is written to


class Ready(NamedTuple):
    """A server that can be started, and who is in it."""

    name: str
    made_of: str
    dialect: Dialect
    seats: Sequence[tuple[Seat, Seat]]
    command: list[str]
    contestant: Contestant | None  # None: Parley
    processes: int = 1  # of Parley; where it is one, it runs already


class Rates(click.ParamType[tuple[float, ...]]):
    """100 or 100,500,2000."""

    name = "rates"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            rates = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} are no rates: give 500 or 100,500,2000", param, ctx)
        if not all(0 < rate <= MAX_RATE for rate in rates):
            self.fail(f"{value!r}: each has to be above 0 and at most {MAX_RATE:,}", param, ctx)
        return tuple(sorted(set(rates)))


@click.command("peers")
@click.option("--seconds", default=5.0, show_default=True, type=Finite(0.2, 3600), help="Of each measurement.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="Turns; medians are shown.")
@click.option("--pairs", default=50, show_default=True, type=click.IntRange(1, 1000), help="Direct conversations.")
@click.option(
    "--rate",
    default="500",
    show_default=True,
    type=Rates(),
    help="Messages/s at which latency is measured; several with commas between: 100,500,2000.",
)
@click.option("--only", multiple=True, help="Part of a server's name; may be repeated. Parley always runs.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Where the servers are installed.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write every round here, too.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
def peers(
    seconds: float,
    rounds: int,
    pairs: int,
    rate: tuple[float, ...],
    only: tuple[str, ...],
    cache: Path | None,
    output: Path | None,
    markdown: bool,
) -> None:
    """Compare Parley with other servers and small ones on other libraries, doing the same durable work.

    Each checks membership, commits the message to the same PostgreSQL, answers the sender and delivers to both sides.
    They are installed on first use (npm, pip, Go, .NET; pinned versions) into a cache; what cannot be had is skipped.
    """
    unknown = [part for part in only if not any(_is_meant(part, name) for name in NAMES)]
    if unknown:
        raise click.BadParameter(f"no server is called {', '.join(unknown)}: {', '.join(NAMES)}", param_hint="--only")
    try:
        compiled(DRIVER)
    except NoDriver as error:
        raise click.ClickException(f"what drives all servers cannot be had: {error}") from None
    skipped: dict[str, str] = {}
    installed = list(_installed(cache or default_cache(), only, skipped))
    with tempfile.TemporaryDirectory(prefix="parley-peers-") as directory:
        data = Path(directory, "data")
        with parley(data) as ours:
            ready = [_at_parley(ours, pairs)]
            if not only or any(_is_meant(part, SPREAD) for part in only):
                with _spread(data) as two:
                    ready.append(_at_parley(two, pairs)._replace(name=SPREAD, made_of=SPREAD, processes=2))
            ready += [at_peer(each, command, data, pairs) for each, command in installed]
            scores = _take_turns(ready, ours, data, rounds, seconds, rate)
    versions = installed_versions()
    found = Comparison(list(rate), pairs, seconds, this_machine(), versions, scores, skipped)
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
    return Ready(PARLEY, "Trio, psycopg, group commit", Hub(), seats, [], None)


def at_peer(contestant: Contestant, command: list[str], data: Path, pairs: int) -> Ready:
    seats = [(Seat(str(2 * number), str(number)), Seat(str(2 * number + 1), str(number))) for number in range(pairs)]
    arguments = [str(data / "run"), DATABASE, str(SERVERS)]
    return Ready(
        contestant.name, contestant.made_of, contestant.dialect, seats, [*command, "PORT", *arguments], contestant
    )


def _take_turns(
    ready: Sequence[Ready], ours: Server, data: Path, rounds: int, seconds: float, rates: Sequence[float]
) -> list[Score]:
    taken: dict[str, list[Round]] = {each.name: [] for each in ready}
    failed: dict[str, str] = {}
    for number in range(rounds):
        for each in ready:
            terminal.echo(f"round {number + 1} of {rounds}: {each.name} ...", err=True)
            try:
                with _serving(each, ours, data) as server:
                    taken[each.name].append(_turn(each, server, ours, data, seconds, rates))
            except PeerError as error:
                failed[each.name] = str(error)
                terminal.echo(f"  {error}", err=True)
    return [Score(each.name, each.made_of, taken[each.name], failed.get(each.name, "")) for each in ready]


def _serving(each: Ready, ours: Server, data: Path) -> AbstractContextManager[Server]:
    if each.contestant is not None:
        return started(each, data)
    return nullcontext(ours) if each.processes == 1 else _spread(data)


def _spread(data: Path) -> AbstractContextManager[Server]:
    """Parley in two processes, with a PostgreSQL and a Valkey of its own beside the other ones, which have nothing to
    do then."""
    return parley(data.with_name("spread"), instances=2)


@contextmanager
def started(each: Ready, data: Path) -> Iterator[Server]:
    """A server under comparison, on empty tables in the PostgreSQL of the `parley dev` in `data`. Raises PeerError."""
    assert each.contestant is not None
    _fill_database(data, each.contestant, len(each.seats))
    port = free_port()
    with running([str(port) if word == "PORT" else word for word in each.command], port=port) as server:
        _wait_until_it_listens(server)
        yield server


def _wait_until_it_listens(server: Server) -> None:
    give_up = time.monotonic() + START_TIMEOUT
    while time.monotonic() < give_up:
        code = server.process.poll()
        if code is not None:
            raise PeerError(f"it ended at its start, with exit code {code}")
        try:
            return socket.create_connection(("127.0.0.1", server.port)).close()
        except OSError:
            time.sleep(POLL)
    raise PeerError(f"it does not listen {START_TIMEOUT:.0f} s after its start")


def _fill_database(data: Path, contestant: Contestant, pairs: int) -> None:
    with psycopg.connect(_conninfo(data, "postgres"), autocommit=True) as connection:
        known = connection.execute("select from pg_database where datname = %s", [DATABASE]).fetchone()
        if known is None:
            connection.execute("create database peers")
    with psycopg.connect(_conninfo(data, DATABASE)) as connection:
        connection.execute("set client_min_messages = warning")
        connection.execute("drop schema public cascade; create schema public")
        contestant.fill(connection, pairs)


def _conninfo(data: Path, database: str) -> str:
    return f"host={data / 'run'} port=5432 user=postgres dbname={database}"


def _turn(each: Ready, server: Server, ours: Server, data: Path, seconds: float, rates: Sequence[float]) -> Round:
    """Raises PeerError."""
    host = server if each.processes > 1 else ours
    database = services(host.process.pid).get("postgres", [])
    pairs = Pairs(server.port, each.dialect, each.seats)
    try:
        warm = pairs.saturate(WARM_UP)
        database = services(host.process.pid).get("postgres", database)  # with this server's connections
        spent, at_database = _cpu(each, server), joint_usage(database).cpu_seconds
        full = pairs.saturate(seconds)
        spent, at_database = _cpu(each, server) - spent, joint_usage(database).cpu_seconds - at_database
        paced = [pairs.paced(rate, seconds) for rate in rates]
    finally:
        pairs.close()
    if each.contestant is not None:
        check_kept(data, each.contestant, [warm, full, *paced])
    return Round(
        cpu_us=spent / full.sent * US,
        database_us=at_database / full.sent * US,
        client_us=full.client_cpu / full.sent * US,
        per_second=full.sent / full.seconds,
        paced=[_latency(rate, part) for rate, part in zip(rates, paced, strict=True)],
    )


def _latency(rate: float, measured: Measured) -> Latency:
    if measured.why:
        return Latency(rate, why=measured.why)
    p50, p99 = measured.delays.percentiles((50, 99))
    return Latency(rate, p50 * MS, p99 * MS)


def _cpu(each: Ready, server: Server) -> float:
    """Of a contestant with all that it has started; Parley's process has PostgreSQL and Valkey among those."""
    if each.processes > 1:
        return by_role(server.process.pid)["server"].cpu_seconds
    if each.contestant is None:
        return server.cpu()
    return joint_usage(family(server.process.pid)).cpu_seconds


def check_kept(data: Path, contestant: Contestant, parts: Sequence[Measured]) -> None:
    """A server that answers before it commits would win by cheating."""
    with psycopg.connect(_conninfo(data, DATABASE)) as connection:
        query = sql.SQL("select count(*) from {}").format(sql.Identifier(contestant.kept))
        row = connection.execute(query).fetchone()
    kept, sent = row[0] if row else 0, sum(part.sent for part in parts)
    if kept != sent:
        raise PeerError(f"{sent} messages were sent, and {kept} are in the database")


def _print(found: Comparison) -> None:
    console = terminal.console()
    table = Table(title=f"durable direct message: {title(found)}")
    for number, column in enumerate(columns(found)):
        table.add_column(column, justify="right" if number else "left")
    for row in rows(found):
        table.add_row(*row)
    (console if console.is_terminal else terminal.console(width=WIDTH)).print(table)
    for line in notes(found):
        console.print(line, highlight=False, markup=False)
