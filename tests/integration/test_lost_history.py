"""PostgreSQL comes back with less than it acknowledged, under running instances: noticed and mended everywhere (P11).

The history is moved back by SQL: what a promoted replica or a restored backup does, without the time that takes.
"""

from collections.abc import AsyncIterator

import pytest
import trio

from loadtest.client import HubClient
from tests.event_recorder import EventRecorder
from tests.histories import go_back
from tests.running import Running, User, checked, running
from tests.waiting import wait_until


@pytest.fixture
async def pair(database: str, redis_url: str) -> AsyncIterator[tuple[Running, Running]]:
    async with running(database, redis_url) as one, running(database, redis_url) as two:
        yield one, two


class Follower:
    """A client's record of one conversation: what was sent to it since the last `Resync`, and how many there were."""

    def __init__(self, recorder: EventRecorder, conversation: str) -> None:
        self.recorder = recorder
        self.conversation = conversation

    def since(self) -> tuple[int, list[tuple[int, str]], int]:
        """(lastSeq of the last Resync, the messages after it, the number of Resyncs)."""
        found: list[tuple[int, str]] = []
        last = count = 0
        for name, arguments in self.recorder.events:
            if name == "Resync" and arguments[0]["conversationId"] == self.conversation:
                last, found, count = arguments[0]["lastSeq"], [], count + 1
            elif name == "ReceiveMessage" and arguments[0]["conversationId"] == self.conversation:
                found.append((arguments[0]["seq"], arguments[0]["id"]))
        return last, found, count

    async def until(self, true: list[tuple[int, str]]) -> None:
        """Wait until what came after the last Resync is what is committed, from there to the end."""

        def is_there() -> bool:
            last, found, count = self.since()
            return count > 0 and found == [one for one in true if one[0] > last]

        await wait_until(is_there)

    @property
    def resyncs(self) -> int:
        return self.since()[2]


async def stored(server: Running, user: User, conversation: str) -> list[tuple[int, str]]:
    return [(one["seq"], one["id"]) for one in await server.history(user, conversation, system=True)]


async def test_a_head_moves_back(pair: tuple[Running, Running], database: str) -> None:
    """From 11 to 6 under two instances: with the next message all who are attached get Resync, then exactly what is
    committed; also on the instance that learns of it by an inbox entry only. Unread counts are right."""
    one, two = pair
    alice, bob, carol = [await one.register(name) for name in ("alice", "bob", "carol")]
    group = await one.group(alice, bob, carol)
    recorders = [EventRecorder() for _ in range(3)]
    async with (
        one.connect(alice, recorders[0]) as a,
        one.connect(bob, recorders[1], protocol="messagepack") as b,
        two.connect(carol, recorders[2]),
    ):
        for number in range(10):
            await a.invoke("SendMessage", {"conversationId": group, "content": str(number)})
        for recorder in recorders:
            await recorder.until(10)
        await b.invoke("MarkRead", group, 11)
        await trio.to_thread.run_sync(go_back, database, group, 6)
        for number in range(5):
            await a.invoke("SendMessage", {"conversationId": group, "content": f"again {number}"})
        true = await stored(one, alice, group)
        assert [seq for seq, _ in true] == list(range(1, 12))
        for recorder in recorders:
            await Follower(recorder, group).until(true)
        await b.invoke("SendMessage", {"conversationId": group, "content": "and on"})
        true = await stored(one, alice, group)
        followers = [Follower(recorder, group) for recorder in recorders]
        for follower in followers:
            await follower.until(true)
            assert follower.resyncs == 1
        async with one.http(bob) as http:  # they have read 6, and sent the last one
            await a.invoke("SendMessage", {"conversationId": group, "content": "unread"})
            assert checked(await http.get(f"/api/conversations/{group}"))["unreadCount"] == 1
            assert checked(await http.get("/health"))["status"] == "Degraded"
    for server in pair:
        [line] = [line for line in server.events("history_went_back") if line["conversation"] == group]
        assert line["head_seen"] == 11 and 6 <= line["head_found"] <= 11


async def test_while_people_send(pair: tuple[Running, Running], database: str) -> None:
    """The history goes back three times while both instances take messages: everybody ends with what is stored."""
    one, two = pair
    alice, bob = [await one.register(name) for name in ("alice", "bob")]
    conversation = await one.direct(alice, bob)
    recorders = [EventRecorder(), EventRecorder()]
    async with one.connect(alice, recorders[0]) as a, two.connect(bob, recorders[1]) as b:
        done = False

        async def talk(client: HubClient) -> None:
            while not done:
                await client.invoke("SendMessage", {"conversationId": conversation, "content": "x"})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, a)
            nursery.start_soon(talk, b)
            for number in range(3):
                await recorders[0].until(20 * (number + 1))
                await trio.to_thread.run_sync(go_back, database, conversation, 3 + 5 * number)
            await wait_until(lambda: all(Follower(recorder, conversation).resyncs for recorder in recorders))
            done = True
        await a.invoke("SendMessage", {"conversationId": conversation, "content": "the last one"})
        true = await stored(two, bob, conversation)
        for recorder in recorders:
            await Follower(recorder, conversation).until(true)
