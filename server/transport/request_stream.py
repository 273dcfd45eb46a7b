"""The stream that the HTTP server reads from and writes to: the requests of one connection, parsed and rewritten.

Owns the socket while HTTP is spoken on it, and the reading of every request except the first one's head. So all
requests are parsed equally strictly, and an upgrade is found in whichever request it is. At an upgrade, or at input
that is not HTTP, the HTTP server sees the end of its input once it has answered the requests before; then the socket
goes back to the listener.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from socket import SHUT_WR, socket

import trio

from server.protocol.http1 import head as http_head
from server.protocol.http1.body import Body
from server.protocol.http1.head import BadRequest, Head
from server.transport.step_limit import StepLimit
from server.transport.tls import TlsSocket
from server.transport.unauthenticated import CROWDED, Stranger

RECEIVE = 65536  # bytes asked of the kernel at once
SEND_SLICE = 65536  # bytes of an HTTP answer that a client must take
SEND_STALL = 30.0  # seconds in which it must take a slice

AnySocket = socket | TlsSocket


class RequestStream(trio.abc.HalfCloseableStream):
    """A stream of one connection's requests, with the attribute `socket` that Hypercorn uses.

    After Hypercorn has finished with it, there are three outcomes. `upgrade` is set: a WebSocket was requested, with
    this head and the data after it. `fault` is set: the input is not valid HTTP. In both cases the socket is still
    open, and belongs to the listener again. If neither is set, it is closed.
    """

    def __init__(
        self,
        sock: AnySocket,
        head: Head | None = None,
        rest: bytes = b"",
        *,
        is_upgrade: Callable[[Head], bool] = lambda head: False,
        head_timeout: float = math.inf,
        stranger: Stranger | None = None,
        steps: StepLimit | None = None,
    ) -> None:
        """`head` and `rest`: the head of the first request, if it was read already, and the data after it."""
        self.socket = sock
        self.stranger = stranger
        self.waiting_since = trio.current_time()  # for a request to be complete; infinite while one is being answered
        self._keep_alive = math.inf  # seconds for which it may wait for one
        self.upgrade: tuple[Head, bytes] | None = None
        self.fault: BadRequest | None = None
        self._head = head
        self._buffer = rest
        self._body: Body | None = None  # of the request that is being read
        self._is_upgrade = is_upgrade
        self._head_timeout = head_timeout
        self._steps = steps
        self._head_until = math.inf  # when the next head must be complete
        self._patience = trio.CancelScope()  # of the read that waits for it
        self._request: trio.CancelScope | None = None  # of what ends with its client
        self._is_gone = False  # the client, or the HTTP server has ended
        self._held: bytes | None = None  # sent with what follows it; None: what is sent is sent at once
        self._idle = trio.Event()  # set while all requests are answered
        self._idle.set()
        self._is_answering = False  # a byte of the answer was sent
        self._is_over = False  # the HTTP server may neither read nor write any more

    # -- reading ----------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next piece of the current request, or the next request's head; empty at the end.

        Called by Hypercorn. Bodies are decoded and checked here (`server.protocol.http1.body`), and passed on as
        received. A fault becomes `fault`, for the listener to answer, unless an answer has begun already: then the
        connection can only end. In both cases Hypercorn sees the end of its input.
        """
        if self._buffer or self._head is not None or self._is_over:
            await trio.lowlevel.checkpoint()  # nothing is waited for
        try:
            while not self._is_over:
                if self._body is None:
                    return await self._next_request()
                if not (self._buffer or self._body.has_more):
                    self._buffer = await self._receive()
                    if not self._buffer:
                        return b""
                piece, self._buffer = self._body.feed(self._buffer)
                if self._body.done:
                    self._body = None
                if piece:
                    return piece
                await trio.lowlevel.checkpoint()
        except BadRequest as error:
            if not (self._is_over or self._is_answering):
                self.fault = error
            self._is_over = True
        return b""

    async def _next_request(self) -> bytes:
        """Return the rewritten head of the next request; empty at an upgrade, or at the end. Raise BadRequest."""
        head, self._head = self._head, None
        is_first = head is not None  # counted by the listener
        if head is None:
            head = await self._read_head()
            if head is None:
                return b""
        if self._is_upgrade(head):
            self.upgrade, self._buffer = (head, self._buffer), b""
            self._is_over = True
            return b""
        if not is_first and self.stranger is not None and not self.stranger.ask(head.headers):
            raise BadRequest(CROWDED, 429)
        self._idle = trio.Event()
        self.waiting_since = self._head_until = math.inf
        self._is_answering = False
        body = Body(head)
        self._body = None if body.done else body
        return http_head.rewritten(head)

    async def _read_head(self) -> Head | None:
        """Return the head of a later request, once those before it are answered. Raise BadRequest.

        Return None if the client has gone. Reading goes on while an answer is outstanding, so that a client that goes
        away is noticed; but a fault found meanwhile is raised only after that answer.
        """
        seen = 0  # bytes of the buffer
        while True:
            try:
                start, end = http_head.find_head(self._buffer, seen)
            except BadRequest:
                await self._idle.wait()
                raise
            if end:
                if not self._idle.is_set():
                    await self._idle.wait()
                if self._steps is not None:
                    await self._steps.wait()
                raw, self._buffer = self._buffer[start:end], self._buffer[end:]
                return None if self._is_over else http_head.parse_head(raw)
            seen = len(self._buffer)
            self._begin_head()
            with trio.CancelScope(deadline=self._deadline) as self._patience:
                data = await self._receive()
            if self._patience.cancelled_caught:
                if trio.current_time() < self._head_until:
                    return None  # it was idle for too long
                raise BadRequest("The request head was not received in time.", 408)
            if not data:
                return None
            self._buffer += data

    def _begin_head(self) -> None:
        """Start the timeout of a head, once its first bytes have arrived and earlier requests are answered."""
        if self._buffer and self._body is None and self._idle.is_set() and self._head_until == math.inf:
            self._head_until = trio.current_time() + self._head_timeout

    @property
    def _deadline(self) -> float:
        """The time until which the read of a head waits."""
        return min(self._head_until, self.waiting_since + self._keep_alive)

    async def _receive(self) -> bytes:
        has_waited = False
        while True:
            try:
                data = self._open().recv(RECEIVE)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.socket)
                has_waited = True
                continue
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from None
            if not has_waited:
                await trio.lowlevel.cancel_shielded_checkpoint()  # for others: a fast client has always sent more
            return data

    def answered(self) -> None:
        """Note that the HTTP server has answered, and waits for the next request."""
        self._is_answering = False
        self.waiting_since = trio.current_time()
        self._idle.set()
        self._begin_head()
        self._patience.deadline = self._deadline

    def keep_for(self, seconds: float) -> None:
        """End the connection when it has waited so long for a request. The HTTP server ends one that is answering."""
        self._keep_alive = seconds
        self._patience.deadline = self._deadline

    def watch(self, request: trio.CancelScope) -> None:
        """Cancel this when the client has gone."""
        self._request = request
        if self._is_gone:
            request.cancel()

    def gone(self) -> None:
        """Note that the client has gone: nothing more is read."""
        self._is_gone = True
        if self._request is not None:
            self._request.cancel()

    # -- writing ----------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send data in slices, each of which the client must take within `SEND_STALL`.

        A cancellation takes effect after the current slice. A send that does not complete ends the connection.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_over:
            return  # the listener answers
        held, self._held = self._held, None
        if held == b"":
            self._held = bytes(data)
            return
        view = memoryview(held + data if held else data)
        self._is_answering = self._is_answering or bytes(view[:10]) != b"HTTP/1.1 1"  # not by 100 Continue
        is_whole = False
        try:
            if held:  # a whole answer: the next request is read after a checkpoint
                view = view[self._send_now(view[:SEND_SLICE]) :]
            for start in range(0, len(view), SEND_SLICE):
                if start:
                    await trio.lowlevel.checkpoint_if_cancelled()
                with trio.CancelScope(deadline=trio.current_time() + SEND_STALL, shield=True) as patience:
                    await self._send(view[start : start + SEND_SLICE])
                if patience.cancelled_caught:
                    raise trio.BrokenResourceError("the client does not read")
            is_whole = True
        finally:
            if not is_whole:
                self.hang_up()

    def hold(self) -> None:
        """Send what is sent next together with what follows it."""
        self._held = b""

    def _send_now(self, view: memoryview) -> int:
        """Return how many bytes the kernel has taken."""
        try:
            return self._open().send(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from None

    async def _send(self, view: memoryview) -> None:
        while view:
            taken = self._send_now(view)
            view = view[taken:]
            if not taken:
                await trio.lowlevel.wait_writable(self.socket)
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._open())

    # -- ending -----------------------------------------------------------------------------------

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_over:
            with suppress(OSError):
                self._open().shutdown(SHUT_WR)

    async def aclose(self) -> None:
        if self.is_over:
            self.hang_up()
        await trio.lowlevel.checkpoint()

    def hang_up(self) -> None:
        """Close the socket at once, even while something is being sent."""
        self.upgrade = self.fault = None
        self._is_over = True
        self._idle.set()
        if isinstance(self.socket, TlsSocket):
            self.socket.close()
        elif self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    @property
    def is_over(self) -> bool:
        """Return True if the connection has ended. Otherwise the listener gets the socket back from the HTTP server."""
        return self.upgrade is None and self.fault is None

    def _open(self) -> AnySocket:
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")
        return self.socket


class SecureRequestStream(RequestStream):
    """The same over TLS: its requests have the scheme https."""
