"""`parley restored` beside a running instance: every client reads anew, once."""

import os
from functools import partial
from typing import Any

from loadtest.client import HubError
from tests import forkserver
from tests.event_recorder import EventRecorder
from tests.running import running
from tests.waiting import wait_until

LIFTED = 1_000_000_000


async def test_beside_a_running_instance(database: str, redis_url: str) -> None:
    """A client that is connected gets Resync, by itself; one that comes back with a bare number has to resync, and
    not again with its new cursor; messages go on behind the new head."""
    async with running(database, redis_url, may_fail=True) as server:
        alice, bob, carol = [await server.register(name) for name in ("alice", "bob", "carol")]
        talk = await server.group(alice, bob, carol)
        events = EventRecorder()
        async with server.connect(alice) as a, server.connect(bob, events):
            for text in ("one", "two"):
                await a.invoke("SendMessage", {"conversationId": talk, "content": text})
            await events.until(2)
            environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
            environ |= {"PARLEY_DATABASE_URL": database, "PARLEY_REDIS_URL": redis_url}
            done = await forkserver.run("restored", "--yes", environ=environ)
            assert done.code == 0, done
            await events.until(1, "Resync")
            [notice] = events.of("Resync")
            assert notice["lastSeq"] > LIFTED
            await wait_until(partial(_accepted, a, talk, "three"))
            [*_, last] = await events.until(3)
            assert last["seq"] == notice["lastSeq"] + 1
            async with server.connect(carol, query={"sync": "manual"}) as c:
                first = await c.invoke("Sync", {talk: 3})
                assert first["resync"] == [talk] and first["heads"] == {talk: last["seq"]}
                again = await c.invoke("Sync", {talk: first["heads"][talk]})
                assert again["resync"] == []
            assert len(events.of("Resync")) == 1
        assert [message["content"] for message in await server.history(carol, talk)] == ["one", "two", "three"]


async def _accepted(client: Any, talk: str, text: str) -> bool:
    body = {"conversationId": talk, "content": text, "clientMessageId": text}
    try:
        await client.invoke("SendMessage", body)
    except HubError:  # PostgreSQL is connected to anew
        return False
    return True
