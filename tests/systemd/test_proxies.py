"""The nginx and HAProxy examples in front of two instances, with the real programs."""

import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from loadtest.client import ClientError, connect, open_websocket
from server.protocol.signalr import handshake
from tests import plain_http
from tests.integration.test_stateful import Socket
from tests.running import Running, User, checked, free_port, running
from tests.transports import negotiate
from tests.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "systemd/proxies"
# Seconds, for the 100 and the 15 of the examples, and as far apart: pings keep a WebSocket open, also where the machine
# is busy and they come late.
TIMEOUT, KEEPALIVE = 3, 0.5
WAIT = 60.0
KEY = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
TWICE = "websocket\r\nUpgrade: h2c"
ELSEWHERE = "127.0.0.77"  # where a client is
COMMANDS = {
    "nginx": ["nginx", "-p", "{directory}", "-c", "{file}", "-g", "daemon off; user root; pid {directory}/pid;"],
    "haproxy": ["haproxy", "-db", "-f", "{file}"],
}


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        reason = f"{name} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def configuration(name: str, port: int, servers: list[int]) -> str:
    """Return the example with the addresses of the test in place of its own."""
    text = (EXAMPLES / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[name]).read_text()
    changes = {
        "listen 80;": f"listen 127.0.0.1:{port};",
        "bind :80\n": f"bind 127.0.0.1:{port}\n",
        "100s": f"{TIMEOUT}s",
    }
    servers = [servers[0], servers[-1]]
    changes |= {f"10.0.0.1{number}:5000": f"127.0.0.1:{server}" for number, server in enumerate(servers, 1)}
    # What a test machine does not allow, or need.
    changes |= {"131072": "1024", "262144": "4096", "maxconn 120000": "maxconn 1000"}
    for before, after in changes.items():
        text = text.replace(before, after)
    assert "10.0.0." not in text
    return text


@asynccontextmanager
async def proxy(name: str, directory: Path, servers: list[int]) -> AsyncIterator[int]:
    """Run the proxy; yield its port once it answers. One server stands for both of the example."""
    path, port = program(name), free_port()
    file = directory / "proxy.conf"
    file.write_text(configuration(name, port, servers))
    command = [path, *(part.format(directory=directory, file=file) for part in COMMANDS[name][1:])]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(trio.run_process, command)

        async def is_ready() -> bool:
            assert process.returncode is None, "it has ended"
            return await ask(port) == "200"

        await wait_until(is_ready)
        yield port
        nursery.cancel_scope.cancel()


async def ask(port: int, user: User | None = None) -> str:
    """Return the status of a user's request; without a user, that of the readiness check."""
    path, headers = ("/api/users/me", {"Authorization": f"Bearer {user.token}"}) if user else ("/health/ready", {})
    try:
        async with plain_http.client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT) as http:
            return str((await http.get(path, headers=headers)).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


async def real_address(port: int, servers: list[Running], user: User) -> None:
    """An instance logs where the client is, not where the proxy is, nor where the client says that it is."""
    transport = httpx.AsyncHTTPTransport(local_address=ELSEWHERE, verify=plain_http.NO_TLS)
    headers = {"Authorization": f"Bearer {user.token}", "X-Forwarded-For": "1.2.3.4"}
    async with plain_http.client(base_url=f"http://127.0.0.1:{port}", transport=transport, headers=headers) as http:
        checked(await http.get("/api/users/me"))

    def addresses() -> set[str]:
        lines = [line for server in servers for line in server.events("request")]
        return {line["address"] for line in lines if line.get("route") == "/api/users/me"}

    assert await wait_until(addresses) == {ELSEWHERE}


async def links_lead_back(port: int, user: User) -> None:
    """Links that the service hands out lead to where the client asked, also at a port of its own."""
    headers = {"Authorization": f"Bearer {user.token}"}
    file = {"name": "a.txt", "contentType": "text/plain", "size": 1}
    async with plain_http.client(base_url=f"http://127.0.0.1:{port}", headers=headers) as http:
        made = checked(await http.post("/api/files/presign", json=file))
    assert made["uploadUrl"].startswith(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
async def test_in_front_of_two(name: str, tmp_path: Path, database: str, redis_url: str) -> None:
    """Any instance serves anybody, the client's address arrives, WebSockets outlive every timeout, and while one of the
    two goes and comes back no request is refused; its clients are asked to reconnect, and do."""
    program(name)
    settings: dict[str, Any] = {"forwarded_allow_ips": "127.0.0.1", "keepalive": KEEPALIVE, "drain_seconds": "1"}
    settings["objects"] = f"file://{tmp_path}/files"
    async with running(database, redis_url, **settings) as one:
        async with running(database, redis_url, **settings) as two:
            async with proxy(name, tmp_path, [one.port, two.port]) as port:
                users = [await one.register(f"u{number}") for number in range(6)]
                await real_address(port, [one, two], users[0])
                await links_lead_back(port, users[0])
                await go_and_come_back(port, one, two, users, settings, database, redis_url)


async def go_and_come_back(
    port: int, one: Running, two: Running, users: list[User], settings: dict[str, Any], database: str, redis_url: str
) -> None:
    url = f"http://127.0.0.1:{port}/hubs/chat"
    answers: Counter[str] = Counter()
    returned: list[str] = []
    leaving = trio.Event()

    async def stay(user: User, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        while True:
            try:
                async with connect(url, user.token) as client:
                    try:
                        await client.invoke("Ping")
                    except ClientError:
                        pass  # let in by the one that is leaving, and sent away at once
                    else:
                        task_status.started()
                    await client.closed.wait()
                    assert client.close_message is not None and client.close_message.allow_reconnect
                    returned.append(user.name)
                    task_status = trio.TASK_STATUS_IGNORED
            except ClientError:
                assert leaving.is_set()  # by the one that is leaving, in the handshake already

    async def keep_asking() -> None:
        while True:
            answers[await ask(port, users[0])] += 1
            await trio.sleep(0.05)  # how often it is asked

    async with trio.open_nursery() as nursery:
        for user in users:
            await nursery.start(stay, user)
        start = trio.current_time()
        nursery.start_soon(keep_asking)
        await trio.sleep(1.5 * TIMEOUT)  # longer than any silence the proxy allows: only our pings keep them open
        assert not returned
        leaving.set()
        two.terminate()
        await two.wait()
        there = len(set(returned))
        assert 0 < there < len(users), "both had some of the connections"
        async with running(database, redis_url, port=two.port, **settings) as back:
            with trio.fail_after(WAIT):
                while not any(line["route"] == "/api/users" for line in back.events("request")):
                    async with plain_http.client(base_url=f"http://127.0.0.1:{port}") as http:
                        await http.get("/api/users", headers={"Authorization": f"Bearer {users[0].token}"})
        assert trio.current_time() > start + TIMEOUT
        nursery.cancel_scope.cancel()
    assert list(answers) == ["200"] and answers["200"] > 10, answers


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
async def test_only_websockets_are_passed_on(name: str, tmp_path: Path) -> None:
    """An instance behind the proxy sees Upgrade on WebSockets and on nothing else: no h2c, no TLS, no list."""
    program(name)
    heads: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # a health check that has heard enough
            await answer_all(stream)

    async def answer_all(stream: trio.SocketStream) -> None:
        data = b""
        while True:
            data += bytes(await stream.receive_some(65536))
            if not data:
                return
            while b"\r\n\r\n" in data:
                head, _, data = data.partition(b"\r\n\r\n")
                if b"/health/ready" not in head:
                    heads.append(head.lower())
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        async with proxy(name, tmp_path, [listener.socket.getsockname()[1]]) as port:
            for upgrade in ("", "h2c", "TLS/1.0", "websocket, h2c", "h2c, websocket", "xwebsocket", TWICE, "WebSocket"):
                said = f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMA\r\n"
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(f"GET /x HTTP/1.1\r\nHost: x\r\n{KEY}{said if upgrade else ''}\r\n".encode())
                    with trio.fail_after(WAIT):
                        assert b" 200 " in await stream.receive_some(65536)
        nursery.cancel_scope.cancel()
    assert len(heads) == 8
    assert not any(b"upgrade: " in head for head in heads[:-2]), heads
    assert not any(b"h2c" in head or b"tls" in head for head in heads), heads
    assert [line for line in heads[-1].split(b"\r\n") if b"upgrade: " in line] == [b"upgrade: websocket"]


ROUNDS, EACH = 6, 10


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
async def test_stateful_reconnect_on_pooled_connections(
    name: str, tmp_path: Path, database: str, redis_url: str
) -> None:
    """The proxy's connections to the instance have served other requests before, or not: the socket is cut again and
    again in the middle of what is sent on it, and every message arrives once, in order."""
    program(name)
    async with running(database, redis_url, forwarded_allow_ips="127.0.0.1", keepalive=KEEPALIVE) as server:
        async with proxy(name, tmp_path, [server.port]) as port:
            alice, bob = await server.register("alice"), await server.register("bob")
            conversation = await server.direct(alice, bob)
            url = f"http://127.0.0.1:{port}/hubs/chat"
            async with server.http(bob) as http:
                token = await negotiate(http, url, {"useStatefulReconnect": "true"})
            heard: list[dict[str, Any]] = []
            async with server.connect(alice) as a:
                for turn in range(ROUNDS + 1):
                    for _ in range(turn):  # none are pooled at first
                        assert await ask(port, alice) == "200"
                    stream = await open_websocket(url, query={"id": token})
                    client = Socket(stream)
                    missed = 0
                    if turn == 0:
                        await client.say(handshake.encode_request("json", 2))
                        await client.until(1, None)
                    else:
                        await client.say({"type": 9, "sequenceId": 1})
                        [sequence] = await client.until(1, 9)
                        missed = len(heard) - (sequence["sequenceId"] - 1)  # we have these, but it did not know
                    wanted = ROUNDS * EACH
                    if turn < ROUNDS:
                        for number in range(turn * EACH, (turn + 1) * EACH):
                            await a.invoke("SendMessage", {"conversationId": conversation, "content": str(number)})
                        wanted = turn * EACH + EACH // 2  # the rest is on its way when the socket is cut
                    count = 0
                    while messages(heard) + messages((found := await client.until(count, 1))[missed:]) < wanted:
                        count = len(found) + 1
                    heard += found[missed:]
                    await client.say({"type": 8, "sequenceId": len(heard)})
                    await trio.aclose_forcefully(stream)
    texts = [m["arguments"][0]["content"] for m in heard if m["target"] == "ReceiveMessage"]
    assert texts == [str(number) for number in range(ROUNDS * EACH)]


def messages(heard: list[dict[str, Any]]) -> int:
    return sum(m["target"] == "ReceiveMessage" for m in heard)
