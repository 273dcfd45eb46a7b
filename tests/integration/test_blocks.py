"""A block on one instance keeps two users from each other on every instance, at once, and says nothing of itself."""

import pytest

from loadtest.client import HubError
from tests.event_recorder import EventRecorder, event_of
from tests.integration.test_instances import Pair, people, until
from tests.running import checked
from tests.waiting import wait_until


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    return shared_pair


def seen(recorder: EventRecorder, user_id: str) -> list[str]:
    return [one["status"] for one in recorder.of("UserStatusChanged") if one["userId"] == user_id]


async def test_presence_and_typing(pair: Pair) -> None:
    """Each sees the other go offline, once, and neither typing nor coming and going from then on; others see both; when
    it is over, all is as before."""
    one, two = pair
    alice, bob, carol = await people(one, "alice", "bob", "carol")
    group = await one.group(alice, bob, carol)
    to_alice, to_bob, to_carol = (EventRecorder() for _ in range(3))
    async with one.connect(alice, to_alice) as a, two.connect(carol, to_carol) as c:
        async with two.connect(bob, to_bob) as b:
            await until(to_alice, "UserStatusChanged", userId=bob.id, status="Online")
            await a.invoke("BlockUser", bob.id)
            await until(to_alice, "UserStatusChanged", userId=bob.id, status="Offline")
            await until(to_bob, "UserStatusChanged", userId=alice.id, status="Offline")
            assert "Offline" not in seen(to_carol, alice.id) + seen(to_carol, bob.id)
            for client in (a, b):
                await client.invoke("StartTyping", group)
            for user in (alice, bob):
                await until(to_carol, "UserStartedTyping", userId=user.id)
            await a.invoke("UpdateStatus", "Busy")
            await until(to_carol, "UserStatusChanged", userId=alice.id, status="Busy")
            for client, other in ((a, bob), (b, alice)):
                [found] = await client.invoke("GetPresence", [other.id])
                assert (found["status"], found["lastSeenAt"]) == ("Offline", None)
            said = await c.invoke("SendMessage", {"conversationId": group, "content": "behind what came before"})
            for recorder in (to_alice, to_bob):
                await until(recorder, "ReceiveMessage", id=said["id"])
                assert recorder.of("UserStartedTyping") == []
        await until(to_carol, "UserStatusChanged", userId=bob.id, status="Offline")
        again = EventRecorder()
        async with two.connect(bob, again) as b:
            await wait_until(lambda: seen(to_carol, bob.id)[-1:] == ["Online"])
            said = await c.invoke("SendMessage", {"conversationId": group, "content": "once more"})
            await until(again, "ReceiveMessage", id=said["id"])
            assert seen(to_alice, bob.id)[-1] == "Offline" and seen(again, alice.id) == []
            assert event_of(said) in again.messages
            await a.invoke("StopTyping", group)
            await until(to_carol, "UserStoppedTyping", userId=alice.id)
            await a.invoke("UnblockUser", bob.id)
            await until(again, "UserStatusChanged", userId=alice.id, status="Busy")
            await wait_until(lambda: seen(to_alice, bob.id)[-1] == "Online")
            await a.invoke("StartTyping", group)
            await until(again, "UserStartedTyping", userId=alice.id)


async def test_own_devices(pair: Pair) -> None:
    """They hear on each instance that the list is another, or by `Sync` if they were away; the blocked hear nothing."""
    one, two = pair
    alice, bob = await people(one, "alice", "bob")
    direct = await one.direct(alice, bob)
    to_phone, to_bob = EventRecorder(), EventRecorder()
    async with two.connect(bob, to_bob) as b, one.connect(alice) as laptop:
        async with two.connect(alice, to_phone) as phone:
            assert (await phone.invoke("Sync", {}))["blocksVersion"] == 0
            for _ in range(2):
                await laptop.invoke("BlockUser", bob.id)
            await wait_until(lambda: len(to_phone.of("BlocksChanged")) == 1)
            [first] = to_phone.of("BlocksChanged")
            assert set(first) == {"version"}
            assert (await phone.invoke("Sync", {}))["blocksVersion"] == first["version"]
        await laptop.invoke("UnblockUser", bob.id)
        async with two.connect(alice) as phone:
            assert (await phone.invoke("Sync", {}))["blocksVersion"] > first["version"]
        assert (await b.invoke("Sync", {}))["blocksVersion"] == 0
        said = await laptop.invoke("SendMessage", {"conversationId": direct, "content": "behind what came before"})
        await until(to_bob, "ReceiveMessage", id=said["id"])
        assert to_bob.of("BlocksChanged") == [] and len(to_phone.of("BlocksChanged")) == 1


async def test_read_receipts(pair: Pair) -> None:
    """In the direct conversation the blocked are sent that their message was delivered, not that it was read."""
    one, two = pair
    alice, bob, carol = await people(one, "alice", "bob", "carol")
    direct, group = await one.direct(alice, bob), await one.group(alice, bob, carol)
    to_bob = EventRecorder()
    async with one.connect(alice) as a, two.connect(bob, to_bob) as b:
        said = await b.invoke("SendMessage", {"conversationId": direct, "content": "hello"})
        await a.invoke("BlockUser", bob.id)
        await a.invoke("MarkRead", direct, said["seq"])
        await until(to_bob, "MessageStatusUpdated", conversationId=direct, userId=alice.id, status="Delivered")
        to_all = await b.invoke("SendMessage", {"conversationId": group, "content": "to all"})
        await a.invoke("MarkRead", group, to_all["seq"])
        await until(to_bob, "MessageStatusUpdated", conversationId=group, userId=alice.id, status="Read")
        seen = [one["status"] for one in to_bob.of("MessageStatusUpdated") if one["conversationId"] == direct]
        assert set(seen) == {"Delivered"}
        async with two.http(bob) as http:
            assert checked(await http.get(f"/api/messages/{said['id']}"))["status"] == "Delivered"
        await a.invoke("UnblockUser", bob.id)
        async with two.http(bob) as http:
            assert checked(await http.get(f"/api/messages/{said['id']}"))["status"] == "Read"


async def test_messages(pair: Pair) -> None:
    """Refused on the other instance at once; the group goes on; what was sent before is there."""
    one, two = pair
    alice, bob = await people(one, "alice", "bob")
    direct, group = await one.direct(alice, bob), await one.group(alice, bob)
    to_alice = EventRecorder()
    async with one.connect(alice, to_alice) as a, two.connect(bob) as b:
        await b.invoke("SendMessage", {"conversationId": direct, "content": "hello"})
        await a.invoke("BlockUser", bob.id)
        with pytest.raises(HubError, match="recipient_unavailable"):
            await b.invoke("SendMessage", {"conversationId": direct, "content": "hello?"})
        said = await b.invoke("SendMessage", {"conversationId": group, "content": "to all"})
        await until(to_alice, "ReceiveMessage", id=said["id"])
        async with two.http(bob) as http:
            assert checked(await http.get(f"/api/messages?conversationId={direct}"))["items"][0]["content"] == "hello"
