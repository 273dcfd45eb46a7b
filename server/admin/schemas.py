"""The schemas of the admin socket, shared by the instance and by the commands.

Owns nothing else, so that commands can import it without importing the server, and start quickly.
"""

from typing import Any
from uuid import UUID

from msgspec import Struct

from store.statistics import PoolStatistics


class Status(Struct):
    """The state of this instance."""

    name: str
    instance: str  # its id in Redis; empty while it is not registered
    pid: int
    version: str
    seconds: float  # since its start
    connections: int
    draining: bool
    hangs: str | None = None


class HealthView(Struct):
    """The full result of each check. For operators only, as results may contain addresses."""

    status: str
    checks: dict[str, str]
    version: str = ""  # of instances before it was added: empty


class InstanceView(Struct):
    """An instance that is registered in Redis."""

    instance: str
    alive: bool
    seconds: float  # since the last renewal of its lease
    users: int
    rooms: int
    this: bool


class ConnectionView(Struct):
    """One hub connection. Bytes are the kernel's counts for its TCP connection; None if it has none of its own."""

    connection: str
    user: UUID
    condition: str
    transport: str
    protocol: str
    seconds: float
    rooms: int
    send_queue: int
    bytes_in: int | None
    bytes_out: int | None
    rtt: float | None  # seconds


class Killed(Struct):
    """The result of ending a user's connections: their number here, and the other instances that were notified."""

    user: UUID
    connections: int
    others: list[str]
    registered: bool  # False: other instances could not be notified


class RoomView(Struct):
    conversation: UUID
    attached: int
    next_seq: int | None  # None while the room is being opened
    held: int  # changes that arrived before their predecessors
    repairing: bool


class PoolView(Struct):
    pool: str
    statistics: PoolStatistics


class Listing(Struct):
    """The first items, and the number of all."""

    total: int
    items: list[Any]


class Branch(Struct):
    """The tasks of one name under one parent. `idle`: WebSockets that they own and that have no task now."""

    name: str
    tasks: int = 0
    idle: int = 0
    waits_at: str = ""  # the line of our code in which the first of them waits
    children: list["Branch"] = []
