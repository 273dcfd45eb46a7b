"""store.objects.s3_connections: an S3 that answers drop by drop, or without end, keeps no thread for ever, and fills no
memory."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import trio

from store.errors import ObjectsUnavailable
from store.objects import s3_connections
from store.objects.s3 import BODIES, PART, S3Objects
from store.objects.s3_connections import ANSWER, LEAST_PACE, SPARE, Transfer
from tests.waiting import wait_until

WAIT = 60.0  # seconds
KEY = "k" * 32
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"

Behaviour = Callable[[bytes, trio.SocketStream], Awaitable[None]]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_connections, "SPARE", 0.3)
    monkeypatch.setattr(s3_connections, "LEAST_PACE", 2**40)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore tries again at once."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@asynccontextmanager
async def serving(behave: Behaviour, scheme: str = "http") -> AsyncIterator[S3Objects]:
    """An S3 that does this with each request; what it is sent first is given to it."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            while request := await stream.receive_some(65536):
                await behave(request, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            listener, *_ = await nursery.start(trio.serve_tcp, serve, 0)
            yield S3Objects("bucket", endpoint=f"{scheme}://127.0.0.1:{listener.socket.getsockname()[1]}")
            nursery.cancel_scope.cancel()


async def drip(stream: trio.SocketStream, piece: bytes) -> None:
    while True:
        await stream.send_all(piece)
        await trio.sleep(0.01)  # the pace of one who means to hold on


async def read_all(objects: S3Objects) -> bytes:
    return b"".join([piece async for piece in objects.read(KEY)])


async def drip_a_body(request: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(OK % 10**9)
    await drip(stream, b"x")


async def drip_a_last_body(request: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    await drip(stream, b"x")


async def drip_a_head(request: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nX: ")
    await drip(stream, b"x")


async def drip_a_record(request: bytes, stream: trio.SocketStream) -> None:
    await stream.send_all(b"\x16\x03\x03\x40\x00")
    await drip(stream, b"\0")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("behave", [drip_a_body, drip_a_last_body, drip_a_head, drip_a_record])
async def test_drop_by_drop(behave: Behaviour) -> None:
    """Reading ends, wherever in the answer it drips, and its thread is free for others."""
    async with serving(behave, "https" if behave is drip_a_record else "http") as objects:
        with pytest.raises(ObjectsUnavailable, match="longer than"):
            await read_all(objects)
        assert objects._bodies.borrowed_tokens == objects._calls.borrowed_tokens == 0


@pytest.mark.usefixtures("impatient")
async def test_writing_drop_by_drop() -> None:
    """What takes a file drop by drop is given up, too, and so is what should delete it."""

    async def behave(request: bytes, stream: trio.SocketStream) -> None:
        await trio.sleep(0.1)  # a small part of what there is to read

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(32 * 1024 * 1024)

    async with serving(behave) as objects:
        with pytest.raises(ObjectsUnavailable, match="longer than"):
            await objects.write(KEY, pieces(), "text/plain")
        assert objects._bodies.borrowed_tokens == objects._calls.borrowed_tokens == 0


@pytest.mark.parametrize("ends", [False, True])
async def test_interim_answers_without_end(ends: bool) -> None:
    """They are given up after some, and a connection that ends in one does not keep its thread."""
    connections = 0

    async def behave(request: bytes, stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        if ends:
            await stream.send_all(b"HTTP/1.1 100 Continue\r\n")
            await stream.aclose()
        else:
            while True:
                await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    async with serving(behave) as objects:
        for call in (objects.size, objects.delete):
            with pytest.raises(ObjectsUnavailable):
                await call(KEY)
    assert connections < 20  # with what botocore tries again


async def test_slow_files_keep_other_calls_waiting_for_nothing() -> None:
    """However many files drip, what is asked besides is answered."""
    begun = 0

    async def behave(request: bytes, stream: trio.SocketStream) -> None:
        nonlocal begun
        if request.startswith(b"GET"):
            begun += 1
            await drip_a_body(request, stream)
        await stream.send_all(OK % 5)

    async with serving(behave) as objects, trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(read_all, objects)
        await wait_until(lambda: begun >= BODIES)
        assert await objects.size(KEY) == 5
        nursery.cancel_scope.cancel()  # which ends what drips at once


async def test_what_keeps_the_pace_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that its bytes take at the least pace costs a transfer nothing, however long it is; what is slower does."""
    now = 0.0
    monkeypatch.setattr(s3_connections, "monotonic", lambda: now)
    limiter = trio.CapacityLimiter(1)

    async def move(seconds: float) -> float:
        def call() -> None:
            nonlocal now
            now += seconds

        await transfer.run(call, limiter, size=10 * LEAST_PACE)
        return transfer.spare

    with Transfer() as transfer:
        for _ in range(10):
            assert await move(10) == SPARE
        assert await move(30) == SPARE - 20
        assert await move(5) == SPARE - 15
        assert await move(1) == SPARE - 6
        assert await move(0) == SPARE


FLOOD = 32 * 1024 * 1024  # bytes that are sent, if they are taken
XML = b"<?xml version='1.0'?><ListBucketResult>"


class Flood:
    """An S3 whose answers begin so, and go on with `piece`. `taken`: bytes of one answer, as far as it was read."""

    def __init__(self, begin: bytes, piece: bytes) -> None:
        self._begin = begin
        self._piece = piece * (65536 // len(piece))
        self.taken = 0

    async def __call__(self, request: bytes, stream: trio.SocketStream) -> None:
        taken = len(self._begin)
        await stream.send_all(self._begin)
        while taken < FLOOD:
            await stream.send_all(self._piece)
            taken += len(self._piece)
            self.taken = max(self.taken, taken)


async def write_one(objects: S3Objects) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    await objects.write(KEY, pieces(), "text/plain")


async def list_all(objects: S3Objects) -> list[str]:
    return [key async for key in objects.list_before(datetime.now(UTC))]


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % FLOOD + XML, b"<Contents/>"),
        (b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n<Error>", b"<Code>x</Code>"),
        (b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", b"X-%s: x\r\n" % (b"x" * 6000)),
        (b"HTTP/1.1 100 ", b"x"),
        (b"HTTP/1.1 100 Continue\r\nX: ", b"x"),
        (b"HTTP/1.1 200 ", b"x"),
    ],
    ids=["a body", "an error", "chunks", "headers", "an interim status", "an interim header", "a status"],
)
@pytest.mark.parametrize("call", [write_one, list_all, read_all])
async def test_answers_without_end(begin: bytes, piece: bytes, call: Callable[[S3Objects], Awaitable[object]]) -> None:
    """Of an answer no more is read than it may have, whatever part of it is long: no memory is filled with it."""
    flood = Flood(begin, piece)
    async with serving(flood) as objects:
        if call is read_all and b" 200 OK\r\nContent-Length: %d" % FLOOD in begin:
            return  # content of an object has any length
        with pytest.raises(ObjectsUnavailable):
            await call(objects)
    assert flood.taken < FLOOD


async def test_content_has_any_length() -> None:
    """The bound of answers is none of content, which is read piece by piece."""
    size = 40 * ANSWER

    async def behave(request: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(OK % size + bytes(size))

    async with serving(behave) as objects:
        assert await read_all(objects) == bytes(size)


NONSENSE = {
    "nothing": (b"", b""),
    "an element": (b"", b"<x/>"),
    "deep": (b"", b"<Error>" + b"<a>" * 5000 + b"</a>" * 5000 + b"</Error>"),
    "no XML": (b"", b"<<<"),
    "a text": (b"", b"text"),
    "a list of nothing": (b"", XML + b"<Contents/><Upload/></ListBucketResult>"),
    "times": (b"", XML + b"<Contents><Key>k</Key><LastModified>1e400</LastModified></Contents></ListBucketResult>"),
    "a size": (b"", XML + b"<Contents><Key>k</Key><Size>x</Size></Contents></ListBucketResult>"),
    "no length": (b"Last-Modified: 99999999999999999999\r\n", b"<x/>"),
    "a number": (b"x-amz-mp-parts-count: x\r\nx-amz-meta-: x\r\n", b"<x/>"),
}


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found", b"500 Oh"])
@pytest.mark.parametrize(("headers", "body"), NONSENSE.values(), ids=NONSENSE)
async def test_nonsense(headers: bytes, body: bytes, status: bytes) -> None:
    """An answer that is none is an object store out of reach, or means what it says; it is no defect of ours."""

    async def behave(request: bytes, stream: trio.SocketStream) -> None:
        length = b"" if headers and b"HEAD" in request[:4] else b"Content-Length: %d\r\n" % len(body)
        shown = b"" if request.startswith(b"HEAD") else body
        head = b"HTTP/1.1 " + status + b"\r\n" + headers + length
        await stream.send_all(head + b"Connection: close\r\n\r\n" + shown)
        await stream.aclose()

    async def copy_one(objects: S3Objects) -> None:
        await objects.copy(KEY, KEY[::-1])

    async def write_much(objects: S3Objects) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(2):
                yield bytes(PART)

        await objects.write(KEY, pieces(), "text/plain")

    async def find_size(objects: S3Objects) -> None:
        await objects.size(KEY)

    async def delete_one(objects: S3Objects) -> None:
        await objects.delete(KEY)

    async with serving(behave) as objects:
        for call in (find_size, delete_one, copy_one, write_one, write_much, read_all, list_all):
            try:
                await call(objects)
            except (ObjectsUnavailable, FileNotFoundError):
                pass
