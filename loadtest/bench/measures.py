"""Each budget of the socket path as one function: what it does, and what the server paid for it.

Owns the workloads. Every figure is processor time of the server process divided by what it did, in
microseconds, or its resident memory divided by its connections, in KiB.
"""

import itertools
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from loadtest.bench.dialect import Hub, Seat
from loadtest.bench.pairs import Pairs, PeerError
from loadtest.bench.people import Rest, User
from loadtest.bench.process import BenchError, Server
from loadtest.bench.sockets import SEPARATOR, Sockets, call, frame
from server.protocol import websocket

FAN = 2000  # sockets in the room
ECHOERS = 100  # sockets that echo at a time, each with
DEPTH = 4  # frames under way
PAIRS = 50  # direct conversations with one message under way each
BURST = 10
IDLE = 2000  # connections that do nothing but ping
INTERVAL = 1.0  # seconds between the pings of one, either way
STEPS = 20  # in which the clients' pings are sent, in each interval
SECONDS_AT_REST = 5  # of which the least counts
PER_HOUR = 240  # pings either way, as clients and servers have it
PAYLOAD = b"x" * 99
US, MS = 1e6, 1e3

_ids = itertools.count(1)


class Way(NamedTuple):
    """How a reference broadcasts: messages that come at a time, and the letter that says what is done with them."""

    burst: int
    kind: bytes


ONE_BY_ONE = Way(1, b"B")
BURSTS = Way(BURST, b"B")  # each message by a send of its own
TOGETHER = Way(BURST, b"G")  # those that have come together, by one


class Durable(NamedTuple):
    cost: float  # us
    database: float  # us of PostgreSQL
    rate: float  # messages/s
    p99: float  # ms, at half of that rate


class Crowd(NamedTuple):
    cost: float  # us of a delivery
    last: float  # ms from the sending of an event until it has come to all, the median


class Fan(NamedTuple):
    cost: float  # us of a delivery
    done: int  # deliveries


def _units(data: bytes) -> int:
    return data.count(SEPARATOR)


def echo(server: Server, seconds: float) -> float:
    """A plain echo of 100 bytes."""
    lean_client = Sockets(server.port)
    lean_client.connect(ECHOERS)
    request = frame(b"E" + PAYLOAD)
    return _ping_pong(server, lean_client, request, answer=len(PAYLOAD) + 3, seconds=seconds)


def invocation(server: Server, users: list[User], seconds: float) -> float:
    """The hub's no-op, with its completion."""
    lean_client = Sockets(server.port)
    lean_client.connect(ECHOERS, [user.token for user in users])
    lean_client.quiet()
    answer = len(b'xx{"type":3,"invocationId":"1","result":{}}\x1e')
    return _ping_pong(server, lean_client, frame(call("1", "Ping")), answer=answer, seconds=seconds)


def _ping_pong(server: Server, lean_client: Sockets, request: bytes, *, answer: int, seconds: float) -> float:
    pending: dict[socket.socket, int] = dict.fromkeys(lean_client.sockets, 0)
    done = 0

    def again(sock: socket.socket, data: bytes) -> None:
        nonlocal done
        whole, pending[sock] = divmod(pending[sock] + len(data), answer)
        done += whole
        if whole:
            sock.send(request * whole)

    for sock in lean_client.sockets:
        sock.send(request * DEPTH)
    spent, until = server.cpu(), time.monotonic() + seconds
    while time.monotonic() < until:
        lean_client.receive(again)
    spent = server.cpu() - spent
    lean_client.close()
    return spent / done * US


def fan_out(
    server: Server, seconds: float, *, size: int, ways: Sequence[Way], fan: int | None = None
) -> Iterator[float]:
    """A plain broadcast to `FAN` sockets, or so many, of as many bytes as an event of Parley has: what one delivery
    costs, in each way."""
    fan = fan or FAN
    lean_client = Sockets(server.port)
    lean_client.connect(fan)
    for way in ways:
        request = frame(way.kind + b"x" * (size - 1)) * way.burst
        expected = fan * way.burst * len(websocket.encode(websocket.TEXT, bytes(size)))
        spent, until, done = server.cpu(), time.monotonic() + seconds, 0
        while time.monotonic() < until:
            lean_client.sockets[0].send(request)
            lean_client.collect(expected, len)
            done += fan * way.burst
        yield (server.cpu() - spent) / done * US
    lean_client.close()


def room(
    server: Server, members: list[User], conversation: str, seconds: float, bursts: Sequence[int]
) -> Iterator[Fan]:
    """Messages to a conversation with `FAN` sockets in it, so many at a time, in all its cost but the database's."""
    lean_client = Sockets(server.port)
    lean_client.connect(FAN, [member.token for member in members])
    lean_client.quiet()
    message = {"conversationId": conversation, "content": PAYLOAD.decode()}
    for burst in bursts:
        spent, until, done = server.cpu(), time.monotonic() + seconds, 0
        while time.monotonic() < until:
            lean_client.sockets[0].send(
                frame(b"".join(call(str(next(_ids)), "SendMessage", message) for _ in range(burst)))
            )
            lean_client.collect(burst * (FAN + 1), _units)  # and the completions
            done += burst * FAN
        yield Fan((server.cpu() - spent) / done * US, done)
    lean_client.close()


def crowd(server: Server, members: list[User], conversation: str, seconds: float, size: int) -> Crowd:
    """Messages, one by one, to a conversation with `size` sockets in it; the same cost as in `room`."""
    lean_client = Sockets(server.port)
    lean_client.connect(size, [member.token for member in members])
    lean_client.quiet()
    body = {"conversationId": conversation, "content": PAYLOAD.decode()}
    took: list[float] = []
    spent, until = server.cpu(), time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        lean_client.sockets[0].send(frame(call(str(next(_ids)), "SendMessage", body)))
        lean_client.collect(size + 1, _units)  # and the completion
        took.append(1000 * (time.monotonic() - began))
    spent = server.cpu() - spent
    lean_client.close()
    return Crowd(spent / (len(took) * size) * US, percentile(took, 0.5))


def event_size(server: Server, pair: tuple[User, User, str]) -> int:
    """Bytes of the event that a message of one of these two is delivered as."""
    lean_client = Sockets(server.port)
    lean_client.connect(2, [pair[0].token, pair[1].token])
    lean_client.quiet()
    sizes: list[int] = []

    def note(sock: socket.socket, data: bytes) -> None:
        for message in websocket.Decoder(client=True).receive(data):
            if isinstance(message, websocket.Message) and b'"ReceiveMessage"' in message.data:
                sizes.append(len(message.data))

    lean_client.sockets[0].send(direct_message(pair[2]))
    while len(sizes) < 2 and lean_client.receive(note, 30):
        pass
    lean_client.close()
    if not sizes:
        raise BenchError("bench: a message was sent, and never came")
    return sizes[0]


def idle(server: Server, users: list[User], tokens: Sequence[str]) -> tuple[float, float]:
    """Connecting with each of these tokens, authenticated and attached: us of processor and KiB of memory for each."""
    warm = Sockets(server.port)
    warm.connect(50, [user.token for user in users])  # what is allocated once is not a connection's
    warm.quiet()
    memory, spent, count = server.memory(), server.cpu(), len(tokens)
    lean_client = Sockets(server.port)
    lean_client.connect(count, tokens)
    lean_client.quiet()
    cost, size = (server.cpu() - spent) / count * US, (server.memory() - memory) / count
    lean_client.close()
    warm.close()
    return cost, size


def opening(server: Server, users: list[User], tokens: Sequence[str]) -> float:
    """Connecting with each of these tokens until the server answers, when all their rooms are attached: us for each."""
    warm = Sockets(server.port)
    warm.connect(50, [user.token for user in users])
    warm.quiet()
    spent = server.cpu()
    lean_client = Sockets(server.port)
    lean_client.connect(len(tokens), tokens)
    for sock in lean_client.sockets:
        sock.send(frame(call("1", "Ping")))
    waiting = set(lean_client.sockets)

    def note(sock: socket.socket, data: bytes) -> None:
        if b'"type":3' in data:
            waiting.discard(sock)

    while waiting:
        if not lean_client.receive(note, 30):
            raise BenchError("bench: a connection was not answered")
    cost = (server.cpu() - spent) / len(tokens) * US
    lean_client.close()
    warm.close()
    return cost


def idle_hour(server: Server, tokens: Sequence[str], seconds: float) -> float:
    """What an hour of pings, either way, costs for one of `IDLE` connections that do nothing else: us.

    The server pings each `INTERVAL`. What the process spends without them is not theirs.
    """
    rest = by_itself(server.cpu)
    lean_client = Sockets(server.port)
    lean_client.connect(IDLE, tokens)
    _ping(lean_client, 3 * INTERVAL)
    spent, began = server.cpu(), time.monotonic()
    pings = _ping(lean_client, max(seconds, 4 * INTERVAL))
    spent = server.cpu() - spent - rest * (time.monotonic() - began)
    lean_client.close()
    return spent / (pings / 2) * PER_HOUR * US


def by_itself(cpu: Callable[[], float]) -> float:
    """What a process spends in a second in which it is not asked for anything: seconds, of which `cpu` returns the sum.

    The least of `SECONDS_AT_REST`: what a start leaves to be done takes longer than the start.
    """

    def second() -> float:
        spent, began = cpu(), time.monotonic()
        time.sleep(1)
        return (cpu() - spent) / (time.monotonic() - began)

    return min(second() for _ in range(SECONDS_AT_REST))


def _ping(lean_client: Sockets, seconds: float) -> int:
    """Ping from all sockets, evenly over each `INTERVAL`. Return how many pings went and came."""
    word, heard, sent = frame(b'{"type":6}' + SEPARATOR), 0, 0

    def note(sock: socket.socket, data: bytes) -> None:
        nonlocal heard
        heard += _units(data)

    start = time.monotonic()
    for step in range(int(STEPS * seconds / INTERVAL)):
        for sock in lean_client.sockets[step % STEPS :: STEPS]:
            sock.send(word)
            sent += 1
        while (wait := start + (step + 1) * INTERVAL / STEPS - time.monotonic()) > 0:
            lean_client.receive(note, wait)
    return sent + heard


def durable(server: Server, pairs: list[tuple[User, User, str]], seconds: float) -> Durable:
    """Direct messages: send, commit, completion, both sides' deliveries. Raises Unavailable without a C compiler."""
    seats = [(Seat(one.token, conversation), Seat(other.token, conversation)) for one, other, conversation in pairs]
    try:
        with closing(Pairs(server.port, Hub(), seats)) as talk:
            spent, at_database = server.cpu(), server.database_cpu()
            full = talk.saturate(seconds)
            spent, at_database = server.cpu() - spent, server.database_cpu() - at_database
            rate = full.sent / full.seconds
            [p99] = talk.paced(rate / 2, seconds).delays.percentiles((99,))
    except PeerError as error:
        raise BenchError(f"bench: {error}") from None
    return Durable(spent / full.sent * US, at_database / full.sent * US, rate, p99 * MS)


def direct_message(conversation: str) -> bytes:
    body = {"conversationId": conversation, "content": PAYLOAD.decode()}
    return frame(call(str(next(_ids)), "SendMessage", body))


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)]


def history(server: Server, rest: Rest, user: User, conversation: str, seconds: float) -> float:
    """A page of 50 messages, streamed over the hub."""
    for _ in range(50):
        rest.post("/api/messages", {"conversationId": conversation, "content": PAYLOAD.decode()}, user.token)
    lean_client = Sockets(server.port)
    lean_client.connect(1, [user.token])
    lean_client.quiet()
    spent, until, done = server.cpu(), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        lean_client.sockets[0].send(frame(call(str(next(_ids)), "StreamHistory", conversation, None, 50, kind=4)))
        lean_client.collect(51, _units)
        done += 1
    spent = server.cpu() - spent
    lean_client.close()
    return spent / done * US
