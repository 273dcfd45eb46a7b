"""How long threads wait for an S3, and how much they read: the calls of one transfer have a bound for the whole,
however its bytes trickle in, and each of its answers has one for its size.

Owns these bounds. botocore has a timeout for each read only, so an answer that comes byte by byte, or interim answers
without end, would keep a thread for ever. A transfer has `SPARE` seconds in threads besides those that its bytes take
at `LEAST_PACE`; then its connection is shut down, which ends the call in the thread, and what retries it. And botocore
reads all of an answer that is no content of an object, and makes a tree of it: no more is read of one than `ANSWER`
bytes, or what the caller expects. Touches the sockets of botocore's connections, by connection classes of ours.
"""

import http.client
import io
import os
import socket
import threading
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any, TypeVar

import trio
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

SPARE = 60.0  # seconds of a thread's time, for calls without a body or besides what its body takes
LEAST_PACE = 64 * 1024  # bytes per second that a body makes at least
MOST_INTERIM = 16  # answers that come before the one to a request
MOST_HEADERS = 100  # of an interim answer, as http.client has it
ANSWER = 64 * 1024  # bytes of an answer, with its head and what frames it, besides the content that is asked for

T = TypeVar("T")


class OutOfBounds(Exception):
    """The other side took too long for all of a transfer, or an answer of it is too long."""


class Transfer:
    """What goes over S3 as one thing: a call, a download, an upload with its parts. One call at a time.

    A context manager: at its end no connection is held on to. `spare`: seconds in threads that are left to it, besides
    those that its bytes take.
    """

    def __init__(self) -> None:
        self.spare = SPARE
        self._begun: float | None = None  # when the present call got its thread
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None  # a second one of the connection's socket, only to shut it down
        self._is_cut = False
        self._most = self._left = 0  # bytes of an answer, and of the present one
        self._is_flooded = False

    def __enter__(self) -> "Transfer":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._let_go()

    async def run(
        self,
        call: Callable[[], T],
        limiter: trio.CapacityLimiter,
        *,
        size: int = 0,
        answer: int = ANSWER,
        shield: bool = True,
        abandon: bool = False,
    ) -> T:
        """Return what `call` does, in a thread. `size`: the bytes of content that it moves at most; `answer`: those
        that are read of one answer.

        Time in the queue for a thread does not count. A caller that is cancelled waits for the end of the call; without
        `shield` that comes at once, as the connection is shut down. With `abandon` it leaves the thread to itself.
        Raises OutOfBounds, and what `call` does.
        """
        limit = self.spare + size / LEAST_PACE
        self._begun = None
        self._most = self._left = answer
        watch = trio.CancelScope(shield=shield)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, limit, watch)
                try:
                    work = self._work(call, limit)
                    result = await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=abandon)
                except trio.Cancelled:
                    self._cut()  # the thread that was left, if it was
                    raise
                finally:
                    watch.cancel()
        except BaseExceptionGroup as group:
            await trio.lowlevel.checkpoint_if_cancelled()
            fault: BaseException = group
            while isinstance(fault, BaseExceptionGroup):  # of one: what the call raised
                fault = fault.exceptions[0]
            if self._excess:
                raise OutOfBounds(self._excess) from fault
            raise fault from fault.__cause__
        if self._excess:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise OutOfBounds(self._excess)
        return result

    @property
    def _excess(self) -> str:
        """Why the transfer has ended; empty as long as it has not."""
        if self._is_flooded:
            return f"an answer is longer than {self._most // 1024} KiB"
        return f"it took {SPARE:g} s longer than at {LEAST_PACE // 1024} KiB/s" if self._is_cut else ""

    def _work(self, call: Callable[[], T], limit: float) -> Callable[[], T]:
        def work() -> T:
            _PRESENT.set(self)  # the thread has a copy of its caller's context
            self._begun = monotonic()
            try:
                return call()
            finally:
                self.spare = min(SPARE, limit - (monotonic() - self._begun))

        return work

    async def _watch(self, limit: float, scope: trio.CancelScope) -> None:
        with scope:
            try:
                while (left := limit - self._spent()) > 0:  # noqa: ASYNC110  # the thread may have begun meanwhile
                    await trio.sleep(left)
            finally:
                if not scope.cancel_called:
                    self._cut()

    def _spent(self) -> float:
        return 0.0 if self._begun is None else monotonic() - self._begun

    def hold(self, fileno: int) -> None:
        """Let the call go on over this socket, with another answer. Raises OSError when it may not any more."""
        with self._lock:
            if self._is_cut:
                raise TimeoutError("the transfer has taken too long")
            if self._is_flooded:
                raise ConnectionError("an answer was too long")
            self._let_go()
            self._handle = socket.socket(fileno=os.dup(fileno))
            self._left = self._most

    def count(self, size: int) -> None:
        """So many bytes of the answer were read. Raises OSError when these are too many."""
        self._left -= size
        if self._left < 0:
            self._is_flooded = True
            raise ConnectionError("the answer is too long")

    def _cut(self) -> None:
        with self._lock:
            self._is_cut = True
            if self._handle is not None:
                try:
                    self._handle.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it is closed already
            self._let_go()

    def _let_go(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


_PRESENT: ContextVar[Transfer | None] = ContextVar("transfer", default=None)


def _hold(sock: Any) -> None:
    transfer = _PRESENT.get()
    if transfer is not None and sock is not None:
        transfer.hold(sock.fileno())


class _CountedSocket:
    """A connection's socket, of which the transfer of its thread reads no more than it may."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def makefile(self, mode: str, buffering: int | None = None) -> Any:
        """Return the file from which http.client and botocore read answers."""
        counted = _CountedReader(self._sock.makefile(mode, 0))
        return counted if buffering == 0 else io.BufferedReader(counted)


class _CountedReader(io.RawIOBase):
    def __init__(self, raw: Any) -> None:
        super().__init__()
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        size: int | None = self._raw.readinto(buffer)
        transfer = _PRESENT.get()
        if transfer is not None and size:
            transfer.count(size)
        return size

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer before which there are few others."""

    _statuses = 0

    def _read_status(self) -> Any:
        self._statuses += 1
        if self._statuses > MOST_INTERIM:
            raise http.client.HTTPException("interim answers without end")
        return super()._read_status()  # type: ignore[misc]


class _Held:
    """A connection that the transfer of its thread can shut down, from its first byte, within TLS too; and of which it
    reads no answer that is too long."""

    response_class = _Response
    sock: Any

    def _new_conn(self) -> Any:
        made = super()._new_conn()  # type: ignore[misc]
        _hold(made)
        return made

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock = _CountedSocket(self.sock)

    def request(self, *args: Any, **kwargs: Any) -> Any:
        _hold(self.sock)  # None before the first request
        return super().request(*args, **kwargs)  # type: ignore[misc]

    def _consume_headers(self, fp: Any) -> None:
        """Read the headers after a 100. botocore's own way reads on for ever when the connection has ended."""
        for _ in range(MOST_HEADERS):
            line = fp.readline()
            if line == b"\r\n":
                return
            if not line:
                break
        raise http.client.HTTPException("an interim answer that does not end")


class _HTTPConnection(_Held, AWSHTTPConnection):  # type: ignore[misc]
    pass


class _HTTPSConnection(_Held, AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _HTTPPool(AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _HTTPConnection


class _HTTPSPool(AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _HTTPSConnection


def hold_connections(client: Any) -> None:
    """Have all connections of a new client be of our classes: it has no option for that."""
    client._endpoint.http_session._pool_classes_by_scheme.update(http=_HTTPPool, https=_HTTPSPool)
