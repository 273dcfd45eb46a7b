"""Pairs of people who send each other direct messages, on one epoll loop, in any dialect.

Owns the sockets and the two workloads: as fast as the server goes (closed loop), and at a given rate (open loop,
latencies from when each message was due).
"""

import base64
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from loadtest.histogram import Histogram
from loadtest.peers.dialects import Dialect, Refused, Seat, frame
from server.protocol import websocket
from server.protocol.http1 import head as http_head

CONTENT = "x" * 99
READ_SIZE = 65536  # bytes
PATIENCE = 10.0  # seconds without any answer, then the server counts as broken
BEHIND, FEW = 0.05, 10  # share and number of messages: with more under way at its end, a run was not kept up with
HOPELESS = 1.0  # seconds of messages
LOOK_EVERY = 10  # messages
CANNOT_KEEP_UP, DRIVER_LATE = "cannot keep up", "the driver was late"


class PeerError(Exception):
    """The server under comparison refused, or fell silent; the message says how."""


class Person:
    """One connection."""

    __slots__ = ("_decoder", "_sock", "answered", "due", "seat")

    def __init__(self, sock: socket.socket, seat: Seat) -> None:
        self._sock = sock
        self._decoder = websocket.Decoder(client=True)
        self.seat = seat
        self.answered = 0  # of the two that a sender waits for: the answer, and its own delivery
        self.due: deque[float] = deque()  # of messages under way to this one

    def receive(self) -> list[bytes]:
        """Raises PeerError."""
        data = self._sock.recv(READ_SIZE)
        if not data:
            raise PeerError("the server closed a connection")
        return self.decode(data)

    def decode(self, data: bytes) -> list[bytes]:
        events = self._decoder.receive(data)
        return [bytes(event.data) for event in events if isinstance(event, websocket.Message)]

    def send(self, text: bytes) -> None:
        self._sock.send(frame(text))

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


class Measured(NamedTuple):
    sent: int
    seconds: float
    delays: Histogram
    why: str = ""  # these delays are not what the server takes at this rate


class Pairs:
    """`senders[i]` and `receivers[i]` share a conversation."""

    def __init__(self, port: int, dialect: Dialect, seats: Sequence[tuple[Seat, Seat]]) -> None:
        self._dialect = dialect
        self._poll = select.epoll()
        self._people: dict[int, Person] = {}
        self._number = 0
        self.senders = [self._join(port, one) for one, _ in seats]
        self.receivers = [self._join(port, other) for _, other in seats]

    def _join(self, port: int, seat: Seat) -> Person:
        sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        person = Person(sock, seat)
        dialect = self._dialect
        key = base64.b64encode(b"0123456789abcdef")
        sock.sendall(http_head.client_request("127.0.0.1", dialect.target(seat), key, dialect.headers(seat)))
        rest = _upgraded(sock)
        self._take_part(person, person.decode(rest))
        sock.setblocking(False)
        self._poll.register(person.fileno(), select.EPOLLIN)
        self._people[person.fileno()] = person
        return person

    def _take_part(self, person: Person, texts: list[bytes]) -> None:
        """Raises PeerError."""
        joining = self._dialect.join(person.seat)
        text = next(joining)
        try:
            while True:
                if text:
                    person.send(text)
                while not texts:
                    texts = person.receive()
                text = joining.send(texts.pop(0))
        except StopIteration:
            return
        except TimeoutError:
            raise PeerError(f"a connection was not let in within {PATIENCE:.0f} s") from None

    def close(self) -> None:
        self._poll.close()
        for person in self._people.values():
            person.close()

    def saturate(self, seconds: float) -> Measured:
        """Each sender sends the next when it has its answer and its own copy. Raises PeerError."""
        sending = dict.fromkeys(self.senders)
        delays = Histogram()
        begin = time.monotonic()
        sent = done = delivered_to_others = 0
        for person in self.senders:
            person.answered = 0
            person.due.append(time.monotonic())
            self._say(person)
            sent += 1

        def took(person: Person, acknowledged: int, delivered: int) -> None:
            nonlocal sent, done, delivered_to_others
            if person not in sending:
                delivered_to_others += delivered
                return
            person.answered += acknowledged + delivered
            if person.answered >= 2:
                person.answered -= 2
                done += 1
                now = time.monotonic()
                delays.record(now - person.due.popleft())
                if now < begin + seconds:
                    person.due.append(now)
                    self._say(person)
                    sent += 1

        while done < sent or delivered_to_others < sent:
            if not self._receive(took, PATIENCE):
                missing = f"{sent - done} messages were not answered, {sent - delivered_to_others} not delivered"
                raise PeerError(f"{missing} within {PATIENCE:.0f} s")
        return Measured(done, time.monotonic() - begin, delays)

    def paced(self, rate: float, seconds: float) -> Measured:
        """At this rate, in turn; how long from when each was due until it was delivered.

        A server that is `HOPELESS` behind is sent no more. All that was sent is waited for: what comes later would be
        taken for an answer to something else. Raises PeerError.
        """
        delays = Histogram()
        receiving = dict.fromkeys(self.receivers)
        under_way = late = 0

        def took(person: Person, acknowledged: int, delivered: int) -> None:
            nonlocal under_way
            if person in receiving:
                now = time.monotonic()
                for _ in range(delivered):
                    delays.record(now - person.due.popleft())
                    under_way -= 1

        begin = time.monotonic()
        count = int(rate * seconds)
        hopeless = max(FEW, int(HOPELESS * rate))
        sent = 0
        while sent < count and max(under_way, late) <= hopeless:
            due = begin + sent / rate
            while (wait := due - time.monotonic()) > 0:
                self._receive(took, wait)
            if sent % LOOK_EVERY == 0:
                self._receive(took, 0)  # a sender that is late reads nevertheless
            pair = sent % len(self.senders)
            self.receivers[pair].due.append(due)
            self._say(self.senders[pair])
            sent += 1
            under_way += 1
            late = int((time.monotonic() - due) * rate)
        most = max(FEW, int(count * BEHIND))
        why = CANNOT_KEEP_UP if under_way > most else DRIVER_LATE if late > most else ""
        while under_way:
            if not self._receive(took, PATIENCE):
                raise PeerError(f"{under_way} messages were not delivered within {PATIENCE:.0f} s")
        return Measured(sent, seconds, delays, why)

    def _say(self, person: Person) -> None:
        self._number += 1
        person.send(self._dialect.message(self._number, person.seat, CONTENT))

    def _receive(self, took: Callable[[Person, int, int], None], timeout: float) -> bool:
        """Whatever is there. False when nothing came in time."""
        ready = self._poll.poll(timeout)
        for number, _ in ready:
            person = self._people[number]
            for text in person.receive():
                try:
                    acknowledged, delivered = self._dialect.answers(text)
                except Refused as error:
                    raise PeerError(f"a message was refused: {error}") from None
                took(person, acknowledged, delivered)
        return bool(ready)


def _upgraded(sock: socket.socket) -> bytes:
    """Read the head of the answer; returns what came after it. Raises PeerError."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = sock.recv(READ_SIZE)
        if not chunk:
            raise PeerError(f"the server closed a connection: {data[:200]!r}")
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    if b" 101 " not in head.partition(b"\r\n")[0]:
        raise PeerError(f"the server refused a WebSocket: {head[:200]!r}")
    return rest
