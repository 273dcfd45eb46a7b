"""REST for messages: send, read, edit, delete, page."""

from uuid import uuid4

from tests.site import Site

FIELDS = {
    "id", "conversationId", "seq", "changedSeq", "senderId", "type", "content", "file", "replyToId",
    "clientMessageId", "createdAt", "editedAt", "deletedAt", "status", "changedAt",
    "reactions", "pinnedAt", "pinnedBy", "mentions", "mentionAll",
    "threadId", "alsoInConversation", "thread",
}  # fmt: skip


async def talk(site: Site) -> tuple[str, str, str]:
    """(conversation, alice's token, bob's token)"""
    _, a = await site.user("alice")
    bob, b = await site.user("bob")
    made = await site.call("POST", "/api/conversations", {"type": "Direct", "memberIds": [bob]}, token=a, status=201)
    return made["id"], a, b


async def test_a_message_and_its_changes(site: Site) -> None:
    """Sent, read by the other, edited by its sender only, with ETag and If-Match, deleted for good."""
    conversation, a, b = await talk(site)
    body = {"conversationId": conversation, "content": "hello", "clientMessageId": "1"}
    sent = await site.call("POST", "/api/messages", body, token=a, status=201)
    path = f"/api/messages/{sent['id']}"
    assert sent["status"] == "Sent" and sent["seq"] == sent["changedSeq"] == sent.pop("after") + 1
    assert set(sent) == FIELDS
    assert await site.call("GET", path, token=b) == sent
    await site.call("PUT", path, {"content": "mine now"}, token=b, status=403)
    stale = {"If-Match": '"999"'}
    problem = await site.call("PUT", path, {"content": "x"}, token=a, headers=stale, status=412)
    assert problem["code"] == "precondition_failed"
    fresh = {"If-Match": f'"{sent["changedSeq"]}"'}
    edited = await site.call("PUT", path, {"content": "hullo"}, token=a, headers=fresh)
    assert edited["editedAt"] and edited["changedSeq"] > edited["seq"] == sent["seq"]
    assert edited["after"] == edited["changedSeq"] - 1
    await site.call("DELETE", path, token=b, status=403)
    deleted = await site.call("DELETE", path, token=a)
    assert deleted["deletedAt"] and not deleted["content"] and deleted["after"] == edited["changedSeq"]
    assert (await site.call("PUT", path, {"content": "back"}, token=a, status=410))["code"] == "gone"


async def test_idempotency(site: Site) -> None:
    """P2: the same clientMessageId, or Idempotency-Key, gives the same message back."""
    conversation, a, _ = await talk(site)
    body = {"conversationId": conversation, "content": "once"}
    key = {"Idempotency-Key": "k1"}
    first = await site.call("POST", "/api/messages", body, token=a, headers=key, status=201)
    second = await site.call("POST", "/api/messages", body, token=a, headers=key, status=201)
    third = await site.call("POST", "/api/messages", {**body, "clientMessageId": "k1"}, token=a, status=201)
    assert first == second == third
    other = await site.call("POST", "/api/messages", {**body, "content": "x"}, token=a, headers=key, status=422)
    assert other["code"] == "idempotency_mismatch"


async def test_pages(site: Site) -> None:
    """Newest first, or oldest first after a seq; `next` carries on; every message once."""
    conversation, a, b = await talk(site)
    for number in range(7):
        await site.call(
            "POST", "/api/messages", {"conversationId": conversation, "content": str(number)}, token=a, status=201
        )
    query: dict[str, object] = {"conversationId": conversation, "limit": 3}
    newest = await site.call("GET", "/api/messages", token=b, params=query)
    assert [m["content"] for m in newest["items"]] == ["6", "5", "4"]
    older = await site.call("GET", "/api/messages", token=b, params={**query, "before": newest["next"]})
    assert [m["content"] for m in older["items"]] == ["3", "2", "1"]
    after = await site.call("GET", "/api/messages", token=b, params={**query, "after": older["items"][0]["seq"]})
    assert [m["content"] for m in after["items"]] == ["4", "5", "6"]
    for bad in ({}, {"conversationId": "x"}, {**query, "before": -1}, {"conversationId": conversation, "limit": ""}):
        await site.call("GET", "/api/messages", token=b, params=bad, status=400)


async def test_refused_messages(site: Site) -> None:
    """Empty, too large, unknown types, foreign conversations and replies: each with its code, and nothing written."""
    conversation, a, b = await talk(site)
    _, eve = await site.user("eve")
    for change, status in (
        ({"content": ""}, 400),
        ({"content": "   "}, 400),
        ({"content": "x" * 40_000}, 413),
        ({"content": "a\u0000b"}, 400),
        ({"type": "Video"}, 400),
        ({"type": "System"}, 403),
        ({"replyToId": str(uuid4())}, 404),
        ({"fileId": str(uuid4())}, 404),
        ({"conversationId": str(uuid4())}, 404),
        ({"clientMessageId": ""}, 400),
        ({"clientMessageId": "x" * 129}, 400),
    ):
        body = {"conversationId": conversation, "content": "x", **change}
        answer = await site.http.post("/api/messages", json=body, headers={"Authorization": f"Bearer {a}"})
        assert answer.status_code == status, (change, answer.text)
    await site.call("POST", "/api/messages", {"conversationId": conversation, "content": "x"}, token=eve, status=404)
    await site.call("GET", "/api/messages", token=eve, params={"conversationId": conversation}, status=404)
    page = await site.call("GET", "/api/messages", token=b, params={"conversationId": conversation})
    assert [m for m in page["items"] if m["type"] != "System"] == []
    await site.call("GET", f"/api/messages/{uuid4()}", token=a, status=404)
