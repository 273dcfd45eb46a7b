"""Optional values may be null; unknown choices and invalid texts get a clear error, on REST and hub."""

import json
from typing import Any

import pytest
from msgspec import Raw

from handlers.errors import ChatError
from loadtest.client import HubError, connect
from server.rest.requests import _require_text
from tests.site import Site

CUT = r"cut \ud83d"


async def room(site: Site) -> tuple[str, str, str]:
    """Make a conversation; return its id, the token of its owner, and the id of the other member."""
    (_, token), (bob, _) = await site.user("alice"), await site.user("bob")
    made = await site.call("POST", "/api/conversations", {"type": "Group", "memberIds": [bob]}, token=token, status=201)
    return made["id"], token, bob


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_null_is_left_out(site: Site, protocol: str) -> None:
    """Each optional field and parameter given as null is treated as absent."""
    conversation, token, _ = await room(site)
    carol, _ = await site.user("carol")
    body: Any = {"conversationId": conversation, "content": "x"}
    body |= dict.fromkeys(("type", "fileId", "replyToId", "clientMessageId"))
    sent = await site.call("POST", "/api/messages", body, token=token, status=201)
    assert (sent["type"], sent["clientMessageId"]) == ("Text", None)
    members = f"/api/conversations/{conversation}/members"
    added = await site.call("POST", members, {"userId": carol, "role": None}, token=token, status=201)
    assert next(m for m in added["members"] if m["userId"] == carol)["role"] == "Member"
    group = {"type": "Group", "name": None, "memberIds": None}
    assert (await site.call("POST", "/api/conversations", group, token=token, status=201))["memberCount"] == 1
    new = {"username": "dave", "displayName": None, "email": None}
    assert (await site.call("POST", "/api/users", new, status=201))["displayName"] == "dave"
    await site.call("PUT", "/api/users/status", {"status": "Away", "statusText": None}, token=token)
    async with connect(f"{site.url}/hubs/chat", token, protocol=protocol) as client:
        assert (await client.invoke("SendMessage", body))["type"] == "Text"
        assert (await client.invoke("JoinConversation", conversation, None))["lastSeq"]
        assert (await client.invoke("UpdateStatus", "Busy", None))["status"] == "Busy"
        assert [m async for m in client.stream("StreamHistory", conversation, None, None)]


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_no_such_choice(site: Site, protocol: str) -> None:
    """An unknown choice of any type and size gets an error that lists the valid ones."""
    conversation, token, bob = await room(site)
    body = {"conversationId": conversation, "content": "x"}
    members = f"/api/conversations/{conversation}/members"
    for choice in ("Video", "", 5, -1, 2**63, "0"):
        for method, path, more in (
            ("POST", "/api/messages", {**body, "type": choice}),
            ("POST", "/api/conversations", {"type": choice, "memberIds": [bob]}),
            ("POST", members, {"userId": bob, "role": choice}),
            ("PUT", f"{members}/{bob}/role", {"role": choice}),
            ("PUT", "/api/users/status", {"status": choice}),
        ):
            problem = await site.call(method, path, more, token=token, status=400)
            assert problem["code"] == "invalid_request" and " one of " in problem["detail"], (path, choice)
        async with connect(f"{site.url}/hubs/chat", token, protocol=protocol) as client:
            for target, arguments in (("SendMessage", ({**body, "type": choice},)), ("UpdateStatus", (choice,))):
                with pytest.raises(HubError, match=r"invalid_request: .* one of "):
                    await client.invoke(target, *arguments)
            assert await client.invoke("Ping") == {}


async def test_lone_surrogates(site: Site) -> None:
    """A lone surrogate anywhere in a body or query gets a 400 that names it."""
    conversation, token, _ = await room(site)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    for method, path, body, field in (
        ("POST", "/api/messages", {"conversationId": conversation, "content": "CUT"}, "content"),
        ("POST", "/api/messages", {"type": 0.0, "conversationId": conversation, "content": "CUT"}, "content"),
        ("PUT", "/api/users/me", {"email": 5, "displayName": "CUT"}, "displayName"),
        ("PUT", "/api/users/me", {"displayName": "CUT"}, "displayName"),
        ("POST", "/api/conversations", {"type": "Group", "memberIds": ["CUT"]}, "memberIds[0]"),
        ("POST", "/api/files/presign", {"name": "CUT", "contentType": "text/plain", "size": 1}, "name"),
    ):
        answer = await site.http.request(method, path, content=json.dumps(body).replace("CUT", CUT), headers=headers)
        assert answer.status_code == 400, answer.text
        assert answer.json()["code"] == "invalid_request" and "surrogate" in answer.json()["errors"][field]
    for query in ("q=%ED%A0%BD", "q=a%FF", "cursor=%ED%A0%BD"):
        problem = await site.call("GET", f"/api/users?{query}", token=token, status=400)
        assert problem["code"] == "invalid_request" and "UTF-8" in problem["detail"]
    assert await site.call("GET", "/api/users?q=%F0%9F%98%80", token=token) == {"items": [], "next": None}


def test_a_lone_surrogate_far_within() -> None:
    """However deep a body is nested, a lone surrogate in it is found, and its place named."""
    deep: object = ["x", "\ud83d"]
    for _ in range(100_000):
        deep = [deep]
    for value, place in (
        (deep, "a" + "[0]" * 100_000 + "[1]"),
        ({"b": [{"c": 1}, {"d": "\ud83d"}], "e": "\ud83d"}, "a.b[1].d"),
        ({"\ud83d": 1}, "a"),
    ):
        with pytest.raises(ChatError) as caught:
            _require_text({"x": "y", "a": value})
        assert list(caught.value.errors) == [place]


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_lone_surrogates_on_the_hub(site: Site, protocol: str) -> None:
    """It makes the call fail but not the connection; later calls are answered."""
    conversation, token, _ = await room(site)
    cut = Raw(b"\xa3\xed\xa0\xbd" if protocol == "messagepack" else b'"%b"' % CUT.encode())
    async with connect(f"{site.url}/hubs/chat", token, protocol=protocol) as client:
        sent = await client.invoke("SendMessage", {"conversationId": conversation, "content": "x"})
        for target, arguments in (
            ("SendMessage", ({"conversationId": conversation, "content": cut},)),
            ("EditMessage", (sent["id"], cut)),
            ("UpdateStatus", ("Away", cut)),
            ("RefreshToken", (cut,)),
        ):
            with pytest.raises(HubError, match=r"invalid_request: .*surrogate"):
                await client.invoke(target, *arguments)
            assert await client.invoke("Ping") == {}
        assert (await site.call("GET", f"/api/messages/{sent['id']}", token=token))["content"] == "x"
