"""Stateful reconnect: what makes one logical connection out of several sockets (docs/hub-protocol.md 5).

Owns the counters and the buffer of one connection: what we sent and the client has not acknowledged, what we have
received. Pure: no clock, no trio. Only hub messages of types 1 to 5 are counted, from 1 on, one counter in each
direction, never reset.

    live      at first nothing counted is sent until the client has said something (`awaits_client`)
              the socket is lost -> detached: nothing is sent; the connection waits for its client
    detached  a socket with the same id -> resuming: our Sequence and what is unacknowledged are sent; whatever the
              client says is ignored
    resuming  its Sequence -> live: the client repeats what it sent after that; what we had is dropped
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum, auto

import msgspec
from msgspec import Raw

from server.protocol.signalr.encoding import Encoding

BUFFER = 100_000  # bytes sent and not acknowledged; past it we wait (the reference server's default)
ACK_PERIOD = 1.0  # seconds between two Acks of ours, at most
RECEIVED = b"ReceiveMessage"


class State(Enum):
    LIVE = auto()
    DETACHED = auto()
    RESUMING = auto()


class SequenceError(Exception):
    """The client says it will go on after messages that we have never received."""


class Delivered(msgspec.Struct, frozen=True, rename="camel"):
    """What an acknowledged ReceiveMessage says of receipts."""

    conversation_id: str
    sender_id: str
    seq: int


class MessageBuffer:
    __slots__ = (
        "_arriving",
        "_first",
        "_unacknowledged",
        "acked",
        "awaits_client",
        "opened",
        "received",
        "size",
        "state",
    )

    def __init__(self) -> None:
        self.state = State.LIVE
        self.awaits_client = False  # it may not count yet what it gets: nothing counted is sent
        self.opened = False  # the connection is attached where it belongs; else that is done after the resume
        self.received = 0  # the last message of the client that we have worked on
        self.acked = 0  # the last one that we have acknowledged
        self.size = 0  # bytes in the buffer
        self._arriving = 0  # the number of the message that came last
        self._unacknowledged: deque[bytes] = (
            deque()
        )  # frames sent and not acknowledged; without a transport, bare messages
        self._first = 1  # the number of the first of them; of the next one, when there is none

    # -- what we send -----------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        return self.size > BUFFER

    @property
    def may_send(self) -> bool:
        """Whether counted messages may be sent now."""
        return not self.awaits_client and not self.full

    def record(self, encoding: Encoding, frames: Iterable[bytes]) -> None:
        """These are being sent, in this order."""
        for frame in frames:
            if encoding.is_counted(frame):
                self._unacknowledged.append(frame)
                self.size += len(frame)

    def acknowledge(self, number: int) -> list[bytes]:
        """Drop the frames that are not needed any more, as the client has everything up to `number`. Return them."""
        freed = []
        while self._unacknowledged and self._first <= number:
            freed.append(self._unacknowledged.popleft())
            self.size -= len(freed[-1])
            self._first += 1
        return freed

    def unframe(self, encoding: Encoding) -> None:
        """Take the messages out of their frames: the transport is gone, and the next one has a framing of its own."""
        self._keep(encoding.message(frame) for frame in self._unacknowledged)

    def replay(self, encoding: Encoding) -> tuple[int, list[bytes]]:
        """Frame what is unacknowledged for the new transport. Return the number for our Sequence, and the messages that
        follow it.
        """
        self._keep(encoding.frame(message) for message in self._unacknowledged)
        return self._first, list(self._unacknowledged)

    def _keep(self, frames: Iterable[bytes]) -> None:
        self._unacknowledged = deque(frames)
        self.size = sum(map(len, self._unacknowledged))

    # -- what we receive --------------------------------------------------------------------------

    def accept(self) -> bool:
        """A counted message has come. False: we had it before."""
        self._arriving += 1
        if self._arriving <= self.received:
            return False
        self.received = self._arriving
        return True

    @property
    def owes_ack(self) -> bool:
        return self.received > self.acked and self.state is State.LIVE

    def resume(self, number: int) -> None:
        """Take the client's Sequence: its next message has this number. Raises SequenceError."""
        if number > self.received + 1 or number < 1:
            raise SequenceError("Sequence ID greater than amount of messages we've received.")
        self._arriving = number - 1
        self.state = State.LIVE


class _JsonEvent(msgspec.Struct):
    arguments: list[Delivered]


_decode_json = msgspec.json.Decoder(_JsonEvent).decode
_decode_msgpack = msgspec.msgpack.Decoder(tuple[int, Raw, Raw, str, list[Delivered], Raw]).decode


def delivered(encoding: Encoding, frame: bytes) -> Delivered | None:
    """Return what a frame of ours delivers, if it is a ReceiveMessage."""
    payload = encoding.payload(frame)
    if RECEIVED not in payload[:64]:
        return None
    try:
        if encoding.protocol.binary:
            return _decode_msgpack(payload)[4][0]
        return _decode_json(payload[:-1]).arguments[0]
    except (msgspec.DecodeError, IndexError):
        return None
