"""Errors are problem+json from each layer: the routes, Quart, the HTTP server, the listener."""

import json
from itertools import product
from pathlib import Path

import httpx
import pytest
import trio

from server.rest import requests
from tests import transports
from tests.site import Site, open_site


def checked(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.text
    problem = answer.json()
    assert {"type", "title", "status", "detail", "code"} <= set(problem)
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:parley:error:{code}")


async def test_what_routes_refuse(site: Site) -> None:
    """404, 405 with Allow, 413, 415, and bodies that are malformed, mistyped, not UTF-8 or too deep are problems."""
    alice, token = await site.user("alice")
    headers = {"Authorization": f"Bearer {token}"}
    for method, path, status, code in (
        ("GET", "/nothing/here", 404, "not_found"),
        ("GET", "/api/users/not-an-id", 404, "not_found"),
        ("DELETE", "/api/users/me", 405, "method_not_allowed"),
        ("PATCH", f"/api/users/{alice}", 405, "method_not_allowed"),
        ("TRACE", "/api/messages", 405, "method_not_allowed"),
        ("GET", "/api/messages?conversationId=x", 400, "invalid_request"),
        ("GET", "/api/users?cursor=%21", 400, "invalid_cursor"),
        ("GET", "/api/users?limit=" + "0" * 17 + "199" + "9999", 400, "invalid_request"),
        ("GET", "/api/users?limit=" + "0" * 19 + "1" + "0" * 5000, 400, "invalid_request"),
        ("GET", f"/api/messages?conversationId={alice}&after=" + "9" * 20, 400, "invalid_request"),
        ("GET", f"/api/messages?conversationId={alice}&before=" + "9" * 5000, 400, "invalid_request"),
        ("GET", f"/api/messages?conversationId={alice}&before=-1", 400, "invalid_request"),
        ("GET", f"/api/messages?conversationId={alice}&before=1e400", 400, "invalid_request"),
        ("GET", "/auth/login/unknown", 404, "not_found"),
    ):
        checked(await site.http.request(method, path, headers=headers), status, code)
    for path in ("/nothing/here", "/api/users/not-an-id"):
        assert "Ids in a path are UUIDs" in (await site.http.get(path, headers=headers)).json()["detail"]
    for content, kind, status, field in (
        (b"{", "application/json", 400, "body"),
        (b'{"username": "\xff"}', "application/json", 400, "body"),
        (b"[" * 100_000, "application/json", 400, "body"),
        (b'{"username": NaN}', "application/json", 400, "body"),
        (b'{"username": ' + b"9" * 5000 + b"}", "application/json", 400, "body"),
        (b"{}", "application/json", 400, "username"),
        (b'{"username": "x", "email": 5}', "application/json", 400, "email"),
        (b"username=x", "application/x-www-form-urlencoded", 415, ""),
        (b'{"username":"' + b"x" * 300_000 + b'"}', "application/json", 413, ""),
    ):
        answer = await site.http.post("/api/users", content=content, headers={"Content-Type": kind})
        code = {400: "invalid_request", 413: "too_large", 415: "unsupported_media_type"}[status]
        checked(answer, status, code)
        problem = answer.json()
        assert not field or (list(problem["fields"]) == [field] and problem["errors"] == problem["fields"])


async def test_a_body_of_very_many_values(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with it is said, and it is not read a second time for that: the event loop would wait for it."""
    read: list[object] = []
    monkeypatch.setattr(requests, "_require_text", read.append)
    for content in (
        b"[" + b"1," * 100_000 + b"1]",
        b"[" + b"1.0," * 60_000 + b"1]",
        b"[" + b"[]," * 80_000 + b"1]",
        b'["\\ud800"' + b',""' * 80_000 + b"]",
        b'{"username": "x", "email": 5, "more": [' + b'"",' * 80_000 + b'"\\ud800"]}',
        b'{"username": 5, "more": {' + b",".join(b'"%d": 0' % number for number in range(20_000)) + b"}}",
        b"[1," * 2000 + b'"' + b'\\"' * 120_000,
    ):
        answer = await site.http.post("/api/users", content=content, headers={"Content-Type": "application/json"})
        checked(answer, 400, "invalid_request")
    assert not read
    whole = b'{"username": 5.0, "more": "' + b"," * 200_000 + b'"}'
    checked(
        await site.http.post("/api/users", content=whole, headers={"Content-Type": "application/json"}),
        400,
        "invalid_request",
    )
    assert len(read) == 1  # few values, however long they are


async def test_methods(site: Site) -> None:
    """Allow has exactly the methods of the path; HEAD is GET without a body; OPTIONS lists the methods."""
    _, token = await site.user("alice")
    headers = {"Authorization": f"Bearer {token}"}
    for path, allowed in (
        ("/api/users/me", {"GET", "HEAD", "PUT"}),
        ("/api/users/status", {"PUT"}),
        ("/api/files/presign", {"POST"}),
    ):
        refused = await site.http.patch(path, headers=headers)
        assert set(refused.headers["Allow"].split(", ")) == allowed
        asked = await site.http.request("OPTIONS", path, headers=headers)
        assert asked.status_code == 204 and set(asked.headers["Allow"].split(", ")) == allowed
    shown, head = [await site.http.request(method, "/api/users/me", headers=headers) for method in ("GET", "HEAD")]
    assert head.status_code == 200 and not head.content and head.headers["ETag"] == shown.headers["ETag"]


async def test_unknown_fields_are_passed_over(site: Site) -> None:
    """Fields of newer clients that this server does not know are ignored."""
    made = await site.call("POST", "/api/users", {"username": "alice", "favouriteColour": "red"}, status=201)
    assert "favouriteColour" not in made


GOOD = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


NO_REQUESTS = [
    (b"nonsense\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: made-up\r\n\r\n", 501),
    (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100_000, 431),
]


async def test_what_never_reaches_the_app(site: Site) -> None:
    """A request that is not HTTP gets a problem, too, on new connections and on used ones."""
    for before, (request_bytes, status) in product((b"", GOOD), NO_REQUESTS):
        await refused(site, before, request_bytes, status)


async def refused(site: Site, before: bytes, request_bytes: bytes, status: int) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", int(site.url.rpartition(":")[2]))
    async with stream:
        said = b""
        with trio.fail_after(300):
            if before:
                await stream.send_all(before)
                while not said.endswith(b"}"):
                    said += await stream.receive_some()
                said = b""
            await stream.send_all(request_bytes)
            async for chunk in stream:
                said += chunk
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), said
    assert b"\r\ncontent-type: application/problem+json" in head.lower()
    assert json.loads(body)["status"] == status and b"\r\nconnection: close" in head.lower()


async def test_paths_with_two_slashes(database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path) -> None:
    """A base URL may end in a slash: everything is found there, uploads and all transports, too."""
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        alice, token = await site.user("alice")
        assert (await site.call("GET", f"{site.url}//api/users/me", token=token))["id"] == alice
        headers = {"Authorization": f"Bearer {token}"}
        files = {"file": ("a.txt", b"hello", "text/plain")}
        for path in ("//api/files/upload", "///API/files/upload"):
            answer = await site.http.post(f"{site.url}{path}", files=files, headers=headers)
            assert answer.status_code == 201, answer.text
        data = {"name": "a.txt", "size": 5, "contentType": "text/plain"}
        begun = await site.call("POST", f"{site.url}//api/files/presign", data, token=token, status=201)
        target = begun["uploadUrl"].replace("/objects/", "//objects/")
        answer = await site.http.put(target, content=b"hello", headers=begun["headers"])
        assert answer.status_code == 200, answer.text
        for transport in ("socket", "late", "sse", "polling"):
            async with transports.connect(transport, f"{site.url}//hubs/chat", token) as hub:
                assert await hub.invoke("Ping") == {}


async def test_paths_have_no_case(site: Site) -> None:
    """Paths match in any case, with or without a slash at the end; ids and keys stay as they are."""
    alice, token = await site.user("alice")
    made = await site.call("POST", "/api/Conversations/", {"type": 1, "name": "x"}, token=token, status=201)
    assert await site.call("GET", f"/Api/CONVERSATIONS/{made['id'].upper()}", token=token) == made
    assert (await site.call("GET", "/api/Users/Me", token=token))["id"] == alice
    assert (await site.call("GET", f"/api/Conversations/{made['id']}/Members/", token=token))["next"] is None
    await site.call("GET", f"/API/FILES/{'A' * 32}", token=token, status=404)
    assert (await site.call("POST", "/Hubs/Chat/Negotiate", token=token))["negotiateVersion"] == 0
