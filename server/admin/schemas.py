"""What an instance answers its operators: the shapes that both sides of the admin socket know.

Owns nothing else: the commands start quickly because they import no server.
"""

from typing import Any
from uuid import UUID

from msgspec import Struct

from store.statistics import PoolStatistics


class Status(Struct):
    """This instance, in one line."""

    name: str
    instance: str  # its id in Redis; empty while there is no link
    pid: int
    version: str
    seconds: float  # since it is ready
    connections: int
    draining: bool
    hangs: str | None = None


class HealthView(Struct):
    """Each check's own words: for operators, as they may name addresses."""

    status: str
    checks: dict[str, str]


class InstanceView(Struct):
    """An instance that is registered in Redis."""

    instance: str
    alive: bool
    seconds: float  # since its lease was renewed
    users: int
    rooms: int
    this: bool


class ConnectionView(Struct):
    """One hub connection. Bytes are the kernel's count of its TCP connection; None where there is none of its own."""

    connection: str
    user: UUID
    condition: str
    transport: str
    protocol: str
    seconds: float
    rooms: int
    outbox: int
    bytes_in: int | None
    bytes_out: int | None
    rtt: float | None  # seconds


class Killed(Struct):
    """A user's connections have ended: how many here, and the other instances that were told to do the same."""

    user: UUID
    connections: int
    others: list[str]
    linked: bool  # else there may be others, which were not told


class RoomView(Struct):
    conversation: UUID
    attached: int
    next_seq: int | None  # None while it is being opened
    held: int  # changes that came ahead of their turn
    repairing: bool


class PoolView(Struct):
    pool: str
    statistics: PoolStatistics


class Listing(Struct):
    """The first of them, and how many there are."""

    total: int
    items: list[Any]


class Branch(Struct):
    """Tasks of one name under one parent."""

    name: str
    tasks: int = 0
    waits_at: str = ""  # where in our code; of the first one
    children: list["Branch"] = []
