"""An instance that is killed: what the other one reports about its users.

A module of its own: instances that others still use would find the dead one in the same Valkey, and clean up after it.
"""

import trio

from tests.event_recorder import WAIT, EventRecorder
from tests.integration.test_instances import people, until
from tests.running import running

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
                assert {one["status"] for one in await a.invoke("GetPresence", [bob.id, carol.id])} == {"Online"}
                await until(recorder, "UserStatusChanged", userId=bob.id, status="Offline")
                assert LEASE / 2 < trio.current_time() - start < 15 + WAIT
                updates = [update for update in recorder.of("UserStatusChanged") if update["userId"] == carol.id]
                assert {update["status"] for update in updates} == {"Online"}
