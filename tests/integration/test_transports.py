"""Server-Sent Events and long polling: requests, their order and answers; clients that go away."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest
import trio

from server.hub.transports import http_endpoint, long_polling
from server.hub.transports.http_transport import HttpTransport
from tests import plain_http
from tests.event_recorder import WAIT, EventRecorder
from tests.integration.conftest import Shared
from tests.running import Running, User, running
from tests.site import Site, open_site
from tests.transports import TIMEOUT, negotiate
from tests.waiting import wait_until

SHAKE = b'{"protocol":"json","version":1}\x1e'
PING = b'{"type":1,"invocationId":"1","target":"Ping","arguments":[]}\x1e'
PONG = b'{"type":3,"invocationId":"1","result":{}}\x1e'
STREAM = {"Accept": "text/event-stream"}


class Door:
    """The hub's URL of one connection, for requests of one user."""

    def __init__(self, http: httpx.AsyncClient, url: str, token: str) -> None:
        self.http = http
        self.url = url
        self.id = token

    async def ask(self, method: str, content: bytes = b"", *, status: int = 200, **headers: str) -> bytes:
        answer = await self.http.request(method, self.url, params={"id": self.id}, content=content, headers=headers)
        assert answer.status_code == status, f"{answer.status_code} {answer.text}"
        return answer.content

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Callable[[bytes], Any]]:
        """Open the event stream; yield a function that waits for these bytes, and returns all that came so far."""
        request = self.http.stream("GET", self.url, params={"id": self.id}, headers=STREAM)
        async with request as response:
            assert response.status_code == 200, response.status_code
            chunks = response.aiter_bytes()
            said = b""

            async def until(wanted: bytes) -> bytes:
                nonlocal said
                with trio.fail_after(WAIT):
                    while wanted not in said:
                        said += await anext(chunks)
                return said

            await until(b":")
            yield until

    async def polled(self, wanted: bytes) -> bytes:
        """Poll until these bytes have come; return all that came."""
        said = b""
        with trio.fail_after(WAIT):
            while wanted not in said:
                said += await self.ask("GET")
        return said


@asynccontextmanager
async def door(url: str, token: str) -> AsyncIterator[Door]:
    async with plain_http.client(headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT) as http:
        yield Door(http, url, await negotiate(http, url))


def of(server: Running, user: User) -> Any:
    return door(server.hub_url, user.token)


async def test_who_may_ask(shared: Shared) -> None:
    """Each request has an id (400) that is known (404), an access token (401), and that of the same user (403); methods
    without a meaning and requests of other transports are refused."""
    alice, eve = await shared.register("alice"), await shared.register("eve")
    async with of(shared, alice) as a, of(shared, eve) as e:
        real, theirs = a.id, e.id
        for method in ("GET", "POST", "DELETE"):
            a.id = ""
            await a.ask(method, status=400)
            a.id = "nonsense"
            await a.ask(method, status=404)
            a.id = real
            await a.ask(method, status=401, Authorization="Bearer x.y.z")
        await a.ask("PUT", status=405)
        await a.ask("POST", SHAKE, status=404)  # it is not connected yet
        a.id = theirs
        await a.ask("GET", status=403)
        await a.ask("GET", status=403, **STREAM)
        await e.ask("GET")  # and it is still good for its own user
        a.id = real
        async with plain_http.client() as unknown:
            assert (await unknown.get(a.url, params={"id": real})).status_code == 401
            with_query = {"id": real, "access_token": alice.token}  # as browsers have to for Server-Sent Events
            assert (await unknown.get(a.url, params=with_query)).status_code == 200
        e.id = real
        for method in ("GET", "POST", "DELETE"):
            await e.ask(method, status=403)
        await a.ask("POST", SHAKE + PING)
        assert await a.polled(PONG) == b"{}\x1e" + PONG
    async with of(shared, alice) as a, a.stream():
        await a.ask("GET", status=409, **STREAM)
        await a.ask("GET", status=400)
        await a.ask("DELETE", status=400)
    async with of(shared, alice) as a, plain_http.client() as http:
        async with shared.connect(alice, query={"id": a.id}) as socket:
            assert await socket.invoke("Ping") == {}
            await a.ask("POST", PING, status=405)
            await a.ask("DELETE", status=400)
            await a.ask("GET", status=404)
        assert (await http.get(a.url, params={"id": a.id}, headers={"Origin": "https://e.example"})).status_code == 401


async def test_origins(database: str, redis_url: str) -> None:
    """Pages of other origins can neither open a connection nor send on one."""
    async with running(database, redis_url, allowed_origins="https://good.example") as server:
        alice = await server.register("alice")
        async with of(server, alice) as a:
            await a.ask("GET", status=403, Origin="https://evil.example")
            await a.ask("GET", Origin="https://good.example")
            for method in ("GET", "POST", "DELETE"):
                await a.ask(method, SHAKE, status=403, Origin="https://evil.example")


async def test_polls_take_turns(shared: Shared) -> None:
    """A second poll ends the first one with 204; a poll waits until there is something to send. After the end polls are
    answered 204 and each DELETE 202, and a POST is refused."""
    alice = await shared.register("alice")
    async with of(shared, alice) as a, trio.open_nursery() as nursery:
        assert await a.ask("GET") == b""  # the first poll only opens the connection
        said: list[bytes] = []

        async def poll(status: int = 200) -> None:
            said.append(await a.ask("GET", status=status))

        await nursery.start(_started, poll, 204)
        await nursery.start(_started, poll, 204)
        await wait_until(lambda: said)  # both are there: one has ended the other
        await nursery.start(_started, poll)
        await wait_until(lambda: len(said) > 1)  # and so is this one
        await a.ask("POST", SHAKE)
        await wait_until(lambda: len(said) >= 3)
        assert sorted(said) == [b"", b"", b"{}\x1e"]
        await nursery.start(_started, poll, 204)
        await trio.sleep(0.1)  # so that it may be there: either is to end it
        await a.ask("DELETE", status=202)
        await a.ask("GET", status=204)
        await a.ask("DELETE", status=202)
        await a.ask("POST", PING, status=404)
        await wait_until(lambda: len(said) >= 4)
    ends = [line["reason"] for line in shared.events("connection_closed") if line["user"] == alice.id]
    assert ends == ["ended by client"]


async def _started(call: Callable[[int], Any], status: int = 200, *, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await call(status)


async def test_text_only(shared: Shared) -> None:
    """MessagePack over Server-Sent Events is refused in the handshake; a handshake may come in parts."""
    alice = await shared.register("alice")
    async with of(shared, alice) as a, a.stream() as until:
        await a.ask("POST", b'{"protocol":"messagepack","version":1}\x1e')
        refusal = b'{"error": "Cannot use the binary protocol on a text-only transport."}'
        assert b"data: " + refusal + b"\x1e\n\n" in await until(b"\n\n")
    async with of(shared, alice) as a, a.stream() as until:
        await a.ask("POST", SHAKE[:10])
        await a.ask("POST", SHAKE[10:] + PING)
        assert b"data: {}\x1e" + PONG + b"\n\n" in await until(PONG + b"\n\n")
        await a.ask("POST", b"nonsense\x1e")
        assert b'"type":7,"error":' in await until(b'"type":7')
    async with of(shared, alice) as a:
        await a.ask("GET")
        await a.ask("POST", SHAKE + b"nonsense\x1e")
        assert b'{}\x1e{"type":7,"error":' in await a.polled(b'"type":7')
        await a.ask("GET", status=204)


async def test_drain_and_pings(database: str, redis_url: str) -> None:
    """P10: the drain reaches these clients too; before that, the silence of a stream is broken by pings. A client that
    leaves is noticed at once (its stream), or says goodbye."""
    async with running(database, redis_url, keepalive=0.5) as server:
        alice, bob = await server.register("alice"), await server.register("bob")

        def has_closed(count: int) -> bool:
            return len([line for line in server.events("connection_closed") if line["user"] == alice.id]) >= count

        for number, transport in enumerate(("sse", "polling"), 1):
            async with server.connect(alice, transport=transport):
                pass
            await wait_until(partial(has_closed, number))
        async with of(server, bob) as b, b.stream() as until:
            await b.ask("POST", SHAKE)
            await until(b'{"type":6}\x1e')
        async with server.connect(bob, transport="sse") as one, server.connect(bob, transport="polling") as other:
            for client in (one, other):
                assert await client.invoke("Ping") == {}
            server.terminate()
            for client in (one, other):
                with trio.fail_after(WAIT):
                    await client.closed.wait()
                assert client.close_message is not None and client.close_message.allow_reconnect
                assert "draining" in (client.close_message.error or "")
        assert await server.wait() == 0


async def test_slow_readers_cost_only_themselves(database: str, redis_url: str) -> None:
    """P8: a client that does not read its stream, or does not poll, holds one send queue, delays no other, and gets
    everything once and in order when it reads again; one that never does is disconnected, though its answer hangs in
    the socket."""
    settings: dict[str, Any] = {"send_queue_bytes": "64KiB", "max_message_bytes": "8KiB", "log_level": "debug"}
    settings["stall_timeout"] = 10  # seconds: between two polls there is less, on any machine
    async with running(database, redis_url, **settings) as server:
        alice, bob, carol = [await server.register(name) for name in ("alice", "bob", "carol")]
        group = await server.group(alice, bob, carol)
        body = {"conversationId": group, "content": "x" * 7000}
        recorder = EventRecorder()
        async with of(server, bob) as b, server.connect(alice, recorder) as a:
            await b.ask("GET")
            await b.ask("POST", SHAKE)
            await b.polled(b"{}")
            stuck = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with of(server, carol) as c:
                head = f"GET /hubs/chat?id={c.id} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
                await stuck.send_all(f"{head}Authorization: Bearer {carol.token}\r\n\r\n".encode())
                with trio.fail_after(WAIT):
                    await stuck.receive_some(1000)
                await c.ask("POST", SHAKE)
            sent: list[int] = []
            seqs: list[int] = []

            async def poll() -> None:
                with trio.fail_after(WAIT):
                    said = await b.ask("GET")
                assert len(said) <= 65536
                for line in said.split(b"\x1e"):
                    if b'"ReceiveMessage"' in line:
                        seqs.append(json.loads(line)["arguments"][0]["seq"])

            with trio.fail_after(2 * WAIT):
                while not {bob.id, carol.id} <= {line["user"] for line in server.events("lagging")}:
                    calls = [await a.start("SendMessage", body) for _ in range(32)]
                    sent += [(await a.result(call))["seq"] for call in calls]
                    await poll()  # too little to keep up, enough not to be taken for gone
            while len(seqs) < len(sent):
                await poll()
            assert seqs == sent
            await wait_until(lambda: any("stalled" in line["reason"] for line in server.events("connection_closed")))
            await stuck.aclose()


async def test_a_client_that_stops_polling_is_gone(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polls end empty after their time; a client that does not poll again is taken for gone, and its connection is not
    known any more. Too many requests are answered later, and in the end refused."""
    monkeypatch.setattr(long_polling, "POLL_TIMEOUT", 0.3)
    monkeypatch.setattr(long_polling, "DISCONNECT_TIMEOUT", 5.0)
    monkeypatch.setattr(http_endpoint, "ENDED_FOR", -1.0)
    async with open_site(database, redis_url, nursery, rate_limits="on", rate_requests="20/600s") as site:
        _, token = await site.user("alice")
        async with door(f"{site.url}/hubs/chat", token) as a:
            await a.ask("GET")
            await a.ask("POST", SHAKE)
            assert await a.ask("GET") == b"{}\x1e"
            assert await a.ask("GET") == b""
            with trio.fail_after(WAIT):
                await _until_gone(site)
            await a.ask("GET", status=404)
            await a.ask("POST", PING, status=404)
            monkeypatch.setattr(http_endpoint, "PACE_MAX", 0.05)
            codes: set[int] = set()

            async def poll() -> None:
                codes.add((await a.http.get(a.url, params={"id": a.id})).status_code)

            async with trio.open_nursery() as crowd:
                for _ in range(40):
                    crowd.start_soon(poll)
            # 503: where a machine stood still, it is not known for the moment whether another instance has it.
            assert codes - {503} == {404, 429}


async def _until_gone(site: Site) -> None:
    await wait_until(lambda: not site.process.hub.connections)


async def test_posts_wait_their_turn(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A POST is answered when its messages are taken up: with 32 sends outstanding the next one waits, and no more is
    read; then they go on in order."""
    held = psycopg.connect(database)
    async with open_site(database, redis_url, nursery) as site:
        _, token = await site.user("alice")
        bob, _ = await site.user("bob")
        made = await site.call(
            "POST", "/api/conversations", {"type": "Direct", "memberIds": [bob]}, token=token, status=201
        )
        async with door(f"{site.url}/hubs/chat", token) as a, a.stream() as until:
            await a.ask("POST", SHAKE)
            await until(b"{}")
            held.execute("LOCK TABLE messages IN EXCLUSIVE MODE")  # nothing is committed from here on
            [transport] = site.process.http_endpoint._transports.values()
            answered: list[int] = []

            async def post(number: int) -> None:
                calls = [
                    {"type": 1, "target": "SendMessage", "arguments": [{**body, "content": f"{number}-{n}"}]}
                    for n in range(16)
                ]
                await a.ask("POST", b"".join(json.dumps(call).encode() + b"\x1e" for call in calls))
                answered.append(number)

            body = {"conversationId": made["id"]}
            for number in range(2):
                await post(number)
            for number in (2, 3):
                nursery.start_soon(post, number)
                await _until_waiting(transport, number - 1)
            assert answered == [0, 1] and transport.connection.outstanding == 32
            held.close()
            said = await until(b'"3-15"')
            contents = [text for text in said.split(b'"content":"') if text[1:2] == b"-"]
            assert [text.partition(b'"')[0] for text in contents] == [
                b"%d-%d" % (number, n) for number in range(4) for n in range(16)
            ]
        with trio.fail_after(WAIT):
            await _until_gone(site)


async def _until_waiting(transport: HttpTransport, posts: int) -> None:
    await wait_until(lambda: transport._posts.statistics().tasks_waiting + transport._posts.locked() >= posts)
