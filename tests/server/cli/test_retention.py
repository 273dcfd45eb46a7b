"""`parley purge`: retention of messages and files, and expiry of keys and sessions."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
import trio

from server.cli import retention
from server.cli.retention import run
from server.config.settings import Settings
from store.errors import StoreError
from store.ids import id_floor, new_id
from store.objects import open_objects
from store.postgres import accounts, conversations, files, idempotency, partitions, search, users, webhooks
from store.postgres.connection import Connection
from store.signing import SigningKeys
from tests import forkserver
from tests.running import JWT_KEY
from tests.store.world import fetch_value
from tests.waiting import wait_until

OLD = datetime.now(UTC) - timedelta(days=100)

# What the purge deletes for its age alone: its step, and a row of it.
OLD_ROWS = {
    "sends": ("clientMessageIds", "VALUES (%(alice)s, %(key)s, %(id)s)"),
    "mentions": ("mentions", "VALUES (%(alice)s, %(group)s, %(number)s, %(id)s, %(alice)s)"),
    "creations": ("Idempotency-Keys", "VALUES (%(alice)s, %(key)s, '', %(id)s, %(old)s)"),
    "sessions": (
        "expired sessions",
        "(id, user_id, token_hash, expires_at) VALUES (%(id)s, %(alice)s, '', %(old)s)",
    ),
    "join_links": (
        "links that have expired",
        "(conversation_id, id, token_hash, created_by, expires_at)"
        " VALUES (%(group)s, %(id)s, sha256(%(key)s::text::bytea), %(alice)s, %(old)s)",
    ),
    "member_bans": (
        "bans from groups that are over",
        "(conversation_id, user_id, until, created_by) VALUES (%(group)s, %(id)s, %(old)s, %(alice)s)",
    ),
    "reactions": ("reactions to old messages", "VALUES (%(id)s, %(id)s, %(alice)s, 'x')"),
    "threads": ("threads of old messages", "VALUES (%(id)s, %(group)s, 1, %(id)s, 1)"),
    "thread_members": ("followers of old threads", "VALUES (%(alice)s, %(id)s, %(group)s, true, 0)"),
    "audit": ("old entries of the audit log", "(id, act) VALUES (%(id)s, 'signIn')"),
    "webhook_dead_letters": (
        "dead letters of webhooks",
        "(webhook_id, event_id, type, attempts, failed_at, reason) VALUES (%(webhook)s, %(key)s, 'x', 1, %(old)s, '')",
    ),
    "api_keys": (
        "API keys that were revoked or have expired",
        "(id, name, scopes, secret_hash, expires_at) VALUES (%(id)s, %(key)s, '{}', sha256(''), %(old)s)",
    ),
    "webhook_events": (
        "old events for webhooks",
        "(webhook_id, type, object_id, created_at) VALUES (%(webhook)s, 'x', %(id)s, %(old)s)",
    ),
    "reports": ("old reports", "(id, user_id, category) VALUES (%(id)s, %(alice)s, 'Spam')"),
    "pins": ("pins of old messages", "VALUES (%(group)s, %(id)s)"),
}
# What is deleted for other reasons, in an order in which others lock it, too.
DELETED_OTHERWISE = {
    "rows of users who were erased",
    "members of groups that were dissolved",
    "reactions to deleted messages",
}


async def purge(database: str, *arguments: str, **settings: str) -> forkserver.Ended:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environ |= {"PARLEY_DATABASE_URL": database, "PARLEY_JWT_KEY": JWT_KEY}
    environ |= {f"PARLEY_{name.upper()}": value for name, value in settings.items()}
    return await forkserver.run("purge", *arguments, environ=environ)


async def insert_old_message(conn: Connection, conversation: object, sender: object, file: object) -> None:
    message = id_floor(int(OLD.timestamp() * 1000))
    await partitions.ensure_partitions(conn, OLD, 0)
    await conn.execute(
        "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body, file_id,"
        " client_message_id) VALUES (%s, %s, 1000, 1000, %s, 'File', 'old', %s, 'k')",
        (message, conversation, sender, file),
    )
    await conn.execute("INSERT INTO sends VALUES (%s, 'k', %s)", (sender, message))
    for one in (message, new_id()):
        await conn.execute("INSERT INTO mentions VALUES (%s, %s, 1, %s, %s)", (one, conversation, one, sender))
        await conn.execute("INSERT INTO threads VALUES (%s, %s, 1, %s, 1)", (one, conversation, one))
        await conn.execute("INSERT INTO thread_members VALUES (%s, %s, %s, true, 0)", (sender, one, conversation))


async def test_retention(database: str, tmp_path: Path) -> None:
    """An expired month is dropped with its files; newer ones stay; keys and sessions expire by their own time."""
    objects = open_objects(f"file://{tmp_path}/files", signing=SigningKeys(JWT_KEY))
    conn = await Connection.open(database)
    alice = (await users.insert_user(conn, "alice", "Alice")).id
    group, _ = await conversations.insert_group(conn, alice, "g", [])
    file_id = id_floor(int(OLD.timestamp() * 1000))
    await files.insert_file(conn, file_id, alice, "f" * 32, "old.txt", content_type="text/plain", size=3)
    await files.finish_file(conn, file_id, "f" * 32, files.Facts("text/plain", 3, bytes(32)))

    async def pieces() -> AsyncIterator[bytes]:
        yield b"old"

    await objects.write("f" * 32, pieces(), "text/plain")
    await insert_old_message(conn, group.id, alice, file_id)
    await accounts.insert_session(conn, new_id(), alice, bytes(32), client="", address="", ttl=-1.0)
    live = await accounts.insert_session(conn, new_id(), alice, bytes(32), client="", address="", ttl=60.0)
    await idempotency.claim(conn, alice, "old", b"x", group.id)
    await conn.execute("UPDATE creations SET created_at = %s", (OLD,))
    await idempotency.claim(conn, alice, "young", b"x", group.id)
    done = await purge(database, retention_days="365", objects=f"file://{tmp_path}/files")
    assert done.code == 0, done.err
    assert await files.fetch_file(conn, file_id) is not None  # a message holds it
    assert await count(conn, "sends") == 0 and await count(conn, "creations") == 1
    assert await count(conn, "mentions") == await count(conn, "threads") == await count(conn, "thread_members") == 2
    assert live and [session.id for session in await accounts.list_sessions(conn, alice, limit=9)] == [live.id]
    assert await count(conn, "sessions") == 1
    done = await purge(database, retention_days="60", objects=f"file://{tmp_path}/files")
    assert done.code == 0 and OLD.strftime("messages_y%Ym%m") in done.out, done.out
    assert await files.fetch_file(conn, file_id) is None and await objects.size("f" * 32) is None
    assert await count(conn, "messages") == 1  # that the group was made
    assert await count(conn, "mentions") == await count(conn, "threads") == await count(conn, "thread_members") == 1
    again = await purge(database, retention_days="60", objects=f"file://{tmp_path}/files")
    assert again.code == 0
    await conn.close()


async def count(conn: Connection, table: str) -> int:
    row = await (await conn.execute(f"SELECT count(*) FROM {table}".encode())).fetchone()  # noqa: S608
    assert row is not None
    return int(row[0])


@pytest.mark.services
async def test_out_of_reach() -> None:
    """Services out of reach give one line and exit code 1; a configuration without a database gives 2."""
    done = await purge("host=/nowhere dbname=x connect_timeout=1")
    assert done.code == 1 and "Traceback" not in done.err and done.err
    assert (await purge("")).code == 2


async def expired(database: str) -> Connection:
    """A connection to a database with a message that is a hundred days old."""
    conn = await Connection.open(database)
    alice = (await users.insert_user(conn, "alice", "Alice")).id
    group, _ = await conversations.insert_group(conn, alice, "g", [])
    await insert_old_message(conn, group.id, alice, None)
    return conn


async def test_a_dry_run(database: str) -> None:
    """A dry run prints which months would be dropped, and changes nothing."""
    conn = await expired(database)
    before = await partitions.list_partitions(conn)
    done = await purge(database, "--dry-run", retention_days="60")
    assert done.code == 0 and OLD.strftime("messages_y%Ym%m") in done.out
    assert await partitions.list_partitions(conn) == before and await count(conn, "sends") == 1
    await conn.close()


@pytest.mark.parametrize("days", [400, -400, 1 / 12])
async def test_a_clock_that_is_off(database: str, monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """With a clock that is a year or two hours off nothing is dropped, and the error gives the difference."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # it need not be a Wrong
            return datetime.now(tz) + timedelta(days=days)

    conn = await expired(database)
    before = await partitions.list_partitions(conn)
    monkeypatch.setattr("store.postgres.clock.datetime", Wrong)
    settings = Settings(database_url=database, jwt_key=JWT_KEY, retention_days=60)
    with pytest.raises(StoreError, match=r"this machine's clock is .* (ahead of|behind) PostgreSQL's"):
        await run(settings)
    assert await partitions.list_partitions(conn) == before and await count(conn, "sends") == 1
    await conn.close()


async def test_two_at_once(database: str) -> None:
    """The second purge waits until the first is done, and says so."""
    conn = await Connection.open(database)
    await conn.execute("SELECT pg_advisory_lock(hashtext('parley.purge'))")
    done: list[forkserver.Ended] = []

    async def second() -> None:
        done.append(await purge(database))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'parley-purge' AND query LIKE %s"

        async def waits() -> bool:
            return await (await conn.execute(query, ("%pg_try_advisory_lock%",))).fetchall() != [(0,)]

        await wait_until(waits)
        assert done == []
        await conn.execute("SELECT pg_advisory_unlock(hashtext('parley.purge'))")
    assert done[0].code == 0 and "another purge is running" in done[0].err
    await conn.close()


async def test_it_waits_for_no_row(database: str) -> None:
    """What others have locked is left to the next purge: they may be about to lock what this one has, as who erases a
    user with many old rows is, and one of the two would be cut short."""
    conn = await Connection.open(database)
    alice = (await users.insert_user(conn, "alice", "Alice")).id
    group, _ = await conversations.insert_group(conn, alice, "g", [])
    webhook = (await webhooks.insert_webhook(conn, new_id(), "https://a.example/", ("message.created",), None, b"s")).id
    given = {"alice": alice, "group": group.id, "webhook": webhook, "old": OLD}
    for number in range(2):
        given |= {"id": id_floor(int(OLD.timestamp() * 1000) + number), "number": number, "key": str(number)}
        for table, (_, values) in OLD_ROWS.items():
            await conn.execute(f"INSERT INTO {table} {values}".encode(), given)
    steps = dict(retention._steps(Settings(audit_retention_days=30), datetime.now(UTC), OLD + timedelta(days=1)))
    assert {name for name, _ in OLD_ROWS.values()} == steps.keys() - DELETED_OTHERWISE
    other = await Connection.open(database)
    await conn.execute("SET lock_timeout = '100ms'")  # who would wait fails
    async with other.transaction():
        for table in OLD_ROWS:
            await other.execute(f"SELECT FROM {table} ORDER BY ctid LIMIT 1 FOR UPDATE".encode())
        for table, (name, _) in OLD_ROWS.items():
            assert (table, await steps[name](conn, 10)) == (table, 1)
    for table, (name, _) in OLD_ROWS.items():
        assert (table, await steps[name](conn, 10), await count(conn, table)) == (table, 1, 0)
    await other.close()
    await conn.close()


async def test_terms_of_dropped_messages_go(database: str) -> None:
    """What is searched of a month goes with the month; with --dry-run it stays."""
    conn = await Connection.open(database)
    alice = (await users.insert_user(conn, "alice", "Alice")).id
    group, _ = await conversations.insert_group(conn, alice, "g", [])
    await insert_old_message(conn, group.id, alice, None)
    await search.bring_in(conn, {group.id: 1})
    count = "SELECT count(*) FROM message_search"
    assert await fetch_value(conn, count) == 1
    assert (await purge(database, "--dry-run", retention_days="30")).code == 0
    assert await fetch_value(conn, count) == 1
    assert (await purge(database, retention_days="30")).code == 0
    assert await fetch_value(conn, count) == 0
    await conn.close()
