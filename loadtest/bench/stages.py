"""The stages of a round: what is measured together, on one server process.

Owns the order within each stage. A stage yields the figures of the rows that are wanted, by key; what fails ends the
stage and keeps what it has found.
"""

import statistics
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from typing import NamedTuple

from loadtest.bench import measures, reading, speed
from loadtest.bench.measures import BURSTS, ONE_BY_ONE, TOGETHER
from loadtest.bench.people import Rest, fresh_tokens
from loadtest.bench.process import parley, reference
from loadtest.bench.reconnects import reconnects
from loadtest.bench.rows import COMERS, PYTHON, SIZES, C
from loadtest.bench.storm import storm
from loadtest.bench.world import World

CONNECTIONS = 9000  # for connect and memory: few enough for a limit of 20,000 descriptors
COMERS_OF = 1600  # users, who connect at once; some of them several times
Figures = Iterator[tuple[str, float]]


class Order(NamedTuple):
    """What a stage is to measure."""

    wanted: Collection[str]  # keys of rows
    seconds: float
    event_bytes: int


def speeds(order: Order) -> Figures:
    yield PYTHON, speed.python()
    yield C, speed.c()


def floor(order: Order) -> Figures:
    ways = {"floor.event": ONE_BY_ONE, "floor.burst": BURSTS, "floor.together": TOGETHER}
    return _reference("floor", ways, order)


def ws(order: Order) -> Figures:
    return _reference("ws", {"ws.event": ONE_BY_ONE}, order)


def _reference(name: str, ways: dict[str, measures.Way], order: Order) -> Figures:
    """Raises Unavailable."""
    wanted = {key: way for key, way in ways.items() if key in order.wanted}
    with reference(name) as server:
        if f"{name}.echo" in order.wanted:
            yield f"{name}.echo", measures.echo(server, order.seconds)
        costs = measures.fan_out(server, order.seconds, size=order.event_bytes, ways=list(wanted.values()))
        if wanted:
            yield from zip(wanted, costs, strict=True)
        if f"{name}.crowd" in order.wanted:
            size, seconds = order.event_bytes, order.seconds
            [cost] = measures.fan_out(server, seconds, size=size, ways=[ONE_BY_ONE], fan=SIZES[-1])
            yield f"{name}.crowd", cost


def hello(order: Order) -> Figures:
    with reference("hello") as server:
        yield "hello", reading.get(server, "/", order.seconds)


def idle(world: World, order: Order) -> Figures:
    tokens = fresh_tokens(world.data, world.plain, CONNECTIONS)
    with parley(world.data, source=world.source) as server:
        cost, size = measures.idle(server, world.plain, tokens)
    yield "connect", cost
    yield "memory", size


def bare(world: World, order: Order) -> Figures:
    """Of instances as `parley serve` runs them: a `parley dev` of one also has what migrates the schema."""
    with parley(world.data, instances=2, source=world.source) as server:
        yield "process", statistics.mean(server.instances()) / 1024


def pings(world: World, order: Order) -> Figures:
    tokens = fresh_tokens(world.data, world.plain, measures.IDLE)
    with parley(world.data, source=world.source, keepalive=f"{measures.INTERVAL:g}s") as server:
        yield "idle_hour", measures.idle_hour(server, tokens, order.seconds)


def thousand(world: World, order: Order) -> Figures:
    tokens = fresh_tokens(world.data, world.busy, len(world.busy))
    with parley(world.data, source=world.source) as server:
        yield "connect_1000", measures.opening(server, world.plain, tokens)


def logged(world: World, order: Order) -> Figures:
    tokens = fresh_tokens(world.data, world.plain, CONNECTIONS)
    with parley(world.data, source=world.source, log_level="info") as server:
        yield "connect_logged", measures.idle(server, world.plain, tokens)[0]


def talk(world: World, order: Order) -> Figures:
    with parley(world.data, source=world.source) as server:
        if "noop" in order.wanted:
            yield "noop", measures.invocation(server, world.plain, order.seconds)
        bursts = {key: size for key, size in (("event", 1), ("burst", measures.BURST)) if key in order.wanted}
        if bursts:
            fans = measures.room(server, world.members, world.big, order.seconds, list(bursts.values()))
            yield from zip(bursts, (fan.cost for fan in fans), strict=True)
        if any(key.startswith("durable") for key in order.wanted):
            durable = measures.durable(server, world.talking, order.seconds)
            yield "durable", durable.cost
            yield "durable_database", durable.database
            yield "durable_rate", durable.rate
            yield "durable_p99", durable.p99


def fan(world: World, order: Order) -> Figures:
    costs: dict[int, float] = {}
    with parley(world.data, source=world.source) as server:
        for size, room in zip(SIZES, world.rooms, strict=True):
            if not costs:  # what the first messages cost is not a delivery's
                measures.crowd(server, room.members, room.conversation, order.seconds / 4, size)
            costs[size], last = measures.crowd(server, room.members, room.conversation, order.seconds, size)
            yield f"fan.{size}", costs[size]
    yield "fan.last", last
    for few, many in pairwise(SIZES):
        yield f"fan.from_{few}", (costs[many] * many - costs[few] * few) / (many - few)


def reads(world: World, order: Order) -> Figures:
    assert world.read is not None
    reader, lister, conversation, head, message = world.read
    one, _, growing = world.pairs[-1]  # each round adds a page to it
    with parley(world.data, source=world.source) as server, Rest(server.port) as rest:
        ways: dict[str, Callable[[], float]] = {
            "history": lambda: measures.history(server, rest, one, growing, order.seconds),
            "history_packed": lambda: reading.history_in_messagepack(server, reader, conversation, order.seconds),
            "catch_up": lambda: reading.catch_up(server, reader, conversation, head, order.seconds),
            "rest_message": lambda: reading.get(server, f"/api/messages/{message}", order.seconds, reader.token),
            "rest_list": lambda: reading.get(server, "/api/conversations?limit=50", order.seconds, lister.token),
        }
        for key, measure in ways.items():
            if key in order.wanted:
                yield key, measure()


def storms(world: World, order: Order) -> Figures:
    with parley(world.data, source=world.source) as server:
        found = storm(server, world.crowd, world.crowded_room, world.talking)
    yield "storm.alone", found.alone
    yield "storm", found.beside
    yield "storm_changes", found.events
    yield "storm_missing", found.missing


def arrivals(world: World, order: Order) -> Figures:
    comers = world.plain[-COMERS_OF:]  # those who talk are not among them
    tokens = fresh_tokens(world.data, comers, COMERS)
    with parley(world.data, source=world.source) as server:
        found = reconnects(server, tokens, world.talking)
    yield "reconnects", found.p99
    yield "reconnects_done", found.seconds


def many(world: World, order: Order) -> Figures:
    tokens = fresh_tokens(world.data, world.many, CONNECTIONS)
    with parley(world.data, source=world.source) as server:
        cost, size = measures.idle(server, world.many, tokens)
    yield "connect_many", cost
    yield "memory_many", size


REFERENCES: dict[str, Callable[[Order], Figures]] = {"speed": speeds, "floor": floor, "ws": ws, "hello": hello}
OURS: dict[str, Callable[[World, Order], Figures]] = {
    "idle": idle,
    "bare": bare,
    "pings": pings,
    "thousand": thousand,
    "logged": logged,
    "talk": talk,
    "fan": fan,
    "reads": reads,
    "storm": storms,
    "reconnects": arrivals,
    "many": many,
}
