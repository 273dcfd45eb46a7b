"""An instance that is killed: what the other one reports about its users.

A module of its own: instances that others still use would find the dead one in the same Valkey, and clean up after it.
"""

import signal
from functools import partial
from pathlib import Path

import trio

from store.redis.client import Redis
from tests.event_recorder import WAIT, EventRecorder
from tests.integration.test_instances import people, until
from tests.running import Running, running
from tests.store.redis_groups import PLAIN, Server
from tests.waiting import wait_until

LEASE = 10.0  # seconds (server.cluster.membership)


async def test_a_killed_instance(database: str, redis_url: str) -> None:
    """P7: its users are online until its lease has run out, and offline soon after; who came back elsewhere, never."""
    async with running(database, redis_url) as one, running(database, redis_url) as two:
        alice, bob, carol = await people(one, "alice", "bob", "carol")
        await one.group(alice, bob, carol)
        recorder = EventRecorder()
        async with one.connect(alice, recorder) as a, two.connect(bob), two.connect(carol):
            await until(recorder, "UserStatusChanged", userId=bob.id, status="Online")
            await until(recorder, "UserStatusChanged", userId=carol.id, status="Online")
            start = trio.current_time()
            two.kill()
            async with one.connect(carol):
                await trio.sleep(LEASE / 3)  # well within the lease nothing may be known of it yet
                found = await a.invoke("GetPresence", [bob.id, carol.id])
                is_early = trio.current_time() - start < LEASE / 2  # a slow machine may have let the lease run out
                assert not is_early or {one["status"] for one in found} == {"Online"}
                await until(recorder, "UserStatusChanged", userId=bob.id, status="Offline")
                assert LEASE / 2 < trio.current_time() - start < 15 + WAIT
                updates = [update for update in recorder.of("UserStatusChanged") if update["userId"] == carol.id]
                assert {update["status"] for update in updates} == {"Online"}


async def test_a_redis_that_says_nothing(database: str, tmp_path: Path) -> None:
    """While Redis answers nothing, messages are answered and delivered here, one after the other. When it is back, the
    other instance has them all, in order."""
    redis = Server(tmp_path / "redis", *PLAIN)
    try:
        url = f"redis://127.0.0.1:{redis.port}"
        async with running(database, url) as one, running(database, url) as two:
            alice, bob, carol = await people(one, "alice", "bob", "carol")
            group = await one.group(alice, bob, carol)
            here, there = EventRecorder(), EventRecorder()
            async with one.connect(alice) as a, one.connect(bob, here), two.connect(carol, there):
                await a.invoke("SendMessage", {"conversationId": group, "content": "before"})
                await until(there, "ReceiveMessage", content="before")
                redis.send(signal.SIGSTOP)
                for number in range(20):
                    await a.invoke("SendMessage", {"conversationId": group, "content": f"{number}"})
                    await until(here, "ReceiveMessage", content=f"{number}")
                redis.send(signal.SIGCONT)
                await until(there, "ReceiveMessage", content="19")
                contents = [message["content"] for message in there.of("ReceiveMessage")]
                assert contents == ["before", *map(str, range(20))]
    finally:
        redis.close()


REGISTRATIONS = "rooms", "users", "interest", "sessions"


async def test_keys_that_are_gone(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """All that instances keep in Redis is evicted or deleted while they live: it is written again, and health says what
    was wrong. What is sent reaches the other one, and users of an instance that is killed then go offline."""
    redis = Redis(redis_url, name="test")
    await nursery.start(redis.run)

    async def delete(*kinds: str) -> None:
        async with redis.bounded() as client:
            found = [key for kind in kinds for key in await client.keys(f"parley:{kind}:*")]
            assert len(found) >= len(kinds)
            await client.delete(found)

    async with (
        running(database, redis_url, log_level="info") as one,
        running(database, redis_url, log_level="info") as two,
    ):
        alice, bob = await people(one, "alice", "bob")
        group = await one.group(alice, bob)
        at_alice, at_bob = EventRecorder(), EventRecorder()
        async with one.connect(alice, at_alice) as a, two.connect(bob, at_bob):
            await until(at_alice, "UserStatusChanged", userId=bob.id, status="Online")
            await delete(*REGISTRATIONS)
            for server in (one, two):
                await wait_until(partial(server.events, "registrations_lost"))
            async with one.http() as http:
                assert (await http.get("/health")).json()["checks"]["redis"] == "failing"
            await a.invoke("SendMessage", {"conversationId": group, "content": "one"})
            await until(at_bob, "ReceiveMessage", content="one")
            await delete("inbox")
            for server in (one, two):
                await wait_until(partial(_has_registered_again, server))
            await a.invoke("SendMessage", {"conversationId": group, "content": "two"})
            await until(at_bob, "ReceiveMessage", content="two")
            two.kill()
            await until(at_alice, "UserStatusChanged", userId=bob.id, status="Offline")
            statuses = [update["status"] for update in at_alice.of("UserStatusChanged") if update["userId"] == bob.id]
            assert statuses.count("Offline") == 1
        nursery.cancel_scope.cancel()


def _has_registered_again(server: Running) -> bool:
    return len(server.events("membership_established")) == 2
