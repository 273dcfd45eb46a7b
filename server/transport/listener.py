"""Accept connections, read the first request head of each, and pass it to the WebSocket or the HTTP side.

Owns the routing of connections, and the limits on them. Upgrades go to the raw socket path
(`server.transport.websocket`), everything else to Hypercorn's HTTP server, through a stream that returns the socket
here when a later request is an upgrade. A head is always consumed into a prefix rather than peeked at, so that whole
and split heads take one path.
"""

import errno
import math
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Final, Protocol

import structlog
import trio

from server.config.trusted_proxies import Proxies, new_request_id
from server.protocol.http1 import head as http_head
from server.protocol.http1.head import BadRequest, Head
from server.transport.refusal import Refusal, bad_request
from server.transport.request_stream import SEND_STALL, AnySocket, RequestStream, SecureRequestStream
from server.transport.sockets import host_of, peer
from server.transport.step_limit import StepLimit
from server.transport.tls import Certificate, TlsSocket
from server.transport.unauthenticated import CROWDED, Stranger, UnauthenticatedConnections
from store.defects import guard

ACCEPT_BATCH = 4  # accepted in one scheduler step: as many are at each of the steps that follow, which others wait for
COURTESY = 0.001  # seconds of delay per doubling of the open connections: more than the jitter of a busy scheduler
FULL_COURTESY = 0.25  # seconds of delay at the limit; connections that no sibling accepted by then are refused
ACCEPT_PAUSE = 0.5  # seconds without accepting when descriptors run out
LINGER = 2.0  # seconds to let a refused client read its answer
_TASK_NAME = "connection"  # one string for all of them
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Service = Coroutine[Any, Any, Any]  # serves a connection; what it returns, if anything, serves it from then on
LIVES_ON: Final = True  # what is returned by a service that the connection outlives: it closes it, and says so

_guard = guard("listener")

log = structlog.get_logger("parley.listener")


class Upgrades(Protocol):
    """Serves WebSockets on the raw socket (`server.hub.transports`)."""

    def takes(self, head: Head) -> bool:
        """Return True if this side answers the upgrade request; otherwise it is served as plain HTTP."""

    async def admit(self, sock: AnySocket, head: Head, rest: bytes, on_ended: Callable[[], None]) -> Service:
        """Answer the upgrade and return the coroutine that serves the socket. Raise Refusal instead of answering.

        The coroutine may return `LIVES_ON`. Then `on_ended` is called when the connection has ended.
        """


class Listener:
    """Accepts connections until cancelled; their tasks run in a nursery of the caller, and outlive it."""

    def __init__(
        self,
        upgrades: Upgrades,
        http: Callable[[RequestStream], Awaitable[None]],
        *,
        max_connections: int,
        head_timeout: float,
        certificate: Certificate | None = None,
        strangers: UnauthenticatedConnections | None = None,
    ) -> None:
        """With a `certificate`, speak TLS. Without `strangers`, unauthenticated connections have no limit."""
        self._upgrades = upgrades
        self._http = http
        self.limit = max_connections
        self._head_timeout = head_timeout
        self._certificate = certificate
        self.strangers = strangers or UnauthenticatedConnections(max_connections, Proxies(["*"]))
        self.open = 0
        self.accepted = 0
        self.refused = 0
        self._steps = StepLimit()  # for what has waited: handshakes, and heads that did not come with their connection
        self._emptied: trio.Event | None = None
        self._on_ended = self._ended  # one object for all connections

    async def run(
        self,
        sock: socket.socket,
        nursery: trio.Nursery,
        *,
        shared: bool = False,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections from `sock`, which stays open until `close`.

        `shared`: sibling processes accept from it too; those with fewer connections get the next ones.
        """
        task_status.started()
        flowing = False
        while True:
            await trio.lowlevel.wait_readable(sock)
            if shared and not flowing:
                await trio.sleep(self._courtesy())
            flowing = True
            for _ in range(ACCEPT_BATCH):
                try:
                    client, address = sock.accept()
                except BlockingIOError:
                    flowing = False
                    break
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        log.error(
                            "accept_paused",
                            reason=error.strerror,
                            open=self.open,
                            advice="raise LimitNOFILE or lower MAX_CONNECTIONS; open connections stay open",
                        )
                        await trio.sleep(ACCEPT_PAUSE)
                        break
                    continue  # the connection failed before it was accepted (ECONNABORTED)
                self.accepted += 1
                nursery.start_soon(self._serve, client, address, name=_TASK_NAME)

    def _courtesy(self) -> float:
        """Return the seconds for which a new connection is left to siblings with fewer of them.

        At the limit it is left to any sibling. The kernel wakes all processes that wait for the socket, and without
        this delay the same one would usually be first.
        """
        return COURTESY * math.log2(1 + self.open) if self.open < self.limit else FULL_COURTESY

    def close(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        """Close the listening socket, after `run` has ended.

        Connections in its queue are accepted and served, because closing the socket would reset them. If other
        processes have the socket too, later connections go to them.
        """
        with suppress(OSError):
            while True:
                client, address = sock.accept()
                self.accepted += 1
                nursery.start_soon(self._serve, client, address, name=_TASK_NAME)
        sock.close()

    async def wait_empty(self) -> None:
        """Wait until no connection is left, of either kind. For a listener that accepts no more."""
        while self.open:
            self._emptied = trio.Event()
            await self._emptied.wait()

    async def _serve(self, sock: socket.socket, address: object) -> None:
        """Serve one TCP connection until it ends, and close it. Exceptions go no further: other connections go on.

        A WebSocket outlives this task, as it needs none while it is idle. `_admit` returns the coroutine that serves
        the connection instead of awaiting it, and that may return another: a connection may last for days, and the
        frames that admitted it, with the request head, should not stay in memory. A refusal is answered here, in
        whichever step it was raised; an OSError means that the peer is gone.
        """
        self.open += 1
        client: AnySocket = sock
        stranger: Stranger | None = None
        lives_on = False
        try:
            sock.setblocking(False)
            if self._certificate is not None:
                client = TlsSocket(sock, self._certificate.context)
            stranger = Stranger(self.strangers, host_of(address))
            serve: Any
            serve, stranger = await self._admit(client, stranger)
            while serve and serve is not LIVES_ON:
                serve = await serve
            lives_on = serve is LIVES_ON
        except* Refusal as refused:
            self.refused += 1
            await _refuse(client, next(_leaves(refused)))
        except* OSError:
            pass  # the peer has gone; its connection has logged it
        except* Exception as group:
            _guard.caught(group, "connection_failed", address=peer(client))
        finally:
            if stranger is not None:
                stranger.leave()
            if not lives_on:
                client.close()
                self._ended()

    def _ended(self) -> None:
        self.open -= 1
        if self._emptied is not None and not self.open:
            self._emptied.set()

    async def _admit(self, client: AnySocket, stranger: Stranger) -> tuple[Service | None, Stranger | None]:
        """Read the first request head. Return the coroutine that serves the connection, and who it may still be: None
        for a WebSocket, so that the idle one keeps nothing of it.

        Return no coroutine if the peer has left before the head was complete. Raise Refusal. A connection counts as a
        stranger while its TLS handshake or its head is awaited; a head that arrived with the connection is not counted
        before it is parsed. An admitted WebSocket is no stranger; an HTTP connection is one until a request is
        authenticated.
        """
        if isinstance(client, TlsSocket):
            deadline = trio.current_time() + self._head_timeout
            if not stranger.enter() or not await _shake_hands(client, deadline, self._steps):
                return None, stranger
        else:
            deadline = math.inf  # starts below, if the head is incomplete
        if self.open > self.limit:
            raise Refusal(503, "overloaded", "The server has reached its connection limit.", retry_after=5)
        try:
            data, start, end = _whole_head(client)  # usually it has arrived with the connection
            if not end:
                _welcome(stranger)
                with trio.fail_at(min(deadline, trio.current_time() + self._head_timeout)):
                    data, start, end = await _read_head(client, data)
                await self._steps.wait()
            if not end:
                return None, stranger
            head = http_head.parse_head(data[start:end])
        except trio.TooSlowError:
            raise Refusal(408, "timeout", "The request head was not received in time.") from None
        except BadRequest as error:
            raise bad_request(error) from None
        if self._is_upgrade(head):
            serve = await self._upgrades.admit(client, head, data[end:], self._on_ended)
            stranger.leave()
            return serve, None
        _welcome(stranger, head)
        return self._serve_http(client, stranger, head, data[end:]), stranger

    def _is_upgrade(self, head: Head) -> bool:
        return http_head.is_upgrade(head) and self._upgrades.takes(head)

    async def _serve_http(self, client: AnySocket, stranger: Stranger, head: Head, rest: bytes) -> Service | None:
        """Serve requests until an upgrade, or the end of the connection."""
        kind = SecureRequestStream if isinstance(client, TlsSocket) else RequestStream
        stream = kind(
            client,
            head,
            rest,
            is_upgrade=self._is_upgrade,
            head_timeout=self._head_timeout,
            stranger=stranger,
            steps=self._steps,
        )
        await self._http(stream)
        if stream.is_over:
            return None
        # The answer to the upgrade must fit into the kernel's buffer, as at the beginning of a connection.
        with trio.move_on_after(SEND_STALL) as patience:
            await trio.lowlevel.wait_writable(client)
        if patience.cancelled_caught:
            return None
        if stream.fault is not None:
            raise bad_request(stream.fault)
        if stream.upgrade is None:
            return None
        serve = await self._upgrades.admit(client, *stream.upgrade, self._on_ended)
        stranger.leave()
        return serve


def _welcome(stranger: Stranger, head: Head | None = None) -> None:
    """Count the connection as a stranger. Raise Refusal if its address has too many."""
    if not (stranger.enter() and (head is None or stranger.ask(head.headers))):
        raise Refusal(429, "rate_limited", CROWDED, retry_after=5, lingers=False)


async def _shake_hands(client: TlsSocket, deadline: float, steps: StepLimit) -> bool:
    """Complete the TLS handshake. Return False if it failed: no HTTP answer is possible."""
    reason = "it took too long"
    with trio.move_on_at(deadline):
        try:
            await client.do_handshake(steps)
            return True
        except OSError as error:
            reason = getattr(error, "reason", "") or error.strerror or str(error)
    log.debug("tls_failed", address=peer(client), reason=reason)
    return False


def _leaves(group: BaseExceptionGroup[Refusal]) -> Iterator[Refusal]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _whole_head(client: AnySocket) -> tuple[bytes, int, int]:
    """Return what can be read now, and the start and end of its head (0: incomplete). Raise BadRequest."""
    try:
        data = client.recv(http_head.MAX_HEAD)
    except BlockingIOError:
        return b"", 0, 0
    return data, *http_head.find_head(data)


async def _read_head(client: AnySocket, data: bytes) -> tuple[bytes, int, int]:
    """Return the same once the head is complete; its end is 0 if the peer left before. Raise BadRequest."""
    while True:
        await trio.lowlevel.wait_readable(client)
        try:
            chunk = client.recv(65536)
        except BlockingIOError:
            continue
        if not chunk:
            return data, 0, 0
        seen = len(data)
        data = data + chunk if data else chunk
        start, end = http_head.find_head(data, seen)
        if end:
            return data, start, end


async def _refuse(client: AnySocket, refused: Refusal) -> None:
    refused.belongs_to(refused.request_id or new_request_id())
    log_refusal = log.debug if refused.status == 503 else log.info  # at the limit there are many
    log_refusal("refused", status=refused.status, code=refused.code, address=peer(client), request=refused.request_id)
    await _answer(client, refused.answer, LINGER if refused.lingers else 0.0)


async def _answer(client: AnySocket, answer: bytes, patience: float) -> None:
    """Send a final answer, and wait until the peer has read it: a close with unread input would reset it."""
    with trio.move_on_after(patience):
        try:
            client.send(answer)
            client.shutdown(socket.SHUT_WR)
            is_open = True
            while is_open:
                await trio.lowlevel.wait_readable(client)
                with suppress(BlockingIOError):  # of a TLS record only a part has come
                    is_open = bool(client.recv(65536))
        except OSError:
            pass  # it is gone already
