"""A real `parley serve` process for the tests that are about processes, and people to chat in it.

Owns the child process: stopped by its own pid when the block ends, its log lines collected and looked through for
tracebacks. Talks to it only over its port.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import trio

from loadtest.client import HubClient, OnEvent
from server.config.loading import load
from server.identity.access_tokens import mint_token
from tests import plain_http, transports
from tests.forkserver import Child, fork
from tests.waiting import wait_until

START_TIMEOUT = 300.0  # seconds
STOP_TIMEOUT = 300.0
TOKEN_TTL = 24 * 3600.0  # seconds
JWT_KEY = "a key for tests only, and long enough for HS256"


class User(NamedTuple):
    id: str
    name: str
    token: str


def lasting(user: User) -> User:
    """With a token that is good for longer than the longest test: those of the server are for 15 minutes."""
    settings = load({}, None, jwt_key=JWT_KEY)
    return user._replace(token=mint_token(settings, UUID(user.id), TOKEN_TTL))


class Server:
    """A server at a port of this machine, as its clients see it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.hub_url = f"{self.url}/hubs/chat"
        self.transport = "socket"
        self.protocol = "json"

    def http(self, user: User | None = None) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {user.token}"} if user else {}
        return plain_http.client(base_url=self.url, headers=headers, timeout=300)

    def connect(
        self, user: User, on_event: OnEvent = lambda target, arguments: None, **options: Any
    ) -> AbstractAsyncContextManager[HubClient]:
        options = {"protocol": self.protocol, **options}
        return transports.connect(
            options.pop("transport", self.transport), self.hub_url, user.token, on_event=on_event, **options
        )

    async def register(self, name: str) -> User:
        async with self.http() as http:
            body = await served(lambda: http.post("/api/users", json={"username": name}))
        return User(body["id"], name, body["accessToken"])

    async def direct(self, one: User, other: User) -> str:
        async with self.http(one) as http:
            body = {"type": "Direct", "memberIds": [other.id]}
            return str((await served(lambda: http.post("/api/conversations", json=body)))["id"])

    async def group(self, owner: User, *members: User) -> str:
        body = {"type": "Group", "name": "a group", "memberIds": [member.id for member in members]}
        async with self.http(owner) as http:
            return str((await served(lambda: http.post("/api/conversations", json=body)))["id"])

    async def history(self, user: User, conversation: str, *, system: bool = False) -> list[dict[str, Any]]:
        """Everything said in a conversation, oldest first; with what the system says, when that is wanted."""
        found: list[dict[str, Any]] = []
        async with self.http(user) as http:
            while True:
                query = {"conversationId": conversation, "after": found[-1]["seq"] if found else 0, "limit": 200}
                page = await served(partial(http.get, "/api/messages", params=query))
                found += page["items"]
                if page["next"] is None:
                    return [message for message in found if system or message["type"] != "System"]


class Running(Server):
    """A server process that is ready. `lines` are its log lines so far, as dicts."""

    def __init__(self, process: Child | trio.Process, port: int, lines: list[dict[str, Any]]) -> None:
        super().__init__(port)
        self.process = process
        self.pid = process.pid
        self.lines = lines

    def kill(self) -> None:
        """Send SIGKILL, as the out-of-memory killer does."""
        self.process.send_signal(signal.SIGKILL)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        with trio.fail_after(STOP_TIMEOUT):
            return await self.process.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("event") == name]


def checked(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, f"{answer.status_code} {answer.text}"
    body: dict[str, Any] = answer.json() if answer.content else {}
    return body


async def served(call: Callable[[], Awaitable[httpx.Response]]) -> dict[str, Any]:
    """What the server answers when it has a connection to PostgreSQL: on a busy machine that can take longer than a
    request waits for one, and nothing was done then. For what a test needs and is not about."""

    async def answered() -> httpx.Response | None:
        answer = await call()
        return None if answer.status_code == 503 else answer

    return checked(await wait_until(answered))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def running(
    database: str,
    redis_url: str,
    *,
    port: int = 0,
    may_fail: bool = False,
    module: str = "server",
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    forked: bool = True,
    until: str = "ready",
    directory: Path | None = None,
    command: Sequence[str] = (),
    **settings: object,
) -> AsyncIterator[Running]:
    """Run `parley serve` until the block ends. `settings` are PARLEY_* in lower case. No traceback may be logged,
    unless the test `may_fail`. `module` is run in place of the server's own, with `environment` besides. Without
    `forked` the process is started anew, for tests in which the time of a start counts; and so it is in another
    `directory`, where Python looks for modules first, and for another `command`, such as that of an installation.
    `until` is the line with which the block begins: `not_ready` of one that waits for a service, and serves its port.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environ |= {
        **(environment or {}),
        "PARLEY_DATABASE_URL": database,
        "PARLEY_REDIS_URL": redis_url,
        "PARLEY_JWT_KEY": JWT_KEY,
        "PARLEY_REGISTRATION": "open",
        "PARLEY_LISTEN": f"127.0.0.1:{port}",
        "PARLEY_DRAIN_SECONDS": "0.5",
        "PARLEY_RATE_LIMITS": "off",
        "PARLEY_ADMIN_LISTEN": "",
        **{f"PARLEY_{name.upper()}": str(value) for name, value in settings.items()},
    }
    lines: list[dict[str, Any]] = []
    if forked and directory is None and not command:
        process: Child | trio.Process = await fork(module, environ, pass_fds)
    else:
        process = await _launch(command or (sys.executable, "-m", module, "serve"), environ, pass_fds, directory)
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(START_TIMEOUT):
                ready = await nursery.start(_collect, process, lines, until)
            yield Running(process, ready, lines)
            await _stop(process)
            nursery.cancel_scope.deadline = trio.current_time() + 5
        if not may_fail:
            faults = [line for line in lines if "exception" in line or "Traceback" in str(line)]
            assert not faults, faults
    except BaseException:
        for line in lines[-20:]:
            print(line)  # noqa: T201
        raise
    finally:
        with trio.CancelScope(shield=True):
            await _stop(process)


async def _launch(
    command: Sequence[str], environ: Mapping[str, str], pass_fds: Sequence[int], directory: Path | None
) -> trio.Process:
    return await trio.lowlevel.open_process(
        list(command),
        cwd=directory,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        pass_fds=pass_fds,
    )


async def _stop(process: Child | trio.Process) -> None:
    if process.poll() is None:
        process.terminate()
    with trio.move_on_after(STOP_TIMEOUT):
        await process.wait()
    if process.returncode is None:
        process.kill()
    await process.wait()


async def _collect(
    process: Child | trio.Process,
    lines: list[dict[str, Any]],
    until: str,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    assert process.stdout is not None
    rest, ready = b"", False
    async with process.stdout:
        async for chunk in process.stdout:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                lines.append(_parse(line))
                if not ready and lines[-1].get("event") == until:
                    ready = True
                    task_status.started(lines[-1]["port"])
    if not ready:
        raise RuntimeError(f"the server did not start: {lines}")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"event": line.decode(errors="replace")}
