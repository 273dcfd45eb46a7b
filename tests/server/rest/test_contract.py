"""The REST table of the contract, with a test for each row that is not the subject of another file."""

import re
from typing import Any
from uuid import UUID

from server.identity.access_tokens import mint_token
from tests.event_recorder import event_of
from tests.site import Site
from tests.waiting import wait_until

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
USER = {"id", "username", "displayName", "avatarUrl", "status", "statusText", "lastSeenAt", "createdAt", "externalId"}
CONVERSATION = {
    "id", "type", "name", "createdBy", "createdAt", "lastSeq", "lastMessage", "unreadCount", "memberCount", "members",
    "mentionCount", "settings", "description", "avatarUrl", "posting", "slowModeSeconds",
    "isPublic",
}  # fmt: skip
MEMBER = {"userId", "role", "joinedAt", "deliveredSeq", "readSeq"}


async def group_of(site: Site, token: str, *others: str) -> str:
    body = {"type": "Group", "name": "g", "memberIds": others}
    return str((await site.call("POST", "/api/conversations", body, token=token, status=201))["id"])


async def say(site: Site, token: str, conversation: str, content: str = "x", **fields: object) -> Any:
    body = {"conversationId": conversation, "content": content, **fields}
    return await site.call("POST", "/api/messages", body, token=token, status=201)


async def test_post_users(site: Site) -> None:
    """POST /api/users (open): 201 with the user, and an access and a refresh token while registration is open."""
    body = {"username": "Zoë K", "displayName": "👩\u200d💻", "email": "z@example.org"}
    made = await site.call("POST", "/api/users", body, status=201)
    assert USER | {"email", "accessToken", "refreshToken", "expiresIn", "sessionId"} == set(made)
    assert made["displayName"] == body["displayName"] and TIME.fullmatch(made["createdAt"])
    assert UUID(made["id"]).version == 7
    assert (await site.call("GET", "/api/users/me", token=made["accessToken"]))["email"] == "z@example.org"
    await site.call("POST", "/auth/refresh", {"refreshToken": made["refreshToken"]})


async def test_get_users(site: Site) -> None:
    """GET /api/users?q=, /api/users/{id}, /api/users/me: others without their e-mail."""
    alice, token = await site.user("alice")
    await site.user("bob")
    assert [u["username"] for u in (await site.call("GET", "/api/users?q=AL", token=token))["items"]] == ["alice"]
    assert len((await site.call("GET", "/api/users", token=token))["items"]) == 2
    assert set(await site.call("GET", f"/api/users/{alice}", token=token)) == USER
    assert set(await site.call("GET", "/api/users/me", token=token)) == USER | {"email"}


async def test_put_status(site: Site) -> None:
    """PUT /api/users/me, /api/users/status: names in any case, or their index; Offline appears so; a custom text."""
    _, token = await site.user("alice")
    statuses = {"Online": "Online", "away": "Away", "BUSY": "Busy", "offline": "Offline", 0: "Online", 3: "Offline"}
    for number, (status, name) in enumerate(statuses.items()):
        body = {"status": status, "statusText": f"fishing {number}"}
        shown = await site.call("PUT", "/api/users/status", body, token=token)
        assert (shown["status"], shown["statusText"]) == (name, f"fishing {number}")
    changed = await site.call("PUT", "/api/users/me", {"avatarUrl": "https://example.org/a.png"}, token=token)
    assert (changed["avatarUrl"], changed["statusText"]) == ("https://example.org/a.png", "fishing 5")


async def test_delete_users(site: Site) -> None:
    """DELETE /api/users/{id}: by the user or an admin; messages stay, shown as a deleted user's."""
    (alice, a), (bob, b), (carol, _) = [await site.user(name) for name in ("alice", "bob", "carol")]
    group = await group_of(site, a, bob)
    message = await say(site, b, group)
    await site.call("DELETE", f"/api/users/{carol}", token=a, status=403)
    await site.call("DELETE", f"/api/users/{bob}", token=b, status=204)
    assert (await site.call("GET", f"/api/messages/{message['id']}", token=a))["content"] == "x"
    assert (await site.call("GET", f"/api/users/{bob}", token=a))["displayName"] == "Deleted user"
    admin = mint_token(site.process.settings, UUID(alice), admin=True)
    await site.call("DELETE", f"/api/users/{carol}", token=admin, status=204)


async def test_conversations(site: Site) -> None:
    """GET, POST /api/conversations; GET, PUT, DELETE /api/conversations/{id}: with cursors and what is unread."""
    (alice, a), (bob, b) = await site.user("alice"), await site.user("bob")
    body = {"type": "direct", "memberIds": [bob]}
    direct = await site.call("POST", "/api/conversations", body, token=a, status=201)
    assert set(direct) == CONVERSATION and set(direct["members"][0]) == MEMBER and direct["createdBy"] == alice
    for number in range(3):
        last = await say(site, a, direct["id"], str(number))
    await say(site, b, await group_of(site, b), "elsewhere")
    [group, mine] = (await site.call("GET", "/api/conversations", token=b))["items"]
    assert (group["type"], mine["type"], mine["unreadCount"]) == ("Group", "Direct", 3)
    assert mine["lastMessage"] == event_of(last) and mine["lastSeq"] == last["seq"]
    await site.call("PUT", f"/api/messages/{last['id']}/status", {"status": "read"}, token=b, status=204)
    await site.call("PUT", f"/api/conversations/{direct['id']}", {"name": "x"}, token=a, status=409)
    await site.call("DELETE", f"/api/conversations/{direct['id']}", token=b, status=204)
    await site.call("GET", f"/api/conversations/{direct['id']}", token=a, status=404)


async def test_get_unread(site: Site) -> None:
    """GET /api/users/me/unread: the messages of others that are not read, the conversations that have some, and how
    many mention the caller."""
    (alice, a), (_, b) = await site.user("alice"), await site.user("bob")
    for count in range(3):
        group = await group_of(site, b, alice)
        for number in range(count):
            await say(site, b, group, mentionAll=number == 1)
    assert await site.call("GET", "/api/users/me/unread", token=a) == {
        "unreadCount": 3,
        "conversationCount": 2,
        "mutedUnreadCount": 0,
        "mutedConversationCount": 0,
        "capped": False,
        "mentionCount": 1,
        "mutedMentionCount": 0,
        "unreadThreads": 0,
    }
    assert (await site.call("GET", "/api/users/me/unread", token=b))["unreadCount"] == 0


async def test_unread_is_counted_to_1000(site: Site) -> None:
    """unreadCount: messages of others that are not deleted, after the caller's readSeq, up to 1,000."""
    (alice, a), (bob, b) = await site.user("alice"), await site.user("bob")
    group = await group_of(site, a, bob)
    gone = await say(site, a, group)
    await say(site, a, group)
    await site.call("DELETE", f"/api/messages/{gone['id']}", token=a)
    assert (await site.call("GET", f"/api/conversations/{group}", token=b))["unreadCount"] == 1
    async with site.process.pool.connection() as conn:
        await conn.execute(
            "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body)"
            " SELECT uuidv7(), %(group)s, n, n, %(sender)s, 'Text', 'x' FROM generate_series(100, 1199) AS n",
            {"group": group, "sender": alice},
        )
        await conn.execute("UPDATE conversations SET last_seq = 1199 WHERE id = %s", (group,))
    assert (await site.call("GET", f"/api/conversations/{group}", token=b))["unreadCount"] == 1000


async def test_members(site: Site) -> None:
    """POST .../members, DELETE .../members/{userId}, PUT .../role: names or indices; the last owner stays."""
    people = [await site.user(name) for name in ("owner", "admin", "member", "other")]
    (owner, o), (admin, d), (member, m), (other, _) = people
    group = await group_of(site, o, admin, member)
    path = f"/api/conversations/{group}/members"
    changed = await site.call("PUT", f"{path}/{admin}/role", {"role": 1}, token=o)
    assert {x["userId"]: x["role"] for x in changed["members"]} == {owner: "Owner", admin: "Admin", member: "Member"}
    await site.call("PUT", f"{path}/{member}/role", {"role": "Admin"}, token=d, status=403)
    await site.call("POST", path, {"userId": other}, token=m, status=403)
    await site.call("POST", path, {"userId": other, "role": "owner"}, token=d, status=403)
    await site.call("POST", path, {"userId": other, "role": "MEMBER"}, token=d, status=201)
    await site.call("DELETE", f"{path}/{admin}", token=m, status=403)
    await site.call("DELETE", f"{path}/{member}", token=m, status=204)
    for refused in (
        await site.call("DELETE", f"{path}/{owner}", token=o, status=409),
        await site.call("PUT", f"{path}/{owner}/role", {"role": "Member"}, token=o, status=409),
    ):
        assert refused["code"] == "last_owner"
    await site.call("PUT", f"{path}/{admin}/role", {"role": "Owner"}, token=o)
    await site.call("DELETE", f"{path}/{owner}", token=o, status=204)


async def test_messages(site: Site) -> None:
    """GET /api/messages and /{id}, POST, PUT, DELETE: types by name or index, replies, what is marked."""
    (_, a), (bob, b) = await site.user("alice"), await site.user("bob")
    group = await group_of(site, a, bob)
    first = await say(site, a, group)
    body = {"conversationId": group, "content": "🙂", "type": 3, "replyToId": first["id"], "clientMessageId": "c"}
    reply = await site.call("POST", "/api/messages", body, token=b, status=201)
    assert (reply["type"], reply["replyToId"], reply["clientMessageId"]) == ("Emoji", first["id"], "c")
    edited = await site.call("PUT", f"/api/messages/{reply['id']}", {"content": "🙃"}, token=b)
    deleted = await site.call("DELETE", f"/api/messages/{first['id']}", token=a)
    assert TIME.fullmatch(edited["editedAt"]) and TIME.fullmatch(deleted["deletedAt"]) and deleted["content"] == ""
    page = await site.call("GET", "/api/messages", token=b, params={"conversationId": group, "limit": 2})
    assert page["items"] == [event_of(edited), event_of(deleted)] and page["next"] == str(first["seq"])


async def test_status_and_receipts(site: Site) -> None:
    """PUT /api/messages/{id}/status: Delivered or Read moves the cursor; GET .../receipts lists the members."""
    (_, a), (bob, b), (carol, c) = [await site.user(name) for name in ("alice", "bob", "carol")]
    group = await group_of(site, a, bob, carol)
    path = f"/api/messages/{(await say(site, a, group))['id']}"
    for status, token in ((2, b), ("delivered", c)):
        await site.call("PUT", f"{path}/status", {"status": status}, token=token, status=204)
    for wrong in ("Sent", 0, 3, "x", True):
        await site.call("PUT", f"{path}/status", {"status": wrong}, token=b, status=400)

    async def receipts() -> dict[str, str]:
        items = (await site.call("GET", f"{path}/receipts", token=a))["items"]
        return {item["userId"]: item["status"] for item in items}

    async def are_there() -> bool:
        return await receipts() == {bob: "Read", carol: "Delivered"}

    await wait_until(are_there)
    assert (await site.call("GET", path, token=a))["status"] == "Delivered"
    shown = await site.call("GET", f"/api/conversations/{group}", token=b)
    assert shown["unreadCount"] == 0
