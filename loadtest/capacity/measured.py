"""The costs of this machine, from short runs against an own `parley dev`.

Owns the runs. Every cost is processor time that a process took, divided by what it did; the work itself is that of
`loadtest.bench` and of the durable message of `loadtest peers`.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import psycopg

from loadtest.bench import measures
from loadtest.bench.dialect import Hub, Seat
from loadtest.bench.pairs import CONTENT, DRIVER, Pairs
from loadtest.bench.people import Rest, User
from loadtest.bench.process import Server, compiled, parley
from loadtest.bench.sockets import SEPARATOR, Sockets, call, frame
from loadtest.capacity.population import Cost, Costs
from loadtest.processes import Usage, by_role

WARM = 50  # connections before the first that is counted: what is allocated once is not theirs
KEEPALIVE = 2.0  # seconds between pings while idleness is measured
REAL_KEEPALIVE = 15.0  # seconds, as served
ROUNDS = 4  # of pings
PAGE = 50  # messages
RECEIPTS = 200  # read marks of each pair
PING = frame(b'{"type":6}' + SEPARATOR)
US, KIB, MIB = 1e6, 1024, 2**20

LEAST = {  # operations that it takes to name a cost: of fewer, most is ticks of the clock and what is done once
    "connects": 500,
    "pings": 2000,
    "messages": 1000,
    "deliveries": 20_000,
    "receipts": 1000,
    "pages of history": 100,
}

Progress = Callable[[str], None]


class TooFew(Exception):
    """A cost would be that of too few operations; the message says of which, and what to do."""


def check_enough(count: float, what: str) -> None:
    """Raises TooFew."""
    if count < LEAST[what]:
        more = "--connections" if what in ("connects", "pings") else "--seconds"
        raise TooFew(f"{count:,.0f} {what} were measured, and a cost takes {LEAST[what]:,}: give it more {more}")


class Spent(NamedTuple):
    cost: Cost  # seconds
    memory: dict[str, int]  # bytes more than before, by role


class CostRecorder:
    """What all processes of one `parley dev` have used since it was made."""

    def __init__(self, server: Server) -> None:
        self._root = server.process.pid
        self._before = by_role(self._root)

    def spent(self) -> Spent:
        now = by_role(self._root)
        nothing = Usage(0.0, 0)
        used = {role: (each.cpu_seconds - self._before.get(role, nothing).cpu_seconds) for role, each in now.items()}
        memory = {role: each.rss_bytes - self._before.get(role, nothing).rss_bytes for role, each in now.items()}
        return Spent(Cost(used["server"], used.get("database", 0.0), used.get("redis", 0.0)), memory)

    def each(self, count: float, what: str) -> Cost:
        """Microseconds, of `count` pieces of work. Raises TooFew."""
        check_enough(count, what)
        return self.spent().cost.times(US / count)


class World(NamedTuple):
    """Who is there, with one connection each: everybody in a pair, the first ones also in a room."""

    users: list[User]
    pairs: list[tuple[User, User, str]]
    room: str


def measure(connections: int, seconds: float, progress: Progress) -> Costs:
    """Raises PeerError, TooFew; and Unavailable at once, where there is no C compiler."""
    compiled(DRIVER)
    check_enough(connections, "connects")
    check_enough(connections * ROUNDS, "pings")
    with tempfile.TemporaryDirectory(prefix="parley-capacity-") as directory:
        data = Path(directory, "data")
        progress("making users ...")
        with parley(data) as server, Rest(server.port) as rest:
            world = _made(rest, connections + 4 * measures.PAIRS)
        progress(f"connecting {connections:,} ...")
        with parley(data) as server:
            process_mib = by_role(server.process.pid)["server"].rss_bytes / MIB
            connect, connection_kib, redis_kib = _connect(server, world.users, connections)
        progress("keeping them alive ...")
        with parley(data, keepalive=f"{KEEPALIVE:g}s") as server:
            idle = _idle(server, world.users, connections)
        with parley(data) as server, Rest(server.port) as rest:
            progress("sending messages ...")
            stored = _stored(data)
            message, sent = _messages(server, world, seconds)
            message_bytes = max(_stored(data) - stored, 0) / sent
            progress("reading, marking as read, fanning out ...")
            receipt = _receipts(server, world)
            history = _history(server, rest, world, seconds)
            [room] = measures.room(server, world.users[: measures.PAIRS * 2], world.room, seconds, [1])
            check_enough(room.done, "deliveries")
        progress("sending messages through two processes ...")
        with parley(data, instances=2) as server:
            spread, _ = _messages(server, world, seconds)
    return Costs(
        connect=connect,
        idle_second=idle,
        message=message,
        across=_more(spread, message),
        delivery=Cost(server=room.cost),
        receipt=receipt,
        history=history,
        connection_kib=connection_kib,
        redis_connection_kib=redis_kib,
        process_mib=process_mib,
        message_bytes=message_bytes,
    )


def _made(rest: Rest, count: int) -> World:
    users = [rest.user(f"user{number}") for number in range(count)]
    pairs = [(one, other, rest.direct(one, other)) for one, other in zip(users[::2], users[1::2], strict=False)]
    members = users[: measures.PAIRS * 2]
    return World(users, pairs, rest.group(users[0], members, "room"))


@contextmanager
def _lean_client(server: Server, users: Sequence[User], count: int) -> Iterator[Sockets]:
    lean_client = Sockets(server.port)
    try:
        lean_client.connect(count, [user.token for user in users])
        lean_client.quiet()
        yield lean_client
    finally:
        lean_client.close()


def _connect(server: Server, users: Sequence[User], count: int) -> tuple[Cost, float, float]:
    """One connect; KiB of the server and of Redis for each connection."""
    outside = users[measures.PAIRS * 2 :]  # who is not in the room: one conversation each
    with _lean_client(server, outside, WARM):
        recorder = CostRecorder(server)
        with _lean_client(server, outside, count):
            cost, memory = recorder.spent()
            redis = max(memory.get("redis", 0), 0)
            return cost.times(US / count), memory["server"] / KIB / count, redis / KIB / count


def _idle(server: Server, users: Sequence[User], count: int) -> Cost:
    """A second of one connection: pings in both directions, as often as they are served. What the processes spend
    without a client is not theirs."""
    rest = _at_rest(server)
    with _lean_client(server, users, count) as lean_client:
        recorder = CostRecorder(server)
        start = time.monotonic()
        for number in range(1, ROUNDS + 1):
            for sock in lean_client.sockets:
                sock.send(PING)
            while (wait := start + number * KEEPALIVE - time.monotonic()) > 0:
                lean_client.receive(lambda sock, data: None, wait)
        check_enough(count * ROUNDS, "pings")
        spent = recorder.spent().cost.less(rest.times(time.monotonic() - start))
        return spent.times(US / (count * ROUNDS) / REAL_KEEPALIVE)


def _at_rest(server: Server) -> Cost:
    """A second of all processes in which they are not asked for anything: the least of some, of each."""
    seconds = []
    for _ in range(measures.SECONDS_AT_REST):
        recorder, began = CostRecorder(server), time.monotonic()
        time.sleep(1)
        seconds.append(recorder.spent().cost.times(1 / (time.monotonic() - began)))
    return Cost(*(min(each) for each in zip(*map(msgspec.structs.astuple, seconds), strict=True)))


def _seats(world: World) -> list[tuple[Seat, Seat]]:
    pairs = world.pairs[measures.PAIRS :][: measures.PAIRS]
    return [(Seat(one.token, conversation), Seat(other.token, conversation)) for one, other, conversation in pairs]


def _messages(server: Server, world: World, seconds: float) -> tuple[Cost, int]:
    """One durable direct message, and how many there were. Raises PeerError."""
    pairs = Pairs(server.port, Hub(), _seats(world))
    try:
        warm = pairs.saturate(seconds / 5)
        recorder = CostRecorder(server)
        full = pairs.saturate(seconds)
        return recorder.each(full.sent, "messages"), warm.sent + full.sent
    finally:
        pairs.close()


def _more(spread: Cost, alone: Cost) -> Cost:
    """Half of the pairs had their sides at different processes (the kernel deals connections out), so the difference is
    half of what one crossing costs."""

    def twice(one: float, other: float) -> float:
        return max(0.0, 2 * (one - other))

    return Cost(
        twice(spread.server, alone.server), twice(spread.database, alone.database), twice(spread.redis, alone.redis)
    )


def _receipts(server: Server, world: World) -> Cost:
    """Each receiver marks one message after the other as read; done when each mark is acknowledged."""
    pairs = world.pairs[measures.PAIRS :][: measures.PAIRS]
    tokens = [user for one, other, _ in pairs for user in (one, other)]
    done = b'"type":3'
    with _lean_client(server, tokens, len(tokens)) as lean_client:
        recorder = CostRecorder(server)
        for seq in range(1, RECEIPTS + 1):
            for (_, _, conversation), reader in zip(pairs, lean_client.sockets[1::2], strict=True):
                reader.send(frame(call(str(seq), "MarkRead", conversation, seq)))
            lean_client.collect(len(pairs), lambda data: data.count(done))
        lean_client.quiet()
        return recorder.each(RECEIPTS * len(pairs), "receipts")


def _history(server: Server, rest: Rest, world: World, seconds: float) -> Cost:
    one, _, conversation = world.pairs[-1]
    for _ in range(PAGE):
        rest.post("/api/messages", {"conversationId": conversation, "content": CONTENT}, one.token)
    with _lean_client(server, [one], 1) as lean_client:
        recorder, until, pages = CostRecorder(server), time.monotonic() + seconds, 0
        while time.monotonic() < until:
            lean_client.sockets[0].send(frame(call(str(pages), "StreamHistory", conversation, None, PAGE, kind=4)))
            lean_client.collect(PAGE + 1, lambda data: data.count(SEPARATOR))
            pages += 1
        return recorder.each(pages, "pages of history")


def _stored(data: Path) -> int:
    """Bytes of the database with its indexes."""
    with psycopg.connect(f"host={data / 'run'} port=5432 user=postgres dbname=parley") as connection:
        row = connection.execute("select pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0
