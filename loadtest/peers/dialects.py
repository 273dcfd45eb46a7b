"""How each server but Parley is spoken to.

Owns the text on the wire and nothing else; the same driver drives them all.
"""

import base64
import json

from loadtest.bench.dialect import ACKNOWLEDGED, DELIVERED, FILLING, REFUSED, Hub, Joining, Seat, Sign, ask
from server.protocol.signalr import handshake


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

    separator = b""
    signs = (
        Sign(REFUSED, b"43", b'[{"error"'),
        Sign(ACKNOWLEDGED, b"43"),
        Sign(DELIVERED, b'42["message"', before=FILLING),
    )

    def target(self, seat: Seat) -> str:
        return f"/socket.io/?EIO=4&transport=websocket&user={seat.user}"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {}

    def join(self, seat: Seat) -> Joining:
        return ask(b"40", b'42["ready"]')

    def message(self, seat: Seat, number: int, key: str, content: str) -> bytes:
        return b"42%d" % number + json.dumps(["send", _body(seat, key, content)]).encode()


class PlainJson:
    """One JSON object in each WebSocket message: the servers in Python."""

    separator = b""
    signs = (
        Sign(REFUSED, b'{"type": "error"'),
        Sign(ACKNOWLEDGED, b'{"type": "ack"', before=b'"ack": '),
        Sign(DELIVERED, b'{"type": "message"', before=FILLING),
    )

    def target(self, seat: Seat) -> str:
        return f"/ws?user={seat.user}"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {}

    def join(self, seat: Seat) -> Joining:
        return ask(b"", b'{"type": "ready"}')

    def message(self, seat: Seat, number: int, key: str, content: str) -> bytes:
        return json.dumps({"ack": number, **_body(seat, key, content)}).encode()


class Centrifugo:
    """Its JSON protocol: commands and replies, one a line. The own copy comes as a publication, as to the other one."""

    separator = b"\n"
    signs = (
        Sign(DELIVERED, b'{"push":', b'"pub":', FILLING),
        Sign(0, b'{"push":'),
        Sign(REFUSED, b"", b'"error":'),
        Sign(ACKNOWLEDGED, b"", b'"publish":', b'"id":'),
    )

    def target(self, seat: Seat) -> str:
        return "/connection/websocket"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {}

    def join(self, seat: Seat) -> Joining:
        command = {"id": 1, "connect": {"data": {"user": int(seat.user)}}}
        return ask(json.dumps(command).encode(), b'"connect":{')

    def message(self, seat: Seat, number: int, key: str, content: str) -> bytes:
        channel, body = f"chat:{seat.conversation}", _body(seat, key, content)
        return json.dumps({"id": number, "publish": {"channel": channel, "data": body}}).encode()


XMPP_OPEN = b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>"


class Xmpp:
    """XMPP over WebSocket (RFC 7395): a conversation is a room (XEP-0045) of two members, the first of whom owns it.

    A room sends each message to all in it, its sender, too, when it has archived it: that copy is the answer as well.
    """

    separator = b""
    signs = (
        Sign(REFUSED, b"<message", b"type='error'"),
        Sign(REFUSED, b"<message", b'type="error"'),
        Sign(ACKNOWLEDGED | DELIVERED, b"<message", b"<body>", FILLING),
    )

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

    def message(self, seat: Seat, number: int, key: str, content: str) -> bytes:
        head = f"xmlns='jabber:client' type='groupchat' to='{_room(seat)}' id='{key}'"
        return f"<message {head}><body>{content}</body></message>".encode()


def _room(seat: Seat) -> str:
    return f"c{seat.conversation}@conference.localhost"


def _body(seat: Seat, key: str, content: str) -> dict[str, object]:
    return {"conversationId": int(seat.conversation), "content": content, "clientMessageId": key}
