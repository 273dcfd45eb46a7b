"""Two instances and the people on them: what one does, the others see."""

from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from loadtest.client import HubClient, HubError
from server.cli.dev.services import Services
from server.config.loading import load
from server.identity.access_tokens import mint_token
from tests.conftest import flush
from tests.event_recorder import WAIT, EventRecorder, event_of
from tests.proxy import Proxy
from tests.running import JWT_KEY, Running, User, checked, running
from tests.waiting import wait_until

Pair = tuple[Running, Running]


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    return shared_pair


async def people(server: Running, *names: str) -> list[User]:
    return [await server.register(name) for name in names]


async def until(recorder: EventRecorder, target: str, **fields: object) -> Any:
    """Wait for an event of this name with these fields; return the first."""
    with trio.fail_after(WAIT):
        while True:
            for value in recorder.of(target):
                if all(value[name] == field for name, field in fields.items()):
                    return value
            count = len(recorder.of(target))
            await recorder.until(count + 1, target)


def is_archived(recorder: EventRecorder, conversation: str) -> bool:
    views = recorder.of("ConversationChanged")
    return any(view["id"] == conversation and view["settings"]["archived"] for view in views)


async def until_has(recorder: EventRecorder, message: Any) -> None:
    """Wait for a message, or for the `Resync` of a connection that was attached behind it: its client reads it."""

    def has_it() -> bool:
        heads = [
            resync["lastSeq"]
            for resync in recorder.of("Resync")
            if resync["conversationId"] == message["conversationId"]
        ]
        return any(head >= message["seq"] for head in heads) or any(
            received["id"] == message["id"] for received in recorder.of("ReceiveMessage")
        )

    await wait_until(has_it)


async def test_messages_and_changes(pair: Pair) -> None:
    """Messages that are sent, edited and deleted on one instance are seen on the other, the same and in order."""
    one, two = pair
    alice, bob = await people(one, "alice", "bob")
    conversation = await one.direct(alice, bob)
    recorder = EventRecorder()
    async with one.connect(alice) as a, two.connect(bob, recorder, protocol="messagepack"):
        sent = [await a.invoke("SendMessage", {"conversationId": conversation, "content": str(n)}) for n in range(50)]
        edited = await a.invoke("EditMessage", sent[3]["id"], "three")
        deleted = await a.invoke("DeleteMessage", sent[4]["id"])
        assert await recorder.until(50) == [event_of(one) for one in sent]
        assert await recorder.until(2, "MessageChanged") == [event_of(edited), event_of(deleted)]


async def test_receipts(pair: Pair) -> None:
    """Each way to acknowledge a message moves a receipt: sent to the others, shown on messages, counted as read."""
    one, two = pair
    alice, bob, eve = await people(one, "alice", "bob", "eve")
    group = await one.group(alice, bob)
    recorder = EventRecorder()
    async with one.connect(alice, recorder) as a, two.connect(bob) as b, two.connect(eve) as e, two.http(bob) as http:
        sent = [await a.invoke("SendMessage", {"conversationId": group, "content": str(n)}) for n in range(6)]
        assert (await http.get(f"/api/conversations/{group}")).json()["unreadCount"] == 6
        assert await b.invoke("MarkDelivered", group, sent[0]["seq"]) is None
        receipt = await until(recorder, "MessageStatusUpdated", seq=sent[0]["seq"])
        assert (receipt["conversationId"], receipt["userId"], receipt["status"]) == (group, bob.id, "Delivered")
        await b.invoke("MarkMessageAsDelivered", sent[1]["id"])
        await until(recorder, "MessageStatusUpdated", seq=sent[1]["seq"], status="Delivered")
        await b.invoke("MarkMessageAsRead", sent[2]["id"])
        await until(recorder, "MessageStatusUpdated", seq=sent[2]["seq"], status="Read")
        answer = await http.put(f"/api/messages/{sent[3]['id']}/status", json={"status": "delivered"})
        assert answer.status_code == 204
        await until(recorder, "MessageStatusUpdated", seq=sent[3]["seq"], status="Delivered")
        history = (await http.get(f"/api/messages?conversationId={group}&after=1")).json()["items"]
        assert [m["status"] for m in history] == ["Read"] * 3 + ["Delivered"] + ["Sent"] * 2
        await b.invoke("MarkRead", group, 10**6)  # never past the head
        await until(recorder, "MessageStatusUpdated", seq=sent[5]["seq"], status="Read")
        await b.invoke("MarkRead", group, 1)
        view = (await http.get(f"/api/conversations/{group}")).json()
        assert view["unreadCount"] == 0
        assert {m["userId"]: m["readSeq"] for m in view["members"]}[bob.id] == sent[5]["seq"]
        page = (await http.get(f"/api/messages/{sent[0]['id']}/receipts")).json()
        assert page == {"items": [{"userId": bob.id, "status": "Read"}], "next": None}
        for call in (
            ("MarkRead", group, 1),
            ("MarkDelivered", group, 1),
            ("MarkMessageAsRead", sent[0]["id"]),
        ):
            with pytest.raises(HubError, match="not_found"):
                await e.invoke(*call)
        with pytest.raises(HubError, match="invalid_cursor"):
            await b.invoke("MarkRead", group, -1)
        assert (await http.put(f"/api/messages/{sent[3]['id']}/status", json={"status": "Sent"})).status_code == 400
        async with two.http(eve) as eves_http:
            assert (await eves_http.get(f"/api/messages/{sent[0]['id']}/receipts")).status_code == 404
            answer = await eves_http.put(f"/api/messages/{sent[0]['id']}/status", json={"status": "Read"})
            assert answer.status_code == 404


async def test_who_answers_has_read(pair: Pair) -> None:
    """A message moves its sender's own cursor, and everybody on every instance hears of it, over hub and REST alike."""
    one, two = pair
    alice, bob, carol = await people(one, "alice", "bob", "carol")
    group = await one.group(alice, bob, carol)
    here, there = EventRecorder(), EventRecorder()
    async with one.connect(alice, here) as a, two.connect(bob, there) as b, two.http(carol) as http:
        asked = await a.invoke("SendMessage", {"conversationId": group, "content": "well?"})
        answer = await b.invoke("SendMessage", {"conversationId": group, "content": "yes", "replyToId": asked["id"]})
        for recorder in (here, there):
            receipt = await until(recorder, "MessageStatusUpdated", userId=bob.id)
            assert (receipt["status"], receipt["seq"], receipt["conversationId"]) == ("Read", answer["seq"], group)
        sent = await http.post("/api/messages", json={"conversationId": group, "content": "no"})
        for recorder in (here, there):
            receipt = await until(recorder, "MessageStatusUpdated", userId=carol.id)
            assert (receipt["status"], receipt["seq"]) == ("Read", checked(sent)["seq"])
        page = checked(await http.get(f"/api/messages?conversationId={group}&after={asked['seq'] - 1}"))["items"]
        assert [message["status"] for message in page] == ["Read", "Sent", "Sent"]
        assert not [receipt for receipt in here.of("MessageStatusUpdated") if receipt["userId"] == alice.id]


async def test_a_flood_of_receipts(pair: Pair) -> None:
    """Very many receipts into one conversation are few events for each member, and end where they should."""
    one, _ = pair
    users = await people(one, *(f"u{n}" for n in range(6)))
    group = await one.group(users[0], *users[1:])
    recorder = EventRecorder()
    total = 0
    async with one.connect(users[0], recorder) as owner:
        for n in range(40):
            last = await owner.invoke("SendMessage", {"conversationId": group, "content": str(n)})
        start = trio.current_time()

        async def flood(server: Running, user: User) -> None:
            nonlocal total
            async with server.connect(user) as client:
                for _ in range(8):
                    calls = [await client.start("MarkRead", group, last["seq"] - n) for n in reversed(range(40))]
                    for call in calls:
                        await client.result(call)
                    total += len(calls)

        async with trio.open_nursery() as nursery:
            for number, user in enumerate(users[1:]):
                nursery.start_soon(flood, pair[number % 2], user)
        seconds = trio.current_time() - start
        for user in users[1:]:
            await until(recorder, "MessageStatusUpdated", userId=user.id, seq=last["seq"], status="Read")
        for user in users[1:]:
            mine = [update for update in recorder.of("MessageStatusUpdated") if update["userId"] == user.id]
            assert len(mine) <= 10 * (seconds + 1) + 2
            assert [update["seq"] for update in mine] == sorted(update["seq"] for update in mine)
    assert total == 1600


async def test_typing(pair: Pair) -> None:
    """Typing is seen on the other instance, not by the user; it ends with its connection. Members only."""
    one, two = pair
    alice, bob, eve = await people(one, "alice", "bob", "eve")
    conversation = await one.direct(alice, bob)
    alices, bobs = EventRecorder(), EventRecorder()
    async with one.connect(alice, alices) as a, two.connect(eve) as e:
        async with two.connect(bob, bobs) as b:
            await b.invoke("StartTyping", conversation)
            await b.invoke("StartTyping", conversation)
            assert await alices.until(1, "UserStartedTyping") == [{"conversationId": conversation, "userId": bob.id}]
            await b.invoke("StopTyping", conversation)
            await alices.until(1, "UserStoppedTyping")
            await b.invoke("StartTyping", conversation)
            await alices.until(2, "UserStartedTyping")
        await alices.until(2, "UserStoppedTyping")
        assert bobs.of("UserStartedTyping") == []
        with pytest.raises(HubError, match="not_found"):
            await e.invoke("StartTyping", conversation)
        await a.invoke("Ping")


async def test_presence(pair: Pair) -> None:
    """Many devices are one user; a reload does not show; when the last device is gone, the user is offline, and was
    last seen then. A user who appears offline is offline to all others."""
    one, two = pair
    alice, bob, eve = await people(one, "alice", "bob", "eve")
    await one.direct(alice, bob)
    recorder, stranger = EventRecorder(), EventRecorder()
    async with one.connect(alice, recorder) as a, one.connect(eve, stranger):
        async with two.connect(bob) as b:
            await until(recorder, "UserStatusChanged", userId=bob.id, status="Online")
            async with one.connect(bob):
                await b.invoke("UpdateStatus", "Busy", "in a meeting")
                changed = await until(recorder, "UserStatusChanged", userId=bob.id, status="Busy")
                assert changed["statusText"] == "in a meeting"
        async with one.connect(bob) as b:  # both were gone for a moment
            [shown] = await a.invoke("GetPresence", [bob.id])
            assert shown["status"] == "Busy"
            async with one.http(bob) as http:
                checked(await http.put("/api/users/status", json={"status": "Offline"}))
                await until(recorder, "UserStatusChanged", userId=bob.id, status="Offline")
                assert checked(await http.get("/api/users/me"))["status"] == "Offline"
            async with one.http(alice) as http:
                assert checked(await http.get(f"/api/users/{bob.id}"))["status"] == "Offline"
            await b.invoke("UpdateStatus", "Online")
            await until(recorder, "UserStatusChanged", userId=bob.id, status="Online", statusText=None)
        await wait_until(lambda: any(one["lastSeenAt"] for one in recorder.of("UserStatusChanged")[-1:]))
        changed = recorder.of("UserStatusChanged")[-1]
        assert (changed["userId"], changed["status"]) == (bob.id, "Offline")
        everybody = await a.invoke("GetPresence", [bob.id, alice.id, eve.id])
        assert [one["status"] for one in everybody] == ["Offline", "Online", "Online"]
        assert stranger.of("UserStatusChanged") == []


async def hears(client: HubClient, recorder: EventRecorder, said: dict[str, Any]) -> None:
    with trio.fail_after(WAIT):
        while event_of(said) not in recorder.messages:
            await client.invoke("Ping")


async def test_details_of_a_group(pair: Pair) -> None:
    """What an admin sets on one instance is shown on the other, live and to who comes back, and holds for the next
    message there: who may send, and how often, counted across both."""
    one, two = pair
    alice, bob = await people(one, "alice", "bob")
    group = await one.group(alice, bob)
    bobs, back = EventRecorder(), EventRecorder()
    text = {"conversationId": group, "content": "x"}
    path = f"/api/conversations/{group}"
    async with one.connect(bob) as here, two.connect(bob, bobs) as there, one.http(alice) as http:
        details = {"description": "News", "avatarUrl": "https://example.org/a.png", "posting": "Admins"}
        checked(await http.put(path, json={"name": "news", **details}))
        assert (await until(bobs, "ConversationChanged", **details))["name"] == "news"
        said = [message["content"] for message in bobs.of("ReceiveMessage") if message["type"] == "System"]
        assert '"changed":["description","avatarUrl","posting"]' in said[-1]
        with pytest.raises(HubError, match="posting_forbidden: "):
            await there.invoke("SendMessage", text)
        checked(await http.put(path, json={"posting": "Everyone", "slowModeSeconds": 3600}))
        sent = await here.invoke("SendMessage", {**text, "clientMessageId": "k"})
        for client in (here, there):
            with pytest.raises(HubError, match=r"(?s)slow_mode: .*retryAfterMs"):
                await client.invoke("SendMessage", text)
            again = await client.invoke("SendMessage", {**text, "clientMessageId": "k"})
            assert again["id"] == sent["id"]
    async with two.connect(bob, back, query={"sync": "manual"}) as b:
        await b.invoke("Sync", {group: 1})
        replayed = [message["content"] for message in back.of("ReceiveMessage") if message["type"] == "System"]
        assert len(replayed) == 3 and "slowModeSeconds" in replayed[-1]


async def test_who_joins_by_a_link(pair: Pair) -> None:
    """Who joins on one instance is among the members on the other at once, and hears from then on what is said there;
    of many who come to both at once as many join as the link is good for."""
    one, two = pair
    alice, bob, *others = await people(one, "alice", "bob", *(f"other-{number}" for number in range(8)))
    group = await one.group(alice)
    alices, bobs = EventRecorder(), EventRecorder()
    async with one.connect(alice, alices) as a, two.connect(bob, bobs) as b, one.http(alice) as http:
        link = checked(await http.post(f"/api/conversations/{group}/links", json={"maxUses": 4}))
        async with two.http(bob) as bobs_http:
            assert checked(await bobs_http.post("/api/join", json={"token": link["token"]}))["id"] == group
        await until(alices, "ConversationChanged", memberCount=2)
        await until(bobs, "ConversationChanged", id=group)
        said = await a.invoke("SendMessage", {"conversationId": group, "content": "welcome"})
        await hears(b, bobs, said)
        codes = []

        async def join(server: Running, user: User) -> None:
            async with server.http(user) as own:
                codes.append((await own.post("/api/join", json={"token": link["token"]})).status_code)

        async with trio.open_nursery() as nursery:
            for number, user in enumerate(others):
                nursery.start_soon(join, pair[number % 2], user)
        assert sorted(codes) == [201] * 3 + [404] * 5
        assert checked(await http.get(f"/api/conversations/{group}"))["memberCount"] == 5
        [listed] = checked(await http.get(f"/api/conversations/{group}/links"))["items"]
        assert listed["uses"] == 4


async def test_who_joins_a_public_group(pair: Pair) -> None:
    """What is made public on one instance is found and joined on the other, and who joins hears what is said; in slow
    mode they gain nothing by leaving and joining again."""
    one, two = pair
    alice, bob = await people(one, "alice", "bob")
    group = await one.group(alice)
    bobs, path = EventRecorder(), f"/api/conversations/{group}"
    details = {"name": f"Public {group}", "isPublic": True, "slowModeSeconds": 3600}
    async with one.connect(alice) as a, two.connect(bob, bobs) as b, one.http(alice) as http, two.http(bob) as own:
        checked(await http.put(path, json=details))
        [found] = checked(await own.get("/api/groups", params={"q": group}))["items"]
        assert (found["id"], found["memberCount"]) == (group, 1)
        for number in (1, 2):
            assert checked(await own.post(f"{path}/join"))["memberCount"] == 2
            said = await a.invoke("SendMessage", {"conversationId": group, "content": f"welcome {number}"})
            await hears(b, bobs, said)
            with pytest.raises(HubError, match="slow_mode: "):
                await b.invoke("SendMessage", {"conversationId": group, "content": "me again"})
            assert (await own.delete(f"{path}/members/{bob.id}")).is_success
        checked(await http.put(path, json={"isPublic": False}))
        assert (await own.post(f"{path}/join")).status_code == 404
        assert checked(await own.get("/api/groups", params={"q": group}))["items"] == []


async def test_authority(pair: Pair) -> None:
    """P9: members come and go, roles change, conversations and users are deleted: on the sockets of every instance."""
    one, two = pair
    alice, bob, carol = await people(one, "alice", "bob", "carol")
    group = await one.group(alice, bob)
    bobs, carols = EventRecorder(), EventRecorder()
    async with (
        one.connect(alice) as a,
        two.connect(bob, bobs) as b,
        two.connect(carol, carols) as c,
        one.http(alice) as http,
    ):
        path = f"/api/conversations/{group}"
        checked(await http.post(f"{path}/members", json={"userId": carol.id}))
        view = (await carols.until(1, "ConversationChanged"))[0]
        assert view["id"] == group and view["memberCount"] == 3
        said = await a.invoke("SendMessage", {"conversationId": group, "content": "welcome"})
        await hears(c, carols, said)
        checked(await http.put(f"{path}/members/{carol.id}/role", json={"role": "Admin"}))
        with trio.fail_after(WAIT):
            while "Admin" not in str(carols.of("ConversationChanged")[-1]["members"]):
                await c.invoke("Ping")
        assert (await http.delete(f"{path}/members/{bob.id}")).is_success
        await bobs.until(1, "ConversationRemoved")
        assert [arguments for target, arguments in bobs.events if target == "ConversationRemoved"] == [
            [group, "removed"]
        ]
        said = await a.invoke("SendMessage", {"conversationId": group, "content": "among us"})
        await hears(c, carols, said)
        await b.invoke("Ping")
        assert event_of(said) not in bobs.messages
        with pytest.raises(HubError, match="not_found"):
            await b.invoke("JoinConversation", group)
        assert (await http.delete(path)).is_success
        await carols.until(1, "ConversationRemoved")
        assert [arguments for target, arguments in carols.events if target == "ConversationRemoved"] == [
            [group, "deleted"]
        ]
        async with one.http(carol) as carols_http:
            assert (await carols_http.delete(f"/api/users/{carol.id}")).is_success
        with trio.fail_after(WAIT):
            await c.closed.wait()
        assert c.close_message is not None and not c.close_message.allow_reconnect


async def test_a_new_group_reaches_everybody(pair: Pair) -> None:
    """Members of a new group get it, and the messages in it, at once, on all instances."""
    one, two = pair
    alice, bob = await people(one, "alice", "bob")
    recorder = EventRecorder()
    async with one.connect(alice) as a, two.connect(bob, recorder) as b:
        for n in range(10):
            group = await one.group(alice, bob)
            said = await a.invoke("SendMessage", {"conversationId": group, "content": str(n)})
            await hears(b, recorder, said)
        assert len(recorder.messages) == 10


async def test_without_redis(database: str) -> None:
    """Without Redis from the start users chat on their instance, and get others' changes a little later; Degraded, and
    not ready for the first time, so that a restart one by one waits."""
    async with (
        running(database, "unix:///tmp/nothing-here", until="not_ready") as one,
        running(database, "unix:///tmp/nothing-here", until="not_ready") as two,
    ):
        alice, bob = await people(one, "alice", "bob")
        conversation = await one.direct(alice, bob)
        recorder = EventRecorder()
        async with one.connect(alice) as a, two.connect(bob, recorder) as b, one.http() as http:
            said = await a.invoke("SendMessage", {"conversationId": conversation, "content": "anybody?"})
            assert (await recorder.until(1))[0] == event_of(said)
            await b.invoke("MarkRead", conversation, said["seq"])  # kept in PostgreSQL
            with pytest.raises(HubError, match="unavailable"):
                await b.invoke("GetPresence", [alice.id])
            assert (await http.get("/health")).json()["status"] == "Degraded"


async def test_removed_where_it_is_not_open(pair: Pair) -> None:
    """P9: a removal reaches the instances that the user is on, though the conversation is not open there; what
    attached there by itself is detached, and hears nothing more."""
    one, two = pair
    alice, bob = await people(one, "alice", "bob")
    closed, joined = await one.group(alice, bob), await one.group(alice, bob)
    recorder = EventRecorder()
    async with (
        one.connect(alice) as a,
        two.connect(bob, recorder, query={"sync": "manual"}) as b,
        one.http(alice) as http,
    ):
        await b.invoke("JoinConversation", joined)
        for group in (closed, joined):
            assert (await http.delete(f"/api/conversations/{group}/members/{bob.id}")).is_success
        await recorder.until(2, "ConversationRemoved")
        assert {arguments[0] for target, arguments in recorder.events if target == "ConversationRemoved"} == {
            closed,
            joined,
        }
        for group in (closed, joined):
            await a.invoke("SendMessage", {"conversationId": group, "content": "among us"})
        with pytest.raises(HubError, match="not_found"):
            await b.invoke("JoinConversation", joined)
        await b.invoke("Ping")
        assert recorder.messages == []


async def test_a_ban(pair: Pair) -> None:
    """Connections of a banned user end on each instance, whichever banned them, and neither serves them until it is
    lifted; others stay."""
    one, two = pair
    admin, bob, eve = await people(one, "admin", "bob", "eve")
    root = admin._replace(token=mint_token(load({}, None, jwt_key=JWT_KEY), UUID(admin.id), admin=True))
    path = f"/api/users/{bob.id}/ban"
    async with one.connect(bob) as first, two.connect(bob) as second, two.connect(eve) as other, one.http(root) as http:
        for client in (first, second, other):
            await client.invoke("Ping")
        checked(await http.put(path, json={"reason": "spam"}))
        for client in (first, second):
            with trio.fail_after(WAIT):
                await client.closed.wait()
            assert "banned" in str(client.close_message)
        for server in pair:
            async with server.http(bob) as refused:
                assert (await refused.get("/api/users/me")).json()["code"] == "banned"
        checked(await http.delete(path))
        for server in pair:
            async with server.http(bob) as again, server.connect(bob) as client:
                checked(await again.get("/api/users/me"))
                await client.invoke("GetUnread")
        await other.invoke("GetUnread")


async def test_threads(pair: Pair) -> None:
    """A reply on one instance changes its root for all on either; what a user sets of a thread reaches their
    connections on both, and those of no other user."""
    one, two = pair
    alice, bob = await people(one, "alice", "bob")
    group = await one.group(alice, bob)
    here, there, others = EventRecorder(), EventRecorder(), EventRecorder()
    async with (
        one.connect(alice, here) as a,
        two.connect(alice, there, protocol="messagepack"),
        two.connect(bob, others) as b,
    ):
        root = await a.invoke("SendMessage", {"conversationId": group, "content": "root"})
        sent = [
            await b.invoke("SendMessage", {"conversationId": group, "content": str(n), "threadId": root["id"]})
            for n in range(20)
        ]
        for recorder in (here, there, others):
            await wait_until(partial(shows, recorder, root["id"], 20))
        state = await a.invoke("MarkThreadRead", root["id"], sent[9]["seq"])
        assert state["unreadCount"] == 10
        left = await a.invoke("UnfollowThread", root["id"])
        assert left["version"] > state["version"]
        for recorder in (here, there):
            await until(recorder, "ThreadChanged", version=left["version"], isFollowing=False)
            versions = [one["version"] for one in recorder.of("ThreadChanged")]
            assert versions == sorted(versions)
        await b.invoke("Ping")
        assert others.of("ThreadChanged") == []


def shows(recorder: EventRecorder, root: str, count: int) -> bool:
    """Whether the root has come with so many replies; never with fewer than before."""
    counts = [one["thread"]["replyCount"] for one in recorder.of("MessageChanged") if one["id"] == root]
    assert counts == sorted(counts)
    return count in counts


async def test_settings(pair: Pair) -> None:
    """What a user sets for themselves reaches their connections on every instance, attached or not, and no one else's.
    One that was away learns from `Sync` that there is something new."""
    one, two = pair
    alice, bob = await people(one, "alice", "bob")
    group = await one.group(alice, bob)
    mine, theirs, away = EventRecorder(), EventRecorder(), EventRecorder()
    async with (
        one.connect(alice) as a,
        two.connect(alice, mine, query={"sync": "manual"}) as manual,
        two.connect(bob, theirs) as b,
        one.http(alice) as http,
    ):
        await manual.invoke("Ping")
        until_then = {"notifications": {"mutedUntil": "2999-01-01T00:00:00Z"}}
        settings = await a.invoke("UpdateConversationSettings", group, {"archived": True, **until_then})
        assert settings["notifications"] == {"mutedUntil": "2999-01-01T00:00:00.000Z"}
        await until(mine, "ConversationChanged", id=group, settings=settings)
        assert settings["archived"] and not settings["favourite"]
        changed = checked(await http.put(f"/api/conversations/{group}/settings", json={"favourite": True}))
        assert changed["version"] > settings["version"] and changed["archived"]
        await until(mine, "ConversationChanged", id=group, settings=changed)
        await b.invoke("SendMessage", {"conversationId": group, "content": "a round"})
        await theirs.until(1)
        assert all(view["settings"]["version"] < settings["version"] for view in theirs.of("ConversationChanged"))
        assert not checked(await http.get("/api/conversations?archived=false"))["items"]
    async with two.connect(alice, away, query={"sync": "manual"}) as again, two.connect(bob) as b:
        [listed] = (await again.invoke("Sync", {}))["conversations"]
        assert listed["settingsVersion"] == changed["version"]
        [listed] = (await b.invoke("Sync", {}))["conversations"]
        assert listed["settingsVersion"] != changed["version"]


async def test_what_happened_without_membership(
    database: str, services: Services, redis_url: str, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """P4, P7: an instance loses its membership, and Redis its data. When it is back, clients that stayed connected hear
    that they were added to a conversation and removed from another, what they have set elsewhere, and who has gone;
    new messages reach them."""
    redis = Proxy(tmp_path / "redis", Path(redis_url.removeprefix("unix://")))
    await nursery.start(redis.run)
    async with running(database, redis_url) as one, running(database, f"unix://{tmp_path / 'redis'}") as two:
        alice, bob, eve = await people(one, "alice", "bob", "eve")
        lost, kept = await one.group(alice, bob), await one.group(alice, bob, eve)
        recorders = {query: EventRecorder() for query in ("", "manual")}
        async with (
            two.connect(bob, recorders[""]) as b,
            two.connect(bob, recorders["manual"], query={"sync": "manual"}) as manual,
            one.connect(alice) as a,
            one.http(alice) as http,
        ):
            await manual.invoke("Sync", {lost: 0, kept: 0})
            async with two.connect(eve) as e:
                await e.invoke("Ping")
                await until(recorders[""], "UserStatusChanged", userId=eve.id, status="Online")
                earlier = len(two.events("membership_lost"))
                redis.refusing = True
                redis.cut()
                await wait_until(lambda: len(two.events("membership_lost")) > earlier)
            async with one.http(bob) as elsewhere:
                checked(await elsewhere.put(f"/api/conversations/{kept}/settings", json={"archived": True}))
            added = await one.group(alice, bob)
            assert (await http.delete(f"/api/conversations/{lost}/members/{bob.id}")).is_success
            flush(services)
            for recorder in recorders.values():
                assert added not in {change["id"] for change in recorder.of("ConversationChanged")}
            redis.refusing = False
            for recorder in recorders.values():
                await until(recorder, "ConversationChanged", id=added)
                await wait_until(partial(is_archived, recorder, kept))
                await recorder.until(1, "ConversationRemoved")
                assert {arguments[0] for target, arguments in recorder.events if target == "ConversationRemoved"} == {
                    lost
                }
                await until(recorder, "UserStatusChanged", userId=eve.id, status="Offline")
            said = await a.invoke("SendMessage", {"conversationId": added, "content": "hello"})
            await until_has(recorders[""], said)
            await b.invoke("Ping")


async def test_who_came_and_went_elsewhere_without_membership(
    database: str, redis_url: str, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """P7: clients of an instance that was cut off from Redis see, when it is back, who has come to another instance and
    gone from it meanwhile; those of the other instance, which status was chosen at the one that was cut off."""
    redis = Proxy(tmp_path / "redis", Path(redis_url.removeprefix("unix://")))
    await nursery.start(redis.run)
    async with (
        running(database, redis_url, presence_grace=0) as one,
        running(database, f"unix://{tmp_path / 'redis'}", presence_grace=0) as two,
    ):
        alice, bob, dan, fay = await people(one, "alice", "bob", "dan", "fay")
        await one.group(alice, bob, dan, fay)
        here, there = EventRecorder(), EventRecorder()
        async with one.connect(alice, here), two.connect(bob, there) as b:
            await until(here, "UserStatusChanged", userId=bob.id, status="Online")
            async with one.connect(dan):
                await until(there, "UserStatusChanged", userId=dan.id, status="Online")
                redis.refusing = True
                redis.cut()
                await wait_until(lambda: two.events("membership_lost"))
            await until(here, "UserStatusChanged", userId=dan.id, status="Offline")
            await b.invoke("UpdateStatus", "Busy", None)
            async with one.connect(fay):
                await until(here, "UserStatusChanged", userId=fay.id, status="Online")
                redis.refusing = False
                await until(there, "UserStatusChanged", userId=dan.id, status="Offline")
                await until(there, "UserStatusChanged", userId=fay.id, status="Online")
                await until(here, "UserStatusChanged", userId=bob.id, status="Busy")
