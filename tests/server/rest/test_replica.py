"""READ_URL: history comes from a replica, and is never older than the primary's."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from store.errors import Unavailable
from store.postgres import messages
from store.postgres.connection import Connection
from tests.server.rest.routes.test_messages import talk
from tests.site import open_site
from tests.store.proxy import Proxy
from tests.store.replica import open_replica
from tests.waiting import wait_until

WAIT = 60.0  # seconds: long past anything but a hang


async def test_history(database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica serves what it has; if it lags or is away, the primary does, which also decides permissions."""
    hosts: list[str] = []

    def watched(read: Any) -> Any:
        async def call(conn: Connection, *args: Any, **options: Any) -> messages.Page | None:
            hosts.append(conn.info.host)
            found: messages.Page | None = await read(conn, *args, **options)
            return found

        return call

    for name in ("list_messages", "list_messages_for"):  # on the replica, and on the primary
        monkeypatch.setattr(messages, name, watched(getattr(messages, name)))
    primary = str(conninfo_to_dict(database)["host"])
    async with open_replica(database) as replica, open_site(database, redis_url, nursery, read_url=replica) as site:
        conversation, a, b = await talk(site)
        path = f"/api/messages?conversationId={conversation}"

        async def said() -> list[str]:
            return [m["content"] for m in (await site.call("GET", path, token=b))["items"] if m["type"] == "Text"]

        async def until_served_by_replica(contents: list[str]) -> None:
            with trio.fail_after(WAIT):
                while not hosts or hosts[-1] == primary:
                    assert await said() == contents  # from either server

        body = {"conversationId": conversation, "content": "one"}
        first = await site.call("POST", "/api/messages", body, token=a, status=201)
        await until_served_by_replica(["one"])
        with psycopg.connect(replica, autocommit=True) as observer:
            observer.execute("SELECT pg_wal_replay_pause()")
            await site.call("PUT", f"/api/messages/{first['id']}", {"content": "edited"}, token=a)
            assert await said() == ["edited"] and hosts[-1] == primary
            observer.execute("SELECT pg_wal_replay_resume()")
        await until_served_by_replica(["edited"])
        _, stranger = await site.user("eve")
        await site.call("GET", path, token=stranger, status=404)
        assert site.process.stores.read_pool is not None and site.process.stores.read_pool.is_reachable
        monkeypatch.setattr(site.process.stores.read_pool, "connect", _fail)
        for conn in list(site.process.stores.read_pool._idle):
            conn.finish()
        assert await said() == ["edited"] and hosts[-1] == primary
        assert not site.process.stores.read_pool.is_reachable
        assert await said() == ["edited"] and hosts[-1] == primary


async def test_a_replica_that_hangs(
    database: str, redis_url: str, nursery: trio.Nursery, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It takes the queries and never answers: history comes from the primary long before any timeout of a statement,
    the replica is not asked again for a while, and served from again when it answers."""
    directory = tmp_path_factory.mktemp("r")
    proxy = Proxy(directory, Path(str(conninfo_to_dict(database)["host"])))  # the primary itself, by another way
    await nursery.start(proxy.run)
    read_url = make_conninfo(database, host=str(directory))
    async with open_site(database, redis_url, nursery, read_url=read_url, statement_timeout=10 * WAIT) as site:
        conversation, a, b = await talk(site)
        path = f"/api/messages?conversationId={conversation}"
        await site.call(
            "POST", "/api/messages", {"conversationId": conversation, "content": "one"}, token=a, status=201
        )
        reads = site.process.stores.read_pool
        assert reads is not None

        async def read() -> int:
            """Return how often the replica was asked."""
            before = reads.statistics().acquired
            with trio.fail_after(WAIT):
                items = (await site.call("GET", path, token=b))["items"]
            assert "one" in [message["content"] for message in items]
            return reads.statistics().acquired - before

        await wait_until(read)
        proxy.hold_answers = True
        assert await read() == 1 and reads.statistics().discarded >= 1
        assert await read() == 0
        proxy.hold_answers = False
        await wait_until(read)


async def _fail() -> Connection:
    raise Unavailable("the replica is away")
