"""The hub as docs/hub.md promises it: a step for each of its lines, named as they are.

REST has its lines in tests/server/rest/, commands and settings in tests/server/cli/ and tests/server/config/.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
import trio

from loadtest.client import HubClient, HubError
from tests.event_recorder import WAIT, EventRecorder, event_of
from tests.integration.test_instances import until
from tests.running import Running, User
from tests.waiting import wait_until

MESSAGE = {
    "id", "conversationId", "seq", "changedSeq", "senderId", "type", "content", "file", "replyToId",
    "clientMessageId", "createdAt", "editedAt", "deletedAt", "status", "changedAt",
    "reactions", "pinnedAt", "pinnedBy", "mentions", "mentionAll",
    "threadId", "alsoInConversation", "thread",
}  # fmt: skip
CONVERSATION = {
    "id", "type", "name", "createdBy", "createdAt", "lastSeq", "lastMessage", "unreadCount", "memberCount", "members",
    "mentionCount", "settings", "description", "avatarUrl", "posting", "slowModeSeconds",
    "isPublic",
}  # fmt: skip


class Scene:
    """Alice and Bob, connected, in one group; Alice is its owner. Carol is elsewhere."""

    a: HubClient
    b: HubClient

    def __init__(self, server: Running, alice: User, bob: User, carol: User, group: str) -> None:
        self.server = server
        self.alice, self.bob, self.carol = alice, bob, carol
        self.group = group
        self.to_alice, self.to_bob = EventRecorder(), EventRecorder()

    async def say(self, content: str, **more: object) -> dict[str, Any]:
        body = {"conversationId": self.group, "content": content, **more}
        sent: dict[str, Any] = await self.a.invoke("SendMessage", body)
        return sent

    async def rest(self, user: User, method: str, path: str, body: object = None) -> Any:
        async with self.server.http(user) as http:
            answer = await http.request(method, path, json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None


async def send_message(scene: Scene) -> None:
    """SendMessage(CreateMessage): the Message, after the commit; repeated clientMessageId: the same Message"""
    first = await scene.say("hello", type="text", clientMessageId="k")
    assert set(event_of(first)) == MESSAGE and first["type"] == "Text" and first["status"] == "Sent"
    made = datetime.fromisoformat(first["createdAt"])
    assert first["createdAt"].endswith("Z") and made.utcoffset() is not None and len(first["createdAt"]) == 24
    assert await scene.say("hello", type=0, clientMessageId="k") == first  # enums also by their index
    reply = await scene.say("and", replyToId=first["id"], type="EMOJI")
    assert reply["replyToId"] == first["id"] and reply["type"] == "Emoji"
    assert await until(scene.to_bob, "ReceiveMessage", id=reply["id"]) == event_of(reply)


async def change_message(scene: Scene) -> None:
    """EditMessage(messageId, content) · DeleteMessage(messageId): the Message; MessageChanged, with its changedSeq"""
    sent = await scene.say("teh")
    edited = await scene.a.invoke("EditMessage", sent["id"], "the")
    assert edited["content"] == "the" and edited["seq"] == sent["seq"] and edited["changedSeq"] == sent["seq"] + 1
    deleted = await scene.a.invoke("DeleteMessage", sent["id"])
    assert deleted["deletedAt"] and deleted["content"] == ""
    for changed in (edited, deleted):
        assert await until(scene.to_bob, "MessageChanged", changedSeq=changed["changedSeq"]) == event_of(changed)


async def join_and_leave(scene: Scene) -> None:
    """JoinConversation(id, sinceSeq?) · LeaveConversation(id): attach, detach; Join answers and replays"""
    await scene.b.invoke("LeaveConversation", scene.group)
    missed = await scene.say("missed")
    assert (await scene.b.invoke("Ping")) == {}
    assert not [m for m in scene.to_bob.messages if m["id"] == missed["id"]]
    joined = await scene.b.invoke("JoinConversation", scene.group, missed["seq"] - 1)
    assert joined["lastSeq"] == missed["seq"]
    assert {cursor["userId"] for cursor in joined["cursors"]} == {scene.alice.id, scene.bob.id}
    assert {"deliveredSeq", "readSeq"} <= set(joined["cursors"][0])
    assert (await until(scene.to_bob, "ReceiveMessage", id=missed["id"]))["content"] == "missed"
    live = await scene.say("live")
    await until(scene.to_bob, "ReceiveMessage", id=live["id"])


async def sync(scene: Scene) -> None:
    """Sync({conversationId: cursor, ...}, options?): replays each in order and attaches; answers {heads, resync: [ids],
    conversations, next}"""
    recorder = EventRecorder()
    sent = [await scene.say(str(n)) for n in range(3)]
    async with scene.server.connect(scene.bob, recorder, query={"sync": "manual"}) as b:
        assert await b.invoke("Ping") == {} and not recorder.messages
        synced = await b.invoke("Sync", {scene.group: sent[0]["seq"] - 1, str(uuid4()): 5})
        assert synced["heads"] == {scene.group: sent[-1]["seq"]} and len(synced["resync"]) == 1
        one = {"conversationId": scene.group, "lastSeq": sent[-1]["seq"], "messageId": sent[-1]["id"]}
        assert synced["conversations"][0].items() >= one.items() and synced["next"] is None
        assert [listed["outcome"] for listed in synced["conversations"]] == ["replayed", "gone"]
        live = await scene.say("live")
        await until(recorder, "ReceiveMessage", id=live["id"])
        assert recorder.messages == [event_of(one) for one in (*sent, live)]


async def coming_back(scene: Scene) -> None:
    """With sync=manual: a new conversation is announced and not attached; joined from 0, all of it comes. A cursor that
    cannot be is a resync, and the connection is attached all the same; one below 0 is refused."""
    recorder = EventRecorder()
    async with scene.server.connect(scene.bob, recorder, query={"sync": "manual"}) as b:
        group = await scene.server.group(scene.alice, scene.bob)
        await until(recorder, "ConversationChanged", id=group)
        said = await scene.a.invoke("SendMessage", {"conversationId": group, "content": "new"})
        assert await b.invoke("Ping") == {} and not recorder.of("ReceiveMessage")
        assert (await b.invoke("JoinConversation", group, 0))["resync"] is False
        assert await until(recorder, "ReceiveMessage", id=said["id"]) == event_of(said)
        assert [message["seq"] for message in recorder.of("ReceiveMessage")] == list(range(1, said["seq"] + 1))
        synced = await b.invoke("Sync", {group: 10**6}, {"others": "ignore"})
        assert synced["heads"] == {group: said["seq"]} and synced["resync"] == [group]
        live = await scene.a.invoke("SendMessage", {"conversationId": group, "content": "live"})
        await until(recorder, "ReceiveMessage", id=live["id"])
        with pytest.raises(HubError, match=r"^invalid_cursor: "):
            await b.invoke("Sync", {group: -1})


async def stream_history(scene: Scene) -> None:
    """StreamHistory(conversationId, beforeSeq?, limit?): server-to-client stream of Messages, paced by the client"""
    sent = [await scene.say(str(n)) for n in range(3)]
    items = scene.b.stream("StreamHistory", scene.group, sent[-1]["seq"], 2)
    assert [message["id"] async for message in items] == [sent[1]["id"], sent[0]["id"]]


async def typing(scene: Scene) -> None:
    """StartTyping(id) · StopTyping(id); UserStartedTyping · UserStoppedTyping: {conversationId, userId}"""
    await scene.a.invoke("StartTyping", scene.group)
    expected = {"conversationId": scene.group, "userId": scene.alice.id}
    assert await until(scene.to_bob, "UserStartedTyping", **expected) == expected
    await scene.a.invoke("StopTyping", scene.group)
    assert await until(scene.to_bob, "UserStoppedTyping", **expected) == expected


async def receipts(scene: Scene) -> None:
    """MarkMessageAsRead · MarkMessageAsDelivered · MarkRead · MarkDelivered: durable; MessageStatusUpdated"""
    sent = [await scene.say(str(n)) for n in range(4)]
    await scene.b.invoke("MarkMessageAsDelivered", sent[0]["id"])
    await scene.b.invoke("MarkDelivered", scene.group, sent[1]["seq"])
    await scene.b.invoke("MarkMessageAsRead", sent[2]["id"])
    await scene.b.invoke("MarkRead", scene.group, sent[3]["seq"])
    receipt = await until(scene.to_alice, "MessageStatusUpdated", seq=sent[3]["seq"], status="Read")
    assert set(receipt) == {"conversationId", "userId", "status", "seq", "at"} and receipt["userId"] == scene.bob.id
    shown = await scene.rest(scene.alice, "GET", f"/api/messages/{sent[3]['id']}")
    assert shown["status"] == "Read"


async def presence(scene: Scene) -> None:
    """UpdateStatus(status, text?) · GetPresence(userIds); UserStatusChanged: its four fields"""
    await scene.a.invoke("UpdateStatus", "busy", "in a meeting")
    changed = await until(scene.to_bob, "UserStatusChanged", userId=scene.alice.id, status="Busy")
    assert set(changed) == {"userId", "status", "statusText", "lastSeenAt"} and changed["statusText"] == "in a meeting"
    [alice, carol] = await scene.b.invoke("GetPresence", [scene.alice.id, scene.carol.id])
    assert (alice["status"], carol["status"]) == ("Busy", "Offline")


async def unread(scene: Scene) -> None:
    """GetUnread(): how many messages, in how many conversations; REST says the same"""
    group = await scene.server.group(scene.alice, scene.carol)
    for content, mentions in (("one", []), ("two", [scene.carol.id])):
        body = {"conversationId": group, "content": content, "mentions": mentions}
        last = await scene.a.invoke("SendMessage", body)
    nothing = {"mutedUnreadCount": 0, "mutedConversationCount": 0, "capped": False, "mutedMentionCount": 0}
    nothing["unreadThreads"] = 0
    expected = {"unreadCount": 2, "conversationCount": 1, "mentionCount": 1, **nothing}
    async with scene.server.connect(scene.carol, EventRecorder()) as c:
        assert await c.invoke("GetUnread") == expected
        assert await scene.rest(scene.carol, "GET", "/api/users/me/unread") == expected
        await c.invoke("MarkRead", group, last["seq"])

        async def is_read() -> bool:  # a receipt counts when it is written
            return bool((await c.invoke("GetUnread"))["unreadCount"] == 0)

        await wait_until(is_read)


async def refresh_token(scene: Scene) -> None:
    """RefreshToken(jwt): new expiry; another user's token is refused"""
    assert await scene.a.invoke("RefreshToken", scene.alice.token) is None
    with pytest.raises(HubError, match="forbidden: "):
        await scene.a.invoke("RefreshToken", scene.bob.token)
    with pytest.raises(HubError, match="unauthenticated: "):
        await scene.a.invoke("RefreshToken", "nonsense")


async def ping(scene: Scene) -> None:
    """Ping(): {}"""
    assert await scene.a.invoke("Ping") == {}
    assert await scene.a.invoke("pInG") == {}  # names are matched without case


async def errors(scene: Scene) -> None:
    """Errors: Completion error "code: sentence"; for calls without an invocation id, the Error event"""
    with pytest.raises(HubError, match=r"^not_found: .+\.$"):
        await scene.a.invoke("SendMessage", {"conversationId": str(uuid4()), "content": "x"})
    await scene.a.send("SendMessage", {"conversationId": str(uuid4()), "content": "x"})
    await scene.to_alice.until(1, "Error")
    assert scene.to_alice.of("Error")[0].startswith("not_found: ")


async def conversations(scene: Scene) -> None:
    """ConversationChanged · ConversationRemoved: Conversation; id and reason (also to the one added or removed)"""
    recorder = EventRecorder()
    async with scene.server.connect(scene.carol, recorder):
        await scene.rest(scene.alice, "POST", f"/api/conversations/{scene.group}/members", {"userId": scene.carol.id})
        changed = await until(recorder, "ConversationChanged", id=scene.group)
        assert set(changed) == CONVERSATION and changed["memberCount"] == 3
        assert {"userId", "role", "joinedAt", "deliveredSeq", "readSeq"} <= set(changed["members"][0])
        await until(scene.to_bob, "ConversationChanged", id=scene.group, memberCount=3)
        heard = await scene.say("to three")
        await until(recorder, "ReceiveMessage", id=heard["id"])
        await scene.rest(scene.alice, "DELETE", f"/api/conversations/{scene.group}/members/{scene.carol.id}")
        await recorder.until(1, "ConversationRemoved")
        [gone] = [arguments for name, arguments in recorder.events if name == "ConversationRemoved"]
        assert gone == [scene.group, "removed"]


LINES: tuple[Callable[[Scene], Awaitable[None]], ...] = (
    send_message,
    change_message,
    join_and_leave,
    sync,
    coming_back,
    stream_history,
    typing,
    receipts,
    presence,
    unread,
    refresh_token,
    ping,
    errors,
    conversations,
)


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_every_line_of_the_hub(shared: Running, protocol: str) -> None:
    """Methods and events, line by line."""
    alice, bob, carol = [await shared.register(name) for name in ("alice", "bob", "carol")]
    scene = Scene(shared, alice, bob, carol, await shared.group(alice, bob))
    async with (
        shared.connect(alice, scene.to_alice, protocol=protocol) as scene.a,
        shared.connect(bob, scene.to_bob, protocol=protocol) as scene.b,
    ):
        for line in LINES:
            try:
                with trio.fail_after(WAIT):
                    await line(scene)
            except BaseException as error:
                error.add_note(f"docs/hub.md: {line.__doc__}")
                raise
