"""What an instance shows of itself: connections, rooms, lanes, pools, and the other instances.

Owns the reading, into `shapes`. Changes nothing, and takes breaks where there may be many.
"""

import time
from collections.abc import Callable, Iterable
from heapq import nlargest
from uuid import UUID

import msgspec
import trio

from server import tcp_info
from server.admin.shapes import ConnectionView, Listing, RoomView
from server.hub.session import HubSession
from server.metrics.census import condition_of, walk
from server.rooms import Room, Rooms

ORDERS: dict[str, Callable[[ConnectionView], float]] = {
    "age": lambda view: view.seconds,
    "outbox": lambda view: view.outbox,
    "rooms": lambda view: view.rooms,
    "in": lambda view: view.bytes_in or 0,
    "out": lambda view: view.bytes_out or 0,
}


def view_connection(session: HubSession, now: float) -> ConnectionView:
    sock = getattr(session.carrier, "sock", None)  # the other carriers have none of their own
    info = None if sock is None else tcp_info.read(sock)
    return ConnectionView(
        connection=session.connection_id,
        user=session.user_id,
        condition=condition_of(session).value,
        transport=session.carrier.transport,
        protocol=session.outbox.encoding.protocol.name,
        seconds=round(now - session.opened_at, 1),
        rooms=len(session.rooms),
        outbox=session.outbox.size,
        bytes_in=info and info.received,
        bytes_out=info and info.sent,
        rtt=info and info.rtt,
    )


async def list_connections(
    sessions: Iterable[HubSession], *, user: UUID | None, order: str, limit: int, now: float
) -> Listing:
    mine = [session for session in sessions if user is None or session.user_id == user]
    views = [view_connection(session, now) async for session in walk(mine)]
    return Listing(len(views), nlargest(limit, views, key=ORDERS[order]))


async def list_rooms(rooms: Rooms, limit: int) -> Listing:
    """Those with the most connections."""
    every = rooms.all()
    await trio.lowlevel.checkpoint()
    largest = nlargest(limit, every, key=lambda room: len(room.attached))
    return Listing(len(every), [_view_room(room) for room in largest])


def _view_room(room: Room) -> RoomView:
    return RoomView(room.conversation_id, len(room.attached), room.next_seq, len(room.held or ()), room.repairing)


def encode(view: object) -> bytes:
    return msgspec.json.encode(view)


def renewed_ago(at: float) -> float:
    return round(max(0.0, time.time() - at), 1)
