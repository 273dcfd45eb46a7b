"""store.postgres.partitions: a month of messages each."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
import trio

from store.ids import id_floor, new_id
from store.model import Cursor
from store.postgres import conversations, cursors, messages, partitions, queries, users
from store.postgres.connection import Connection
from tests.store.postgres.test_conversations import rows_read
from tests.store.postgres.test_users import explained
from tests.store.world import fetch_value, make_group, make_users

NOW = datetime(2031, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
MADE = ["messages_y2031m11", "messages_y2031m12", "messages_y2032m01", "messages_y2032m02", "messages_y2032m03"]


async def insert_message(conn: Connection, at: datetime) -> str:
    """A message made at `at`; returns the partition it went to."""
    message_id = id_floor(int(at.timestamp() * 1000))
    await conn.execute(
        "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body) "
        "VALUES (%s, %s, 1, 1, %s, 'Text', '')",
        [message_id, message_id, message_id],
    )
    return str(await fetch_value(conn, "SELECT tableoid::regclass::text FROM messages WHERE id = %s", message_id))


async def test_ensured_once(conn: Connection) -> None:
    """From the month before to three ahead, over the turn of a year; a second time there is nothing to do."""
    assert await partitions.ensure_partitions(conn, NOW) == MADE
    assert await partitions.ensure_partitions(conn, NOW) == []
    assert await partitions.ensure_partitions(conn, NOW, ahead=4) == ["messages_y2032m04"]


async def test_two_at_once(conn: Connection, other: Connection) -> None:
    """Two processes at the same moment make each partition once."""
    made: list[str] = []

    async def ensure(connection: Connection) -> None:
        made.extend(await partitions.ensure_partitions(connection, NOW))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ensure, conn)
        nursery.start_soon(ensure, other)
    assert sorted(made) == MADE


async def test_bounds_are_the_months(conn: Connection) -> None:
    """The last millisecond of a month and the first of the next, in UTC, are in their own partitions."""
    await partitions.ensure_partitions(conn, NOW)
    assert await insert_message(conn, NOW) == "messages_y2031m12"
    assert await insert_message(conn, NOW + timedelta(milliseconds=1)) == "messages_y2032m01"
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
        await insert_message(conn, NOW + timedelta(days=100))


async def test_floor_is_the_same_in_sql(conn: Connection) -> None:
    """uuid7_floor in the database is store.ids.id_floor."""
    assert await fetch_value(conn, "SELECT uuid7_floor(%s)", NOW) == id_floor(int(NOW.timestamp() * 1000))


async def test_reads_go_on_meanwhile(conn: Connection, other: Connection) -> None:
    """Partitions are attached without waiting for, or stopping, transactions that read and write messages."""
    async with conn.transaction():
        await conn.execute("SELECT count(*) FROM messages")
        await insert_message(conn, datetime.now(UTC))
        with trio.fail_after(60):
            await partitions.ensure_partitions(other, NOW)


async def test_dropping(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only partitions that are wholly older go; how far back history goes is kept for each conversation."""
    await partitions.ensure_partitions(conn, NOW)
    await insert_message(conn, NOW)
    before = datetime(2031, 12, 15, tzinfo=UTC)
    alice = (await users.insert_user(conn, "alice", "Alice")).id
    groups = [(await conversations.insert_group(conn, alice, "g", []))[0].id for _ in range(3)]
    monkeypatch.setattr(partitions, "WATERMARKS", 1)
    for group, seq, changed, day in ((0, 2, 9, 10), (0, 3, 3, 11), (1, 2, 2, 10), (2, 2, 2, 40)):
        at = datetime(2031, 11, 1, tzinfo=UTC) + timedelta(days=day, seconds=group)
        await conn.execute(
            "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body)"
            " VALUES (%s, %s, %s, %s, %s, 'Text', '')",
            [id_floor(int(at.timestamp() * 1000)), groups[group], seq, changed, alice],
        )
    dropped = await partitions.drop_partitions(conn, before)
    assert dropped[-1] == "messages_y2031m11"
    assert await partitions.list_partitions(conn) == MADE[1:]
    assert await partitions.drop_partitions(conn, before) == []
    assert await fetch_value(conn, "SELECT count(*) FROM messages WHERE kind = 'Text'") == 2
    assert [await conversations.fetch_watermark(conn, group) for group in groups] == [9, 2, 1]  # 1: it was made


async def test_dropping_what_was_only_detached(conn: Connection) -> None:
    """A partition that was detached by a process killed before it dropped it is dropped by the next run."""
    await partitions.ensure_partitions(conn, NOW)
    for name in MADE[:2]:
        await conn.execute(f"ALTER TABLE messages DETACH PARTITION {name}")
    first = "SELECT to_regclass(%s) IS NOT NULL"
    assert MADE[0] in await partitions.drop_partitions(conn, datetime(2031, 12, 1, tzinfo=UTC))
    assert [await fetch_value(conn, first, name) for name in MADE[:2]] == [False, True]  # one is younger
    assert MADE[1] not in await partitions.drop_partitions(conn, NOW)
    assert await partitions.drop_partitions(conn, NOW + timedelta(milliseconds=1)) == [MADE[1]]


@pytest.mark.parametrize(
    ("now", "days", "kept"),
    [
        (datetime(2031, 3, 31, 12, tzinfo=UTC), 365, datetime(2030, 3, 31, 12, tzinfo=UTC)),
        (datetime(2031, 3, 31, 12, tzinfo=UTC), 7, datetime(2031, 2, 1, tzinfo=UTC)),
        (datetime(2031, 3, 1, tzinfo=UTC), 7, datetime(2031, 2, 1, tzinfo=UTC)),
        (datetime(2031, 1, 15, tzinfo=UTC), 7, datetime(2030, 12, 1, tzinfo=UTC)),
        *((datetime(2031, 1, 15, tzinfo=UTC), days, partitions.EPOCH) for days in (36_500, 10**6, 10**9, 10**100)),
    ],
)
def test_this_month_and_the_last_are_kept(now: datetime, days: int, kept: datetime) -> None:
    """Whatever retention says."""
    assert partitions.oldest_kept(now, days) == kept


async def test_to_keep_everything(conn: Connection) -> None:
    """Any number of days: what is older than any message can be drops none."""
    names = await partitions.list_partitions(conn)
    for days in (36_500, 10**6, 10**100):
        before = partitions.oldest_kept(datetime.now(UTC), days)
        assert await partitions.list_expired(conn, before) == [] == await partitions.drop_partitions(conn, before)
    assert await partitions.list_partitions(conn) == names
    assert id_floor(-1) == id_floor(0)


@pytest.mark.parametrize("moment", ["beside a purge", "beside one that was interrupted"])
async def test_an_old_message_that_is_changed_meanwhile(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """An edit after the watermarks were raised is below them when its message is gone: a cursor at it is good."""
    await partitions.ensure_partitions(conn, NOW)
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    message_id = id_floor(int(datetime(2031, 11, 5, tzinfo=UTC).timestamp() * 1000))
    await conn.execute(
        "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body)"
        " VALUES (%s, %s, 2, 2, %s, 'Text', '')",
        [message_id, group, alice],
    )
    await conn.execute("UPDATE conversations SET last_seq = 2, last_message_id = %s WHERE id = %s", [message_id, group])
    before = datetime(2031, 12, 1, tzinfo=UTC)
    raise_watermarks = partitions._raise_watermarks
    made: list[Cursor] = []

    async def raise_and_edit(conn: Connection, bound: UUID) -> None:
        await raise_watermarks(conn, bound)
        change = await messages.update_message(conn, message_id, "late")
        assert change is not None
        made.append(Cursor(change.seq, message_id))

    if moment == "beside a purge":
        monkeypatch.setattr(partitions, "_raise_watermarks", raise_and_edit)
    else:
        await raise_and_edit(conn, id_floor(int(before.timestamp() * 1000)))
        await conn.execute(f"ALTER TABLE messages DETACH PARTITION {MADE[0]}")
    assert MADE[0] in await partitions.drop_partitions(conn, before)
    assert made[0].seq == 3 == await conversations.fetch_watermark(conn, group)
    assert await cursors.list_diverged(conn, [(group, made[0])]) == {}


async def test_raising_watermarks_reads_little(conn: Connection) -> None:
    """However many messages and changes a conversation has in a month that is dropped, few of them are looked at, both
    before it goes out of sight and behind that."""
    await partitions.ensure_partitions(conn, NOW)
    groups = sorted(new_id() for _ in range(3))
    for group in groups:
        await conn.execute("INSERT INTO conversations (id, kind) VALUES (%s, 'Group')", [group])
        await conn.execute(
            "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body)"
            " SELECT uuid7_floor(timestamptz '2031-11-05 00:00Z' + n * interval '1 s' + %s * interval '1 ms'), %s, n,"
            " CASE WHEN n %% 2 = 0 THEN n + 2000 ELSE n END, %s, 'Text', '' FROM generate_series(1, 2000) AS n",
            [groups.index(group), group, group],
        )
    await conn.execute("ANALYZE messages")
    bound = id_floor(int(datetime(2031, 12, 1, tzinfo=UTC).timestamp() * 1000))
    given = {"bound": bound, "after": UUID(int=0), "limit": 2}
    nodes = await explained(conn, queries.raise_watermarks, given)
    assert rows_read(nodes) < 60
    heads = "SELECT array_agg(floor_seq ORDER BY id) FROM conversations"
    assert await fetch_value(conn, heads) == [4000, 4000, 0]
    await conn.execute("UPDATE conversations SET floor_seq = 0")
    late = partitions.RAISE_LATE.format(table=MADE[0])
    assert rows_read(await explained(conn, late, {"after": groups[0], "limit": 1})) < 60
    assert await fetch_value(conn, heads) == [0, 4000, 0]
    await partitions._raise_watermarks(conn, bound)
    assert await fetch_value(conn, heads) == [4000] * 3


async def test_a_month_is_not_made_at_everybodys_cost(conn: Connection, other: Connection) -> None:
    """A lock that others hold is given up soon, and nothing is left half done."""
    async with conn.transaction():
        await conn.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await partitions.ensure_partitions(other, NOW)
    assert await partitions.ensure_partitions(other, NOW) == MADE
    assert await fetch_value(other, "SELECT current_setting('lock_timeout')") == "0"
