"""server.rest.routes.moderation: roles and bans over REST, and what a banned user meets."""

from uuid import UUID

import pytest
import trio

from handlers.text_rules import LAST_TIME
from loadtest.client import HubClient
from server.identity.access_tokens import mint_token
from store.postgres import conversations, moderation
from store.postgres.connection import Connection
from tests import transports
from tests.site import Site
from tests.store.world import wait_for_lock
from tests.waiting import wait_until


async def administrator(site: Site) -> str:
    user_id, token = await site.user("administrator")
    minted = mint_token(site.process.settings, UUID(user_id), admin=True)
    await site.call("PUT", f"/api/users/{user_id}/role", {"role": "Administrator"}, token=minted)
    return token


async def test_roles_count_at_once(site: Site) -> None:
    """What was granted counts with the token that the user has already, and no more when it is revoked."""
    admin = await administrator(site)
    mod, m = await site.user("mod")
    user, u = await site.user("user")
    await site.call("GET", f"/api/users/{user}/standing", token=m, status=403)
    await site.call("PUT", f"/api/users/{mod}/role", {"role": "moderator"}, token=admin)
    found = await site.call("GET", f"/api/users/{user}/standing", token=m)
    assert found == {"userId": user, "role": "User", "bannedUntil": None}
    own = await site.call("GET", f"/api/users/{mod}/standing", token=m)
    assert own["role"] == "Moderator"
    await site.call("PUT", f"/api/users/{mod}/role", {"role": 0}, token=admin)
    await site.call("PUT", f"/api/users/{user}/ban", {}, token=m, status=403)
    await site.call("PUT", f"/api/users/{user}/role", {"role": "Moderator"}, token=u, status=403)


async def test_banned(site: Site) -> None:
    """Connections end, tokens, sign-in and connects are refused with one code and the time, until it is lifted."""
    admin = await administrator(site)
    user = await site.call("POST", "/api/users", {"username": "user"}, status=201)
    token, path = user["accessToken"], f"/api/users/{user['id']}/ban"
    url = f"{site.url}/hubs/chat"
    until = "2999-01-01T00:00:00.000Z"
    async with transports.connect("socket", url, token) as client:
        await client.invoke("Ping")
        found = await site.call("PUT", path, {"until": until, "reason": "spam"}, token=admin)
        assert found["bannedUntil"] == until
        assert (await end_of(client)).startswith("banned:")
    refusals = [
        await site.call("GET", "/api/users/me", token=token, status=403),
        await site.call("POST", "/hubs/chat/negotiate?negotiateVersion=1", token=token, status=403),
        await site.call("POST", "/auth/refresh", {"refreshToken": user["refreshToken"]}, status=403),
    ]
    assert [(one["code"], one["until"]) for one in refusals] == [("banned", until)] * 3
    async with transports.connect("socket", url, token) as client:  # a WebSocket that has not negotiated
        assert (await end_of(client)).startswith("banned:")
    other, _ = await site.user("other")
    await site.call("DELETE", path, token=token, status=403)
    await site.call("DELETE", path + "?reason=mistake", token=admin)
    assert (await site.call("GET", f"/api/users/{other}", token=token))["id"] == other
    await site.call("POST", "/auth/refresh", {"refreshToken": user["refreshToken"]})


@pytest.mark.parametrize("act", ["ban", "rename", "delete"])
async def test_a_role_is_taken_away_while_somebody_acts(site: Site, database: str, act: str) -> None:
    """A moderator whose act waits for others to be done with the user or the conversation, and whose role is taken away
    meanwhile, does nothing with it."""
    admin = await administrator(site)
    (alice, a), (mod, m) = await site.user("alice"), await site.user("mod")
    await site.call("PUT", f"/api/users/{mod}/role", {"role": "Moderator"}, token=admin)
    group = (await site.call("POST", "/api/conversations", {"type": "Group", "name": "x"}, token=a, status=201))["id"]
    body = {"conversationId": group, "content": "hello"}
    said = (await site.call("POST", "/api/messages", body, token=a, status=201))["id"]
    method, path, sent = {
        "ban": ("PUT", f"/api/users/{alice}/ban", {}),
        "rename": ("PUT", f"/api/conversations/{group}/name", {"name": "another"}),
        "delete": ("DELETE", f"/api/messages/{said}", None),
    }[act]
    refusals: list[str] = []

    async def do() -> None:
        refusals.append((await site.call(method, path, sent, token=m, status=403))["code"])

    async with (
        await Connection.open(database) as other,
        await Connection.open(database) as watcher,
        trio.open_nursery() as nursery,
        other.transaction(),
    ):
        await conversations.lock_conversation(other, UUID(group))
        await moderation.lock_user_standing(other, UUID(alice))
        nursery.start_soon(do)
        await wait_for_lock(watcher)
        await site.call("PUT", f"/api/users/{mod}/role", {"role": "User"}, token=admin)
    assert refusals == ["forbidden"]
    assert (await site.call("GET", f"/api/conversations/{group}", token=a))["name"] == "x"
    assert (await site.call("GET", f"/api/messages/{said}", token=a))["content"] == "hello"


@pytest.mark.parametrize(
    ("path", "body"), [("/api/users/me", {"displayName": "another"}), ("/api/users/status", {"status": "Busy"})]
)
async def test_a_ban_while_somebody_writes(site: Site, database: str, path: str, body: dict[str, str]) -> None:
    """Who changes what all see of them while a ban of theirs is being committed waits for it, and is refused."""
    user_id, token = await site.user("user")
    _, other_token = await site.user("other")
    before = await site.call("GET", f"/api/users/{user_id}", token=other_token)
    refusals: list[str] = []

    async def change() -> None:
        refusals.append((await site.call("PUT", path, body, token=token, status=403))["code"])

    async with (
        await Connection.open(database) as other,
        await Connection.open(database) as watcher,
        trio.open_nursery() as nursery,
        other.transaction(),
    ):
        await moderation.lock_user_standing(other, UUID(user_id))
        await moderation.update_ban(other, UUID(user_id), LAST_TIME)
        nursery.start_soon(change)
        await wait_for_lock(watcher)
    assert refusals == ["banned"]
    assert await site.call("GET", f"/api/users/{user_id}", token=other_token) == before


async def end_of(client: HubClient) -> str:
    """Why the connection has ended."""
    with trio.fail_after(60):
        await client.closed.wait()
    assert client.close_message is not None
    return client.close_message.error or ""


async def test_sessions_end(site: Site) -> None:
    """All of the user's, with their connections; the user signs in again by other means."""
    admin = await administrator(site)
    user = await site.call("POST", "/api/users", {"username": "user"}, status=201)
    async with transports.connect("socket", f"{site.url}/hubs/chat", user["accessToken"]) as client:
        await client.invoke("Ping")
        await site.call("DELETE", f"/api/users/{user['id']}/sessions", token=admin)
        assert (await end_of(client)).startswith("unauthenticated:")
    await site.call("GET", "/api/users/me", token=user["accessToken"], status=401)
    await site.call("POST", "/auth/refresh", {"refreshToken": user["refreshToken"]}, status=401)


async def test_renamed(site: Site) -> None:
    """Others find the user by the new name only."""
    admin = await administrator(site)
    user, token = await site.user("rude")
    body = {"username": "kind", "displayName": "Kind One", "reason": "rude"}
    found = await site.call("PUT", f"/api/users/{user}/name", body, token=admin)
    assert (found["username"], found["displayName"]) == ("kind", "Kind One")
    assert [one["id"] for one in (await site.call("GET", "/api/users?q=kin", token=token))["items"]] == [user]
    assert (await site.call("GET", "/api/users?q=rud", token=token))["items"] == []
    await site.call("PUT", f"/api/users/{user}/name", {"username": "administrator"}, token=admin, status=409)


async def test_a_banned_user_is_offline(site: Site) -> None:
    """Others see them leave."""
    admin = await administrator(site)
    user, token = await site.user("user")
    async with transports.connect("socket", f"{site.url}/hubs/chat", token) as client:
        await client.invoke("Ping")

        async def status() -> str:
            return str((await site.call("GET", f"/api/users/{user}", token=admin))["status"])

        async def is_now(expected: str) -> bool:
            return await status() == expected

        await wait_until(lambda: is_now("Online"))
        await site.call("PUT", f"/api/users/{user}/ban", {}, token=admin)
        await wait_until(lambda: is_now("Offline"))
