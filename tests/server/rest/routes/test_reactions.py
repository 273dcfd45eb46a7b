"""REST for reactions: put, taken back, listed; and what the message is then, over REST and the hub."""

from typing import Any
from urllib.parse import quote

import trio

from tests.server.rest.routes.test_messages import talk
from tests.site import Site

THUMB, FAMILY = "\U0001f44d", "\U0001f468\u200d\U0001f469\u200d\U0001f467"


async def test_put_and_taken_back(site: Site) -> None:
    """By either member, once each, whichever way the emoji is written; refusals name what is wrong."""
    conversation, a, b = await talk(site)
    sent = await site.call(
        "POST", "/api/messages", {"conversationId": conversation, "content": "x"}, token=a, status=201
    )
    path = f"/api/messages/{sent['id']}"
    assert sent["reactions"] == []
    one = await site.call("PUT", f"{path}/reactions/{quote(THUMB)}", token=b)
    assert [(kind["emoji"], kind["count"]) for kind in one["reactions"]] == [(THUMB, 1)]
    assert one["changedSeq"] == sent["changedSeq"] + 1 == one["after"] + 1 and one["changedAt"] and not one["editedAt"]
    again = await site.call("PUT", f"{path}/reactions/{quote(THUMB)}%EF%B8%8F", token=b)
    assert again == one
    await site.call("PUT", f"{path}/reactions/{quote(FAMILY)}", token=a)
    await site.call("PUT", f"{path}/Reactions/:party:", token=a)
    shown = await site.call("GET", path, token=b)
    assert [kind["emoji"] for kind in shown["reactions"]] == [THUMB, FAMILY, ":party:"]
    listed = await site.call("GET", f"{path}/reactions", token=a)
    assert [item["emoji"] for item in listed["items"]] == sorted([THUMB, FAMILY, ":party:"]) and listed["next"] is None
    some = await site.call("GET", f"{path}/reactions?emoji={quote(THUMB)}", token=a)
    assert [item["userId"] for item in some["items"]] == shown["reactions"][0]["userIds"]
    last = await site.call("DELETE", f"{path}/reactions/{quote(THUMB)}", token=b)
    assert [kind["emoji"] for kind in last["reactions"]] == [FAMILY, ":party:"]
    for method in ("PUT", "DELETE"):
        problem = await site.call(method, f"{path}/reactions/hello", token=a, status=400)
        assert problem["code"] == "invalid_request" and list(problem["fields"]) == ["emoji"]
    await site.call("GET", f"{path}/reactions?emoji=hello", token=a, status=400)
    await site.call("DELETE", path, token=a)
    await site.call("PUT", f"{path}/reactions/{quote(THUMB)}", token=b, status=410)
    assert (await site.call("GET", f"{path}/reactions", token=a))["items"] == []


async def test_is_no_edit(site: Site) -> None:
    """An edit that was begun before a reaction goes through; a cached message is renewed."""
    conversation, a, b = await talk(site)
    sent = await site.call(
        "POST", "/api/messages", {"conversationId": conversation, "content": "x"}, token=a, status=201
    )
    path = f"/api/messages/{sent['id']}"
    answer = await site.http.get(path, headers={"Authorization": f"Bearer {a}"})
    tag = answer.headers["ETag"]
    await site.call("PUT", f"{path}/reactions/{quote(THUMB)}", token=b)
    renewed = await site.http.get(path, headers={"Authorization": f"Bearer {a}", "If-None-Match": tag})
    assert renewed.status_code == 200 and renewed.json()["reactions"]
    edited = await site.call("PUT", path, {"content": "y"}, token=a, headers={"If-Match": tag})
    assert edited["reactions"] == renewed.json()["reactions"]
    await site.call("PUT", path, {"content": "z"}, token=a, headers={"If-Match": tag}, status=412)


async def test_all_at_once(site: Site) -> None:
    """Fifty people react to one message at the same time: all are answered, the count is exact, the changes are few."""
    _, owner = await site.user("owner")
    people = [await site.user(f"user{number}") for number in range(50)]
    body = {"type": "Group", "name": "g", "memberIds": [user_id for user_id, _ in people]}
    group = (await site.call("POST", "/api/conversations", body, token=owner, status=201))["id"]
    sent = await site.call("POST", "/api/messages", {"conversationId": group, "content": "x"}, token=owner, status=201)
    path = f"/api/messages/{sent['id']}"
    answers: list[Any] = []

    async def react(token: str) -> None:
        answers.append(await site.call("PUT", f"{path}/reactions/{quote(THUMB)}", token=token))

    async with trio.open_nursery() as nursery:
        for _, token in people:
            nursery.start_soon(react, token)
    assert len(answers) == 50
    shown = await site.call("GET", path, token=owner)
    [kind] = shown["reactions"]
    assert (kind["count"], len(kind["userIds"])) == (50, 10)
    batches = site.process.reactions.batches
    assert shown["changedSeq"] - sent["changedSeq"] == batches <= 50 and site.process.reactions.written == 50
