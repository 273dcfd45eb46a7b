"""A server process and its service manager: ready, watched, reloaded, drained. The manager's socket is real."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from loadtest.client import ClientError, HubClient, HubError
from server.config.loading import load
from server.identity.access_tokens import mint_token
from tests.running import Running, User, checked, running
from tests.service_manager import FakeServiceManager
from tests.waiting import wait_until

WAIT = 60.0  # seconds
NEW_KEY = "another key for tests only, long enough too"


@pytest.fixture
async def manager(tmp_path: Path, nursery: trio.Nursery) -> FakeServiceManager:
    found = FakeServiceManager(str(tmp_path / "notify"))
    nursery.start_soon(found.listen)
    return found


@asynccontextmanager
async def managed(
    database: str, redis_url: str, manager: FakeServiceManager, credentials: Path
) -> AsyncIterator[Running]:
    environment = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "200000",
        "CREDENTIALS_DIRECTORY": str(credentials),
    }
    async with running(database, redis_url, environment=environment) as found:
        yield found


async def logged(server: Running, event: str, count: int = 1) -> dict[str, Any]:
    await wait_until(lambda: len(server.events(event)) >= count)
    return server.events(event)[count - 1]


def token(user: User, key: str) -> User:
    return user._replace(token=mint_token(load({}, None, jwt_key=key), UUID(user.id)))


async def is_welcome(server: Running, user: User) -> bool:
    async with server.http(user) as http:
        return (await http.get("/api/users/me")).status_code == 200


async def test_a_life(database: str, redis_url: str, manager: FakeServiceManager, tmp_path: Path) -> None:
    """Ready when it serves, watched while it lives, reloaded by SIGHUP with one line about what that did, stopping at
    SIGTERM; the status says what it is doing."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "rate_limits").write_text("off")
    async with managed(database, redis_url, manager, credentials) as server:
        await manager.hear("READY=1")
        await manager.hear("WATCHDOG=1", after=manager.notifications.index("READY=1"))
        await manager.hear("STATUS=serving: 0 connections")
        alice = await server.register("alice")
        assert not await is_welcome(server, token(alice, NEW_KEY))

        (credentials / "jwt_old_keys").write_text(NEW_KEY)
        (credentials / "log_level").write_text("debug")
        (credentials / "lanes").write_text("3")
        heard = len(manager.notifications)
        server.process.send_signal(signal.SIGHUP)
        line = await logged(server, "reloaded")
        assert set(line["changed"]) == {"JWT_OLD_KEYS", "LOG_LEVEL"} and line["needs_restart"] == ["LANES"]
        await manager.hear("RELOADING=1", after=heard)
        await manager.hear("READY=1", after=heard)
        await manager.hear("STATUS=serving: 0 connections; reloaded, changed: ", after=heard)
        assert await is_welcome(server, token(alice, NEW_KEY)) and await is_welcome(server, alice)

        (credentials / "lanes").write_text("none")
        server.process.send_signal(signal.SIGHUP)
        line = await logged(server, "reload_refused")
        assert "LANES: expected a whole number" in line["reason"]
        assert await is_welcome(server, token(alice, NEW_KEY)), "what was configured before stays in use"

        server.terminate()
        await manager.hear("STOPPING=1")
        assert await server.wait() == 0


@asynccontextmanager
async def connected(server: Running, user: User, count: int) -> AsyncIterator[list[HubClient]]:
    """Open so many connections of one user."""
    found: list[HubClient] = []

    async def connect(*, task_status: trio.TaskStatus[HubClient]) -> None:
        async with server.connect(user) as client:
            task_status.started(client)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            found.append(await nursery.start(connect))
        yield found
        nursery.cancel_scope.cancel()


async def closing_times(clients: list[HubClient]) -> list[float]:
    """Return the seconds until each connection is closed, in ascending order."""
    start, times = trio.current_time(), []

    async def wait(client: HubClient) -> None:
        await client.closed.wait()
        times.append(trio.current_time() - start)

    with trio.fail_after(WAIT):
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(wait, client)
    return times


async def test_a_drain_is_spread(database: str, redis_url: str) -> None:
    """P10: clients are asked to reconnect, a few at a time; every send taken before that is answered."""
    async with running(database, redis_url, drain_seconds=2) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        answered: list[str] = []

        async def write(client: HubClient, number: int) -> None:
            for count in range(10**6):
                key = f"{number}-{count}"
                body = {"conversationId": conversation, "content": key, "clientMessageId": key}
                try:
                    await client.invoke("SendMessage", body)
                except (HubError, ClientError):
                    return
                answered.append(key)

        # Each has half of them: of one user's connections only so many lines a second are in the log.
        async with (
            connected(server, alice, 10) as of_one,
            connected(server, bob, 10) as of_other,
            trio.open_nursery() as nursery,
        ):
            clients = [*of_one, *of_other]
            for number, client in enumerate(clients):
                nursery.start_soon(write, client, number)
            server.terminate()
            await closing_times(clients)
        assert await server.wait() == 0
        assert all(client.close_message is not None and client.close_message.allow_reconnect for client in clients)
        last = server.lines[-1]
        assert (last["event"], last["moved"], last["lost"]) == ("stopped", 20, 0) and last["seconds"] > 1.0, last
        # Shares of a slice each: neither all at once nor all at the end. By the server's clock: we may have been slow.
        closed = [datetime.fromisoformat(line["timestamp"]) for line in server.events("connection_closed")]
        times = [(moment - closed[0]).total_seconds() for moment in closed]
        assert len(times) == 20 and times[9] > 0.3 and times[-1] > 1.0, times
    async with running(database, redis_url) as server:
        stored = [message["clientMessageId"] for message in await server.history(bob, conversation)]
    assert set(answered) <= set(stored) and len(stored) == len(set(stored))


async def test_a_second_signal_forces_the_end(database: str, redis_url: str) -> None:
    """All that are left get their Close at once, and the process ends with exit code 0."""
    async with running(database, redis_url, drain_seconds=60) as server:
        alice = await server.register("alice")
        async with connected(server, alice, 5) as clients:
            server.terminate()
            await logged(server, "draining")
            server.terminate()
            times = await closing_times(clients)
            assert times[-1] < 30  # half of the drain
            assert all(client.close_message is not None and client.close_message.allow_reconnect for client in clients)
        assert await server.wait() == 0


async def test_what_could_not_be_moved(database: str, redis_url: str) -> None:
    """The last line says how many connections did not take their Close, and how many requests were cut."""
    async with running(database, redis_url, drain_seconds=0, shutdown_timeout=0) as server:
        alice = await server.register("alice")
        head = b"POST /api/conversations HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nAuthorization: Bearer "
        request = await begin(server.port, head + alice.token.encode() + b"\r\n\r\n{")
        async with server.http(alice) as http:  # a full round trip: the other one has been read by then
            checked(await http.get("/health"))
        async with connected(server, alice, 3):
            server.terminate()
            assert await server.wait() == 0
        await request.aclose()
        await logged(server, "stopped")
        last = server.lines[-1]
        assert (last["event"], last["moved"], last["lost"]) == ("stopped", 3, 1), last


async def test_two_values_of_a_setting(database: str, redis_url: str, tmp_path: Path) -> None:
    """Where the environment wins over a file that says something else, a line names both places; where they agree, or
    only one says it, there is none."""
    (tmp_path / "presence_grace").write_text("3s")
    (tmp_path / "rate_limits").write_text("off")
    (tmp_path / "lanes").write_text("1")
    async with running(
        database, redis_url, environment={"CREDENTIALS_DIRECTORY": str(tmp_path)}, presence_grace="7s"
    ) as server:
        [line] = server.events("setting_overridden")
    place = str(tmp_path / "presence_grace")
    assert (line["setting"], line["wins"], line["loses"]) == ("PRESENCE_GRACE", "PARLEY_PRESENCE_GRACE", place)


async def begin(port: int, request: bytes) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(request)
    return stream


async def answer(stream: trio.SocketStream) -> bytes:
    data = b""
    with trio.fail_after(WAIT):
        async for chunk in stream:
            data += bytes(chunk)
    return data


async def test_what_has_begun_is_served(database: str, redis_url: str) -> None:
    """P10: a request on a connection from before the listener closed is answered, with `Connection: close`; a WebSocket
    is let in, and sent on with a Close. Afterwards the port is not listened on."""
    async with running(database, redis_url, drain_seconds=8) as server:
        alice = await server.register("alice")
        head = b"GET /api/users/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + alice.token.encode()
        request = await begin(server.port, head)  # without the end of its head
        kept = await begin(server.port, head + b"\r\n\r\n")
        while not (await kept.receive_some()).endswith(b"}"):
            pass
        async with connected(server, alice, 1):
            server.terminate()
            await logged(server, "draining")
            with pytest.raises(OSError):
                await trio.open_tcp_stream("127.0.0.1", server.port)
            await request.send_all(b"\r\n\r\n")
            await kept.send_all(head + b"\r\n\r\n")
            for stream in (request, kept):
                found = await answer(stream)
                assert found.startswith(b"HTTP/1.1 200") and b"\r\nconnection: close\r\n" in found.lower()
        assert await server.wait() == 0


async def test_a_request_under_way_is_answered(database: str, redis_url: str) -> None:
    """P10: a send by REST whose body comes while the process drains is committed and answered."""
    async with running(database, redis_url, drain_seconds=0.5) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        body = b'{"conversationId": "%s", "content": "late"}' % conversation.encode()
        head = (
            b"POST /api/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n" % (alice.token.encode(), len(body))
        )
        stream = await begin(server.port, head + body[:10])
        async with server.http(alice) as http:  # a full round trip: the other one has been read by then
            checked(await http.get("/health"))
        server.terminate()
        await logged(server, "draining")
        await trio.sleep(0.7)  # past the drain: into what SHUTDOWN_TIMEOUT is for
        await stream.send_all(body[10:])
        assert (await answer(stream)).startswith(b"HTTP/1.1 201")
        assert await server.wait() == 0
