"""store.postgres.member_bans: who is kept out of a conversation, and mutes, which the lanes look at."""

from datetime import UTC, datetime, timedelta

from handlers.text_rules import LAST_TIME
from store.model import FOR_EVER
from store.postgres import conversations, member_bans, users
from store.postgres.appends import AppendError
from store.postgres.connection import Connection
from store.postgres.system_messages import Event, read
from tests.store.world import Writer, fetch_value, make_group, make_users

LATER, PAST = datetime(2999, 1, 1, tzinfo=UTC), datetime.now(UTC) - timedelta(seconds=1)


async def test_kept_out(conn: Connection) -> None:
    """Until a time, one row for each; what is past is none; with a user their rows go."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice])
    for user_id, until in ((bob, LATER), (carol, PAST), (bob, LAST_TIME)):
        await member_bans.put_ban(conn, group, user_id, until, by=alice)
    assert await member_bans.fetch_ban(conn, group, bob) == FOR_EVER
    assert await member_bans.fetch_ban(conn, group, carol) is None
    [listed] = await member_bans.list_bans(conn, group, limit=9)
    assert (listed.user_id, listed.until, listed.created_by) == (bob, FOR_EVER, alice)
    assert await member_bans.list_bans(conn, group, after=bob, limit=9) == []
    assert [await member_bans.delete_ban(conn, group, bob) for _ in range(2)] == [True, False]
    await users.delete_user(conn, carol)
    assert await fetch_value(conn, "SELECT count(*) FROM member_bans") == 0


async def test_those_that_are_over_go(conn: Connection) -> None:
    """With the purge, as do those of a group that was dissolved; what keeps a user out stays."""
    alice, bob, carol = await make_users(conn, 3)
    group, dissolved = await make_group(conn, [alice]), await make_group(conn, [alice])
    for where, user_id, until in ((group, bob, LATER), (group, carol, PAST), (dissolved, bob, LAST_TIME)):
        await member_bans.put_ban(conn, where, user_id, until, by=alice)
    await conversations.delete_conversation(conn, dissolved, by=alice)
    assert [await member_bans.delete_old_bans(conn, 1) for _ in range(3)] == [1, 1, 0]
    assert [one.user_id for one in await member_bans.list_bans(conn, group, limit=9)] == [bob]
    assert await fetch_value(conn, "SELECT count(*) FROM member_bans") == 1


async def test_removed_and_kept_out(conn: Connection) -> None:
    """The change says until when."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    change = await conversations.delete_member(conn, group, bob, by=alice, until=LATER)
    said = read(change.message)
    assert said is not None and (said.event, said.until) == (Event.MEMBER_REMOVED, "2999-01-01T00:00:00.000Z")
    assert change.removed == (bob,)


async def test_muted(conn: Connection, writer: Writer) -> None:
    """What a muted member sends is refused with the time; a mute that is over is none; each is a change."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    change = await conversations.update_mute(conn, group, bob, LATER, by=alice)
    said = read(change.message)
    assert said is not None and (said.event, said.user_id, said.until) == (
        Event.MEMBER_MUTED,
        bob,
        "2999-01-01T00:00:00.000Z",
    )
    assert (change.added, change.removed) == ((), ())
    assert await conversations.fetch_mute(conn, group, bob) == "2999-01-01T00:00:00.000Z"
    refused = await writer.send(group, bob).answer()
    assert isinstance(refused, AppendError) and refused.code == "muted"
    assert refused.wait_ms == int(LATER.timestamp() * 1000)
    assert (await writer.send(group, alice).message()).sender_id == alice
    await conversations.update_mute(conn, group, bob, PAST, by=alice)
    assert (await writer.send(group, bob).message()).sender_id == bob
    change = await conversations.update_mute(conn, group, bob, None, by=alice)
    said = read(change.message)
    assert said is not None and (said.event, said.until) == (Event.MEMBER_UNMUTED, None)
    assert await conversations.fetch_mute(conn, group, bob) is None
