"""`parley inspect` and `parley drain` against real servers, run as an operator runs them."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from rich.console import Console

from loadtest.client import ClientError, HubClient, connect
from server.cli.inspect.tables import RENDERERS
from tests import forkserver
from tests.proxy import Proxy
from tests.running import running
from tests.server.metrics.samples import admin, scrape
from tests.site import Site, open_site
from tests.waiting import wait_until

# Ctrl-C is ignored by what a shell has started in the background, the tests among it.
INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from server.cli.main import main; main()"
)
WAIT = 300.0  # seconds: long past anything but a hang
GARBAGE = b"\x16\x03\x01 not HTTP at all \xff\xfe" * 50


async def parley(*arguments: str | Path, **environ: str) -> "Said":
    """Run the command in a process of its own."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    with trio.fail_after(WAIT):
        return Said(*await forkserver.run(*map(str, arguments), environ={**settings, **environ}))


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


class Post(NamedTuple):
    """A server and its admin socket."""

    site: Site
    socket: Path

    async def inspect(self, *arguments: str) -> Said:
        return await parley("inspect", *arguments, "--socket", self.socket)

    async def ask(self, question: str, **query: str) -> Any:
        """What `parley inspect QUESTION --json` prints."""
        async with admin(self.socket) as http:
            answer = await http.get(f"/{question}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def client(self, stack: AsyncExitStack, token: str) -> HubClient:
        hub = f"{self.site.url}/hubs/chat"
        return await stack.enter_async_context(connect(hub, token, on_event=lambda target, arguments: None))


@pytest.fixture
async def post(database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Post]:
    socket = tmp_path / "run" / "one.sock"
    async with open_site(database, redis_url, nursery, admin_listen=(str(socket),), instance="one") as site:
        yield Post(site, socket)


async def ended(client: HubClient) -> None:
    """The server has closed this connection."""
    with trio.fail_after(WAIT):
        await client.closed.wait()


async def test_what_is_shown_is_true(post: Post) -> None:
    """Every command answers as JSON and as a table, with the state of the moment."""
    alice, alice_token = await post.site.user("alice")
    bob, his_token = await post.site.user("bob")
    body = {"type": "Direct", "memberIds": [bob]}
    made = await post.site.call("POST", "/api/conversations", body, token=alice_token, status=201)
    async with AsyncExitStack() as stack:
        alice_client = await post.client(stack, alice_token)
        await post.client(stack, his_token)
        await alice_client.invoke("SendMessage", {"conversationId": made["id"], "content": "hello"})

        async def is_sent() -> bool:  # what is on its way to them: the message, presence
            return not any(one["send_queue"] for one in (await post.ask("connections"))["items"])

        await wait_until(is_sent)
        both = await post.ask("connections", sort="in")
        assert both["total"] == 2 and {one["user"] for one in both["items"]} == {alice, bob}
        mine = (await post.inspect("connections", "--json", "--user", "alice")).json
        [one] = mine["items"]
        assert (mine["total"], one["user"], one["condition"], one["rooms"]) == (1, alice, "open", 1)
        assert (one["transport"], one["protocol"], one["send_queue"]) == ("websocket", "json", 0)
        assert one["bytes_in"] > 300 and one["bytes_out"] > 300 and one["rtt"] < 1 and one["seconds"] < 60
        assert len((await post.ask("connections", limit="1"))["items"]) == 1
        [room] = (await post.ask("rooms"))["items"]
        assert (room["conversation"], room["attached"], room["held"]) == (made["id"], 2, 0)
        assert sum(lane["accepted"] for lane in await post.ask("lanes")) == 1
        pools = {pool["pool"]: pool["statistics"] for pool in await post.ask("pool")}
        assert list(pools) == ["main", "exports", "search", "webhooks"] and pools["main"]["acquired"] > 0
        [instance] = await post.ask("instances")
        assert instance["this"] and instance["alive"] and (instance["users"], instance["rooms"]) == (2, 1)
        tree = await post.ask("tree")
        names = {branch["name"] for branch in flat(tree)}
        assert "websocket" not in names and any("Supervisor.keep" in name for name in names)  # the clients are idle
        shown = await post.inspect("connections")
        assert shown.code == 0 and alice in shown.out and bob in shown.out and not shown.err, shown
        async with admin(post.socket) as http:
            for question, render in RENDERERS.items():
                drawn = Console(width=200, file=io.StringIO(), record=True)
                drawn.print(render((await http.get(f"/{question}")).content))
                assert len(drawn.export_text().splitlines()) > 1, question
            for wrong in ("sort=beauty", "limit=0", "limit=x", "user=unknown", "user=a%00", "user=%ED%A0%80"):
                problem = (await http.get(f"/connections?{wrong}")).json()
                assert problem["status"] in (400, 404) and problem["detail"], wrong


def flat(branch: dict[str, Any]) -> list[dict[str, Any]]:
    return [branch, *(one for child in branch["children"] for one in flat(child))]


async def test_watching(post: Post) -> None:
    """With --watch the answer is printed repeatedly, one line of JSON each, until interrupted."""
    command = [sys.executable, "-c", INTERRUPTIBLE, "inspect", "status", "--json", "--watch", "0.1"]
    process = await trio.lowlevel.open_process([*command, "--socket", str(post.socket)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = b""
    with trio.fail_after(WAIT):
        while lines.count(b"\n") < 3:
            lines += await process.stdout.receive_some()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    assert {json.loads(line)["name"] for line in lines.splitlines()[:3]} == {"one"}


async def test_kill(post: Post) -> None:
    """Only the named connection ends; killing an unknown connection is reported as an error."""
    _, token = await post.site.user("alice")
    async with AsyncExitStack() as stack:
        clients = [await post.client(stack, token), await post.client(stack, token)]
        victim, other = [view["connection"] for view in (await post.ask("connections"))["items"]]
        killed = await post.inspect("kill", victim)
        assert killed.code == 0, killed

        async def remaining() -> Any:
            items = (await post.ask("connections"))["items"]
            return items if len(items) == 1 else None

        left = await wait_until(remaining)
        assert [view["connection"] for view in left] == [other]
        alive = [client for client in clients if await answers(client)]
        assert len(alive) == 1
        again = await post.inspect("kill", victim)
        assert again.code == 1 and "no such connection" in again.err
        assert (await post.inspect("kill", "../users/alice")).code == 1
        assert (await scrape(post.socket)).value("parley_hub_disconnects_total", reason="operator") == 1


async def answers(client: HubClient) -> bool:
    try:
        return bool(await client.invoke("Ping") == {})
    except ClientError:
        return False


async def test_kill_user_everywhere(
    post: Post, database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """All connections of the user end, on other instances too, and no connection of another user. One that is cut off
    from Redis meanwhile ends them when it is back; those of a sign-in that is ended, as soon as PostgreSQL knows."""
    _, token = await post.site.user("mallory")
    _, other = await post.site.user("alice")
    link = Proxy(tmp_path / "link", Path(redis_url.removeprefix("unix://")))
    await nursery.start(link.run)
    url = f"unix://{tmp_path / 'link'}"
    async with open_site(database, url, nursery, instance="two") as elsewhere, AsyncExitStack() as stack:
        there = Post(elsewhere, post.socket)
        here = [await post.client(stack, token), await there.client(stack, token)]
        alice_client = await there.client(stack, other)
        killed = await post.inspect("kill-user", "mallory")
        assert killed.code == 0 and "killed 1 connections here" in killed.out and "two~" in killed.out, killed
        await ended(here[0])
        await ended(here[1])
        _, leaving = await post.site.user("leaving")
        away, leaving_client = await there.client(stack, token), await there.client(stack, leaving)
        link.refusing = True
        link.cut()
        await wait_until(lambda: not elsewhere.process.membership.established)
        await post.site.call("POST", "/auth/logout", token=leaving, status=204)
        await ended(leaving_client)
        assert (await post.inspect("kill-user", "mallory")).code == 0
        since = await there.client(stack, token)  # they may: their tokens are good
        assert await away.invoke("Ping") == {}
        link.refusing = False
        await ended(away)
        assert await since.invoke("Ping") == await alice_client.invoke("Ping") == {}
    assert (await post.inspect("kill-user", "unknown")).code == 1


async def test_garbage_at_the_socket(post: Post) -> None:
    """A request that is not HTTP, stops half-way or is never read costs its own connection only."""
    for data in (GARBAGE, b"GET /status HTT", b"POST /drain HTTP/1.1\r\nContent-Length: 99\r\n\r\n", b""):
        stream = await trio.open_unix_socket(post.socket)
        await stream.send_all(data)
        await stream.aclose()
    silent = await trio.open_unix_socket(post.socket)
    await silent.send_all(b"GET /tree HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    assert (await post.ask("status"))["name"] == "one"
    await silent.aclose()

    assert (await post.inspect("log-level", "loud")).code == 2
    # Only its owner may connect.
    assert stat.S_IMODE(post.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(post.socket.parent.stat().st_mode) == 0o700


@pytest.mark.services
async def test_without_a_server(tmp_path: Path) -> None:
    """With no socket, a dead one or one of another program there is one clear line and exit code 1."""
    nothing = await parley("inspect", "status", "--socket", tmp_path / "x.sock")
    assert nothing.code == 1 and "no instance answers at" in nothing.err and len(nothing.err.splitlines()) == 1
    assert (await parley("drain", "--socket", tmp_path / "x.sock")).code == 1
    listeners = [trio.SocketListener(await bound(tmp_path / "y.sock"))]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, babble, listeners)
        stranger = await parley("inspect", "status", "--socket", tmp_path / "y.sock")
        nursery.cancel_scope.cancel()
    assert stranger.code == 1 and "Traceback" not in stranger.err
    none = await parley("inspect", "status", XDG_RUNTIME_DIR=str(tmp_path), PARLEY_ADMIN_LISTEN="127.0.0.1:1")
    assert none.code == 1 and "give --socket PATH" in none.err


async def bound(path: Path) -> trio.socket.SocketType:
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(path))
    sock.listen(5)
    return sock


async def babble(stream: trio.SocketStream) -> None:
    await stream.send_all(GARBAGE)


async def test_drain_and_discovery(database: str, redis_url: str, tmp_path: Path) -> None:
    """The only instance on the machine is found; when drained it asks its clients to go, and ends with 0."""
    directory = tmp_path / "runtime"
    place = {"RUNTIME_DIRECTORY": str(directory)}
    async with running(database, redis_url, environment=place, instance="one", admin_listen="auto") as server:
        alice = await server.register("alice")
        async with server.connect(alice) as client:
            shown = await parley("inspect", "status", "--json", **place)
            assert shown.json["pid"] == server.pid and shown.json["connections"] == 1
            drained = await parley("drain", **place)
            assert drained.code == 0 and drained.out.startswith("one ("), drained
            assert drained.out.splitlines()[-1] == "ended"
            await ended(client)
        assert await server.wait() == 0
        assert server.events("draining")
        assert not list(directory.glob("*")), "the socket is left behind"


async def test_what_a_killed_instance_leaves(database: str, redis_url: str, tmp_path: Path) -> None:
    """After kill -9 the socket's file remains: it gives a clear error, and the next instance replaces it."""
    socket = tmp_path / "one.sock"
    async with running(database, redis_url, admin_listen=socket) as server:
        server.kill()
        await server.process.wait()
    assert socket.exists() and (await parley("inspect", "status", "--socket", socket)).code == 1
    async with running(database, redis_url, admin_listen=socket) as server:
        assert (await parley("inspect", "status", "--json", "--socket", socket)).json["pid"] == server.pid
