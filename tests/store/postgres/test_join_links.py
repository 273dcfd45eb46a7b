"""store.postgres.join_links: links by which people join, and how often."""

import os
from datetime import datetime
from uuid import UUID

import pytest
import trio

from store.ids import new_id
from store.model import GroupDetails, JoinLink, Role
from store.postgres import conversations, join_links, queries
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from tests.store.postgres.test_users import explained
from tests.store.world import Writer, fetch_value, make_group, make_users


async def make_link(
    conn: Connection, group: UUID, by: UUID, *, seconds: int = 3600, max_uses: int | None = None
) -> tuple[JoinLink, bytes]:
    """With the hash of its token."""
    token_hash = os.urandom(32)
    link = await join_links.insert_link(conn, new_id(), group, token_hash, by=by, seconds=seconds, max_uses=max_uses)
    return link, token_hash


async def expire(conn: Connection, link: JoinLink) -> None:
    await conn.execute("UPDATE join_links SET expires_at = clock_timestamp() WHERE id = %s", [link.id])


async def test_a_link(conn: Connection) -> None:
    """It is listed with its uses, is good until it expires, is used up or gone, and leads to its group meanwhile."""
    [alice] = await make_users(conn, 1)
    group, other = await make_group(conn, [alice]), await make_group(conn, [alice])
    once, token = await make_link(conn, group, alice, max_uses=1)
    until, late = await make_link(conn, group, alice)
    assert (once.created_by, once.conversation_id, once.max_uses, once.uses) == (alice, group, 1, 0)
    made, expires = (datetime.fromisoformat(one) for one in (once.created_at, once.expires_at))
    assert 3590 < (expires - made).total_seconds() < 3610
    assert await join_links.find_link(conn, token) == group and await join_links.find_link(conn, bytes(32)) is None
    assert [await join_links.use_link(conn, token) for _ in range(2)] == [True, False]
    assert await join_links.use_link(conn, late)
    await expire(conn, until)
    assert not await join_links.use_link(conn, late)
    assert await join_links.find_link(conn, late) == group  # who has joined by it may come again
    listed = await join_links.list_links(conn, group, after=None, limit=9)
    assert [(one.id, one.uses) for one in listed] == [(once.id, 1), (until.id, 1)]
    assert await join_links.list_links(conn, group, after=once.id, limit=9) == listed[1:]
    assert await join_links.list_links(conn, other, after=None, limit=9) == []
    assert not await join_links.delete_link(conn, other, once.id)
    assert [await join_links.delete_link(conn, group, once.id) for _ in range(2)] == [True, False]
    third, _ = await make_link(conn, group, alice)  # what has expired goes then
    assert [one.id for one in await join_links.list_links(conn, group, after=None, limit=9)] == [third.id]
    assert await join_links.count_links(conn, group) == 1


async def test_another_token(conn: Connection) -> None:
    """The one before is good for nothing; a link of another group is not touched."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    link, before = await make_link(conn, group, alice)
    after = os.urandom(32)
    assert await join_links.update_token(conn, new_id(), link.id, after) is None
    assert await join_links.update_token(conn, group, link.id, after) == link
    assert await join_links.find_link(conn, before) is None and await join_links.find_link(conn, after) == group


async def test_counted_exactly(pool: Pool, conn: Connection) -> None:
    """Of many who come at once as many join as a link is good for, and its uses are as many as they are."""
    [alice, *others] = await make_users(conn, 13)
    group = await make_group(conn, [alice])
    _, token = await make_link(conn, group, alice, max_uses=5)
    joined = []

    async def join(user_id: UUID) -> None:
        async with pool.connection() as own, own.transaction():
            await conversations.lock_conversation(own, group)
            if await join_links.use_link(own, token):
                await conversations.insert_member(own, group, user_id, Role.MEMBER, by=user_id)
                joined.append(user_id)

    async with trio.open_nursery() as nursery:
        for user_id in others:
            nursery.start_soon(join, user_id)
    assert len(joined) == 5 and len(await conversations.list_member_ids(conn, group)) == 6
    [link] = await join_links.list_links(conn, group, after=None, limit=9)
    assert link.uses == 5


async def test_rolled_back_with_its_member(conn: Connection) -> None:
    """A use is counted in the transaction that joins, and not without it."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    _, token = await make_link(conn, group, alice)
    with pytest.raises(conversations.UnknownUser):
        async with conn.transaction():
            assert await join_links.use_link(conn, token)
            await conversations.insert_member(conn, group, new_id(), Role.MEMBER, by=alice)
    [link] = await join_links.list_links(conn, group, after=None, limit=9)
    assert link.uses == 0


async def test_who_joins_by_themselves_waits_in_slow_mode(conn: Connection, writer: Writer) -> None:
    """Who leaves a group and joins it again gains nothing; who is added may write at once."""
    [alice, bob, carol] = await make_users(conn, 3)
    group = await make_group(conn, [alice])
    await conversations.update_details(conn, group, GroupDetails(), GroupDetails(slow_mode_seconds=3600), by=alice)
    await conversations.insert_member(conn, group, bob, Role.MEMBER, by=bob)
    await conversations.insert_member(conn, group, carol, Role.MEMBER, by=alice)
    assert await writer.send(group, bob).refusal() == "slow_mode"
    await writer.send(group, carol).message()


async def test_what_goes(conn: Connection) -> None:
    """The links of a group go with it, and those that have expired with the purge, some at a time."""
    [alice] = await make_users(conn, 1)
    gone, group = await make_group(conn, [alice]), await make_group(conn, [alice])
    await make_link(conn, gone, alice)
    await conversations.delete_conversation(conn, gone, by=alice)
    links = [(await make_link(conn, group, alice))[0] for _ in range(4)]
    for link in links[:3]:
        await expire(conn, link)
    assert [await join_links.delete_expired_links(conn, 2) for _ in range(3)] == [2, 1, 0]
    assert await fetch_value(conn, "SELECT array_agg(id) FROM join_links") == [links[3].id]


async def test_by_index(conn: Connection) -> None:
    """However many links there are, only those that are asked for are read."""
    await conn.execute("SET enable_seqscan = off")  # of few rows, too
    for query, parameters, index in (
        (queries.find_link, {"token_hash": bytes(32)}, "join_links_token_hash_key"),
        (queries.use_link, {"token_hash": bytes(32)}, "join_links_token_hash_key"),
        (queries.list_links, {"conversation_id": new_id(), "after": new_id(), "limit": 9}, "join_links_pkey"),
        (queries.delete_expired_links, {"limit": 9}, "join_links_expiry"),
    ):
        names = {node.get("Index Name") for node in await explained(conn, query, parameters)}
        assert names - {None, "join_links_pkey"} <= {index} and index in names, query
