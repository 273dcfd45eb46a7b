"""The admin listener: listens on the addresses of ADMIN_LISTEN, and serves the admin app there.

Owns the sockets and the tasks of their connections until it is cancelled. That happens last when an instance ends, so
that a drain can be observed to its end. The addresses determine who can connect (`server.config.admin_address`).
"""

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from socket import socket
from typing import Protocol

import structlog
import trio

from server.admin.app import Parts, admin_app, metrics_app
from server.admin.control import Control
from server.admin.control import Parts as Controlled
from server.admin.sockets import open_named, open_tcp, open_unix
from server.config.admin_address import Address, TcpAddress, UnixAddress, parse, runtime_directory
from server.rest.upload_backpressure import paced
from server.transport.http import HttpServer
from server.transport.refusal import bad_request
from server.transport.request_stream import RequestStream
from store.defects import guard

MAX_SCRAPERS = 64  # connections to all ports for `/metrics` together: any process on the machine can open them

_guard = guard("admin")

log = structlog.get_logger("parley.admin")


class Whole(Parts, Controlled, Protocol):
    """An instance."""


class AdminListener:
    def __init__(self, parts: Whole, addresses: Sequence[str], drain: Callable[[], None], *, name: str) -> None:
        """`name` is the name of the Unix socket if its address is `auto`."""
        self._addresses = [parse(text) for text in addresses]
        self._name = name
        self._http = HttpServer(paced(admin_app(parts, Control(parts, drain, pid=os.getpid()))))
        self._metrics = HttpServer(paced(metrics_app(parts)))
        self._scrapers: set[RequestStream] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Raises OSError if a configured address cannot be used.

        An `auto` socket that cannot be opened is logged instead, and the instance runs without it.
        """
        paths: list[Path] = []
        try:
            async with trio.open_nursery() as nursery:
                for http in (self._http, self._metrics):
                    await nursery.start(http.run)
                for address in self._addresses:
                    listener, path = self._open(address)
                    if listener is None:
                        continue
                    if path is not None:
                        paths.append(path)
                    handler = self._serve_scraper if isinstance(address, TcpAddress) else self._serve_admin
                    serve = partial(trio.serve_listeners, handler, [listener])
                    nursery.start_soon(serve, name="admin listener")
                task_status.started()
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    async def _serve_scraper(self, stream: trio.SocketStream) -> None:
        """Serve one connection to `/metrics`. Idle ones are closed.

        If there are too many, the one that has been silent for longest makes room, so that silent clients cannot keep
        the monitoring out; if none is silent, this one is closed at once.
        """
        requests = _requests(stream)
        if len(self._scrapers) >= MAX_SCRAPERS:
            advice = "silent ones are closed for new ones; see who else connects here"
            log.warning("metrics_crowded", connections=MAX_SCRAPERS, advice=advice)
            silent = min(self._scrapers, key=lambda one: one.waiting_since)
            if silent.waiting_since == math.inf:
                requests.hang_up()
                return
            self._scrapers.discard(silent)
            silent.hang_up()
        self._scrapers.add(requests)
        try:
            await _serve(self._metrics, requests)
        finally:
            self._scrapers.discard(requests)

    async def _serve_admin(self, stream: trio.SocketStream) -> None:
        await _serve(self._http, _requests(stream))

    def _open(self, address: Address | None) -> tuple[trio.SocketListener | None, Path | None]:
        if isinstance(address, TcpAddress):
            listener = open_tcp(address)
            log.info("metrics_listening", host=address.host, port=listener.socket.getsockname()[1])
            return listener, None
        if isinstance(address, UnixAddress):
            listener, path = open_unix(address.path), address.path
        else:
            try:
                listener, path = open_named(runtime_directory(os.environ), self._name)
            except OSError as error:  # the address was not configured: serve without it
                log.warning("admin_unavailable", reason=str(error), advice="set ADMIN_LISTEN, or RUNTIME_DIRECTORY")
                return None, None
        log.info("admin_listening", path=str(path))
        return listener, path


def _requests(stream: trio.SocketStream) -> RequestStream:
    sock = socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return RequestStream(sock)


async def _serve(http: HttpServer, requests: RequestStream) -> None:
    """Serve one connection. Its errors do not propagate."""
    try:
        await http.serve(requests)
        if requests.fault is not None:
            requests.socket.send(bad_request(requests.fault).answer)
    except* OSError:
        pass  # the client disconnected
    except* Exception as group:
        _guard.caught(group, "admin_connection_failed")
    finally:
        requests.socket.close()
