"""REST for conversations: types, members, roles, and what other users cannot see."""

from uuid import UUID, uuid4

import pytest
import trio

from handlers.text_rules import LAST_TIME
from store.postgres import moderation
from store.postgres.connection import Connection
from tests.site import Site
from tests.store.world import wait_for_lock


async def test_direct_is_made_once(site: Site) -> None:
    """Two users have one direct conversation, no matter which of them creates it."""
    alice, a = await site.user("alice")
    bob, b = await site.user("bob")
    made = await site.call("POST", "/api/conversations", {"type": "direct", "memberIds": [bob]}, token=a, status=201)
    again = await site.call("POST", "/api/conversations", {"type": 0, "memberIds": [alice]}, token=b)
    assert again["id"] == made["id"] and made["type"] == "Direct" and made["memberCount"] == 2
    assert {member["userId"] for member in made["members"]} == {alice, bob}
    assert set(made["members"][0]) == {"userId", "role", "joinedAt", "deliveredSeq", "readSeq"}
    for members in ([], [alice], [bob, str(uuid4())], [str(uuid4())]):
        body = {"type": "Direct", "memberIds": members}
        answer = await site.http.post("/api/conversations", json=body, headers={"Authorization": f"Bearer {a}"})
        assert answer.status_code in (400, 404), answer.text


async def test_group_life(site: Site) -> None:
    """Create, rename, add, promote, remove, leave and delete each need the right role."""
    alice, a = await site.user("alice")
    bob, b = await site.user("bob")
    carol, c = await site.user("carol")
    body = {"type": "Group", "name": "team", "memberIds": [bob]}
    group = (await site.call("POST", "/api/conversations", body, token=a, status=201))["id"]
    path = f"/api/conversations/{group}"
    assert (await site.call("GET", path, token=b))["name"] == "team"
    await site.call("GET", path, token=c, status=404)
    await site.call("PUT", path, {"name": "x"}, token=b, status=403)
    assert (await site.call("PUT", path, {"name": "team"}, token=a))["name"] == "team"
    await site.call("POST", f"{path}/members", {"userId": carol}, token=b, status=403)
    added = await site.call("POST", f"{path}/members", {"userId": carol}, token=a, status=201)
    assert added["memberCount"] == 3
    await site.call("POST", f"{path}/members", {"userId": carol}, token=a)  # again: nothing changes
    await site.call("POST", f"{path}/members", {"userId": str(uuid4())}, token=a, status=404)
    await site.call("DELETE", f"{path}/members/{alice}", token=b, status=403)
    problem = await site.call("DELETE", f"{path}/members/{alice}", token=a, status=409)
    assert problem["code"] == "last_owner"
    await site.call("PUT", f"{path}/members/{bob}/role", {"role": "Owner"}, token=a)
    await site.call("PUT", f"{path}/members/{bob}/role", {"role": "King"}, token=a, status=400)
    await site.call("DELETE", f"{path}/members/{alice}", token=a, status=204)
    await site.call("GET", path, token=a, status=404)
    members = await site.call("GET", f"{path}/members", token=b, params={"limit": 1})
    rest = await site.call("GET", f"{path}/members", token=b, params={"cursor": members["next"]})
    assert {m["userId"] for m in members["items"] + rest["items"]} == {bob, carol} and rest["next"] is None
    await site.call("DELETE", path, token=c, status=403)
    await site.call("DELETE", path, token=b, status=204)
    await site.call("GET", path, token=b, status=404)


async def test_who_may_send_when(site: Site) -> None:
    """In a group where only admins post, a member is refused by a code; in slow mode by another one, which says for how
    long in the header, too. Reactions, and edits of what is there, are everybody's."""
    _, a = await site.user("alice")
    bob, b = await site.user("bob")
    body = {"type": "Group", "name": "team", "memberIds": [bob]}
    group = (await site.call("POST", "/api/conversations", body, token=a, status=201))["id"]
    path, text = f"/api/conversations/{group}", {"conversationId": group, "content": "x"}
    sent = await site.call("POST", "/api/messages", text, token=b, status=201)
    details = {"posting": "Admins", "description": "News", "avatarUrl": "https://example.org/a.png"}
    shown = await site.call("PUT", path, details, token=a)
    assert {name: shown[name] for name in details} == details and shown["name"] == "team"
    problem = await site.call("POST", "/api/messages", text, token=b, status=403)
    assert problem["code"] == "posting_forbidden"
    await site.call("PUT", f"/api/messages/{sent['id']}", {"content": "y"}, token=b)
    await site.call("PUT", f"/api/messages/{sent['id']}/reactions/:x:", token=b)
    await site.call("DELETE", f"/api/messages/{sent['id']}", token=b)
    await site.call("PUT", path, {"posting": 0, "slowModeSeconds": 600, "description": None}, token=a)
    seen = await site.call("GET", path, token=b)
    assert (seen["posting"], seen["slowModeSeconds"], seen["description"]) == ("Everyone", 600, None)
    await site.call("POST", "/api/messages", text, token=b, status=201)
    answer = await site.http.post("/api/messages", json=text, headers={"Authorization": f"Bearer {b}"})
    assert (answer.status_code, answer.json()["code"]) == (429, "slow_mode")
    assert 0 < answer.json()["retryAfterMs"] <= 600_000 and 0 < int(answer.headers["Retry-After"]) <= 600
    for wrong in ({"slowModeSeconds": 21_601}, {"slowModeSeconds": -1}, {"description": "x" * 1025}, {"name": ""}):
        await site.call("PUT", path, wrong, token=a, status=400)


async def test_list_is_by_activity(site: Site) -> None:
    """The most recently active come first, with last message and unread count, in pages."""
    _, a = await site.user("alice")
    bob, b = await site.user("bob")
    groups = []
    for number in range(5):
        body = {"type": "Group", "name": str(number), "memberIds": [bob]}
        groups.append((await site.call("POST", "/api/conversations", body, token=a, status=201))["id"])
    said = {"conversationId": groups[1], "content": "news"}
    await site.call("POST", "/api/messages", said, token=a, status=201)
    first = await site.call("GET", "/api/conversations", token=b, params={"limit": 2})
    assert [c["id"] for c in first["items"]] == [groups[1], groups[4]]
    assert first["items"][0]["lastMessage"]["content"] == "news" and first["items"][0]["unreadCount"] >= 1
    rest = await site.call("GET", "/api/conversations", token=b, params={"cursor": first["next"]})
    assert [c["id"] for c in rest["items"]] == [groups[3], groups[2], groups[0]]
    mine = await site.call("GET", f"/api/conversations/{groups[1]}", token=a)
    assert mine["unreadCount"] == 0, "sending moves my own cursors"


@pytest.mark.parametrize("kind", ["Direct", "Group"])
async def test_a_ban_while_somebody_creates_one(site: Site, database: str, kind: str) -> None:
    """Who begins a conversation while a ban of theirs is being committed waits for it, and is refused: the other user
    hears nothing of it."""
    (alice, a), (bob, b) = await site.user("alice"), await site.user("bob")
    refusals: list[str] = []

    async def create() -> None:
        body = {"type": kind, "memberIds": [bob]}
        refusals.append((await site.call("POST", "/api/conversations", body, token=a, status=403))["code"])

    async with (
        await Connection.open(database) as other,
        await Connection.open(database) as watcher,
        trio.open_nursery() as nursery,
        other.transaction(),
    ):
        await moderation.lock_user_standing(other, UUID(alice))
        await moderation.update_ban(other, UUID(alice), LAST_TIME)
        nursery.start_soon(create)
        await wait_for_lock(watcher)
    assert refusals == ["banned"]
    assert (await site.call("GET", "/api/conversations", token=b))["items"] == []
