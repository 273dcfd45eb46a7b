"""REST for joining groups: what a link is, and how often one may try."""

from typing import Any
from uuid import UUID

import pytest
import trio

from handlers.text_rules import LAST_TIME
from store.postgres import conversations, member_bans, moderation
from store.postgres.connection import Connection
from tests.site import Site, open_site
from tests.store.world import wait_for_lock


async def group_of(site: Site, token: str, **more: Any) -> str:
    body = {"type": "Group", "name": "team", **more}
    return str((await site.call("POST", "/api/conversations", body, token=token, status=201))["id"])


async def test_joining_by_a_link(site: Site) -> None:
    """An admin makes a link and sees how often it was used; who knows its token joins, until it is revoked."""
    (alice, a), (bob, b), (_, c) = [await site.user(name) for name in ("alice", "bob", "carol")]
    group = await group_of(site, a)
    path = f"/api/conversations/{group}/links"
    await site.call("POST", path, {}, token=b, status=404)
    link = await site.call("POST", path, {"maxUses": 5, "expiresInSeconds": 60}, token=a, status=201)
    assert set(link) == {"id", "conversationId", "createdBy", "createdAt", "expiresAt", "maxUses", "uses", "token"}
    assert (link["conversationId"], link["createdBy"], link["maxUses"], link["uses"]) == (group, alice, 5, 0)
    joined = await site.call("POST", "/api/join", {"token": link["token"]}, token=b, status=201)
    assert joined["id"] == group and joined["memberCount"] == 2
    assert {member["userId"]: member["role"] for member in joined["members"]}[bob] == "Member"
    said = (await site.call("GET", f"/api/messages?conversationId={group}", token=b))["items"][0]
    assert f'"event":"memberAdded","by":"{bob}","userId":"{bob}"' in said["content"]
    await site.call("POST", "/api/join", {"token": link["token"]}, token=b)  # again: nothing changes
    await site.call("GET", path, token=b, status=403)
    page = await site.call("GET", path, token=a)
    assert page["next"] is None
    [listed] = page["items"]
    assert listed == {**{name: value for name, value in link.items() if name != "token"}, "uses": 1}
    await site.call("DELETE", f"{path}/{link['id']}", token=b, status=403)
    await site.call("DELETE", f"{path}/{link['id']}", token=a, status=204)
    await site.call("DELETE", f"{path}/{link['id']}", token=a, status=404)
    revoked = await site.call("POST", "/api/join", {"token": link["token"]}, token=c, status=404)
    unknown = await site.call("POST", "/api/join", {"token": "x" * 32}, token=c, status=404)
    assert (revoked["code"], revoked["detail"]) == (unknown["code"], unknown["detail"])
    for wrong in ({"maxUses": 0}, {"expiresInSeconds": 59}, {"expiresInSeconds": 31_536_001}):
        await site.call("POST", path, wrong, token=a, status=400)


async def test_a_link_is_made_once(site: Site) -> None:
    """With the same key it is the same link, and the token of the last answer counts."""
    (_, a), (_, b) = await site.user("alice"), await site.user("bob")
    path = f"/api/conversations/{await group_of(site, a)}/links"
    key = {"Idempotency-Key": "one"}
    first, again = [await site.call("POST", path, {}, token=a, headers=key, status=201) for _ in range(2)]
    assert first["id"] == again["id"] and first["token"] != again["token"]
    await site.call("POST", path, {"maxUses": 1}, token=a, headers=key, status=422)
    await site.call("POST", "/api/join", {"token": first["token"]}, token=b, status=404)
    await site.call("POST", "/api/join", {"token": again["token"]}, token=b, status=201)


async def test_public_groups(site: Site) -> None:
    """What an owner makes public is found by its words and joined by anybody; of other groups a stranger learns
    nothing, and of a public one no more than the search says."""
    (_, a), (bob, b) = await site.user("alice"), await site.user("bob")
    group, hidden = await group_of(site, a), await group_of(site, a)
    path, details = f"/api/conversations/{group}", {"description": "Über alles", "isPublic": True}
    await site.call("POST", f"{path}/join", token=b, status=404)
    assert (await site.call("GET", "/api/groups", token=b))["items"] == []
    assert (await site.call("PUT", path, details, token=a))["isPublic"] is True
    text = {"conversationId": group, "content": "among us"}
    await site.call("POST", "/api/messages", text, token=a, status=201)
    shown = {"id": group, "name": "team", "description": "Über alles", "avatarUrl": None, "memberCount": 1}
    for query in ("", "?q=TEA", "?q=uber", "?q=alles&limit=1"):
        page = await site.call("GET", f"/api/groups{query}", token=b)
        assert page == {"items": [shown], "next": None}, query
    for method, route in (("GET", path), ("GET", f"/api/messages?conversationId={group}"), ("GET", f"{path}/members")):
        await site.call(method, route, token=b, status=404)
    await site.call("GET", f"/api/conversations/{hidden}", token=b, status=404)
    await site.call("POST", f"/api/conversations/{hidden}/join", token=b, status=404)
    joined = await site.call("POST", f"{path}/join", token=b, status=201)
    assert {member["userId"]: member["role"] for member in joined["members"]}[bob] == "Member"
    await site.call("POST", f"{path}/join", token=b)
    await site.call("PUT", path, {"isPublic": False}, token=b, status=403)
    await site.call("PUT", path, {"isPublic": False}, token=a)
    assert (await site.call("GET", "/api/groups?q=team", token=b))["items"] == []


async def test_guessing_is_slow(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A user has so many attempts on all instances together, right or wrong; another user has as many."""
    options: dict[str, Any] = {"rate_limits": "on", "rate_joins": "3/60s"}
    async with (
        open_site(database, redis_url, nursery, **options) as one,
        open_site(database, redis_url, nursery, **options) as two,
    ):
        (_, a), (_, b) = await one.user("alice"), await two.user("bob")
        for site in (one, two, one):
            await site.call("POST", "/api/join", {"token": "x"}, token=a, status=404)
        for site in (one, two):
            problem = await site.call("POST", "/api/join", {"token": "x"}, token=a, status=429)
            assert problem["code"] == "rate_limited"
        await two.call("POST", "/api/join", {"token": "x"}, token=b, status=404)


@pytest.mark.parametrize("banned_from", ["group", "service"])
@pytest.mark.parametrize("way", ["link", "public"])
async def test_a_ban_while_somebody_joins(site: Site, database: str, way: str, banned_from: str) -> None:
    """Who begins to join a group while a ban of theirs is being committed waits for it, and does not come in: neither
    into the group that keeps them out, nor anywhere while their account is banned. The link is not used."""
    (_, a), (bob, b) = await site.user("alice"), await site.user("bob")
    group = await group_of(site, a)
    await site.call("PUT", f"/api/conversations/{group}", {"isPublic": True}, token=a)
    link = await site.call("POST", f"/api/conversations/{group}/links", {}, token=a, status=201)
    refusals: list[str] = []

    async def join() -> None:
        path = "/api/join" if way == "link" else f"/api/conversations/{group}/join"
        body = {"token": link["token"]} if way == "link" else None
        refusals.append((await site.call("POST", path, body, token=b, status=403))["code"])

    async with (
        await Connection.open(database) as other,
        await Connection.open(database) as watcher,
        trio.open_nursery() as nursery,
        other.transaction(),
    ):
        if banned_from == "group":
            await conversations.lock_conversation(other, UUID(group))
            await member_bans.put_ban(other, UUID(group), UUID(bob), LAST_TIME, by=UUID(bob))
        else:
            await moderation.lock_user_standing(other, UUID(bob))
            await moderation.update_ban(other, UUID(bob), LAST_TIME)
        nursery.start_soon(join)
        await wait_for_lock(watcher)
    assert refusals == ["kept_out" if banned_from == "group" else "banned"]
    assert (await site.call("GET", f"/api/conversations/{group}", token=a))["memberCount"] == 1
    [listed] = (await site.call("GET", f"/api/conversations/{group}/links", token=a))["items"]
    assert listed["uses"] == 0
