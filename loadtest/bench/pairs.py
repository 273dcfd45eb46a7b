"""Pairs of people who send each other direct messages, in any dialect.

Owns the sockets until everybody takes part, and then the process that drives them (`references/pairs.c`): as fast as
the server goes (closed loop), and at a given rate (open loop, latencies from when each message was due). That process
counts: each message has to be answered once, and to be delivered once to either side.
"""

import base64
import socket
import subprocess
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from loadtest.bench.dialect import Dialect, Seat
from loadtest.bench.process import compiled
from loadtest.bench.sockets import frame
from loadtest.histogram import Histogram
from server.protocol import websocket
from server.protocol.http1 import head as http_head

DRIVER = "pairs"
NUMBER = 9_999_999_999  # stands in a message where its number will be
KEY = "ffffffff-ffff-4fff-8fff-ffffffffffff"  # and its UUID
CONTENT = "x" * 89 + str(NUMBER)
PATIENCE = 10.0  # seconds without any answer, then the server counts as broken
BEHIND, FEW = 0.05, 10  # share and number of messages: with more under way at its end, a run was not kept up with
HOPELESS = 1.0  # seconds of messages
NS = 1e9
CANNOT_KEEP_UP, DRIVER_LATE = "cannot keep up", "the driver was late"
LENGTHS = {126: 2, 127: 8}  # bytes of the length of a frame, where it is not in the second one


class PeerError(Exception):
    """The server under comparison refused, or fell silent; the message says how."""


class Person:
    """One connection. No more is read from it than what belongs to joining: the rest is the driver's."""

    def __init__(self, port: int, seat: Seat) -> None:
        self.seat = seat
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = websocket.Decoder(client=True)

    def join(self, dialect: Dialect) -> None:
        """Raises PeerError."""
        try:
            self._open(dialect)
            self._take_part(dialect)
        except TimeoutError:
            raise PeerError(f"a connection was not let in within {PATIENCE:.0f} s") from None

    def _open(self, dialect: Dialect) -> None:
        key = base64.b64encode(b"0123456789abcdef")
        target, headers = dialect.target(self.seat), dialect.headers(self.seat)
        self._sock.sendall(http_head.client_request("127.0.0.1", target, key, headers))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(1)
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise PeerError(f"the server refused a WebSocket: {head[:200]!r}")

    def _take_part(self, dialect: Dialect) -> None:
        joining = dialect.join(self.seat)
        texts: list[bytes] = []
        text = next(joining)
        while True:
            if text:
                self._sock.sendall(frame(text))
            while not texts:
                events = self._decoder.receive(self._frame())
                texts = [event.data for event in events if isinstance(event, websocket.Message)]
            try:
                text = joining.send(texts.pop(0))
            except StopIteration:
                return

    def _frame(self) -> bytes:
        head = self._read(2)
        size = head[1] & 127
        if size in LENGTHS:
            head += self._read(LENGTHS[size])
            size = int.from_bytes(head[2:])
        return head + self._read(size)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._sock.recv(size - len(data))
            if not chunk:
                raise PeerError(f"the server closed a connection: {data!r}")
            data += chunk
        return data

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


class Measured(NamedTuple):
    sent: int
    seconds: float
    delays: Histogram
    client_cpu: float  # seconds of processor time that the driver took
    why: str = ""  # these delays are not what the server takes at this rate


class _Run(NamedTuple):
    """What the driver answers."""

    sent: int
    seconds: float
    cpu: float
    under_way: int  # when the last one had been sent
    late: int  # messages that were due and not sent then
    delays: Histogram


class Pairs:
    """`senders[i]` and `receivers[i]` share a conversation. Without a C compiler there are none: raises Unavailable,
    or PeerError."""

    def __init__(self, port: int, dialect: Dialect, seats: Sequence[tuple[Seat, Seat]]) -> None:
        self._dialect = dialect
        self._program = compiled(DRIVER)
        self.driver: subprocess.Popen[bytes] | None = None
        self.senders: list[Person] = []
        self.receivers: list[Person] = []
        try:
            for people, places in zip((self.senders, self.receivers), zip(*seats, strict=True), strict=True):
                for seat in places:
                    people.append(Person(port, seat))
                    people[-1].join(dialect)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.driver is not None:
            self.driver.kill()
            self.driver.communicate()
        for person in self.senders + self.receivers:
            person.close()

    def saturate(self, seconds: float) -> Measured:
        """Each sender sends the next when it has its answer and its own copy. Raises PeerError."""
        run = self._run(f"saturate {_ns(seconds)} {_ns(PATIENCE)}")
        return Measured(run.sent, run.seconds, run.delays, run.cpu)

    def paced(self, rate: float, seconds: float) -> Measured:
        """At this rate, in turn; how long from when each was due until it was delivered.

        A server that is `HOPELESS` behind is sent no more. All that was sent is waited for: what comes later would be
        taken for an answer to something else. Raises PeerError.
        """
        count, hopeless = int(rate * seconds), max(FEW, int(HOPELESS * rate))
        run = self._run(f"paced {_ns(1 / rate)} {count} {hopeless} {_ns(PATIENCE)}")
        most = min(hopeless, max(FEW, int(count * BEHIND)))
        why = CANNOT_KEEP_UP if run.under_way > most else DRIVER_LATE if run.late > most else ""
        return Measured(run.sent, seconds, run.delays, run.cpu, why)

    def _run(self, order: str) -> _Run:
        if self.driver is None:
            self.driver = self._started()
        assert self.driver.stdin is not None and self.driver.stdout is not None
        try:
            self.driver.stdin.write(f"{order}\n".encode())
            self.driver.stdin.flush()
        except BrokenPipeError:
            pass  # it says why
        what, _, said = self.driver.stdout.readline().partition(b" ")
        if what != b"done":
            why = said + self.driver.stdout.read() if what == b"error" else b"the driver ended"
            raise PeerError(why.decode(errors="replace").strip())
        sent, taken, cpu, under_way, late, count = (int(word) for word in said.split())
        delays = Histogram()
        found = array("Q")
        found.frombytes(self.driver.stdout.read(count * found.itemsize))
        for delay in found:
            delays.record(delay / NS)
        return _Run(sent, taken / NS, cpu / NS, under_way, late, delays)

    def _started(self) -> subprocess.Popen[bytes]:
        numbers = [person.fileno() for person in self.senders + self.receivers]
        driver = subprocess.Popen(
            [self._program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=numbers, bufsize=-1
        )
        assert driver.stdin is not None
        driver.stdin.write("".join(f"{line}\n" for line in self._plan()).encode())
        return driver

    def _plan(self) -> Iterator[str]:
        yield f"separator {ord(self._dialect.separator) if self._dialect.separator else -1}"
        for sign in self._dialect.signs:
            yield f"sign {sign.meaning} {_hex(sign.first)} {_hex(sign.within)} {_hex(sign.before)}"
        for sender, receiver in zip(self.senders, self.receivers, strict=True):
            text = self._dialect.message(sender.seat, NUMBER, KEY, CONTENT)
            whole = frame(text)
            start = len(whole) - len(text)
            key = text.find(KEY.encode())
            slots = [str(start + at) for at in _all(text, str(NUMBER).encode())]
            places = f"{start} {start + key if key >= 0 else -1} {' '.join(slots)}"
            yield f"pair {sender.fileno()} {receiver.fileno()} {_hex(whole)} {places}"
        yield "begin"


def _all(text: bytes, part: bytes) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + len(part))


def _hex(data: bytes) -> str:
    return data.hex() or "-"


def _ns(seconds: float) -> int:
    return round(seconds * NS)
