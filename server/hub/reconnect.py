"""Stateful reconnect: what is counted of a session's messages, and how its client comes back on another socket.

Owns the session's side of it; the counters are `server.protocol.signalr.stateful_reconnect`'s. `HubSession` is made
of this.
"""

from typing import cast
from uuid import UUID

import trio

from handlers.errors import ChatError
from server.hub.detached_queue import ReliableOutbox, Survival
from server.hub.invocations import Calls
from server.hub.ports import Carrier
from server.protocol import websocket
from server.protocol.signalr.codec import Parser
from server.protocol.signalr.encoding import Encoding
from server.protocol.signalr.messages import Ack, Close, HubMessage, Ping
from server.protocol.signalr.messages import Sequence as Sequence_
from server.protocol.signalr.stateful_reconnect import ACK_PERIOD, SequenceError, State, delivered
from server.transport.send_queue import RESUME_AT, Outbox
from store.errors import Overloaded
from store.redis.inbox_entries import Receipt


class Resumption(Calls):
    """A session that may outlive its carrier, where `reliable` is set."""

    __slots__ = (
        "encodings",
        "heard_at",
        "parser",
    )

    encodings: dict[str, Encoding]
    parser: Parser | None
    heard_at: float

    async def _resumed(self, reliable: Survival) -> None:
        """The client has said where it is."""
        raise NotImplementedError

    def _counts(self, reliable: Survival, message: HubMessage) -> bool:
        """Whether `message` is to be worked on: not what only concerns the counters, and nothing twice."""
        if isinstance(message, Sequence_):
            if reliable.state is not State.RESUMING:  # it begins each further socket, and comes at no other time
                self.end("A Sequence message came outside of a reconnect.", code=websocket.PROTOCOL_ERROR)
                return False
            try:
                reliable.resume(message.sequence_id)
            except SequenceError as error:
                self.end(str(error))
            else:
                self.carrier.start_soon(self._resumed, reliable)
            return False
        if reliable.state is not State.LIVE:
            return False
        if isinstance(message, Ack):
            self._acknowledged(reliable, message.sequence_id)
            return False
        if isinstance(message, (Ping, Close)):
            return True
        if reliable.received == reliable.acked:
            self.hub.wheel.hasten(self.carrier, self.hub.wheel.now + ACK_PERIOD)
        return reliable.accept()

    def _acknowledge(self, reliable: Survival) -> None:
        reliable.acked = reliable.received
        self._offer(self.outbox.encoding.ack(reliable.acked))
        self.outbox.flush()

    def _acknowledged(self, reliable: Survival, number: int) -> None:
        """Room is free again; and what the client has received is delivered, whether it says so or not (P6)."""
        newest: dict[str, int] = {}
        mine = str(self.user_id)
        for frame in reliable.acknowledge(number):
            found = delivered(self.outbox.encoding, frame)
            if found is not None and found.sender_id != mine:
                newest[found.conversation_id] = max(found.seq, newest.get(found.conversation_id, 0))
        for conversation_id, seq in newest.items():
            try:
                self.hub.receipts.offer(Receipt(UUID(conversation_id), self.user_id, seq, 0))
            except Overloaded:
                break  # the next one says it too
        self.outbox.flush()
        if self.outbox.size <= self.outbox.limit * RESUME_AT:
            self.on_drained()

    async def resume(self, carrier: Carrier, outbox: Outbox, encodings: dict[str, Encoding]) -> None:
        """The client is back, on another carrier, with `encodings`; should the old one not be lost yet, it is now.

        Raises ChatError("not_found") when the session has ended meanwhile.
        """
        reliable = self.reliable
        while reliable is not None and reliable.state is not State.DORMANT and not self.closed:
            self.carrier.abort("replaced by a new socket of the same connection")
            await reliable.dormant.wait()
        if reliable is None or self.closed:
            raise ChatError("not_found", "That connection has ended. Negotiate again.")
        self.hub.wheel.cancel(reliable)
        reliable.dormant = trio.Event()
        reliable.state = State.RESUMING
        shelf = self.outbox
        reliable.record(shelf.encoding, shelf.take())
        self.encodings, encoding = encodings, encodings[shelf.encoding.protocol.name]
        outbox.encoding, outbox.reserved = encoding, shelf.reserved
        self.carrier, self.outbox = carrier, outbox
        self.parser = encoding.protocol.parser(self.hub.max_message)
        self.heard_at = self.hub.wheel.now
        first, frames = reliable.replay(encoding)
        outbox.push(b"".join((encoding.sequence(first), *frames)))  # one piece: it is not recorded again
        cast(ReliableOutbox, outbox).reliable = reliable
