"""Counts the hub connections of this process by kind and condition, and the bytes in their send queues.

Owns the walk over all of them, which yields to the event loop: a walk over 15,000 connections must not block it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Collection
from enum import Enum
from typing import TypeVar

import trio
from msgspec import Struct, field

from server.hub.connection import HubConnection
from server.protocol.signalr.stateful_reconnect import State

CHUNK = 250  # connections visited in one scheduler step: one or two milliseconds


T = TypeVar("T")


class Condition(str, Enum):  # noqa: UP042 - msgspec writes it as its value
    """The condition of a hub connection."""

    HANDSHAKE = "handshake"  # has not sent its handshake
    OPEN = "open"
    BLOCKED = "blocked"  # the kernel's buffer is full: the client reads slowly, or not
    CATCHING_UP = "catching_up"  # left its rooms because its send queue was full; returns to them after its catch-up
    DETACHED = "detached"  # without a socket, waits for its client (stateful reconnect)
    CLOSING = "closing"  # has sent a close, waits for the client's


class Census(Struct):
    conditions: Counter[str] = field(default_factory=Counter)
    transports: Counter[str] = field(default_factory=Counter)
    protocols: Counter[str] = field(default_factory=Counter)
    send_queue_bytes: int = 0
    streams: int = 0


def condition_of(connection: HubConnection) -> Condition:
    if connection.message_buffer is not None and connection.message_buffer.state is State.DETACHED:
        return Condition.DETACHED
    if connection.closed:
        return Condition.CLOSING
    if connection.parser is None:
        return Condition.HANDSHAKE
    if connection.catching_up:
        return Condition.CATCHING_UP
    return Condition.BLOCKED if connection.send_queue.blocked else Condition.OPEN


async def walk(several: Collection[T]) -> AsyncIterator[T]:
    """Yield each item that is there now, with breaks; some may have ended before they are yielded."""
    for number, one in enumerate(list(several)):
        if number % CHUNK == CHUNK - 1:
            await trio.lowlevel.checkpoint()
        yield one


async def take_census(connections: Collection[HubConnection]) -> Census:
    census = Census()
    async for connection in walk(connections):
        census.conditions[condition_of(connection).value] += 1
        census.transports[connection.transport.kind] += 1
        census.protocols[connection.send_queue.encoding.protocol.name] += 1
        census.send_queue_bytes += connection.send_queue.size
        census.streams += len(connection.streams or ())
    return census
