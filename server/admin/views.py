"""What an instance shows of itself: connections, rooms, lanes, pools, and the other instances.

Owns the reading, into `shapes`. Changes nothing, and takes breaks where there may be many.
"""

import socket
import struct
import time
from collections.abc import Callable, Iterable
from heapq import nlargest
from uuid import UUID

import msgspec
import trio

from server.admin.shapes import ConnectionView, Listing, RoomView
from server.hub.session import HubSession
from server.metrics.census import condition_of, walk
from server.rooms import Room, Rooms

TCP_INFO_SIZE = 232
_BYTES = struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received (linux/tcp.h)
_BYTES_AT = 120
_RTT = struct.Struct("=I")  # tcpi_rtt, microseconds
_RTT_AT = 68


ORDERS: dict[str, Callable[[ConnectionView], float]] = {
    "age": lambda view: view.seconds,
    "outbox": lambda view: view.outbox,
    "rooms": lambda view: view.rooms,
    "in": lambda view: view.bytes_in or 0,
    "out": lambda view: view.bytes_out or 0,
}


def view_connection(session: HubSession, now: float) -> ConnectionView:
    received, sent, rtt = _kernel_counts(session.carrier)
    return ConnectionView(
        connection=session.connection_id,
        user=session.user_id,
        condition=condition_of(session).value,
        transport=session.carrier.transport,
        protocol=session.outbox.encoding.protocol.name,
        seconds=round(now - session.opened_at, 1),
        rooms=len(session.rooms),
        outbox=session.outbox.size,
        bytes_in=received,
        bytes_out=sent,
        rtt=rtt,
    )


def _kernel_counts(carrier: object) -> tuple[int | None, int | None, float | None]:
    """What the kernel counts anyway costs no connection a byte or a cycle."""
    sock = getattr(carrier, "sock", None)
    if sock is None:
        return None, None, None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    except OSError:
        return None, None, None
    if len(info) < _BYTES_AT + _BYTES.size:
        return None, None, None
    sent, received = _BYTES.unpack_from(info, _BYTES_AT)
    return received, sent, _RTT.unpack_from(info, _RTT_AT)[0] / 1e6


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
