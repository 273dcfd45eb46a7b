"""server.cluster.outbox_relay: changes committed but not published are announced by one instance, once (P5)."""

from collections.abc import Awaitable, Callable, Collection
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
import structlog
import trio

from server.cluster import outbox_relay
from server.cluster.outbox_relay import OutboxRelay
from server.cluster.publisher import Publisher
from server.cluster.subscriptions import Subscriptions
from server.fanout.change_publisher import ChangePublisher
from store.errors import Damaged, Unavailable
from store.ids import new_id
from store.model import Role
from store.postgres import conversations, outbox
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.redis.inbox_entries import BANNED, ENDED, Entry, Head, SettingsChange, disconnection_of, moderated
from tests.store.world import fetch_value, make_group, make_users, wait_for_value
from tests.waiting import wait_until


class World:
    """An instance; records what it delivered locally, and what it sent to the others."""

    def __init__(self, pool: Pool) -> None:
        self.received: list[Entry] = []
        self.sent: list[Entry] = []
        self.away = False
        self.subscriptions = SimpleNamespace(instance="me~1")
        self.relay = OutboxRelay(
            pool, cast(Subscriptions, self.subscriptions), cast(Publisher, self), cast(ChangePublisher, self)
        )

    def receive(self, entry: Entry) -> None:
        self.received.append(entry)

    async def deliver(self, entry: Entry) -> None:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")
        self.sent.append(entry)

    def heads(self) -> list[tuple[UUID, int]]:
        return sorted((head.conversation_id, head.seq) for entry in self.sent for head in entry.heads)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_relay, "PERIOD", 0.01)
    monkeypatch.setattr(outbox_relay, "AGE", 0.0)


async def strand(conn: Connection, groups: list[UUID], by: UUID) -> None:
    """Batches of one change each, whose publisher died."""
    for group in groups:
        async with conn.transaction():
            await outbox.insert_outbox(conn, [await conversations.update_title(conn, group, "x", by=by)])


async def until_empty(conn: Connection) -> None:
    await wait_for_value(conn, "SELECT count(*) FROM outbox", 0)


async def test_announced_once(pool: Pool, nursery: trio.Nursery) -> None:
    """A stuck batch is announced here and to the others once; then the table is empty."""
    world = World(pool)
    async with pool.connection() as conn:
        [alice] = await make_users(conn, 1)
        groups = [await make_group(conn, [alice]) for _ in range(3)]
        await strand(conn, [*groups, groups[0]], alice)
        await nursery.start(world.relay.run)
        await wait_until(lambda: world.relay.announced >= 4)  # counted after the commit that empties the table
        assert await fetch_value(conn, "SELECT count(*) FROM outbox") == 0
        assert world.heads() == sorted([(groups[0], 3), (groups[1], 2), (groups[2], 2)])
        assert world.received == world.sent and world.relay.announced == 4
        for _ in range(5):
            await strand(conn, groups[:1], alice)
            await until_empty(conn)
        assert [entry.heads for entry in world.sent[1:]] == [(Head(groups[0], seq),) for seq in range(4, 9)]
        await wait_until(lambda: world.relay.announced == 9)
    nursery.cancel_scope.cancel()


async def test_more_than_one_look_takes(pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stuck batch is announced, however many there are."""
    monkeypatch.setattr(outbox_relay, "LIMIT", 2)
    world = World(pool)
    async with pool.connection() as conn:
        [alice] = await make_users(conn, 1)
        groups = [await make_group(conn, [alice]) for _ in range(5)]
        await strand(conn, groups, alice)
        await nursery.start(world.relay.run)
        await until_empty(conn)
        assert world.heads() == sorted((group, 2) for group in groups) and len(world.sent) == 3
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("error", [Damaged("invalid page"), LookupError("a defect")], ids=["damage", "defect"])
async def test_one_that_cannot_be_announced(
    error: Exception, number: int, pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before it are announced, and those behind it; it is tried again."""
    monkeypatch.setattr(outbox_relay, "LIMIT", 4)
    monkeypatch.setattr(outbox_relay, "MAX_PAUSE", 0.05)
    world, read = World(pool), conversations.fetch_heads

    async def fetch_heads(conn: Connection, conversation_ids: list[UUID]) -> dict[UUID, int]:
        if is_broken and groups[number] in conversation_ids:
            raise error
        return await read(conn, conversation_ids)

    is_broken = True
    monkeypatch.setattr(outbox_relay, "fetch_heads", fetch_heads)
    async with pool.connection() as conn:
        [alice] = await make_users(conn, 1)
        groups = [await make_group(conn, [alice]) for _ in range(6)]
        await strand(conn, groups, alice)
        await nursery.start(world.relay.run)
        await wait_for_value(conn, "SELECT count(*) FROM outbox", 1)
        others = [*groups[:number], *groups[number + 1 :]]
        assert world.heads() == sorted((group, 2) for group in others)
        is_broken = False
        await until_empty(conn)
        assert world.heads() == sorted((group, 2) for group in groups)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [0, 1, 3, 5])
@pytest.mark.parametrize("kind", ["damage", "nonsense"])
async def test_one_that_cannot_be_read(
    kind: str, number: int, pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before it and behind it are announced, in this pass and in those after it, which it does not slow down. The
    log has one line of it. It is looked at again, and announced when it can be read."""
    monkeypatch.setattr(outbox_relay, "LIMIT", 4)
    monkeypatch.setattr(outbox_relay, "AGAIN", 0.5)
    world, read = World(pool), outbox.list_stale

    async def list_stale(conn: Connection, age: float, limit: int, after: str, but: Collection[str]) -> outbox.Stale:
        found = await read(conn, age, limit, after, but)
        if is_broken and kind == "damage" and groups[number] in [batch.key[0] for batch in found.batches]:
            raise Damaged("invalid page")
        return found

    is_broken = True
    monkeypatch.setattr(outbox, "list_stale", list_stale)
    async with pool.connection() as conn:
        [alice] = await make_users(conn, 1)
        groups = [await make_group(conn, [alice]) for _ in range(6)]
        await strand(conn, groups, alice)
        if kind == "nonsense":
            await conn.execute("UPDATE outbox SET seqs = '{2,3}' WHERE conversation_id = %s", [groups[number]])
        others = [*groups[:number], *groups[number + 1 :]]
        with structlog.testing.capture_logs() as lines:
            await nursery.start(world.relay.run)
            await wait_for_value(conn, "SELECT count(*) FROM outbox", 1)
            assert world.heads() == sorted((group, 2) for group in others)
            for _ in range(3):
                await strand(conn, others, alice)
                await wait_for_value(conn, "SELECT count(*) FROM outbox", 1)
            [line] = [line for line in lines if line["event"] == "outbox_row_unreadable"]
            assert (line["conversation"], line["seq"]) == (str(groups[number]), 2) and "ctid" in line["advice"]
            is_broken = False
            if kind == "nonsense":
                await conn.execute("UPDATE outbox SET seqs = '{2}' WHERE seq = 2")
            await until_empty(conn)
        assert (groups[number], 2) in world.heads()
    nursery.cancel_scope.cancel()


async def test_a_page_that_cannot_be_read(pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies behind it in the table is announced."""
    monkeypatch.setattr(outbox_relay, "MAX_PAUSE", 0.05)
    world = World(pool)
    reads = {name: getattr(outbox, name) for name in ("list_stale", "find_stale")}

    def broken(name: str) -> Callable[..., Awaitable[object]]:
        async def call(conn: Connection, age: float, *parameters: Any) -> object:
            after = parameters[0] if name == "find_stale" else parameters[1]
            if after.startswith("(0,"):
                raise Damaged("invalid page")
            return await reads[name](conn, age, *parameters)

        return call

    for name in reads:
        monkeypatch.setattr(outbox, name, broken(name))
    async with pool.connection() as conn:
        await conn.execute(
            "INSERT INTO outbox (conversation_id, seq, conversation_ids, seqs)"
            " SELECT gen_random_uuid(), n, '{}', '{}' FROM generate_series(1, 300) AS n"
        )
        first = await fetch_value(conn, "SELECT count(*) FROM outbox WHERE ctid < '(1,0)'")
        assert isinstance(first, int) and 0 < first < 300
        with structlog.testing.capture_logs() as lines:
            await nursery.start(world.relay.run)
            await wait_for_value(conn, "SELECT count(*) FROM outbox", first)
            await wait_until(lambda: world.relay.announced == 300 - first)
        assert [line["place"] for line in lines if line["event"] == "outbox_row_unreadable"] == ["(0,0)"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("trouble", ["not registered", "Redis away"])
async def test_nothing_is_forgotten_that_was_not_sent(pool: Pool, nursery: trio.Nursery, trouble: str) -> None:
    """Rows stay without membership, or if Redis fails meanwhile; they are deleted once the announcement is sent."""
    world = World(pool)
    world.away, world.subscriptions.instance = trouble == "Redis away", "" if trouble == "not registered" else "me~1"
    async with pool.connection() as conn:
        [alice] = await make_users(conn, 1)
        group = await make_group(conn, [alice])
        await strand(conn, [group], alice)
        await nursery.start(world.relay.run)
        if trouble == "Redis away":
            await wait_until(lambda: world.received)
        await trio.sleep(0.2)  # some rounds: that nothing happens cannot be waited for
        assert await fetch_value(conn, "SELECT count(*) FROM outbox") == 1 and world.sent == []
        assert bool(world.received) is (trouble == "Redis away")
        world.away, world.subscriptions.instance = False, "me~2"
        await until_empty(conn)
        assert world.heads() == [(group, 2)]
    nursery.cancel_scope.cancel()


async def test_two_instances(pool: Pool, nursery: trio.Nursery) -> None:
    """Of two relays, one announces each batch."""
    worlds = [World(pool), World(pool)]
    async with pool.connection() as conn:
        [alice] = await make_users(conn, 1)
        groups = [await make_group(conn, [alice]) for _ in range(10)]
        for world in worlds:
            await nursery.start(world.relay.run)
        for group in groups:
            await strand(conn, [group], alice)
        await until_empty(conn)
        assert sorted(head for world in worlds for head in world.heads()) == sorted((group, 2) for group in groups)
    nursery.cancel_scope.cancel()


async def test_who_came_and_went(pool: Pool, nursery: trio.Nursery) -> None:
    """Changes of membership are sent themselves, and so are disconnections and settings, also without any change."""
    world = World(pool)
    async with pool.connection() as conn:
        alice, bob, carol = await make_users(conn, 3)
        group = await make_group(conn, [alice, bob])
        async with conn.transaction():
            added = await conversations.insert_member(conn, group, carol, Role.MEMBER, by=alice)
            removed = await conversations.delete_member(conn, group, bob, by=alice)
            await outbox.insert_outbox(conn, [added, removed], disconnection_of(bob))
            await outbox.insert_outbox(conn, [], disconnection_of(carol, alice))
            await outbox.insert_outbox(conn, [], SettingsChange(alice, group, 5))
        await nursery.start(world.relay.run)
        await until_empty(conn)
        [entry] = world.sent
        assert [(one.seq, one.added, one.removed) for one in entry.changes] == [(2, (carol,), ()), (3, (), (bob,))]
        assert entry.heads == (Head(group, 3),) and entry.settings == (SettingsChange(alice, group, 5),)
        assert sorted(map(str, entry.disconnections)) == sorted(
            map(str, [disconnection_of(bob), disconnection_of(carol, alice)])
        )
    nursery.cancel_scope.cancel()


async def test_more_members_than_one_query_takes(
    pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All changes of members and titles are announced before what says that they are to be is deleted."""
    monkeypatch.setattr(outbox.list_system_changes, "__defaults__", (2,))
    world = World(pool)
    async with pool.connection() as conn:
        [alice] = await make_users(conn, 1)
        groups = [await make_group(conn, [alice]) for _ in range(3)]
        async with conn.transaction():
            changes = [await conversations.update_title(conn, group, "x", by=alice) for group in groups + groups]
            await outbox.insert_outbox(conn, changes)
        await nursery.start(world.relay.run)
        await until_empty(conn)
    announced = [(change.conversation_id, change.seq) for entry in world.sent for change in entry.changes]
    assert announced == sorted((group, seq) for group in groups for seq in (2, 3))
    assert world.heads() == sorted((group, 3) for group in groups)
    assert world.received == world.sent
    nursery.cancel_scope.cancel()


async def test_bans_that_are_over(pool: Pool, nursery: trio.Nursery) -> None:
    """A ban that was lifted, or has ended, before it was announced ends no connection: its user may have come again.
    Other ends are announced whatever has happened since."""
    world = World(pool)
    async with pool.connection() as conn:
        banned, free, over, erased = await make_users(conn, 4)
        await conn.execute("UPDATE users SET banned_until = now() + interval '1 h' WHERE id = %s", [banned])
        await conn.execute("UPDATE users SET banned_until = now() - interval '1 s' WHERE id = %s", [over])
        async with conn.transaction():
            for user_id in (banned, free, over):
                await outbox.insert_outbox(conn, [], moderated(user_id, BANNED, new_id()))
            await outbox.insert_outbox(conn, [], moderated(free, ENDED, new_id()))
            await outbox.insert_outbox(conn, [], disconnection_of(erased))
        await nursery.start(world.relay.run)
        await until_empty(conn)
        found = {(one.user_id, one.code) for entry in world.sent for one in entry.disconnections}
        assert found == {(banned, "banned"), (free, "unauthenticated"), (erased, "unauthenticated")}
    nursery.cancel_scope.cancel()
