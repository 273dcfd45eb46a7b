"""What moderators do reaches the sockets of every instance, by whichever way it is done, and whatever is away.

No test judges how long it takes; each prints what it measured.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import pytest
import trio

from loadtest.client import ClientError, HubClient, HubError
from server.config.loading import load
from server.identity.access_tokens import mint_token
from store.redis.instances import Instances
from tests import forkserver
from tests.event_recorder import WAIT, EventRecorder, event_of
from tests.integration.conftest import Shared
from tests.integration.test_instances import people, until
from tests.proxy import Proxy
from tests.running import JWT_KEY, Running, User, checked, running
from tests.waiting import wait_until

TRANSPORTS = ("socket", "sse", "polling")
WAYS = ("REST", "the command")
# What ends all connections of a user, by the name of the command: the path and method of REST, and the code of the end.
ENDS = {"ban": ("PUT", "ban", "banned"), "end-sessions": ("DELETE", "sessions", "unauthenticated")}

Pair = tuple[Shared, Shared]


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    return shared_pair


def administrator(user: User) -> User:
    """The same user with a token that says so."""
    return user._replace(token=mint_token(load({}, None, jwt_key=JWT_KEY), UUID(user.id), admin=True))


async def command(database: str, *arguments: str) -> None:
    """`parley admin` in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    done = await forkserver.run("admin", *arguments, environ={**environ, "PARLEY_DATABASE_URL": database})
    assert done.code == 0, done


async def act(way: str, name: str, server: Running, database: str, admin: User, user: User) -> None:
    if way == "the command":
        await command(database, name, user.id)
        return
    method, path, _ = ENDS[name]
    async with server.http(admin) as http:
        body: dict[str, str] | None = {} if method == "PUT" else None
        checked(await http.request(method, f"/api/users/{user.id}/{path}", json=body))


class Sockets(NamedTuple):
    """Connections of one user, by the number of the instance and the transport."""

    clients: dict[tuple[int, str], HubClient]

    async def ended(self, code: str) -> float:
        """Wait until each has ended for this reason, for good; return after how many seconds the last one had."""
        began = trio.current_time()
        for place, client in self.clients.items():
            with trio.fail_after(WAIT):
                await client.closed.wait()
            close = client.close_message
            assert close is not None and (close.error or "").startswith(f"{code}:"), (place, close)
            assert not close.allow_reconnect, place
        return trio.current_time() - began


@asynccontextmanager
async def everywhere(servers: Sequence[Running], user: User) -> AsyncIterator[Sockets]:
    async with AsyncExitStack() as stack:
        clients = {}
        for number, server in enumerate(servers):
            for name in TRANSPORTS:
                client = await stack.enter_async_context(server.connect(user, transport=name))
                await client.invoke("Ping")
                clients[number, name] = client
        yield Sockets(clients)


async def is_refused(server: Running, user: User, refresh_token: str) -> None:
    """A banned user comes in nowhere, by no transport, and gets no new tokens."""
    async with server.http(user) as http:
        answers = [
            await http.get("/api/users/me"),
            await http.post("/hubs/chat/negotiate?negotiateVersion=1"),
            await http.post("/auth/refresh", json={"refreshToken": refresh_token}),
        ]
    assert [(one.status_code, one.json()["code"]) for one in answers] == [(403, "banned")] * 3
    for name in TRANSPORTS[1:]:
        with pytest.raises(ClientError, match="banned"):
            async with server.connect(user, transport=name):
                pass
    async with server.connect(user) as client:  # a WebSocket that has not negotiated
        await Sockets({(0, "socket"): client}).ended("banned")


async def signed_up(server: Running, name: str) -> tuple[User, str]:
    """A user, and their refresh token."""
    async with server.http() as http:
        body = checked(await http.post("/api/users", json={"username": name}))
    return User(body["id"], name, body["accessToken"]), body["refreshToken"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", list(ENDS))
async def test_every_socket_ends(pair: Pair, way: str, name: str) -> None:
    """Connections of the user over each transport to each instance end with the stable code, and others notice nothing
    but that they are gone. Who is banned comes in nowhere again; who has to sign in again has no token that is good."""
    one, _ = pair
    admin, eve = await people(one, "admin", "eve")
    bob, refresh_token = await signed_up(one, f"bob-{way[:4]}-{name}".replace(" ", ""))
    group = await one.group(eve, bob)
    recorders = [EventRecorder() for _ in pair]
    async with AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(server.connect(eve, recorder))
            for server, recorder in zip(pair, recorders, strict=True)
        ]
        sockets = await stack.enter_async_context(everywhere(pair, bob))
        await until(recorders[0], "UserStatusChanged", userId=bob.id, status="Online")
        await act(way, name, one, one.database, administrator(admin), bob)
        seconds = await sockets.ended(ENDS[name][2])
        print(f"{name} by {way}: the last of {len(sockets.clients)} sockets ended {seconds:.3f} s behind it")  # noqa: T201
        for server in pair:
            if name == "ban":
                await is_refused(server, bob, refresh_token)
            else:
                async with server.http(bob) as http:
                    assert (await http.get("/api/users/me")).status_code == 401
                    body = {"refreshToken": refresh_token}
                    assert (await http.post("/auth/refresh", json=body)).status_code == 401
        said = await others[0].invoke("SendMessage", {"conversationId": group, "content": "is it quiet?"})
        for client, recorder in zip(others, recorders, strict=True):
            await until(recorder, "ReceiveMessage", id=said["id"])
            await client.invoke("GetUnread")
            about = {target: value for target, (value, *_) in recorder.events if target != "ReceiveMessage"}
            assert about.keys() <= {"UserStatusChanged", "MessageStatusUpdated"}, about
            presence = [event for event in recorder.of("UserStatusChanged") if event["userId"] != eve.id]
            assert {event["userId"] for event in presence} <= {bob.id}


async def test_twice_and_lifted(pair: Pair) -> None:
    """A ban that comes twice counts with its last time; when it is lifted the tokens of before are good again, on every
    instance."""
    one, two = pair
    [admin] = await people(one, "admin")
    bob, refresh_token = await signed_up(one, "bob-twice")
    path = f"/api/users/{bob.id}/ban"
    async with one.http(administrator(admin)) as here, two.http(administrator(admin)) as there:
        checked(await here.put(path, json={}))
        found = checked(await there.put(path, json={"until": "2999-01-01T00:00:00.000Z"}))
        assert found["bannedUntil"] == "2999-01-01T00:00:00.000Z"
        for server in pair:
            await is_refused(server, bob, refresh_token)
        for _ in range(2):
            assert checked(await here.delete(path))["bannedUntil"] is None
    async with everywhere(pair, bob) as sockets:
        for client in sockets.clients.values():
            await client.invoke("GetUnread")
    async with two.http() as http:
        checked(await http.post("/auth/refresh", json={"refreshToken": refresh_token}))


async def test_what_counts_at_once(pair: Pair) -> None:
    """A role that is taken away, a mute and a new name, all by the command, count in the next call over a socket of any
    instance that was opened before; who is kept out gets nothing more."""
    one, two = pair
    admin, alice, bob, mod = await people(one, "admin", "alice", "bob", "mod")
    group = await one.group(alice, bob)
    recorder = EventRecorder()

    async def say(client: HubClient, content: str) -> Any:
        return await client.invoke("SendMessage", {"conversationId": group, "content": content})

    await command(one.database, "grant", "administrator", admin.id)
    await command(one.database, "grant", "moderator", mod.id)
    async with one.connect(alice) as a, two.connect(bob, recorder) as b, two.connect(mod) as m:
        said = [await say(a, text) for text in ("one", "two")]
        await until(recorder, "ReceiveMessage", id=said[1]["id"])
        await m.invoke("DeleteMessage", said[0]["id"])
        await command(one.database, "revoke", "moderator", mod.id)
        with pytest.raises(HubError, match="not_found"):
            await m.invoke("DeleteMessage", said[1]["id"])
        await command(one.database, "mute", group, bob.id, "--for", "1h", "--as", admin.id)
        with pytest.raises(HubError, match="muted"):
            await say(b, "may I?")
        await command(one.database, "unmute", group, bob.id, "--as", admin.id)
        await say(b, "thanks")
        await command(one.database, "rename-user", bob.id, "--username", f"b-{bob.id}")
        async with two.http(alice) as http:
            assert checked(await http.get(f"/api/users/{bob.id}"))["username"] == f"b-{bob.id}"
        await command(one.database, "keep-out", group, bob.id, "--as", admin.id)
        with pytest.raises(HubError, match="not_found"):
            await say(b, "and now?")
        with trio.fail_after(WAIT):
            await recorder.until(1, "ConversationRemoved")
        last = await say(a, "among us")
        await b.invoke("GetUnread")
        assert event_of(last) not in recorder.messages


@pytest.mark.parametrize("way", WAYS)
async def test_without_redis(database: str, redis_url: str, tmp_path: Path, nursery: trio.Nursery, way: str) -> None:
    """A ban ends the sockets of every instance also while Redis is away from all of them, and nothing is served to who
    is banned when it is back."""
    redis = Proxy(tmp_path / "redis", Path(redis_url.removeprefix("unix://")))
    await nursery.start(redis.run)
    url = f"unix://{tmp_path / 'redis'}"
    async with running(database, url) as one, running(database, url) as two:
        pair = (one, two)
        [admin] = await people(one, "admin")
        bob, refresh_token = await signed_up(one, "bob")
        async with everywhere(pair, bob) as sockets:
            redis.refusing = True
            redis.cut()
            await wait_until(lambda: one.events("membership_lost") and two.events("membership_lost"))
            await act(way, "ban", one, database, administrator(admin), bob)
            seconds = await sockets.ended("banned")
            print(f"by {way}, without Redis: the last socket ended {seconds:.2f} s behind it")  # noqa: T201
            for server in pair:
                await is_refused(server, bob, refresh_token)
            redis.refusing = False
            await wait_until(lambda: len(two.events("membership_established")) > 1)
            await is_refused(two, bob, refresh_token)


Pause = Callable[[Instances, Running], Awaitable[None]]


async def briefly(instances: Instances, stopped: Running) -> None:
    """What happened meanwhile waits in the inbox of the instance."""


async def until_it_is_reaped(instances: Instances, stopped: Running) -> None:
    """There is no inbox any more."""
    name = stopped.events("membership_established")[-1]["instance"]

    async def is_reaped() -> bool:
        return name not in {known.instance for known in await instances.list_all()}

    await wait_until(is_reaped)


@pytest.mark.parametrize("pause", [briefly, until_it_is_reaped])
async def test_an_instance_that_was_stopped(database: str, redis_url: str, instances: Instances, pause: Pause) -> None:
    """An instance that is stopped while a user of it is banned, and goes on later, writes nothing that they have asked
    it for, and ends their connections; what they had said before is there."""
    async with running(database, redis_url) as one, running(database, redis_url) as two:
        admin, alice, bob = await people(one, "admin", "alice", "bob")
        group = await one.group(alice, bob)
        async with everywhere((two,), bob) as sockets:
            before = [
                await client.invoke("SendMessage", {"conversationId": group, "content": f"before, by {name}"})
                for (_, name), client in sockets.clients.items()
            ]
            two.pause()
            try:
                await act("REST", "ban", one, database, administrator(admin), bob)
                client = sockets.clients[0, "socket"]  # what it writes waits in the socket
                for content in ("while it is stopped", "and once more"):
                    await client.start("SendMessage", {"conversationId": group, "content": content})
                await client.start("EditMessage", before[0]["id"], "changed while it is stopped")
                await pause(instances, two)
            finally:
                two.resume()
            seconds = await sockets.ended("banned")
            print(f"stopped {pause.__name__}: the last socket ended {seconds:.2f} s after it went on")  # noqa: T201
        stored = await one.history(alice, group)
        assert [(said["id"], said["content"]) for said in stored] == [(said["id"], said["content"]) for said in before]


async def test_it_dies_behind_the_commit(database: str, redis_url: str, tmp_path: Path) -> None:
    """A process that dies between the commit of a ban and its announcement loses nothing of it: sockets of other
    instances end, and the one that is started in its place refuses the user."""
    dying = {"DYING_WHEN": str(tmp_path / "die")}
    async with running(database, redis_url) as two:
        admin, alice = await people(two, "admin", "alice")
        bob, refresh_token = await signed_up(two, "bob")
        async with everywhere((two,), bob) as sockets:
            weak = running(database, redis_url, may_fail=True, module="tests.chaos.dying", environment=dying)
            async with weak as one:
                (tmp_path / "die").touch()
                async with one.http(administrator(admin)) as http:
                    with pytest.raises(httpx.TransportError):
                        await http.put(f"/api/users/{bob.id}/ban", json={})
                assert await one.wait() != 0
            seconds = await sockets.ended("banned")
            print(f"the last socket ended {seconds:.2f} s after the process had died")  # noqa: T201
        async with running(database, redis_url) as again:
            for server in (two, again):
                await is_refused(server, bob, refresh_token)
            async with again.http(alice) as http:
                checked(await http.get("/api/users/me"))
