"""Snapshots of connections and rooms for operators.

Owns the conversion into `schemas`. Changes nothing, and yields to the event loop while it walks over many objects.
"""

import time
from collections.abc import Callable, Collection
from heapq import heappush, heappushpop
from typing import Generic, TypeVar
from uuid import UUID

import msgspec

from server.admin.schemas import ConnectionView, Listing, RoomView
from server.fanout.room import Room
from server.fanout.rooms import Rooms
from server.hub.connection import HubConnection
from server.metrics.census import condition_of, walk
from server.transport import tcp_info
from store import positions

T = TypeVar("T")

ORDERS: dict[str, Callable[[ConnectionView], float]] = {
    "age": lambda view: view.seconds,
    "send_queue": lambda view: view.send_queue,
    "rooms": lambda view: view.rooms,
    "in": lambda view: view.bytes_in or 0,
    "out": lambda view: view.bytes_out or 0,
}


class _First(Generic[T]):
    """Collects the largest of many items during a walk, so that not all of them have to be kept and sorted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[float, int, T]] = []
        self._seen = 0

    def offer(self, size: float, one: T) -> None:
        self._seen += 1
        entry = (size, -self._seen, one)
        if len(self._heap) < self._limit:
            heappush(self._heap, entry)
        else:
            heappushpop(self._heap, entry)

    def listing(self) -> Listing:
        return Listing(self._seen, [one for _, _, one in sorted(self._heap, reverse=True)])


def view_connection(connection: HubConnection, rooms: Rooms, now: float) -> ConnectionView:
    sock = getattr(connection.transport, "sock", None)  # the other transports have none of their own
    info = None if sock is None else tcp_info.read(sock)
    return ConnectionView(
        connection=connection.connection_id,
        user=connection.user_id,
        condition=condition_of(connection).value,
        transport=connection.transport.kind,
        protocol=connection.send_queue.encoding.protocol.name,
        seconds=round(now - connection.opened_at, 1),
        rooms=rooms.count(connection),
        send_queue=connection.send_queue.size,
        bytes_in=info and info.received,
        bytes_out=info and info.sent,
        rtt=info and info.rtt,
    )


async def list_connections(
    connections: Collection[HubConnection], rooms: Rooms, *, user: UUID | None, order: str, limit: int, now: float
) -> Listing:
    first = _First[ConnectionView](limit)
    async for connection in walk(connections):
        if user is None or connection.user_id == user:
            view = view_connection(connection, rooms, now)
            first.offer(ORDERS[order](view), view)
    return first.listing()


async def list_rooms(rooms: Rooms, limit: int) -> Listing:
    """List the rooms with the most attached connections, and behind them those that are latent: to these few are."""
    first = _First[Room](limit)
    async for room in walk(rooms.all()):
        first.offer(len(room.attached), room)
    listing = first.listing()
    shown = [_view_room(room) for room in listing.items]
    for chunk in rooms.latent.chunks():
        for conversation_id, position in map(positions.unpack, chunk[: limit - len(shown)]):
            attached = len(rooms.audience(conversation_id))
            shown.append(RoomView(conversation_id, attached, position.cursor.seq + 1, 0, False))
        if len(shown) >= limit:
            break
    return Listing(listing.total + len(rooms.latent), shown)


def _view_room(room: Room) -> RoomView:
    return RoomView(room.conversation_id, len(room.attached), room.next_seq, len(room.held or ()), room.repairing)


def encode(view: object) -> bytes:
    return msgspec.json.encode(view)


def renewed_ago(at: float) -> float:
    return round(max(0.0, time.time() - at), 1)
