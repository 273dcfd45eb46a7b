"""REST for mentions: the list, and the counts beside it."""

from tests.server.rest.routes.test_messages import talk
from tests.site import Site


async def test_mentions(site: Site) -> None:
    """Who is mentioned finds the message in their list and counted in the conversation, until it is deleted; an edit
    changes who it is; a stranger cannot be."""
    conversation, a, b = await talk(site)
    alice, bob = [(await site.call("GET", "/api/users/me", token=token))["id"] for token in (a, b)]
    body = {"conversationId": conversation, "content": "@bob", "mentions": [bob, bob], "mentionAll": None}
    sent = await site.call("POST", "/api/messages", body, token=a, status=201)
    assert (sent["mentions"], sent["mentionAll"]) == ([bob], False)

    async def seen(token: str) -> tuple[int, list[str]]:
        [one] = (await site.call("GET", "/api/conversations", token=token))["items"]
        assert one == await site.call("GET", f"/api/conversations/{conversation}", token=token)
        found = await site.call("GET", "/api/mentions", token=token)
        assert found["next"] is None
        return one["mentionCount"], [message["id"] for message in found["items"]]

    assert (await seen(a), await seen(b)) == ((0, []), (1, [sent["id"]]))
    path = f"/api/messages/{sent['id']}"
    await site.call("PUT", path, {"content": "hello"}, token=a)
    assert await seen(b) == (1, [sent["id"]])
    edited = await site.call("PUT", path, {"content": "hello", "mentions": [alice]}, token=a)
    assert (edited["mentions"], await seen(b)) == ([alice], (0, []))
    await site.call("PUT", path, {"content": "all", "mentionAll": True}, token=a)
    assert await seen(b) == (1, [sent["id"]])
    stranger, c = await site.user("carol")
    problem = await site.call("PUT", path, {"content": "x", "mentions": [stranger]}, token=a, status=404)
    assert problem["fields"] == {"mentions": "not a member"}
    problem = await site.call("POST", "/api/messages", {**body, "mentions": [stranger]}, token=a, status=404)
    assert problem["fields"] == {"mentions": "not a member"}
    await site.call("POST", "/api/messages", {**body, "mentions": [bob] * 51}, token=a, status=400)
    assert await site.call("GET", "/api/mentions", token=c) == {"items": [], "next": None}
    await site.call("DELETE", path, token=a)
    assert await seen(b) == (0, [])
