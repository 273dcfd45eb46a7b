"""Cursors at the hub that are proved by a message, and the rest of what `Sync` answers, over PostgreSQL."""

from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from loadtest.client import HubError
from tests.event_recorder import EventRecorder
from tests.integration.conftest import Shared
from tests.integration.test_instances import until
from tests.running import User
from tests.waiting import wait_until

MANUAL = {"sync": "manual"}


class Past:
    """A conversation of Alice and Bob, whose history goes back while no client is connected."""

    def __init__(self, server: Shared, alice: User, bob: User, group: str, sent: list[dict[str, Any]]) -> None:
        self.server, self.alice, self.bob, self.group = server, alice, bob, group
        self.sent = {message["changedSeq"]: message for message in sent}

    def position(self, seq: int) -> dict[str, Any]:
        message = self.sent[seq]
        changed_at = message["deletedAt"] or message["editedAt"]
        return {"seq": seq, "messageId": message["id"], "changedAt": changed_at}

    async def go_back(self, head: int) -> None:
        """As a backup has it, or a replica that takes over: with less than was acknowledged. No client is connected."""
        closed = partial(self.server.events, "connection_closed")
        await wait_until(lambda: self.alice.id in [line["user"] for line in closed()])
        with psycopg.connect(self.server.database, autocommit=True) as admin:
            for table in ("messages", "outbox"):  # both of the same transactions
                admin.execute(
                    f"DELETE FROM {table} WHERE conversation_id = %s AND seq > %s".encode(),  # noqa: S608
                    [self.group, head],
                )
            admin.execute(
                "UPDATE messages SET changed_seq = seq, changed_at = NULL, edited_at = NULL, deleted_at = NULL"
                " WHERE conversation_id = %s AND changed_seq > %s",
                [self.group, head],
            )
            admin.execute(
                "UPDATE conversations SET last_seq = %s, last_message_id = %s WHERE id = %s",
                [head, self.sent[head]["id"], self.group],
            )


async def come_back(past: Past, cursor: object, protocol: str, way: str) -> tuple[bool, list[int], dict[str, Any]]:
    """Whether Bob is to read anew, what is replayed, and the head."""
    inbox = EventRecorder()
    over = past.server.over("socket", protocol)
    refused: HubError | None = None
    async with over.connect(past.bob, inbox, query=MANUAL) as hub:
        try:
            if way == "join":
                answer = await hub.invoke("JoinConversation", past.group, cursor)
            else:
                answer = await hub.invoke("Sync", {past.group: cursor, str(uuid4()): cursor})
        except HubError as error:
            refused = error
    if refused is not None:
        raise refused
    replayed = [one["changedSeq"] for name, (one, *_) in inbox.events if name in ("ReceiveMessage", "MessageChanged")]
    if way == "join":
        return answer["resync"], replayed, answer
    [mine] = [one for one in answer["conversations"] if one["conversationId"] == past.group]
    assert (mine["outcome"] == "resync") == (past.group in answer["resync"])
    return mine["outcome"] == "resync", replayed, mine


@pytest.fixture
async def past(shared: Shared) -> Past:
    """Eleven changes, the last ones an edit and a deletion."""
    server = shared
    alice, bob = await server.register("alice"), await server.register("bob")
    group = await server.group(alice, bob)
    async with server.connect(alice) as a:
        sent = [await a.invoke("SendMessage", {"conversationId": group, "content": str(n)}) for n in range(2, 10)]
        edited = await a.invoke("EditMessage", sent[0]["id"], "edited")
        sent += [edited, await a.invoke("DeleteMessage", sent[1]["id"])]
    assert [message["changedSeq"] for message in sent] == list(range(2, 12))
    return Past(server, alice, bob, group, sent)


async def say(past: Past, count: int) -> None:
    async with past.server.connect(past.alice) as a:
        for _ in range(count):
            await a.invoke("SendMessage", {"conversationId": past.group, "content": "other"})


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_history_that_goes_back(past: Past, protocol: str) -> None:
    """P11: from head 11 back to 6 and on to 12. A cursor at what is lost is a resync with the head to go on from, one
    at what is kept goes on. A bare 11 is noticed below head 11, and looks like any other 11 from there on."""
    await past.go_back(6)
    for head, missing in ((6, 4), (10, 1), (11, 1), (12, 0)):
        for way in ("sync", "join"):
            for seq in (8, 11):
                resync, replayed, answer = await come_back(past, past.position(seq), protocol, way)
                assert resync and not replayed and answer["lastSeq"] == head and answer["messageId"]
            resync, replayed, answer = await come_back(past, past.position(5), protocol, way)
            assert not resync and replayed == list(range(6, head + 1)) and answer["lastSeq"] == head
            resync, _, answer = await come_back(past, 11, protocol, way)
            assert resync is (head < 11)
            again = {"seq": answer["lastSeq"], "messageId": answer["messageId"]}
            assert (await come_back(past, again, protocol, way))[:2] == (False, [])
        await say(past, missing)


async def test_proofs_of_a_good_history(past: Past) -> None:
    """Every cursor that a client can have goes on, with or without its time and its message. One with another message,
    with another time, or with none that can be read is a resync of its conversation; JoinConversation refuses those."""
    for seq in range(2, 12):
        position = past.position(seq)
        for cursor in (position, {**position, "changedAt": None}, {"seq": seq}, seq):
            resync, _, answer = await come_back(past, cursor, "json", "sync")
            assert not resync and answer["lastSeq"] == 11 and answer["messageId"] == past.sent[11]["id"], cursor
    edit = past.position(10)
    garbage = ({"messageId": "garbage"}, {"messageId": ""}, {"changedAt": "noon"}, {"changedAt": "2026-01-01T00:00:00"})
    other = ({"messageId": str(uuid4())}, {"messageId": past.group}, {"changedAt": "2026-01-01T00:00:00Z"}, {"seq": 9})
    for wrong in (*garbage, *other):
        assert (await come_back(past, {**edit, **wrong}, "json", "sync"))[0], wrong
        if wrong in garbage:
            with pytest.raises(HubError, match=r"^invalid_cursor: "):
                await come_back(past, {**edit, **wrong}, "json", "join")
        else:
            assert (await come_back(past, {**edit, **wrong}, "json", "join"))[0], wrong
    for unfit in ({"messageId": past.group}, {**edit, "seq": "10"}, {**edit, "messageId": 5}, "10", None):
        with pytest.raises(HubError, match=r"^invalid_request: "):
            await come_back(past, unfit, "json", "sync")
    with pytest.raises(HubError, match=r"^invalid_cursor: "):
        await come_back(past, {**edit, "seq": -1}, "json", "sync")


async def test_sync_is_a_whole_start(past: Past) -> None:
    """One call on a new connection: all conversations with their heads and what is unread, each replayed; those made
    later attach by themselves; the answer of a send says what comes before it."""
    server, bob = past.server, past.bob
    other = await server.group(past.alice, bob)
    inbox = EventRecorder()
    async with server.connect(bob, inbox, query=MANUAL) as hub, server.connect(past.alice) as a:
        synced = await hub.invoke("Sync", {})
        found = {one["conversationId"]: one for one in synced["conversations"]}
        assert {one["outcome"] for one in found.values()} == {"replayed"} and synced["next"] is None
        assert (found[past.group]["lastSeq"], found[past.group]["unreadCount"]) == (
            11,
            7,
        )  # 2 to 9, but for a deleted one
        assert found[other]["lastSeq"] == 1 and set(found) == {past.group, other}
        assert synced["heads"] == {past.group: 11, other: 1} and synced["resync"] == []
        assert len(inbox.of("ReceiveMessage")) == 9 + 1
        made = await server.group(past.alice, bob)
        said = await a.invoke("SendMessage", {"conversationId": made, "content": "at once"})
        assert said["after"] == said["changedSeq"] - 1
        await until(inbox, "ReceiveMessage", id=said["id"])
        mine = [name for name, (one, *_) in inbox.events if made in (one.get("id"), one.get("conversationId"))]
        assert mine.count("ReceiveMessage") == 1


@pytest.mark.parametrize(("others", "outcome"), [("attach", "attached"), ("IGNORE", "ignored"), (0, "replayed")])
async def test_others(past: Past, others: object, outcome: str) -> None:
    """The choice of what becomes of the others, by its name in any case, or by its index."""
    inbox = EventRecorder()
    async with past.server.connect(past.bob, inbox, query=MANUAL) as hub, past.server.connect(past.alice) as a:
        synced = await hub.invoke("Sync", {}, {"others": others})
        assert [one["outcome"] for one in synced["conversations"]] == [outcome]
        assert [one["lastSeq"] for one in synced["conversations"]] == [11]
        assert len(inbox.of("ReceiveMessage")) == (9 if outcome == "replayed" else 0)
        said = await a.invoke("SendMessage", {"conversationId": past.group, "content": "now"})
        made = await past.server.group(past.alice, past.bob)
        later = await a.invoke("SendMessage", {"conversationId": made, "content": "later"})
        await until(inbox, "ReceiveMessage", id=later["id"])
        assert (said["id"] in [one["id"] for one in inbox.messages]) is (outcome != "ignored")
        with pytest.raises(HubError, match=r"^invalid_request: .*replay, attach, ignore"):
            await hub.invoke("Sync", {}, {"others": "some"})
