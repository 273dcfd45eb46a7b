"""server.rest.routes.member_moderation: muting members, and keeping users out."""

import json

from tests.server.rest.routes.test_moderation import administrator
from tests.site import Site


async def test_muted_and_kept_out(site: Site) -> None:
    """A muted member's message is refused with the time; who is kept out joins neither by a link nor a public group;
    others see both as changes; a moderator of the service may do it, too."""
    admin = await administrator(site)
    (_, a), (bob, b) = await site.user("alice"), await site.user("bob")
    body = {"type": "Group", "name": "group", "memberIds": [bob]}
    group = (await site.call("POST", "/api/conversations", body, token=a, status=201))["id"]
    path, said = f"/api/conversations/{group}", {"conversationId": group, "content": "x"}
    until = "2999-01-01T00:00:00.000Z"
    await site.call("PUT", f"{path}/members/{bob}/mute", {"until": until}, token=a, status=204)
    refused = await site.call("POST", "/api/messages", said, token=b, status=403)
    assert (refused["code"], refused["until"]) == ("muted", until)
    await site.call("DELETE", f"{path}/members/{bob}/mute", token=admin, status=204)
    await site.call("POST", "/api/messages", said, token=b, status=201)
    link = await site.call("POST", f"{path}/links", {}, token=a, status=201)
    await site.call("PUT", path, {"isPublic": True}, token=a)
    await site.call("PUT", f"{path}/bans/{bob}", {"until": until}, token=admin, status=204)
    for refused in (
        await site.call("POST", "/api/join", {"token": link["token"]}, token=b, status=403),
        await site.call("POST", f"{path}/join", token=b, status=403),
        await site.call("POST", f"{path}/members", {"userId": bob}, token=a, status=403),
    ):
        assert (refused["code"], refused["until"]) == ("kept_out", until)
    listed = await site.call("GET", f"{path}/bans", token=a)
    assert [(one["userId"], one["until"]) for one in listed["items"]] == [(bob, until)]
    page = await site.call("GET", f"/api/messages?conversationId={group}&after=0&limit=200", token=a)
    events = [json.loads(one["content"]) for one in page["items"] if one["type"] == "System"]
    assert [(one["event"], one.get("until")) for one in events if one.get("userId") == bob] == [
        ("memberMuted", until),
        ("memberUnmuted", None),
        ("memberRemoved", until),
    ]
    await site.call("DELETE", f"{path}/bans/{bob}", token=a, status=204)
    await site.call("POST", "/api/join", {"token": link["token"]}, token=b, status=201)
