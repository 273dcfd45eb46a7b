"""ETag and If-Match for editable resources, If-None-Match for readable ones (RFC 9110, 13)."""

from typing import Any

import httpx

from tests.site import Site
from tests.waiting import wait_until


class Reader:
    def __init__(self, site: Site, token: str) -> None:
        self._site = site
        self._headers = {"Authorization": f"Bearer {token}"}

    async def __call__(self, method: str, path: str, body: Any = None, **conditions: str) -> httpx.Response:
        headers = self._headers | {name.replace("_", "-"): value for name, value in conditions.items()}
        return await self._site.http.request(method, path, json=body, headers=headers)


async def edits(read: Reader, path: str, one: Any, other: Any, *, at: str = "") -> str:
    """Check that an edit succeeds at the current ETag and fails at others; return the ETag after it."""
    before = (await read("GET", path)).headers["ETag"]
    edited = await read("PUT", at or path, one, If_Match=before)
    assert edited.status_code == 200 and edited.headers["ETag"] != before
    for stale in (before, f"W/{edited.headers['ETag']}", '"x"', '"x", ""', "nonsense", ""):
        refused = await read("PUT", at or path, other, If_Match=stale)
        assert (refused.status_code, refused.json()["code"]) == (412, "precondition_failed"), stale
    after = (await read("GET", path)).headers["ETag"]
    assert after == edited.headers["ETag"]
    assert (await read("PUT", at or path, one, If_Match=f'"x", {after}')).status_code == 200
    assert (await read("PUT", at or path, one, If_Match="*")).status_code == 200
    return str((await read("GET", path)).headers["ETag"])


async def unchanged(read: Reader, path: str, tag: str) -> None:
    for condition in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        answer = await read("GET", path, If_None_Match=condition)
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag), condition
    assert (await read("GET", path, If_None_Match='"x"')).status_code == 200


async def test_messages(site: Site) -> None:
    """A receipt changes the answer's digest, not the version that an edit is based on."""
    (_, a), (bob, b) = await site.user("alice"), await site.user("bob")
    body = {"type": "Direct", "memberIds": [bob]}
    conversation = (await site.call("POST", "/api/conversations", body, token=a, status=201))["id"]
    said = {"conversationId": conversation, "content": "1"}
    sent = await site.call("POST", "/api/messages", said, token=a, status=201)
    path, read = f"/api/messages/{sent['id']}", Reader(site, a)
    tag = await edits(read, path, {"content": "2"}, {"content": "3"})
    await unchanged(read, path, tag)
    await site.call("PUT", f"{path}/status", {"status": "Read"}, token=b, status=204)

    async def changed() -> Any:
        answer = await read("GET", path, If_None_Match=tag)
        return answer if answer.status_code != 304 else None

    shown = await wait_until(changed)  # the receipt is durable at once, and in the message a moment later
    assert shown.status_code == 200 and shown.json()["status"] == "Read"
    edited = await read("PUT", path, {"content": "4"}, If_Match=tag)
    assert edited.status_code == 200
    assert (await read("DELETE", path, If_Match=tag)).status_code == 412
    assert (await read("DELETE", path, If_Match=f'"{edited.json()["changedSeq"]}"')).status_code == 200


async def test_conversations(site: Site) -> None:
    """New messages do not change the version; members and their roles do."""
    (_, a), (bob, _) = await site.user("alice"), await site.user("bob")
    group = (await site.call("POST", "/api/conversations", {"type": "Group", "name": "g"}, token=a, status=201))["id"]
    path, read = f"/api/conversations/{group}", Reader(site, a)
    tag = await edits(read, path, {"name": "h"}, {"name": "i"})
    await unchanged(read, path, tag)
    await site.call("POST", "/api/messages", {"conversationId": group, "content": "x"}, token=a, status=201)
    assert (await read("GET", path, If_None_Match=tag)).status_code == 200
    assert (await read("PUT", path, {"name": "j"}, If_Match=tag)).status_code == 200
    tag = (await read("GET", path)).headers["ETag"]
    await site.call("POST", f"{path}/members", {"userId": bob}, token=a, status=201)
    assert (await read("DELETE", path, If_Match=tag)).status_code == 412
    tag = (await read("GET", path)).headers["ETag"]
    assert (await read("DELETE", path, If_Match=tag)).status_code == 204


async def test_me(site: Site) -> None:
    """Profile and status share one ETag."""
    _, a = await site.user("alice")
    read = Reader(site, a)
    tag = await edits(read, "/api/users/me", {"displayName": "A"}, {"displayName": "B"})
    tag = await edits(read, "/api/users/me", {"status": "Busy"}, {"status": "Away"}, at="/api/users/status")
    await unchanged(read, "/api/users/me", tag)
    me = (await read("GET", "/api/users/me")).json()
    assert (me["displayName"], me["status"]) == ("A", "Busy")
