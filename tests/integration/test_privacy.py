"""What a user hides on one instance is hidden on the other, from others and of others to them, at once."""

from functools import partial
from typing import Any

import pytest

from tests.event_recorder import EventRecorder, event_of
from tests.integration.test_instances import Pair, people, until
from tests.running import checked
from tests.waiting import wait_until

SHOWN = {"readReceipts": True, "typing": True, "lastSeen": True}


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    return shared_pair


def reads(recorder: EventRecorder, user_id: str, after: int = 0) -> list[Any]:
    updates = recorder.of("MessageStatusUpdated")[after:]
    return [update["seq"] for update in updates if update["userId"] == user_id and update["status"] == "Read"]


async def test_read_receipts(pair: Pair) -> None:
    """Others hear Delivered of who hides, also of what an answer says; they hear Delivered of others; their own
    connections hear Read of themselves, and nothing is lost of what they have not read."""
    one, two = pair
    alice, bob, carol = await people(one, "alice", "bob", "carol")
    group = await one.group(alice, bob, carol)
    to_alice, to_bob, to_bob_too, to_carol = (EventRecorder() for _ in range(4))
    async with (
        one.connect(alice, to_alice) as a,
        two.connect(bob, to_bob) as b,
        one.connect(bob, to_bob_too) as b_too,
        two.connect(carol, to_carol, protocol="messagepack") as c,
    ):
        assert await b.invoke("UpdatePrivacy", {"readReceipts": False}) == {**SHOWN, "readReceipts": False}
        sent = await a.invoke("SendMessage", {"conversationId": group, "content": "well?"})
        await until(to_bob, "ReceiveMessage", id=sent["id"])
        await b.invoke("MarkRead", group, sent["seq"])
        for recorder in (to_alice, to_carol):
            await until(recorder, "MessageStatusUpdated", userId=bob.id, seq=sent["seq"], status="Delivered")
        for recorder in (to_bob, to_bob_too):
            await until(recorder, "MessageStatusUpdated", userId=bob.id, seq=sent["seq"], status="Read")
        await c.invoke("MarkRead", group, sent["seq"])
        await until(to_alice, "MessageStatusUpdated", userId=carol.id, seq=sent["seq"], status="Read")
        for recorder in (to_bob, to_bob_too):
            await until(recorder, "MessageStatusUpdated", userId=carol.id, seq=sent["seq"], status="Delivered")
        more = await a.invoke("SendMessage", {"conversationId": group, "content": "and?"})
        answer = await b_too.invoke("SendMessage", {"conversationId": group, "content": "yes"})
        for recorder in (to_alice, to_carol):
            await until(recorder, "MessageStatusUpdated", userId=bob.id, seq=answer["seq"], status="Delivered")
            assert reads(recorder, bob.id) == []
        await until(to_bob, "MessageStatusUpdated", userId=bob.id, seq=answer["seq"], status="Read")
        assert reads(to_bob, carol.id) == reads(to_bob_too, carol.id) == []
        async with two.http(alice) as http, one.http(bob) as bobs:
            found = checked(await http.get(f"/api/messages/{sent['id']}/receipts"))["items"]
            assert {item["userId"]: item["status"] for item in found} == {bob.id: "Delivered", carol.id: "Read"}
            assert checked(await http.get(f"/api/messages/{more['id']}"))["status"] == "Sent"  # Carol has not got it
            view = checked(await bobs.get(f"/api/conversations/{group}"))
            assert {member["userId"]: member["readSeq"] for member in view["members"]} == {
                bob.id: answer["seq"],
                alice.id: 1,
                carol.id: 1,
            }
            assert checked(await bobs.put("/api/users/me/privacy", json={"readReceipts": True})) == SHOWN
        last = await a.invoke("SendMessage", {"conversationId": group, "content": "good"})
        await b.invoke("MarkRead", group, last["seq"])
        await until(to_alice, "MessageStatusUpdated", userId=bob.id, seq=last["seq"], status="Read")
        await c.invoke("MarkRead", group, last["seq"])
        for recorder in (to_bob, to_bob_too):
            await until(recorder, "MessageStatusUpdated", userId=carol.id, seq=last["seq"], status="Read")


async def test_typing(pair: Pair) -> None:
    """Who hides typing is not seen to type, from the moment they hide it, and does not see others; the others see each
    other."""
    one, two = pair
    alice, bob, carol = await people(one, "alice", "bob", "carol")
    group = await one.group(alice, bob, carol)
    to_alice, to_bob, to_carol = (EventRecorder() for _ in range(3))
    async with (
        one.connect(alice, to_alice) as a,
        two.connect(bob, to_bob) as b,
        two.connect(carol, to_carol) as c,
    ):
        await b.invoke("StartTyping", group)
        await until(to_alice, "UserStartedTyping", userId=bob.id)
        async with one.http(bob) as http:
            assert checked(await http.put("/api/users/me/privacy", json={"typing": False}))["typing"] is False
            assert checked(await http.get("/api/users/me/privacy")) == {**SHOWN, "typing": False}
        for recorder in (to_alice, to_carol):
            await until(recorder, "UserStoppedTyping", userId=bob.id)
        await b.invoke("StartTyping", group)
        await a.invoke("StartTyping", group)
        await until(to_carol, "UserStartedTyping", userId=alice.id)
        await c.invoke("StartTyping", group)
        await until(to_alice, "UserStartedTyping", userId=carol.id)
        said = await c.invoke("SendMessage", {"conversationId": group, "content": "behind what came before"})
        await until(to_bob, "ReceiveMessage", id=said["id"])
        assert event_of(said) in to_bob.messages and to_bob.of("UserStartedTyping") == []
        for recorder in (to_alice, to_carol):
            typed = [update["userId"] for update in recorder.of("UserStartedTyping")]
            assert typed.count(bob.id) == 1  # before
        await b.invoke("UpdatePrivacy", {"typing": True})
        await b.invoke("StartTyping", group)
        await wait_until(lambda: [one["userId"] for one in to_alice.of("UserStartedTyping")].count(bob.id) == 2)


async def test_last_seen(pair: Pair) -> None:
    """Null of who hides it, and of everybody to them: in events, presence, profiles, searches; they see their own."""
    one, two = pair
    alice, bob, carol = await people(one, "alice", "bob", "carol")
    await one.group(alice, bob, carol)
    to_alice, to_carol = EventRecorder(), EventRecorder()
    async with one.connect(alice, to_alice) as a, two.connect(carol, to_carol) as c:
        async with two.connect(bob):
            await until(to_alice, "UserStatusChanged", userId=bob.id, status="Online")
        await wait_until(lambda: any(one["lastSeenAt"] for one in to_carol.of("UserStatusChanged")[-1:]))
        await a.invoke("UpdatePrivacy", {"lastSeen": False})
        counts = [len(recorder.of("UserStatusChanged")) for recorder in (to_alice, to_carol)]

        def changes(index: int, status: str) -> list[Any] | None:
            heard = (to_alice, to_carol)[index].of("UserStatusChanged")[counts[index] :]
            return [one for one in heard if one["userId"] == bob.id and one["status"] == status] or None

        async with two.connect(bob):
            for index in (0, 1):
                await wait_until(partial(changes, index, "Online"))
        for index, is_shown in ((0, False), (1, True)):
            [last, *_] = await wait_until(partial(changes, index, "Offline"))
            assert bool(last["lastSeenAt"]) is is_shown
        [seen] = await a.invoke("GetPresence", [bob.id])
        assert seen["lastSeenAt"] is None
        [seen] = await c.invoke("GetPresence", [bob.id])
        assert seen["lastSeenAt"]
        async with one.http(alice) as http, two.http(carol) as carols, one.http(bob) as bobs:
            assert checked(await http.get(f"/api/users/{bob.id}"))["lastSeenAt"] is None
            assert checked(await carols.get(f"/api/users/{bob.id}"))["lastSeenAt"]
            checked(await bobs.put("/api/users/me/privacy", json={"lastSeen": False}))
            assert checked(await carols.get(f"/api/users/{bob.id}"))["lastSeenAt"] is None
            [found] = checked(await carols.get(f"/api/users?q={bob.name}"))["items"]
            assert found["lastSeenAt"] is None
            assert checked(await bobs.get("/api/users/me"))["lastSeenAt"]


async def test_who_connects_anew(pair: Pair) -> None:
    """What was chosen before holds for a connection that opens, on any instance, at once."""
    one, two = pair
    alice, bob, carol = await people(one, "alice", "bob", "carol")
    group = await one.group(alice, bob, carol)
    to_bob, to_carol = EventRecorder(), EventRecorder()
    async with one.http(bob) as http:
        checked(await http.put("/api/users/me/privacy", json={"typing": False, "readReceipts": False}))
    async with one.connect(alice) as a, two.connect(bob, to_bob), two.connect(carol, to_carol) as c:
        await a.invoke("StartTyping", group)
        await until(to_carol, "UserStartedTyping", userId=alice.id)
        sent = await c.invoke("SendMessage", {"conversationId": group, "content": "x"})
        await a.invoke("MarkRead", group, sent["seq"])
        await until(to_carol, "MessageStatusUpdated", userId=alice.id, status="Read")
        await until(to_bob, "MessageStatusUpdated", userId=alice.id, status="Delivered")
        assert to_bob.of("UserStartedTyping") == [] and reads(to_bob, alice.id) == []
