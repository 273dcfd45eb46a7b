"""Send batches of ephemeral events to many connections: moved receipts, typing, and presence.

Owns the order of this work: connection by connection, so that each is flushed once for all its events, and with a
checkpoint after every `STEP` events, so that a thousand users who connect at once delay no other task. Touches rooms
and send queues. An event that does not fit into a send queue is shed; its connection is sent the latest state when the
queue has emptied (`server.fanout.recent_events`).
"""

from collections.abc import Collection, Iterator, Sequence
from uuid import UUID

import trio

from server.fanout.recent_events import Broadcast
from server.fanout.room import Subscriber
from server.fanout.rooms import Rooms
from server.protocol.signalr.encoding import Encoding
from server.transport.send_queue import Flusher, Verdict
from store.defects import guard
from store.ids import PackedIds

_guard = guard("ephemeral_events")

STEP = 1000  # events offered to connections in one scheduler step: some 3 ms
LOOKED = 10  # conversations of thousands that are looked up in the time of one of these


class Broadcaster:
    def __init__(self, rooms: Rooms, flusher: Flusher) -> None:
        self._rooms = rooms
        self._flusher = flusher
        self._done = 0  # in this scheduler step

    async def broadcast(self, broadcasts: Sequence[Broadcast]) -> None:
        """Offer each event once to each connection concerned, in the given order.

        A connection that has left all its rooms by the time its turn comes receives nothing now: it has ended, or is
        sent the latest state when it is back.
        """
        self._rooms.recent.begin(broadcasts)
        try:
            audience = await self._audience(broadcasts)
            frames: dict[Encoding, dict[int, bytes]] = {}
            for connection, numbers in audience.items():
                if self._rooms.is_anywhere(connection):
                    try:
                        self._offer(connection, broadcasts, numbers, frames)
                    except Exception as error:  # of this connection: it misses events, as one that reads slowly does
                        _guard.caught(error)
                    await self._pause(len(numbers))
        finally:
            self._rooms.recent.end()

    async def _audience(self, broadcasts: Sequence[Broadcast]) -> dict[Subscriber, list[int]]:
        """Return, for each connection, the indexes of the broadcasts that it should receive; inverted (negative) where
        it receives what comes `instead`."""
        audience: dict[Subscriber, list[int]] = {}
        for number, one in enumerate(broadcasts):
            receivers: dict[Subscriber, None] = {}
            for attached in self._attached(one.conversation_ids):
                for connection in attached:
                    if connection.user_id != one.but:
                        receivers[connection] = None
                await self._pause(1 + len(attached))
            if one.only is not None or (one.by is not None and self._rooms.blocks):
                blocks = self._rooms.blocks
                receivers = {each: None for each in receivers if one.concerns(each.user_id, blocks)}
            for connection in receivers:
                if one.is_open_to(connection.user_id, self._rooms.privacy):
                    audience.setdefault(connection, []).append(number)
                elif one.instead is not None:
                    audience.setdefault(connection, []).append(~number)
            await self._pause(len(receivers))
        return audience

    def _attached(self, conversation_ids: Sequence[UUID] | PackedIds) -> Iterator[Collection[Subscriber]]:
        """The connections that have these open, as each collection is asked for. Of thousands, most are not open here,
        or are latent together: they are looked up with few operations, and not one by one."""
        if not isinstance(conversation_ids, PackedIds):
            yield from map(self._rooms.audience, conversation_ids)
            return
        for some in conversation_ids.pieces(STEP):
            yield from self._rooms.audiences(some)
            self._done += len(some) // LOOKED

    def _offer(
        self,
        connection: Subscriber,
        broadcasts: Sequence[Broadcast],
        numbers: list[int],
        frames: dict[Encoding, dict[int, bytes]],
    ) -> None:
        send_queue = connection.send_queue
        made = frames.setdefault(send_queue.encoding, {})
        if send_queue.first is None:
            self._flusher.mark(send_queue)
        is_shed = False
        for number in numbers:
            one = broadcasts[max(number, ~number)]
            frame = made.get(number)
            if frame is None:
                arguments = one.arguments if number >= 0 else one.instead
                frame = made[number] = send_queue.encoding.event(one.event, arguments or ())
            if send_queue.offer(frame, ephemeral=True) is Verdict.SHED:
                self._rooms.shed += 1
                is_shed = is_shed or one.about is not None
        if is_shed:
            connection.shed()

    async def _pause(self, done: int) -> None:
        self._done += done
        if self._done >= STEP:
            self._done = 0
            await trio.lowlevel.checkpoint()
