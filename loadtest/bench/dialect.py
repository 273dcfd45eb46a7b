"""How a server is spoken to by pairs of people: what opens a connection, what a message is, what an answer means.

Owns what a dialect is, and the hub's own; those of other servers are in `loadtest.peers.dialects`.
"""

import json
from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

from loadtest.bench.sockets import SEPARATOR
from server.protocol.signalr import handshake

ACKNOWLEDGED, DELIVERED, REFUSED = 1, 2, 4  # meanings; both of the first two, or none: 0
FILLING = b"xxxxxxxx"  # a message is x's, and its number


class Seat(NamedTuple):
    """A user and their one conversation, by the ids of this server."""

    user: str
    conversation: str


class Sign(NamedTuple):
    """What a text of the server means that begins with `first` and has `within` in it, and after what the number of
    the message stands that it is about."""

    meaning: int
    first: bytes
    within: bytes = b""
    before: bytes = b""


Joining = Generator[bytes, bytes, None]


class Dialect(Protocol):
    @property
    def separator(self) -> bytes:
        """Between the texts in one WebSocket message; none: it is one."""

    @property
    def signs(self) -> Sequence[Sign]:
        """The first that fits counts; a text that none fits means nothing."""

    def target(self, seat: Seat) -> str:
        """What the WebSocket asks for."""

    def headers(self, seat: Seat) -> dict[str, str]: ...

    def join(self, seat: Seat) -> Joining:
        """What is said until the connection takes part: each text that is yielded is sent (an empty one is not), and
        the next message of the server is its answer."""

    def message(self, seat: Seat, number: int, key: str, content: str) -> bytes:
        """The text of one message to the conversation; the number is in the answer, and the key is a UUID."""


def ask(text: bytes, answer: bytes) -> Joining:
    """Send the text, and read up to a message with this in it."""
    while answer not in (yield text):
        text = b""


class Hub:
    """Parley: SignalR's JSON."""

    separator = SEPARATOR
    signs = (
        Sign(REFUSED, b'{"type":3', b'"error":'),
        Sign(ACKNOWLEDGED, b'{"type":3', before=b'"invocationId":"'),
        Sign(DELIVERED, b'{"type":1', b'"ReceiveMessage"', FILLING),
    )

    def target(self, seat: Seat) -> str:
        return "/hubs/chat"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {"Authorization": f"Bearer {seat.user}"}

    def join(self, seat: Seat) -> Joining:
        return ask(handshake.encode_request("json"), b"{}")

    def message(self, seat: Seat, number: int, key: str, content: str) -> bytes:
        body = {"conversationId": seat.conversation, "content": content, "clientMessageId": key}
        call = {"type": 1, "invocationId": str(number), "target": "SendMessage", "arguments": [body]}
        return json.dumps(call).encode() + SEPARATOR
