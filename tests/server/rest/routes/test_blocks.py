"""server.rest.routes.blocks: keeping users away, over REST."""

import io
import json
import zipfile

from tests.site import Site


async def test_what_the_blocked_meets(site: Site) -> None:
    """No message in the direct conversation, no new one, no group; the same words as where the other is banned; and all
    of it again when the block is gone. The one who blocks writes on."""
    (alice, a), (bob, b), (carol, c) = [await site.user(name) for name in ("alice", "bob", "carol")]
    body = {"type": "Direct", "memberIds": [bob]}
    direct = (await site.call("POST", "/api/conversations", body, token=a, status=201))["id"]
    said = {"conversationId": direct, "content": "x"}
    await site.call("POST", "/api/messages", said, token=a, status=201)
    for _ in range(2):
        await site.call("PUT", f"/api/users/me/blocks/{alice}", token=b, status=204)
    await site.call("PUT", f"/api/users/me/blocks/{carol}", token=b, status=204)
    refusals = [
        await site.call("POST", "/api/messages", said, token=a, status=403),
        await site.call("POST", "/api/conversations", {"type": "Direct", "memberIds": [bob]}, token=c, status=403),
        await site.call("POST", "/api/conversations", {"type": "Group", "memberIds": [bob]}, token=a, status=403),
    ]
    assert {one["code"] for one in refusals} == {"recipient_unavailable"}
    assert (await site.call("POST", "/api/conversations", body, token=a))["id"] == direct  # it is there
    await site.call("POST", "/api/messages", said, token=b, status=201)
    for _ in range(2):
        await site.call("DELETE", f"/api/users/me/blocks/{alice}", token=b, status=204)
    await site.call("POST", "/api/messages", said, token=a, status=201)


async def test_listed(site: Site) -> None:
    """One's own are listed, by pages, and in one's export; the blocked see nothing of it."""
    (alice, a), (bob, b), (carol, _) = [await site.user(name) for name in ("alice", "bob", "carol")]
    for user_id in (bob, carol):
        await site.call("PUT", f"/api/users/me/blocks/{user_id}", token=a, status=204)
    first = await site.call("GET", "/api/users/me/blocks?limit=1", token=a)
    rest = await site.call("GET", f"/api/users/me/blocks?cursor={first['next']}", token=a)
    assert [one["userId"] for one in first["items"] + rest["items"]] == sorted([bob, carol])
    assert (await site.call("GET", "/api/users/me/blocks", token=b))["items"] == []
    exports = [
        (await site.http.get("/api/users/me/export", headers={"Authorization": f"Bearer {token}"})).content
        for token in (a, b)
    ]
    read = [zipfile.ZipFile(io.BytesIO(one)) for one in exports]
    listed = [json.loads(one.read("blocks.json")) for one in read]
    assert [one["userId"] for one in listed[0]] == sorted([bob, carol]) and listed[1] == []
    assert not any(alice in one.read(name).decode(errors="replace") for one in read[1:] for name in one.namelist())
    await site.call("PUT", f"/api/users/me/blocks/{alice}", token=a, status=409)
    await site.call("PUT", "/api/users/me/blocks/0", token=a, status=404)
