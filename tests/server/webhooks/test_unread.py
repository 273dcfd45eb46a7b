"""server.webhooks.unread: who is offline with unread messages is found, whatever dies, and said once."""

from collections.abc import AsyncIterator, Collection
from uuid import UUID

import pytest
import trio

from handlers.model import CreateWebhook
from handlers.webhooks import Rules, Webhooks, sealing_keys
from server.webhooks import delivery, unread
from server.webhooks.delivery import Terms, WebhookDelivery
from server.webhooks.unread import Devices, UnreadScanner
from store.errors import Unavailable
from store.postgres import unread_scans, webhook_deliveries
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.receipts import write_receipts
from store.redis.inbox_entries import Receipt
from store.signing import SigningKeys
from tests.store.world import Writer, fetch_value, make_group, make_users, make_writer
from tests.waiting import wait_until
from tests.webhook_receiver import OK, Received, Receiver, answer, receiving

HOSTS = ("127.0.0.1",)
KEYS = SigningKeys("k" * 32)
KIND = "user.offline_with_unread"
WAITING = """SELECT (SELECT count(*) FROM unread_scans WHERE due_at IS NOT NULL) + (SELECT count(*) FROM webhook_events)
    + (SELECT count(*) FROM webhook_queue)"""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERIOD", "STANDBY", "STUCK", "REFRESH", "LOOK", "SAY", "FIRST_DELAY"):
        monkeypatch.setattr(delivery, name, 0.02)
    for name, value in (("PERIOD", 0.02), ("RETRY", 0.02), ("SETTLE", 0.0)):
        monkeypatch.setattr(unread, name, value)


@pytest.fixture
async def writer(pool: Pool, nursery: trio.Nursery) -> Writer:
    writer = make_writer(pool, outbox=True)
    await nursery.start(writer.lanes.run)
    return writer


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


class Redis:
    """Who is connected, and in which membership; may be away."""

    def __init__(self) -> None:
        self.connected: set[UUID] = set()
        self.is_away = False
        self.membership = "one"
        self.asked = 0
        self.has_lost = False  # its data
        self.looked = 0

    @property
    def devices(self) -> Devices:
        return Devices(self.online, lambda: self.membership, self.is_held)

    async def is_held(self, membership: str) -> bool:
        await trio.lowlevel.checkpoint()
        self.looked += 1
        return membership == self.membership and not self.has_lost

    async def online(self, user_ids: Collection[UUID]) -> set[UUID]:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.is_away:
            raise Unavailable("away")
        return set() if self.has_lost else self.connected & set(user_ids)


@pytest.fixture
def redis() -> Redis:
    return Redis()


def make_delivery(pool: Pool, redis: Redis, *, again: float = 3600.0) -> WebhookDelivery:
    scanner = UnreadScanner(pool, redis.devices, delay=0.0, again=again)
    return WebhookDelivery(pool, sealing_keys(KEYS), Terms(HOSTS, 8, 60.0, unread_delay=0.0), scanner=scanner)


async def make_endpoint(pool: Pool, receiver: Receiver, *events: str) -> None:
    made = await Webhooks(pool, KEYS, Rules(HOSTS)).create(None, CreateWebhook(receiver.url, events))
    receiver.secrets.append(made.secret)


async def publish(conn: Connection) -> None:
    await conn.execute("DELETE FROM outbox")


async def wait_for_rest(conn: Connection) -> None:
    """Until nothing is to be looked at, or to be sent."""

    async def is_quiet() -> bool:
        return await fetch_value(conn, WAITING) == 0

    await wait_until(is_quiet)


def said(receiver: Receiver) -> list[tuple[str, int]]:
    """(user, seq), in the order in which they came."""
    return [(one.event["data"]["userId"], one.event["data"]["seq"]) for one in receiver.received]


async def test_who_is_offline(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, redis: Redis
) -> None:
    """A member without a connection, once for a newest message, with what they have not read; not the others."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    redis.connected = {carol}
    await make_endpoint(pool, receiver, KIND)
    await nursery.start(make_delivery(pool, redis).run)
    sent = [await writer.send(group, alice).message() for _ in range(3)]
    await publish(conn)
    await wait_until(lambda: said(receiver))
    await wait_for_rest(conn)
    assert {user_id for user_id, _ in said(receiver)} == {str(bob)} and said(receiver)[-1][1] == sent[-1].seq
    assert receiver.received[-1].event == {
        "type": KIND,
        "timestamp": sent[-1].created_at,
        "data": {
            "conversationId": str(group),
            "seq": sent[-1].seq,
            "userId": str(bob),
            "messageId": str(sent[-1].id),
            "senderId": str(alice),
            "unreadCount": 3,
            "mentionCount": 0,
        },
    }
    assert len({one.id for one in receiver.received}) == len(receiver.received)
    count = len(receiver.received)
    await write_receipts(conn, [Receipt(group, bob, sent[-1].seq, sent[-1].seq)])
    last = await writer.send(group, alice).message()
    await publish(conn)
    await wait_until(lambda: len(receiver.received) > count)
    await wait_for_rest(conn)
    assert said(receiver)[count:] == [(str(bob), last.seq)]
    assert receiver.received[-1].event["data"]["unreadCount"] == 1


async def test_nothing_without_asking(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, redis: Redis
) -> None:
    """An endpoint that takes all types, and did not name this one, gets none, and presence is not asked for."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await make_endpoint(pool, receiver)
    await nursery.start(make_delivery(pool, redis).run)
    await writer.send(group, alice).message()
    await publish(conn)
    await wait_until(lambda: receiver.types == ["message.created"])
    assert await fetch_value(conn, "SELECT count(*) FROM unread_scans") == 0 and not redis.asked


async def test_without_redis(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, redis: Redis
) -> None:
    """While presence is not known nothing is said; when it is, who has read meanwhile is left out. The same while this
    instance is no member, and when its membership ended while it asked."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    redis.is_away = True
    await make_endpoint(pool, receiver, KIND)
    made = make_delivery(pool, redis)
    await nursery.start(made.run)
    sent = await writer.send(group, alice).message()
    await publish(conn)
    await wait_until(lambda: redis.asked > 2)
    await write_receipts(conn, [Receipt(group, bob, sent.seq, sent.seq)])
    redis.membership = ""
    asked = redis.asked
    redis.is_away = False
    await wait_until(lambda: made.lag > 0)
    assert redis.asked <= asked + 1 and receiver.received == []
    redis.membership = "two"
    await wait_until(lambda: said(receiver))
    await wait_for_rest(conn)
    assert said(receiver) == [(str(carol), sent.seq)]


async def test_a_membership_that_is_young(
    conn: Connection,
    pool: Pool,
    nursery: trio.Nursery,
    writer: Writer,
    receiver: Receiver,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After Redis was away, or was emptied, other instances are about to register their users: nothing is said yet."""
    monkeypatch.setattr(unread, "SETTLE", 3600.0)
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await make_endpoint(pool, receiver, KIND, "message.created")
    scanner = UnreadScanner(pool, redis.devices, delay=0.0, again=1.0)
    terms = Terms(HOSTS, 8, 60.0, unread_delay=0.0)
    await nursery.start(WebhookDelivery(pool, sealing_keys(KEYS), terms, scanner=scanner).run)
    await wait_until(lambda: scanner._membership == "one")
    await writer.send(group, alice).message()
    await publish(conn)
    await wait_until(lambda: receiver.types == ["message.created"])
    assert not redis.asked
    scanner._settled_at = 0.0
    await wait_until(lambda: KIND in receiver.types)


async def test_redis_has_lost_its_data(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, redis: Redis
) -> None:
    """Until this instance has noticed, no user seems to be connected: nothing is said, and it is looked again."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    redis.connected, redis.has_lost = {bob}, True
    await make_endpoint(pool, receiver, KIND, "message.created")
    await nursery.start(make_delivery(pool, redis).run)
    await writer.send(group, alice).message()
    await publish(conn)
    await wait_until(lambda: receiver.types == ["message.created"] and redis.looked > 2)
    redis.has_lost = False
    await wait_until(lambda: KIND in receiver.types)
    await wait_for_rest(conn)
    assert [one.event["data"]["userId"] for one in receiver.received[1:]] == [str(carol)]


async def test_a_connection_that_is_lost_without_a_word(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, redis: Redis
) -> None:
    """Who seemed to be connected when a message came, and is not a little later, is found then; who is, or has read it
    meanwhile, is not."""
    alice, bob, carol, dave = await make_users(conn, 4)
    group = await make_group(conn, [alice, bob, carol, dave])
    redis.connected = {bob, carol, dave}
    await make_endpoint(pool, receiver, KIND)
    await nursery.start(make_delivery(pool, redis, again=3600.0).run)
    sent = await writer.send(group, alice).message()
    await publish(conn)

    async def are_noted() -> bool:
        return await fetch_value(conn, "SELECT count(*) FROM unread_rechecks") == 3

    await wait_until(are_noted)
    assert receiver.received == []
    redis.connected = {carol}
    await write_receipts(conn, [Receipt(group, dave, sent.seq, sent.seq)])
    await conn.execute("UPDATE unread_rechecks SET due_at = clock_timestamp()")
    await wait_until(lambda: said(receiver))
    await wait_for_rest(conn)
    assert said(receiver) == [(str(bob), sent.seq)]
    assert await fetch_value(conn, "SELECT count(*) FROM unread_rechecks") == 0


async def test_refused(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, redis: Redis
) -> None:
    """It comes again with its id; what comes meanwhile takes its place; who has read by then is left out."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob])
    other = await make_group(conn, [alice, carol])
    is_mended = False

    async def behave(received: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return OK if is_mended else answer(503)

    receiver.behave = behave
    await make_endpoint(pool, receiver, KIND)
    made = make_delivery(pool, redis)
    await nursery.start(made.run)
    for one in (group, other):
        await writer.send(one, alice).message()
    await publish(conn)
    await wait_until(lambda: len({user_id for user_id, _ in said(receiver)}) == 2 and made.failed >= 6)
    assert len({one.id for one in receiver.received}) == 2
    last = await writer.send(group, alice).message()
    await publish(conn)
    await wait_until(lambda: (str(bob), last.seq) in said(receiver))
    await write_receipts(conn, [Receipt(other, carol, 2, 2)])
    seen = len(receiver.received)
    is_mended = True
    await wait_for_rest(conn)
    later = said(receiver)[seen:]
    assert later.count((str(carol), 2)) <= 1  # what was under way in that moment
    assert set(later) - {(str(carol), 2)} == {(str(bob), last.seq)}
    assert await fetch_value(conn, "SELECT count(*) FROM webhook_dead_letters") == 0


async def test_it_dies_anywhere(conn: Connection, pool: Pool, writer: Writer, receiver: Receiver, redis: Redis) -> None:
    """Killed at each step in turn, and begun anew: all who are offline are found for the last message, and an event
    that comes again has its id."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    await make_endpoint(pool, receiver, KIND)
    steps = [
        (webhook_deliveries, "note"),
        (unread_scans, "list_scans"),
        (unread_scans, "list_unread"),
        (unread_scans, "advance"),
        (unread_scans, "insert_events"),
        (unread_scans, "fetch_standing"),
    ]
    for where, name in steps:
        original = getattr(where, name)
        for is_after in (False, True):
            sent = await writer.send(group, alice).message()
            await publish(conn)
            died = trio.Event()
            async with trio.open_nursery() as life:

                async def die(*args: object, **options: object) -> object:
                    found = await original(*args, **options) if is_after else None  # noqa: B023
                    if name != "list_scans" or found != []:  # noqa: B023
                        died.set()  # noqa: B023
                        life.cancel_scope.cancel()
                    await trio.lowlevel.checkpoint()
                    return found

                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(where, name, die)
                    await life.start(make_delivery(pool, redis).run)
                    await wait_until(died.is_set)
    async with trio.open_nursery() as life:
        await life.start(make_delivery(pool, redis).run)
        await wait_for_rest(conn)
        life.cancel_scope.cancel()
    events: dict[str, tuple[str, int]] = {}
    for one, event in zip(receiver.received, said(receiver), strict=True):
        assert events.setdefault(one.id, event) == event
    assert len(events) == len(set(events.values()))
    assert {(str(bob), sent.seq), (str(carol), sent.seq)} <= set(events.values())
