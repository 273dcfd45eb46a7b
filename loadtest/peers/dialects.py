"""How each server is spoken to: what opens a connection, what a message is, and what an answer means.

Owns the text on the wire and nothing else; the same driver drives them all.
"""

import base64
import json
import uuid
from collections.abc import Generator, Iterator
from typing import NamedTuple, Protocol

from server.protocol import websocket
from server.protocol.signalr import handshake

SEPARATOR = b"\x1e"
MASK = b"\x01\x02\x03\x04"  # any will do on loopback


class Answers(NamedTuple):
    """What one WebSocket message brought."""

    acknowledged: int = 0
    delivered: int = 0


class Refused(Exception):
    """The server answered a message with an error, which it says."""


class Seat(NamedTuple):
    """A user and their one conversation, by the ids of this server."""

    user: str
    conversation: str


Joining = Generator[bytes, bytes, None]


class Dialect(Protocol):
    def target(self, seat: Seat) -> str:
        """What the WebSocket asks for."""

    def headers(self, seat: Seat) -> dict[str, str]: ...

    def join(self, seat: Seat) -> Joining:
        """What is said until the connection takes part: each text that is yielded is sent (an empty one is not), and
        the next message of the server is its answer."""

    def message(self, number: int, seat: Seat, content: str) -> bytes:
        """The text of one message to the conversation."""

    def answers(self, data: bytes) -> Answers:
        """Raises Refused."""


def ask(text: bytes, answer: bytes) -> Joining:
    """Send the text, and read up to a message with this in it."""
    while answer not in (yield text):
        text = b""


class Hub:
    """Parley: SignalR's JSON."""

    def target(self, seat: Seat) -> str:
        return "/hubs/chat"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {"Authorization": f"Bearer {seat.user}"}

    def join(self, seat: Seat) -> Joining:
        return ask(handshake.encode_request("json"), b"{}")

    def message(self, number: int, seat: Seat, content: str) -> bytes:
        body = {"conversationId": seat.conversation, "content": content, "clientMessageId": str(uuid.uuid4())}
        call = {"type": 1, "invocationId": str(number), "target": "SendMessage", "arguments": [body]}
        return json.dumps(call).encode() + SEPARATOR

    def answers(self, data: bytes) -> Answers:
        acknowledged = delivered = 0
        for part in _parts(data):
            if part.startswith(b'{"type":3'):
                if b'"error"' in part:
                    raise Refused(part.decode())
                acknowledged += 1
            elif part.startswith(b'{"type":1') and b'"ReceiveMessage"' in part:
                delivered += 1
        return Answers(acknowledged, delivered)


def _parts(data: bytes) -> Iterator[bytes]:
    return (part for part in data.split(SEPARATOR) if part)


class AspNet(Hub):
    """The original's hub: the same JSON, another address, and a word of ours when the connection is in its groups."""

    def target(self, seat: Seat) -> str:
        return f"/chat?user={seat.user}"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {}

    def join(self, seat: Seat) -> Joining:
        return ask(handshake.encode_request("json"), b'"target":"Ready"')


class SocketIo:
    """Engine.IO 4 and Socket.IO 5 on a WebSocket from the start."""

    def target(self, seat: Seat) -> str:
        return f"/socket.io/?EIO=4&transport=websocket&user={seat.user}"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {}

    def join(self, seat: Seat) -> Joining:
        return ask(b"40", b'42["ready"]')

    def message(self, number: int, seat: Seat, content: str) -> bytes:
        return b"42%d" % number + json.dumps(["send", _body(seat, content)]).encode()

    def answers(self, data: bytes) -> Answers:
        if data.startswith(b"43"):
            if b'[{"error"' in data[:20]:
                raise Refused(data.decode())
            return Answers(acknowledged=1)
        return Answers(delivered=int(data.startswith(b'42["message"')))


class PlainJson:
    """One JSON object in each WebSocket message: the servers in Python."""

    def target(self, seat: Seat) -> str:
        return f"/ws?user={seat.user}"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {}

    def join(self, seat: Seat) -> Joining:
        return ask(b"", b'{"type": "ready"}')

    def message(self, number: int, seat: Seat, content: str) -> bytes:
        return json.dumps({"ack": number, **_body(seat, content)}).encode()

    def answers(self, data: bytes) -> Answers:
        if data.startswith(b'{"type": "error"'):
            raise Refused(data.decode())
        return Answers(int(data.startswith(b'{"type": "ack"')), int(data.startswith(b'{"type": "message"')))


class Centrifugo:
    """Its JSON protocol: commands and replies, one a line. The own copy comes as a publication, as to the other one."""

    def target(self, seat: Seat) -> str:
        return "/connection/websocket"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {}

    def join(self, seat: Seat) -> Joining:
        command = {"id": 1, "connect": {"data": {"user": int(seat.user)}}}
        return ask(json.dumps(command).encode(), b'"connect":{')

    def message(self, number: int, seat: Seat, content: str) -> bytes:
        channel, body = f"chat:{seat.conversation}", _body(seat, content)
        return json.dumps({"id": number + 1, "publish": {"channel": channel, "data": body}}).encode()

    def answers(self, data: bytes) -> Answers:
        acknowledged = delivered = 0
        for line in data.splitlines():
            if line.startswith(b'{"push":'):
                delivered += b'"pub":' in line
            elif b'"error":' in line:
                raise Refused(line.decode())
            else:
                acknowledged += b'"publish":' in line
        return Answers(acknowledged, delivered)


XMPP_OPEN = b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>"


class Xmpp:
    """XMPP over WebSocket (RFC 7395): a conversation is a room (XEP-0045) of two members, the first of whom owns it.

    A room sends each message to all in it, its sender, too, when it has archived it: that copy is the answer as well.
    """

    def target(self, seat: Seat) -> str:
        return "/ws"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {"Sec-WebSocket-Protocol": "xmpp"}

    def join(self, seat: Seat) -> Joining:
        plain = base64.b64encode(f"\0u{seat.user}\0secret".encode()).decode()
        sasl = f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>"
        resource = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>r</resource></bind>"
        yield from ask(XMPP_OPEN, b"<mechanism>PLAIN<")
        yield from ask(sasl.encode(), b"<success")
        yield from ask(XMPP_OPEN, b"urn:ietf:params:xml:ns:xmpp-bind")
        yield from ask(f"<iq xmlns='jabber:client' type='set' id='bind'>{resource}</iq>".encode(), b"<jid>")
        muc, room = "http://jabber.org/protocol/muc", _room(seat)
        enter = f"<presence xmlns='jabber:client' to='{room}/u{seat.user}'><x xmlns='{muc}'/></presence>"
        yield from ask(enter.encode(), b"<subject")  # after presence and history: the last thing on entering
        if int(seat.user) % 2 == 0:
            other = f"<item affiliation='member' jid='u{int(seat.user) + 1}@localhost'/>"
            admit = f"<query xmlns='{muc}#admin'>{other}</query>"
            admitted = f"<iq xmlns='jabber:client' type='set' id='admit' to='{room}'>{admit}</iq>"
            yield from ask(admitted.encode(), b"admit")

    def message(self, number: int, seat: Seat, content: str) -> bytes:
        head = f"xmlns='jabber:client' type='groupchat' to='{_room(seat)}' id='{uuid.uuid4()}'"
        return f"<message {head}><body>{content}</body></message>".encode()

    def answers(self, data: bytes) -> Answers:
        head = data.partition(b">")[0].replace(b'"', b"'")
        if not head.startswith(b"<message"):
            return Answers()
        if b"type='error'" in head:
            raise Refused(data.decode())
        whole = int(b"type='groupchat'" in head and b"<body>" in data)
        return Answers(whole, whole)


def _room(seat: Seat) -> str:
    return f"c{seat.conversation}@conference.localhost"


def _body(seat: Seat, content: str) -> dict[str, object]:
    return {"conversationId": int(seat.conversation), "content": content, "clientMessageId": str(uuid.uuid4())}


def frame(text: bytes) -> bytes:
    return websocket.encode_masked(websocket.TEXT, text, mask=MASK)
