"""Errors that the description lists do occur: what follows from a route's form, and what no other test causes."""

import re
from typing import Any
from uuid import uuid4

import httpx
import pytest

from loadtest.client import ClientError, connect
from server.rest.requests import MAX_BODY
from store.ids import new_id
from tests.site import Site


def bodies(described: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, said)
        for path, methods in described["paths"].items()
        for method, said in methods.items()
        if "application/json" in said.get("requestBody", {}).get("content", {})
    ]


def listed(said: dict[str, Any], status: int, code: str) -> bool:
    return f"`{code}`" in said["responses"].get(str(status), {}).get("description", "")


def somewhere(path: str) -> str:
    return re.sub(r"\{\w+Id\}", lambda _: str(new_id()), path)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_what_every_body_may_be(site: Site) -> None:
    """Of another type, too large, or not one that fits: of each route that takes one."""
    described = await site.call("GET", "/openapi.json")
    _, token = await site.user("alice")
    headers = {"Authorization": f"Bearer {token}"}
    found = bodies(described)
    assert len(found) > 12
    for method, path, said in found:
        for status, code, content, kind in (
            (415, "unsupported_media_type", b"x", "text/plain"),
            (413, "too_large", b'"' + b"x" * MAX_BODY + b'"', "application/json"),
            (400, "invalid_request", b"[]", "application/json"),
        ):
            answer = await site.http.request(
                method, somewhere(path), content=content, headers={**headers, "Content-Type": kind}
            )
            assert code_of(answer) == (status, code), f"{method} {path}: {answer.text}"
            assert listed(said, status, code), f"{method} {path}: {code}"


async def test_what_only_the_state_forbids(site: Site) -> None:
    """Of groups and direct conversations, messages and files that were deleted, and users that are none."""
    _, token = await site.user("alice")
    bob, _ = await site.user("bob")
    body = {"type": "Direct", "memberIds": [bob]}
    direct = (await site.call("POST", "/api/conversations", body, token=token, status=201))["id"]
    text = {"conversationId": direct, "content": "x"}
    message = (await site.call("POST", "/api/messages", text, token=token, status=201))["id"]
    body = {**text, "threadId": message}
    reply = (await site.call("POST", "/api/messages", body, token=token, status=201))["id"]
    await site.call("DELETE", f"/api/messages/{message}", token=token)
    chat, users = f"/api/conversations/{direct}", "/api/users"
    for method, path, given, status, code in (
        ("POST", f"{chat}/members", {"userId": bob}, 409, "conflict"),
        ("PUT", f"{chat}/members/{bob}/role", {"role": "Admin"}, 409, "conflict"),
        ("DELETE", f"{chat}/members/{bob}", None, 409, "conflict"),
        ("DELETE", f"/api/messages/{message}", None, 410, "gone"),
        ("PUT", f"/api/messages/{message}", {"content": "y"}, 410, "gone"),
        ("PUT", f"/api/messages/{message}/reactions/:x:", None, 410, "gone"),
        ("DELETE", f"/api/messages/{message}/reactions/:x:", None, 410, "gone"),
        ("DELETE", f"/api/messages/{message}/reactions/x", None, 400, "invalid_request"),
        ("POST", "/api/messages", {**text, "threadId": message}, 410, "gone"),
        ("POST", "/api/messages", {**text, "threadId": reply}, 409, "thread_nested"),
        ("GET", f"/api/messages/{reply}/replies", None, 409, "thread_nested"),
        ("GET", f"/api/threads/{reply}", None, 409, "thread_nested"),
        ("PUT", f"/api/threads/{reply}/following", None, 409, "thread_nested"),
        ("DELETE", f"/api/threads/{reply}/following", None, 409, "thread_nested"),
        ("PUT", f"/api/threads/{reply}/read", {"seq": 1}, 409, "thread_nested"),
        ("PUT", f"/api/threads/{message}/read", {"seq": -1}, 400, "invalid_request"),
        ("GET", f"/api/messages?conversationId={direct}&cursor=x", None, 400, "invalid_cursor"),
        ("GET", f"{users}/{uuid4()}", None, 404, "not_found"),
        ("DELETE", f"{users}/not-an-id", None, 404, "not_found"),
        ("GET", f"{users}/me?x=%ff", None, 400, "invalid_request"),
        ("GET", f"{chat}?x=%ff", None, 400, "invalid_request"),
        ("DELETE", f"{chat}?x=%ff", None, 400, "invalid_request"),
        ("GET", f"/api/messages/{message}?x=%ff", None, 400, "invalid_request"),
        ("DELETE", f"/api/messages/{message}?x=%ff", None, 400, "invalid_request"),
        ("POST", "/auth/logout?x=%ff", None, 400, "invalid_request"),
    ):
        problem = await site.http.request(method, path, json=given, headers={"Authorization": f"Bearer {token}"})
        assert code_of(problem) == (status, code), f"{method} {path}: {problem.text}"


async def test_what_the_hub_refuses(site: Site) -> None:
    """The same of the methods of the hub: cursors below zero, messages that were deleted, those of the system."""
    _, token = await site.user("alice")
    body = {"type": "Group", "name": "x", "memberIds": []}
    chat = (await site.call("POST", "/api/conversations", body, token=token, status=201))["id"]
    text = {"conversationId": chat, "content": "x"}
    async with connect(f"{site.url}/hubs/chat", token) as hub:
        message = (await hub.invoke("SendMessage", text))["id"]
        await hub.invoke("DeleteMessage", message)
        for method, arguments, code in (
            ("SendMessage", [{**text, "type": "System"}], "forbidden"),
            ("EditMessage", [message, "y"], "gone"),
            ("DeleteMessage", [message], "gone"),
            ("React", [message, ":x:"], "gone"),
            ("Unreact", [message, ":x:"], "gone"),
            ("React", [message, "x"], "invalid_request"),
            ("SendMessage", [{**text, "threadId": message}], "gone"),
            ("SendMessage", [{**text, "alsoInConversation": True}], "invalid_request"),
            ("MarkThreadRead", [message, -1], "invalid_cursor"),
            ("JoinConversation", [chat, {"seq": -1}], "invalid_cursor"),
            ("Sync", [{chat: -1}], "invalid_cursor"),
            ("MarkRead", [chat, -1], "invalid_cursor"),
            ("MarkDelivered", [chat, -1], "invalid_cursor"),
        ):
            with pytest.raises(ClientError, match=rf"{code}: "):
                await hub.invoke(method, *arguments)
