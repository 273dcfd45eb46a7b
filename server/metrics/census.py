"""The sessions of this process, counted: how many of each kind and state, and what waits in their outboxes.

Owns the walk over all of them, which takes breaks: 15,000 sessions must not hold the loop.
"""

from collections import Counter
from collections.abc import AsyncIterator, Collection
from enum import Enum
from typing import TypeVar

import trio
from msgspec import Struct, field

from server.hub.connection import HubSession
from server.protocol.signalr.stateful_reconnect import State

CHUNK = 250  # sessions looked at in one scheduler step: one or two milliseconds


T = TypeVar("T")


class Condition(str, Enum):  # noqa: UP042 - msgspec writes it as its value
    """What a session is at."""

    HANDSHAKE = "handshake"  # has not said which protocol it speaks
    OPEN = "open"
    BLOCKED = "blocked"  # the kernel's buffer is full: the client reads slowly, or not
    CATCHING_UP = "catching_up"  # left its rooms because its outbox was full; is being brought back
    DORMANT = "dormant"  # without a socket, waits for its client (stateful reconnect)
    CLOSING = "closing"  # has said goodbye, waits for the answer


class Census(Struct):
    conditions: Counter[str] = field(default_factory=Counter)
    transports: Counter[str] = field(default_factory=Counter)
    protocols: Counter[str] = field(default_factory=Counter)
    outbox_bytes: int = 0
    streams: int = 0


def condition_of(session: HubSession) -> Condition:
    if session.reliable is not None and session.reliable.state is State.DORMANT:
        return Condition.DORMANT
    if session.closed:
        return Condition.CLOSING
    if session.parser is None:
        return Condition.HANDSHAKE
    if session.catching_up:
        return Condition.CATCHING_UP
    return Condition.BLOCKED if session.outbox.blocked else Condition.OPEN


async def walk(several: Collection[T]) -> AsyncIterator[T]:
    """Each of those that are there now; some may have ended when their turn comes."""
    for number, one in enumerate(list(several)):
        if number % CHUNK == CHUNK - 1:
            await trio.lowlevel.checkpoint()
        yield one


async def take_census(sessions: Collection[HubSession]) -> Census:
    census = Census()
    async for session in walk(sessions):
        census.conditions[condition_of(session).value] += 1
        census.transports[session.carrier.transport] += 1
        census.protocols[session.outbox.encoding.protocol.name] += 1
        census.outbox_bytes += session.outbox.size
        census.streams += len(session.streams or ())
    return census
