"""REST for threads, and what the hub says of them."""

from typing import Any

import pytest
import trio

from loadtest.client import HubError
from tests import transports
from tests.event_recorder import WAIT, EventRecorder
from tests.site import Site, open_site
from tests.waiting import wait_until

Talk = tuple[str, str, str, dict[str, Any]]


async def talk(site: Site) -> Talk:
    """A group of Alice and Bob, their tokens, and a root by Alice."""
    _, alice = await site.user("alice")
    bob, bobs = await site.user("bob")
    body = {"type": "Group", "name": "g", "memberIds": [bob]}
    group = (await site.call("POST", "/api/conversations", body, token=alice, status=201))["id"]
    return group, alice, bobs, await say(site, group, alice, "root")


async def say(site: Site, group: str, token: str, content: str, **more: Any) -> dict[str, Any]:
    body = {"conversationId": group, "content": content, **more}
    sent: dict[str, Any] = await site.call("POST", "/api/messages", body, token=token, status=201)
    return sent


async def shown(site: Site, root: str, token: str, count: int) -> dict[str, Any]:
    """The root, once it shows so many replies."""
    found: dict[str, Any] = {}

    async def shows() -> bool:
        found.update(await site.call("GET", f"/api/messages/{root}", token=token))
        return bool((found["thread"] or {"replyCount": 0})["replyCount"] == count)

    with trio.fail_after(WAIT):
        await wait_until(shows)
    return found


async def test_a_thread(site: Site) -> None:
    """Replies are in their thread, not in the main history unless they say so or it is asked for all; the root shows
    them, its author follows, and has them among what is unread until they are read."""
    group, alice, bob, root = await talk(site)
    one = await say(site, group, bob, "one", threadId=root["id"])
    two = await say(site, group, bob, "two", threadId=root["id"], alsoInConversation=True)
    assert (one["threadId"], one["alsoInConversation"], two["alsoInConversation"]) == (root["id"], False, True)
    main = await site.call("GET", f"/api/messages?conversationId={group}&after=1", token=alice)
    assert [item["content"] for item in main["items"]] == ["root", "two"] and main["next"] is None
    every = await site.call("GET", f"/api/messages?conversationId={group}&after=1&replies=true", token=alice)
    assert [item["content"] for item in every["items"]] == ["root", "one", "two"]
    await site.call("GET", f"/api/messages?conversationId={group}&replies=x", token=alice, status=400)
    path = f"/api/messages/{root['id']}/replies"
    assert [item["content"] for item in (await site.call("GET", path, token=alice))["items"]] == ["two", "one"]
    page = await site.call("GET", path + "?after=0&limit=1", token=alice)
    rest = await site.call("GET", path + f"?after=0&cursor={page['next']}", token=alice)
    assert [item["content"] for item in page["items"] + rest["items"]] == ["one", "two"] and rest["next"] is None
    summary = (await shown(site, root["id"], alice, 2))["thread"]
    assert summary == {"replyCount": 2, "lastReplyAt": two["createdAt"], "participantIds": [one["senderId"]]}
    [listed] = (await site.call("GET", "/api/threads?unread=true", token=alice))["items"]
    assert listed["root"]["id"] == listed["threadId"] == root["id"] and listed["unreadCount"] == 2
    assert (await site.call("GET", "/api/users/me/unread", token=alice))["unreadThreads"] == 1
    state = await site.call("PUT", f"/api/threads/{root['id']}/read", {"seq": one["seq"]}, token=alice)
    assert (state["readSeq"], state["unreadCount"], state["isFollowing"]) == (one["seq"], 1, True)
    state = await site.call("PUT", f"/api/threads/{root['id']}/read", {"seq": 10**9}, token=alice)
    assert state["unreadCount"] == 0
    assert (await site.call("GET", "/api/threads?unread=true", token=alice))["items"] == []
    assert (await site.call("GET", "/api/users/me/unread", token=alice))["unreadThreads"] == 0
    assert len((await site.call("GET", "/api/threads", token=alice))["items"]) == 1
    for method, is_following in (("DELETE", False), ("PUT", True)):
        for _ in range(2):
            state = await site.call(method, f"/api/threads/{root['id']}/following", token=alice)
            assert state["isFollowing"] is is_following
        thread = await site.call("GET", f"/api/threads/{root['id']}", token=alice)
        assert {name: thread[name] for name in state} == state and thread["root"]["content"] == "root"


async def test_sent_once(site: Site) -> None:
    """A reply that is repeated is the same one; with the id of a message elsewhere it is another, and refused."""
    group, alice, _, root = await talk(site)
    for _ in range(2):
        sent = await say(site, group, alice, "x", threadId=root["id"], clientMessageId="k")
        assert sent["threadId"] == root["id"]
    body = {"conversationId": group, "content": "x"}
    headers = {"Idempotency-Key": "k"}
    problem = await site.call("POST", "/api/messages", body, token=alice, status=422, headers=headers)
    assert problem["code"] == "idempotency_mismatch"
    assert (await shown(site, root["id"], alice, 1))["thread"]["replyCount"] == 1


async def test_on_the_hub(site: Site) -> None:
    """The root is changed for all who are attached; what a user sets of a thread goes to their own connections alone,
    and streams of the history leave replies out unless asked for."""
    group, alice, bob, root = await talk(site)
    mine, theirs = EventRecorder(), EventRecorder()
    async with (
        transports.connect("socket", f"{site.url}/hubs/chat", alice, on_event=mine) as a,
        transports.connect("socket", f"{site.url}/hubs/chat", bob, on_event=theirs) as b,
    ):
        await a.invoke("Ping")
        reply = await b.invoke("SendMessage", {"conversationId": group, "content": "x", "threadId": root["id"]})
        for recorder in (mine, theirs):
            [changed] = await recorder.until(1, "MessageChanged")
            assert changed["id"] == root["id"] and changed["thread"]["replyCount"] == 1
            assert (await recorder.until(1))[-1]["threadId"] == root["id"]
        state = await a.invoke("MarkThreadRead", root["id"], reply["seq"])
        assert (state["unreadCount"], state["isFollowing"]) == (0, True)
        assert await mine.until(1, "ThreadChanged") == [state]
        left = await a.invoke("UnfollowThread", root["id"])
        assert await mine.until(2, "ThreadChanged") == [state, left] and left["version"] > state["version"]
        await a.invoke("FollowThread", root["id"])
        await mine.until(3, "ThreadChanged")
        await b.invoke("Ping")
        assert theirs.of("ThreadChanged") == []
        with pytest.raises(HubError, match="thread_nested"):
            await a.invoke("FollowThread", reply["id"])
        for arguments, expected in (((None, 10), ["root"]), ((None, 10, True), ["x", "root"])):
            stream = [item async for item in a.stream("StreamHistory", group, *arguments)]
            assert [item["content"] for item in stream if item["type"] != "System"] == expected


async def test_a_process_that_dies_in_between(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has committed a reply and has not changed its root: another one changes it, for all who are
    there."""
    async with open_site(database, redis_url, nursery) as site:
        group, alice, bob, root = await talk(site)
        recorder = EventRecorder()
        async with transports.connect("socket", f"{site.url}/hubs/chat", alice, on_event=recorder) as client:
            await client.invoke("Ping")
            with monkeypatch.context() as patch:  # as of a process that dies then
                patch.setattr(site.process.cluster.change_publisher, "_on_reply", lambda root_id: None)
                await say(site, group, bob, "x", threadId=root["id"])
            [changed] = await recorder.until(1, "MessageChanged")
            assert changed["id"] == root["id"] and changed["thread"]["replyCount"] == 1
