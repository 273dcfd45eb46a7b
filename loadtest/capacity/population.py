"""From costs and a population to what it needs. Arithmetic only: every input is either measured or stated.

Owns the model. Load is that of the busiest moment; each kind of work costs so many microseconds of the server, of
PostgreSQL and of Redis, and a core is planned to be busy for `utilisation` of the time.
"""

import math
from typing import NamedTuple

import msgspec

DAY = 86_400.0
HOUR = 3_600.0


class Cost(msgspec.Struct, frozen=True, rename="camel"):
    """Processor time of one piece of work, in microseconds."""

    server: float = 0.0
    database: float = 0.0
    redis: float = 0.0

    def times(self, factor: float) -> "Cost":
        return Cost(self.server * factor, self.database * factor, self.redis * factor)

    def plus(self, other: "Cost") -> "Cost":
        return Cost(self.server + other.server, self.database + other.database, self.redis + other.redis)

    def less(self, other: "Cost") -> "Cost":
        """Never below nothing, as what is measured is not."""
        left = self.plus(other.times(-1))
        return Cost(max(0.0, left.server), max(0.0, left.database), max(0.0, left.redis))


class Costs(msgspec.Struct, frozen=True, rename="camel"):
    """What was measured."""

    connect: Cost  # authenticated, hands shaken, attached to its conversations
    idle_second: Cost  # of one connection that only keeps alive
    message: Cost  # committed, acknowledged, delivered to two connections of the same process
    across: Cost  # more, for each other process that a message goes to
    delivery: Cost  # to one more connection
    receipt: Cost  # a read mark, durable, and its event to the other user
    history: Cost  # a page of 50 messages
    connection_kib: float  # memory of the server
    redis_connection_kib: float
    process_mib: float  # a server process without connections
    message_bytes: float  # in PostgreSQL, with its indexes and its share of everything else


class Population(msgspec.Struct, frozen=True, rename="camel"):
    """Who is to be served, and how they behave. The defaults are assumptions; change them."""

    users: int = 1_000_000
    online: float = 0.2  # of the users, at the busiest moment
    devices: float = 1.2  # connections of one who is online
    messages_per_user_day: float = 20.0  # sent, averaged over all users
    deliveries: float = 5.0  # connections that one message reaches, the sender's own included
    receipts: float = 2.0  # read marks that one message leads to
    peak_hour: float = 0.12  # of a day's messages, in the busiest hour
    burst: float = 2.0  # the busiest seconds of that hour, to its mean
    session_minutes: float = 20.0  # until a client connects anew
    history_pages: float = 2.0  # read with each connect
    utilisation: float = 0.6  # of a core, at the busiest moment
    connections_per_process: int = 15_000
    spare: int = 2  # processes that may be gone
    retention_days: int = 365


class Part(NamedTuple):
    """One kind of work at the busiest moment."""

    name: str
    per_second: float
    cost: Cost

    @property
    def cores(self) -> Cost:
        return self.cost.times(self.per_second / 1e6)


class Needs(NamedTuple):
    parts: list[Part]
    connections: int
    messages_per_second: float
    cores: Cost  # busy at the busiest moment
    processes: int  # of one core each, with the spare ones
    memory_gib: float
    database_cores: int
    database_gib: float  # kept for the whole retention
    redis_cores: int
    redis_gib: float
    bound_by: str  # what decides the number of processes
    reconnect_seconds: float  # everybody connecting anew, on all processes


def needs(costs: Costs, population: Population) -> Needs:
    parts = _parts(costs, population)
    cores = Cost()
    for part in parts:
        cores = cores.plus(part.cores)
    connections = math.ceil(population.users * population.online * population.devices)
    for_work = math.ceil(cores.server / population.utilisation)
    for_sockets = math.ceil(connections / population.connections_per_process)
    processes = max(for_work, for_sockets, 1) + population.spare
    return Needs(
        parts=parts,
        connections=connections,
        messages_per_second=_messages(population),
        cores=cores,
        processes=processes,
        memory_gib=(connections * costs.connection_kib + processes * costs.process_mib * 1024) / 2**20,
        database_cores=max(1, math.ceil(cores.database / population.utilisation)),
        database_gib=(
            population.users * population.messages_per_user_day * population.retention_days * costs.message_bytes
        )
        / 2**30,
        redis_cores=max(1, math.ceil(cores.redis / population.utilisation)),
        redis_gib=connections * costs.redis_connection_kib / 2**20,
        bound_by="processor" if for_work >= for_sockets else "connections",
        reconnect_seconds=connections * costs.connect.server / 1e6 / processes,
    )


def _messages(population: Population) -> float:
    """A second, in the busiest seconds."""
    return population.users * population.messages_per_user_day * population.peak_hour / HOUR * population.burst


def _parts(costs: Costs, population: Population) -> list[Part]:
    connections = population.users * population.online * population.devices
    connects = connections / (population.session_minutes * 60)
    messages = _messages(population)
    others = max(population.deliveries - 1, 0)  # each may be at another process: the dear case
    return [
        Part("idle connections, a second of each", connections, costs.idle_second),
        Part("connects", connects, costs.connect),
        Part("pages of history", connects * population.history_pages, costs.history),
        Part("durable messages", messages, costs.message),
        Part("messages to other processes", messages * others, costs.across),
        Part("deliveries beyond two", messages * max(population.deliveries - 2, 0), costs.delivery),
        Part("read receipts", messages * population.receipts, costs.receipt),
    ]
