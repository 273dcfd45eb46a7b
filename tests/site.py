"""The whole server in this process on a real port, called over HTTP."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import trio

from server.config.loading import load
from server.instance import Instance
from server.transport.sockets import bind
from tests import plain_http
from tests.running import JWT_KEY

if TYPE_CHECKING:
    from server.tracing.instance import Tracing


class Site:
    """A running server, with helpers to register users and send requests."""

    def __init__(self, url: str, process: Instance, tls: ssl.SSLContext | None = None) -> None:
        self.url = url
        self.process = process
        self.http = httpx.AsyncClient(base_url=url, timeout=300, verify=tls or plain_http.NO_TLS)
        self.ended = trio.Event()  # the server has

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str = "", status: int = 200, **options: Any
    ) -> Any:
        """Send a request, check its status and the form of errors, and return the JSON of its answer."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= options.pop("headers", {})
        answer = await self.http.request(method, path, json=body, headers=headers, **options)
        assert answer.status_code == status, f"{answer.status_code} {answer.text}"
        if status >= 400:
            problem = answer.json()
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert problem["type"] == f"urn:parley:error:{problem['code']}" and problem["status"] == status
            assert problem["title"] and problem["detail"]
            return problem
        return answer.json() if answer.content else None

    async def open_tcp(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", int(self.url.rpartition(":")[2]))

    async def user(self, name: str) -> tuple[str, str]:
        """(id, token)"""
        made = await self.call("POST", "/api/users", {"username": name}, status=201)
        return made["id"], made["accessToken"]


@asynccontextmanager
async def open_site(
    database: str,
    redis_url: str,
    nursery: trio.Nursery,
    tls: ssl.SSLContext | None = None,
    *,
    tracing: "Tracing | None" = None,
    **changes: Any,
) -> AsyncIterator[Site]:
    """Run a server with these settings in addition to the usual ones. `tls` is the client's, for servers with TLS."""
    values: dict[str, Any] = {
        "database_url": database,
        "redis_url": redis_url,
        "jwt_key": JWT_KEY,
        "registration": "open",
        "listen": "127.0.0.1:0",
        "drain_seconds": 0,
        "rate_limits": "off",
        "admin_listen": (),
    }
    process = Instance(load({}, None, **{**values, **changes}), tracing)
    sock = bind(("127.0.0.1", 0))
    stop, force, ready = trio.Event(), trio.Event(), trio.Event()
    scheme = "http" if process.certificate is None else "https"
    found = Site(f"{scheme}://127.0.0.1:{sock.getsockname()[1]}", process, tls)

    async def run() -> None:
        await process.run([sock], stop=stop, force=force, ready=ready.set)
        found.ended.set()

    nursery.start_soon(run)
    with trio.fail_after(300):
        await ready.wait()
    yield found
    await found.http.aclose()
    stop.set()
    force.set()
    with trio.move_on_after(15):
        await found.ended.wait()
    sock.close()
