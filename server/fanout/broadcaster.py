"""Tells many people many small things that are not kept: receipts that moved, people who came or went.

Owns the order of this work: person by person, so that a connection is flushed once whatever it hears, and with breaks,
so that a thousand people who come at once hold nobody up. Touches rooms and send queues. What does not fit is shed.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

import trio

from server.fanout.room import Subscriber
from server.fanout.rooms import Rooms
from server.protocol.signalr.encoding import Encoding
from server.transport.send_queue import Flusher, Verdict
from store.defects import guard

_guard = guard("ephemeral_events")

STEP = 1000  # things told in one scheduler step, to whomever: some 3 ms


class Broadcast(NamedTuple):
    """An event for everybody who has one of these conversations open, except for one user."""

    conversation_ids: Collection[UUID]
    event: str
    arguments: tuple[object, ...]
    but: UUID | None = None


class Broadcaster:
    def __init__(self, rooms: Rooms, flusher: Flusher) -> None:
        self._rooms = rooms
        self._flusher = flusher
        self._done = 0  # in this scheduler step

    async def tell(self, news: Sequence[Broadcast]) -> None:
        """Each thing once to each connection, in this order. Whoever has left everything meanwhile hears nothing."""
        audience = await self._audience(news)
        frames: dict[Encoding, dict[int, bytes]] = {}
        for session, numbers in audience.items():
            if session.rooms:
                try:
                    self._say(session, news, numbers, frames)
                except Exception as error:  # of this connection: it hears less, as it would if it read slowly
                    _guard.caught(error)
                await self._pause(len(numbers))

    async def _audience(self, news: Sequence[Broadcast]) -> dict[Subscriber, list[int]]:
        """Who is to hear which of the news, by their number."""
        audience: dict[Subscriber, list[int]] = {}
        for number, one in enumerate(news):
            rooms = [room for room in map(self._rooms.find, one.conversation_ids) if room is not None]
            heard = {session: None for room in rooms for session in room.attached if session.user_id != one.but}
            for session in heard:
                audience.setdefault(session, []).append(number)
            await self._pause(len(heard))
        return audience

    def _say(
        self,
        session: Subscriber,
        news: Sequence[Broadcast],
        numbers: list[int],
        frames: dict[Encoding, dict[int, bytes]],
    ) -> None:
        send_queue = session.send_queue
        made = frames.setdefault(send_queue.encoding, {})
        if send_queue.first is None:
            self._flusher.mark(send_queue)
        for number in numbers:
            frame = made.get(number)
            if frame is None:
                frame = made[number] = send_queue.encoding.event(news[number].event, news[number].arguments)
            if send_queue.offer(frame, ephemeral=True) is Verdict.SHED:
                self._rooms.shed += 1

    async def _pause(self, done: int) -> None:
        self._done += done
        if self._done >= STEP:
            self._done = 0
            await trio.lowlevel.checkpoint()
