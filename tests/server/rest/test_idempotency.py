"""Idempotency-Key on every POST: a request is done once, even across a crash; another one with the key is refused."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
import trio

from handlers import users
from tests.running import Running, running
from tests.site import Site, open_site


def keyed(token: str = "", key: str = "") -> dict[str, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return {**headers, "Idempotency-Key": key or str(uuid4())}


async def at_once(site: Site, path: str, body: Any, headers: dict[str, str]) -> list[httpx.Response]:
    answers: list[httpx.Response] = []

    async def post() -> None:
        answers.append(await site.http.post(path, json=body, headers=headers))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(post)
    return answers


async def test_each_is_done_once(site: Site) -> None:
    """Five concurrent requests with one key, and later ones, are done once; another request gets 422."""
    (_, a), (bob, _), (carol, _) = [await site.user(name) for name in ("alice", "bob", "carol")]
    group = (await site.call("POST", "/api/conversations", {"type": "Group", "name": "g"}, token=a, status=201))["id"]
    for path, body, other in (
        ("/api/conversations", {"type": "Group", "name": "x"}, {"type": "Group", "name": "y"}),
        ("/api/conversations", {"type": "Direct", "memberIds": [bob]}, {"type": "Direct", "memberIds": [carol]}),
        (f"/api/conversations/{group}/members", {"userId": bob}, {"userId": carol}),
        ("/api/messages", {"conversationId": group, "content": "x"}, {"conversationId": group, "content": "y"}),
        (
            "/api/messages",
            {"conversationId": group, "content": "z", "clientMessageId": "1"},
            {"conversationId": group, "content": "z", "clientMessageId": "2"},
        ),
    ):
        headers = keyed(a)
        answers = [*await at_once(site, path, body, headers), await site.http.post(path, json=body, headers=headers)]
        assert [answer.status_code for answer in answers] == [201] * 6, [answer.text for answer in answers]
        assert len({answer.json()["id"] for answer in answers}) == 1
        refused = await site.call("POST", path, other, headers=headers, status=422)
        assert refused["code"] == "idempotency_mismatch"
    said = await site.call("GET", "/api/messages", token=a, params={"conversationId": group})
    assert sorted(m["content"] for m in said["items"] if m["type"] != "System") == ["x", "z"]
    assert len((await site.call("GET", "/api/conversations", token=a))["items"]) == 3
    members = await site.call("GET", f"/api/conversations/{group}/members", token=a)
    assert len(members["items"]) == 2


async def test_key_and_client_message_id(site: Site) -> None:
    """The body's clientMessageId takes precedence over the key. An existing message answers only the same request."""
    _, a = await site.user("alice")
    group = (await site.call("POST", "/api/conversations", {"type": "Group"}, token=a, status=201))["id"]

    async def post(key: str | None, status: int = 201, **fields: Any) -> Any:
        body = {"conversationId": group, "content": "x", **fields}
        headers = keyed(a, key) if key else keyed(a) | {"Idempotency-Key": str(uuid4())}
        return await site.call("POST", "/api/messages", body, headers=headers, status=status)

    first = await post("k1", clientMessageId="c1")
    assert first["clientMessageId"] == "c1"
    assert await post("k1", clientMessageId="c1") == first
    assert await post("k2", clientMessageId="c1") == first  # sent again by a client that has lost the key
    assert (await post("k1", 422, clientMessageId="c2"))["code"] == "idempotency_mismatch"
    assert (await post("k1", 422))["code"] == "idempotency_mismatch"
    # An id of another message, as key or in the body, never gets that message as its answer.
    assert (await post("k3", 422, clientMessageId="c1", content="y"))["code"] == "idempotency_mismatch"
    assert (await post("c1", 422, content="y"))["code"] == "idempotency_mismatch"
    # Both keys can be used again, as after any other refusal.
    assert (await post("k3", content="y"))["clientMessageId"] == "k3"
    await post("k4", 404, replyToId=str(uuid4()))
    assert (await post("k4", replyToId=first["id"]))["replyToId"] == first["id"]
    # A message that was edited or deleted since is still the answer.
    await site.call("PUT", f"/api/messages/{first['id']}", {"content": "z"}, token=a)
    assert (await post("k1", clientMessageId="c1"))["content"] == "z"
    said = await site.call("GET", "/api/messages", token=a, params={"conversationId": group})
    assert sorted(m["content"] for m in said["items"] if m["type"] != "System") == ["x", "y", "z"]


async def test_what_was_there_already(site: Site) -> None:
    """A key of a request that created nothing gets 200 each time, as at first."""
    (_, a), (bob, b) = [await site.user(name) for name in ("alice", "bob")]
    body = {"type": "Direct", "memberIds": [bob]}
    made = await site.call("POST", "/api/conversations", body, token=a, status=201)
    headers = keyed(a)
    for _ in range(2):
        assert (await site.call("POST", "/api/conversations", body, headers=headers))["id"] == made["id"]
    body = {"type": "Group", "name": "g", "memberIds": [bob]}
    group = (await site.call("POST", "/api/conversations", body, token=a, status=201))["id"]
    for _ in range(2):
        await site.call("POST", f"/api/conversations/{group}/members", {"userId": bob}, headers=headers | keyed(a, "k"))
    assert (await site.call("GET", f"/api/conversations/{group}", token=b))["memberCount"] == 2


async def test_a_refused_request_leaves_its_key(site: Site) -> None:
    """A request that was refused can be corrected under the same key."""
    (_, a), (bob, _) = [await site.user(name) for name in ("alice", "bob")]
    headers = keyed(a)
    await site.call("POST", "/api/conversations", {"type": "Direct"}, headers=headers, status=400)
    wrong = {"type": "Direct", "memberIds": [str(uuid4())]}
    await site.call("POST", "/api/conversations", wrong, headers=headers, status=404)
    await site.call("POST", "/api/conversations", {"type": "Direct", "memberIds": [bob]}, headers=headers, status=201)


async def test_registrations(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeating a registration gets tokens of one user; guessed keys, other names and late repetitions get none."""
    headers, body = keyed(), {"username": "alice"}
    answers = await at_once(site, "/api/users", body, headers)
    assert [answer.status_code for answer in answers] == [201] * 5
    assert len({answer.json()["id"] for answer in answers}) == 1
    for answer in answers:
        me = await site.call("GET", "/api/users/me", token=answer.json()["accessToken"])
        assert me["id"] == answer.json()["id"]
    await site.call("POST", "/api/users", {"username": "bob"}, headers=headers, status=422)
    for key in ("1", "alice", "x" * 21):
        await site.call("POST", "/api/users", body, headers=keyed(key=key), status=400)
    assert (await site.call("POST", "/api/users", body, headers=keyed(), status=409))["code"] == "username_taken"
    monkeypatch.setattr(users, "REGISTRATION_WINDOW", -1.0)
    late = await site.call("POST", "/api/users", body, headers=headers, status=409)
    assert late["code"] == "username_taken" and "accessToken" not in late


async def test_sessions(site: Site) -> None:
    """Refresh is repeatable by its token, with a key for one request.

    Logout is repeatable. Negotiate stores nothing.
    """
    made = await site.call("POST", "/api/users", {"username": "alice"}, status=201)
    token, key = made["accessToken"], {"Idempotency-Key": "k"}
    body = {"refreshToken": made["refreshToken"]}
    first = await site.call("POST", "/auth/refresh", body, headers=key)
    assert (await site.call("POST", "/auth/refresh", body, headers=key))["refreshToken"] == first["refreshToken"]
    other = {"refreshToken": first["refreshToken"]}
    await site.call("POST", "/auth/refresh", other, headers=key, status=422)
    await site.call("POST", "/auth/refresh", other)
    tokens = [await site.call("POST", "/hubs/chat/negotiate", token=token, headers=key) for _ in range(2)]
    assert tokens[0]["connectionId"] != tokens[1]["connectionId"]
    for _ in range(2):
        await site.call("POST", "/auth/logout", token=token, headers=key, status=204)
    await site.call("POST", "/auth/logout", token=token, headers={"Idempotency-Key": "\x7f"}, status=400)


async def test_files(database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Any) -> None:
    """Upload, presign and complete make one file for a key; other content or another file gets 422."""
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        _, a = await site.user("alice")
        headers = keyed(a)
        uploads = []
        for content in (b"text", b"text", b"other"):
            files = {"file": ("a.txt", content)}
            uploads.append(await site.http.post("/api/files/upload", files=files, headers=headers))
        assert [answer.status_code for answer in uploads] == [201, 201, 422]
        assert uploads[0].json() == uploads[1].json()
        body = {"name": "a.txt", "contentType": "text/plain", "size": 4}
        headers, done = keyed(a), keyed(a)
        begun = [await site.call("POST", "/api/files/presign", body, headers=headers, status=201) for _ in range(2)]
        assert begun[0]["id"] == begun[1]["id"]
        await site.call("POST", "/api/files/presign", {**body, "size": 5}, headers=headers, status=422)
        await site.http.put(begun[0]["uploadUrl"], content=b"text", headers=begun[0]["headers"])
        path = f"/api/files/{begun[0]['id']}/complete"
        first, again = [await site.call("POST", path, headers=done) for _ in range(2)]
        assert first == again
        await site.call("POST", f"/api/files/{uploads[0].json()['id']}/complete", headers=done, status=422)


async def test_a_crash_in_between(database: str, redis_url: str) -> None:
    """Requests that a killed process had are done once after they are repeated at the next one."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        group = await server.group(alice)
        requests: list[tuple[str, Any, dict[str, str]]] = [
            ("/api/conversations", {"type": "Group", "name": "new"}, keyed(alice.token)),
            ("/api/messages", {"conversationId": group, "content": "hello"}, keyed(alice.token)),
            (f"/api/conversations/{group}/members", {"userId": bob.id}, keyed(alice.token)),
            ("/api/users", {"username": "carol"}, keyed()),
        ]
        async with trio.open_nursery() as nursery:
            for path, body, headers in requests:
                nursery.start_soon(_post_to_the_dying, server, path, body, headers)
            await trio.sleep(0.01)  # so that some have been begun: whichever, all are to end well
            server.kill()
            await server.wait()
    async with running(database, redis_url) as server, server.http() as http:
        for path, body, headers in requests:
            first, again = [await http.post(path, json=body, headers=headers) for _ in range(2)]
            assert (first.status_code, again.status_code) == (201, 201), (first.text, again.text)
            assert first.json()["id"] == again.json()["id"]
        said = await server.history(alice, group)
        assert [message["content"] for message in said] == ["hello"]
        mine = await http.get("/api/conversations", headers={"Authorization": f"Bearer {alice.token}"})
        assert sorted((c["name"], c["memberCount"]) for c in mine.json()["items"]) == [("a group", 2), ("new", 1)]


async def _post_to_the_dying(server: Running, path: str, body: Any, headers: dict[str, str]) -> None:
    async with server.http() as http:
        try:
            await http.post(path, json=body, headers=headers)
        except httpx.TransportError:
            pass  # it was killed
