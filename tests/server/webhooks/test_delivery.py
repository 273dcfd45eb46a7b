"""server.webhooks.delivery: what is committed reaches every endpoint, in order, whatever dies."""

import itertools
from collections.abc import AsyncIterator
from functools import partial
from uuid import UUID

import pytest
import trio

from handlers.model import CreateWebhook, NewWebhook, ReplayDeadLetters, UpdateWebhook
from handlers.webhooks import Rules, Webhooks, sealing_keys
from server.webhooks import delivery
from server.webhooks.delivery import Terms, WebhookDelivery
from store.errors import Unavailable
from store.ids import id_ms, new_id
from store.model import ReportCategory, Role, WebhookState
from store.postgres import conversations, messages, outbox, reports, webhook_deliveries, webhook_events
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.signing import SigningKeys
from tests.store.world import Writer, fetch_value, make_group, make_users, make_writer
from tests.waiting import wait_until
from tests.webhook_receiver import OK, Received, Receiver, accept, answer, receiving

HOSTS = ("127.0.0.1",)
KEYS = SigningKeys("k" * 32)
LONG = 60.0


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERIOD", "STANDBY", "STUCK", "REFRESH", "LOOK", "SAY", "FIRST_DELAY"):
        monkeypatch.setattr(delivery, name, 0.02)


@pytest.fixture
async def writer(pool: Pool, nursery: trio.Nursery) -> Writer:
    writer = make_writer(pool, outbox=True)
    await nursery.start(writer.lanes.run)
    return writer


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


@pytest.fixture
def handler(pool: Pool) -> Webhooks:
    return Webhooks(pool, KEYS, Rules(HOSTS))


def make_delivery(pool: Pool, *, concurrency: int = 8, retry_time: float = 86400.0) -> WebhookDelivery:
    return WebhookDelivery(pool, sealing_keys(KEYS), Terms(HOSTS, concurrency, LONG, retry_time))


async def make_endpoint(
    handler: Webhooks, receiver: Receiver, *events: str, conversation_id: UUID | None = None, path: str = ""
) -> NewWebhook:
    made = await handler.create(None, CreateWebhook(receiver.url + path, events, conversation_id))
    receiver.secrets.append(made.secret)
    return made


async def publish(conn: Connection) -> None:
    """What a publisher does when all that was committed is in the inboxes."""
    await conn.execute("DELETE FROM outbox")


def contents(receiver: Receiver) -> list[str]:
    return [one.event["data"]["message"]["content"] for one in receiver.received if "message" in one.event["data"]]


async def test_delivered_in_order(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """Everything that happens after the endpoint was made is received once, signed, in the conversation's order."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice])
    await make_endpoint(handler, receiver)
    sent = [await writer.send(group, alice, f"{number}").message() for number in range(50)]
    changes = [
        await conversations.insert_member(conn, group, bob, Role.MEMBER, by=alice),
        await conversations.update_role(conn, group, bob, Role.ADMIN, by=alice),
        await conversations.update_title(conn, group, "new", by=alice),
        await messages.update_message(conn, sent[3].id, "edited"),
        await messages.delete_message(conn, sent[4].id),
        await conversations.delete_member(conn, group, bob, by=bob),
        await conversations.delete_conversation(conn, group, by=alice),
    ]
    await outbox.insert_outbox(conn, [change for change in changes if change is not None])
    await publish(conn)
    await nursery.start(make_delivery(pool).run)
    await wait_until(lambda: len(receiver.received) == 57)
    seqs = [one.event["data"]["seq"] for one in receiver.received]
    assert seqs == list(range(2, 59))  # the first change is of before
    assert receiver.types[50:] == [
        "member.added",
        "member.role_changed",
        "conversation.updated",
        "message.changed",
        "message.changed",
        "member.removed",
        "conversation.deleted",
    ]
    assert len({one.id for one in receiver.received}) == 57
    assert contents(receiver)[:6] == ["0", "1", "2", "edited", "", "5"]  # as they are when they are sent
    first = receiver.received[0]
    assert first.headers["content-type"] == "application/json" and first.path == "/in"
    assert abs(int(first.headers["webhook-timestamp"]) * 1000 - id_ms(sent[0].id)) < 3_600_000


async def test_looks_that_take_long(
    pool: Pool, nursery: trio.Nursery, receiver: Receiver, handler: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Redis is away and everything waits in the outbox: they take a part of PostgreSQL's time, and not all."""
    await make_endpoint(handler, receiver)
    looks: list[tuple[float, float]] = []
    original = webhook_deliveries.note

    async def note(conn: Connection, **terms: float) -> bool:
        began = trio.current_time()
        await trio.sleep(0.02)  # what a look takes
        found = await original(conn, **terms)
        looks.append((began, trio.current_time()))
        return found

    monkeypatch.setattr(webhook_deliveries, "note", note)
    await nursery.start(make_delivery(pool).run)
    await wait_until(lambda: len(looks) >= 4)
    for (began, ended), (following, _) in itertools.pairwise(looks):
        assert following - ended >= min(delivery.REST * (ended - began), delivery.MAX_REST)


async def test_a_process_that_was_stopped(
    pool: Pool, nursery: trio.Nursery, receiver: Receiver, handler: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Amid a look, for minutes: it looks again soon, instead of keeping that to itself for many minutes."""
    await make_endpoint(handler, receiver)
    looks = 0
    original = webhook_deliveries.note

    async def note(conn: Connection, **terms: float) -> bool:
        nonlocal looks
        looks += 1
        await trio.sleep(0.02)  # the minutes
        return await original(conn, **terms)

    monkeypatch.setattr(webhook_deliveries, "note", note)
    monkeypatch.setattr(delivery, "REST", 10.0**5)
    monkeypatch.setattr(delivery, "MAX_REST", 0.02)
    await nursery.start(make_delivery(pool).run)
    await wait_until(lambda: looks >= 2)


async def test_only_what_it_asks_for(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """An endpoint gets the types that it takes, of the conversation that it is for; the rest costs no attempt."""
    [alice] = await make_users(conn, 1)
    group, other = await make_group(conn, [alice]), await make_group(conn, [alice])
    await make_endpoint(handler, receiver, "conversation.updated", conversation_id=group)
    for one in (group, other):
        for number in range(40):
            await writer.send(one, alice, f"{number}").message()
        change = await conversations.update_title(conn, one, "new", by=alice)
        await outbox.insert_outbox(conn, [change])
    await publish(conn)
    made = make_delivery(pool)
    await nursery.start(made.run)
    await wait_until(lambda: receiver.received)
    await wait_until(lambda: made.lag == 0)
    assert [one.event["data"]["conversationId"] for one in receiver.received] == [str(group)]
    assert receiver.received[0].event["data"]["name"] == "new" and made.delivered == 1
    await wait_for_rest(conn)


async def wait_for_rest(conn: Connection) -> None:
    """Until all that was published is noted, and nothing is due any more."""

    async def is_quiet() -> bool:
        queued = "SELECT count(*) FROM webhook_queue"
        waiting = "SELECT count(*) FROM webhook_positions WHERE due_at IS NOT NULL"
        own = "SELECT count(*) FROM webhook_events"
        return sum([await fetch_value(conn, one) != 0 for one in (queued, waiting, own)]) == 0

    await wait_until(is_quiet)


async def test_a_new_conversation(
    conn: Connection, pool: Pool, nursery: trio.Nursery, receiver: Receiver, handler: Webhooks
) -> None:
    """It is the first event of its conversation, with its members."""
    alice, bob = await make_users(conn, 2)
    await make_endpoint(handler, receiver)
    conversation, change = await conversations.insert_group(conn, alice, "a name", [bob])
    await outbox.insert_outbox(conn, [change])
    await publish(conn)
    await nursery.start(make_delivery(pool).run)
    await wait_until(lambda: receiver.received)
    [one] = receiver.received
    data = one.event["data"]
    assert one.event["type"] == "conversation.created" and data["conversationId"] == str(conversation.id)
    assert (data["type"], data["name"], sorted(data["memberIds"])) == (
        "Group",
        "a name",
        sorted(map(str, (alice, bob))),
    )


async def test_it_dies_anywhere(
    conn: Connection, pool: Pool, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """Killed at each step in turn, and begun anew: everything arrives, in order, and what comes again has its id."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await make_endpoint(handler, receiver)
    for number in range(25):
        await writer.send(group, alice, f"{number}").message()
    await publish(conn)
    names = ["note", "list_due", "list_happened", "advance", "take", "list_targets"]
    for number, (name, is_after) in enumerate(itertools.product(names, (False, True))):
        original = getattr(webhook_deliveries, name)
        died = trio.Event()
        async with trio.open_nursery() as life:

            async def die(*args: object, **options: object) -> object:
                found = await original(*args, **options) if is_after else None  # noqa: B023
                died.set()  # noqa: B023
                life.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()
                return found

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(webhook_deliveries, name, die)
                await life.start(make_delivery(pool).run)
                await wait_until(died.is_set)
        if number < 11:
            await writer.send(group, alice, f"{25 + number}").message()
            await publish(conn)
    async with trio.open_nursery() as life:
        await life.start(make_delivery(pool).run)
        await wait_for_rest(conn)
        life.cancel_scope.cancel()
    assert_in_order(receiver, list(range(2, 38)))


def assert_in_order(receiver: Receiver, expected: list[int]) -> None:
    """Each event at least once; the first time each came in order; of one event, one id and one content."""
    first: dict[str, Received] = {}
    for one in receiver.received:
        assert first.setdefault(one.id, one).event == one.event
    assert [one.event["data"]["seq"] for one in first.values()] == expected


async def test_failures_hold_back_their_conversation_only(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """An event that is refused comes again, later and later, with the same id; nothing behind it in its conversation
    comes before; other conversations go on."""
    [alice] = await make_users(conn, 1)
    bad, good = await make_group(conn, [alice]), await make_group(conn, [alice])
    is_mended = False

    async def behave(received: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        is_bad = received.event["data"]["conversationId"] == str(bad)
        return answer(500) if is_bad and not is_mended else OK

    receiver.behave = behave
    hook = await make_endpoint(handler, receiver)
    for number in range(5):
        for one in (bad, good):
            await writer.send(one, alice, f"{number}").message()
    await publish(conn)
    made = make_delivery(pool)
    await nursery.start(made.run)

    def of(conversation: UUID) -> list[Received]:
        return [one for one in receiver.received if one.event["data"]["conversationId"] == str(conversation)]

    await wait_until(lambda: len(of(good)) == 5 and len(of(bad)) >= 4)
    assert len({one.id for one in of(bad)}) == 1 and made.failed >= 3
    assert (await handler.get(None, hook.id)).last_failure == "HTTP 500"
    is_mended = True
    await wait_until(lambda: len({one.id for one in of(bad)}) == 5)
    seqs = [one.event["data"]["seq"] for one in of(bad)]
    assert seqs == sorted(seqs)
    await wait_for_rest(conn)
    assert (await handler.get(None, hook.id)).failing_since is None


async def test_a_slow_endpoint_delays_no_other(
    conn: Connection,
    pool: Pool,
    nursery: trio.Nursery,
    writer: Writer,
    handler: Webhooks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Endpoints that do not answer are sent so many at once and no more, though everything is due; another has all of
    its events meanwhile, also when the slow ones have all of the places."""
    monkeypatch.setattr(delivery, "TOTAL", 4)
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(12)]
    gate = trio.Event()

    async def hang(received: Received) -> bytes:
        await gate.wait()
        return OK

    async with receiving() as one, receiving() as two, receiving() as quick:
        one.behave = two.behave = hang
        for receiver in (one, two, quick):
            await make_endpoint(handler, receiver)
        for group in groups:
            await writer.send(group, alice).message()
        await publish(conn)
        await nursery.start(make_delivery(pool, concurrency=3).run)
        await wait_until(lambda: one.under_way + two.under_way >= 4)
        await wait_until(lambda: len(quick.received) == 12)
        for group in groups:  # nor does what is sent wait for them
            await writer.send(group, alice).message()
        await publish(conn)
        await wait_until(lambda: len(quick.received) == 24)
        assert max(one.most_under_way, two.most_under_way) <= 3 and one.under_way + two.under_way <= 6
        gate.set()
        for receiver in (one, two):
            await wait_until(lambda: len(receiver.received) == 24)  # noqa: B023


async def test_an_endpoint_in_trouble(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """One that refuses everything is tried by one conversation at a time; when it accepts again, all is due at once."""
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(20)]
    is_mended = False
    troubled: list[int] = []

    async def behave(received: Received) -> bytes:
        if not is_mended and made.failed >= 20:
            troubled.append(receiver.under_way)
        await trio.lowlevel.checkpoint()
        return OK if is_mended else answer(503)

    receiver.behave = behave
    await make_endpoint(handler, receiver)
    for group in groups:
        await writer.send(group, alice).message()
    await publish(conn)
    made = make_delivery(pool)
    await nursery.start(made.run)
    await wait_until(lambda: len(troubled) > 10)
    assert max(troubled) == 1
    await conn.execute("UPDATE webhook_positions SET due_at = clock_timestamp() + interval '1 hour' WHERE seq = 1")
    await conn.execute(
        "UPDATE webhook_positions SET due_at = clock_timestamp() WHERE conversation_id = %s", [groups[0]]
    )
    is_mended = True
    await wait_until(lambda: made.delivered == 20)


@pytest.fixture
def never_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that has accepted nothing for as long as one event is tried is not disabled."""

    async def disable_failing(*_: object) -> list[tuple[UUID, str, str]]:
        await trio.lowlevel.checkpoint()
        return []

    monkeypatch.setattr(webhook_deliveries, "disable_failing", disable_failing)


@pytest.mark.usefixtures("never_disabled")
async def test_dead_letters(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """An event that is refused for too long is given up, and the next one comes; replayed, it comes with its id, until
    it is accepted; what is gone by then is passed over."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    refused = {"poison", "gone"}

    async def behave(received: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return answer(500) if received.event["data"]["message"]["content"] in refused else OK

    receiver.behave = behave
    hook = await make_endpoint(handler, receiver)
    for text in ("poison", "gone", "after"):
        sent = await writer.send(group, alice, text).message()
        if text == "gone":
            gone = sent
    await publish(conn)
    made = make_delivery(pool, retry_time=0.3)
    await nursery.start(made.run)
    await wait_until(lambda: "after" in contents(receiver))
    assert made.dead == 2
    [second, first], _ = await handler.dead_letters(None, hook.id, 10, None)
    assert (first.seq, second.seq, first.reason, first.type) == (2, 3, "HTTP 500", "message.created")
    ids = [one.id for one in receiver.received if one.event["data"]["message"]["content"] == "poison"]
    assert set(ids) == {first.id}
    assert await handler.replay(None, hook.id, ReplayDeadLetters((first.id,))) == 1
    await wait_until(lambda: len(receiver.received) > 0 and _count(receiver, first.id) > len(ids))

    async def kept() -> bool:
        letters, _ = await handler.dead_letters(None, hook.id, 10, None)
        return not any(letter.replaying for letter in letters)

    await wait_until(kept)
    refused.clear()
    await conn.execute("DELETE FROM messages WHERE id = %s", [gone.id])
    assert await handler.replay(None, hook.id, ReplayDeadLetters()) == 2

    async def all_gone() -> bool:
        return (await handler.dead_letters(None, hook.id, 10, None))[0] == []

    await wait_until(all_gone)
    assert receiver.received[-1].id == first.id and second.id not in {one.id for one in receiver.received[-1:]}


def _count(receiver: Receiver, event_id: str) -> int:
    return sum(one.id == event_id for one in receiver.received)


async def test_disabled_and_resumed(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """An endpoint that accepts nothing for too long is disabled, and nothing that waits is lost: resumed, it gets all
    of it, in order, with what happened meanwhile. One that says that it is gone is disabled at once."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    status = 500

    async def behave(received: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return answer(status)

    receiver.behave = behave
    hook = await make_endpoint(handler, receiver)
    for number in range(3):
        await writer.send(group, alice, f"{number}").message()
    await publish(conn)
    made = make_delivery(pool, retry_time=0.2)

    async def has(state: WebhookState) -> bool:
        return (await handler.get(None, hook.id)).state is state

    await nursery.start(made.run)
    await wait_until(partial(has, WebhookState.DISABLED))
    await wait_until(lambda: made.disabled == 1)
    await writer.send(group, alice, "meanwhile").message()
    await publish(conn)
    status = 410
    await handler.update(None, hook.id, UpdateWebhook("Active"))
    await wait_until(partial(has, WebhookState.DISABLED))
    assert (await handler.get(None, hook.id)).last_failure == "HTTP 410"
    receiver.received.clear()
    status = 200
    await handler.update(None, hook.id, UpdateWebhook("Active"))
    # One may have been given up: what was under way in the moment in which its time was over.
    await wait_until(lambda: len(receiver.received) == 4 - made.dead)
    assert [one.event["data"]["seq"] for one in receiver.received] == [2, 3, 4, 5][made.dead :] and made.dead <= 1
    assert await has(WebhookState.ACTIVE)


async def test_accepting_again_is_noted_when_the_database_is_back(
    conn: Connection,
    pool: Pool,
    nursery: trio.Nursery,
    writer: Writer,
    receiver: Receiver,
    handler: Webhooks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not taken for one that has failed ever since, and disabled with its next failure, where PostgreSQL was away
    in the moment in which it accepted; nor does what has waited go on waiting."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    is_good = False
    hastened: list[float | None] = []
    original = webhook_deliveries.note_success

    async def behave(received: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return OK if is_good else answer(500)

    async def note_success(conn: Connection, webhook_id: UUID, *, hasten_within: float | None = None) -> None:
        hastened.append(hasten_within)
        if len(hastened) == 1:
            raise Unavailable("gone for a moment")
        await original(conn, webhook_id, hasten_within=hasten_within)

    receiver.behave = behave
    monkeypatch.setattr(webhook_deliveries, "note_success", note_success)
    hook = await make_endpoint(handler, receiver)
    await writer.send(group, alice, "hello").message()
    await publish(conn)
    made = make_delivery(pool)
    await nursery.start(made.run)
    await wait_until(lambda: made.failed >= delivery.TROUBLE)
    is_good = True

    async def is_noted() -> bool:
        return (await handler.get(None, hook.id)).failing_since is None

    await wait_until(is_noted)
    assert hastened == [delivery.HASTEN] * 2


async def test_paused(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """What happens waits, and comes in order when it goes on; a deleted one gets nothing."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    async with receiving() as other:
        hook, gone = await make_endpoint(handler, receiver), await make_endpoint(handler, other)
        made = make_delivery(pool)
        await nursery.start(made.run)
        await handler.update(None, hook.id, UpdateWebhook("Paused"))
        await handler.delete(None, gone.id)
        await wait_until(lambda: made.is_at_work and not made._endpoints)
        for number in range(3):
            await writer.send(group, alice, f"{number}").message()
        await publish(conn)

        async def is_noted() -> bool:
            return await fetch_value(conn, "SELECT count(*) FROM webhook_positions") == 1

        await wait_until(is_noted)
        assert receiver.received == []
        await handler.update(None, hook.id, UpdateWebhook("Active"))
        await wait_until(lambda: len(receiver.received) == 3)
        assert contents(receiver) == ["0", "1", "2"] and other.received == []


async def test_secrets_in_turn(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """After a change of the secret both sign; who has either accepts. When the signing key is exchanged, secrets are
    sealed anew, and go on when the old key is gone."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    keys = SigningKeys("a" * 32)
    webhooks = Webhooks(pool, keys, Rules(HOSTS))
    hook = await make_endpoint(webhooks, receiver)
    changed = await webhooks.rotate_secret(None, hook.id)
    keys.replace("b" * 32, "a" * 32)
    sealed = await fetch_value(conn, "SELECT secret FROM webhooks")
    await nursery.start(WebhookDelivery(pool, sealing_keys(keys), Terms(HOSTS)).run)

    async def is_sealed_anew() -> bool:
        return await fetch_value(conn, "SELECT secret FROM webhooks") != sealed

    for secret in (hook.secret, changed.secret):
        receiver.secrets = [secret]
        seen = len(receiver.received)
        await writer.send(group, alice).message()
        await publish(conn)
        await wait_until(lambda: len(receiver.received) > seen)  # noqa: B023
    await wait_until(is_sealed_anew)
    keys.replace("b" * 32)
    await writer.send(group, alice).message()
    await publish(conn)
    await wait_until(lambda: len(receiver.received) == 3)


async def test_a_secret_that_cannot_be_read(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """Nothing is sent unsigned: what happens waits until a key fits; other endpoints go on."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await make_endpoint(handler, receiver)
    others = SigningKeys("o" * 32)
    async with receiving() as other:
        await make_endpoint(Webhooks(pool, others, Rules(HOSTS)), other)
        keys = SigningKeys("o" * 32)
        await nursery.start(WebhookDelivery(pool, sealing_keys(keys), Terms(HOSTS)).run)
        await writer.send(group, alice).message()
        await publish(conn)
        await wait_until(lambda: other.received)
        assert receiver.received == []
        keys.replace("o" * 32, "k" * 32)
        await wait_until(lambda: receiver.received)


async def test_spread(
    conn: Connection, database: str, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """Endpoints are shared out between the instances, each to one of them; one that comes later gets its share, and of
    one that ends the others take it. Everything arrives in order at each meanwhile, once where no instance was lost."""
    pool = Pool(database, name="spread", size=12, acquire_timeout=LONG)  # each instance has a session of it
    await nursery.start(pool.run)
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    for number in range(4):
        await make_endpoint(handler, receiver, path=str(number))
    instances = [make_delivery(pool) for _ in range(3)]

    def shares() -> list[int]:
        held = [set(one._endpoints) for one in instances]
        assert len(set.union(*held)) == sum(map(len, held))
        return sorted(map(len, held))

    async with trio.open_nursery() as life:
        await nursery.start(instances[0].run)
        await wait_until(lambda: shares() == [0, 0, 4])
        await nursery.start(instances[1].run)
        await wait_until(lambda: shares() == [0, 2, 2])
        await life.start(instances[2].run)
        await wait_until(lambda: shares() == [1, 1, 2])
        for number in range(10):
            await writer.send(group, alice, f"{number}").message()
            await publish(conn)
        await wait_for_rest(conn)
        life.cancel_scope.cancel()
    await writer.send(group, alice, "last").message()
    await publish(conn)
    await wait_until(lambda: shares() == [0, 2, 2])
    await wait_for_rest(conn)
    for number in range(4):
        seqs = [one.event["data"]["seq"] for one in receiver.received if one.path == f"/in{number}"]
        assert seqs == list(range(2, 13))
    assert sum(one.is_noting for one in instances) == 1


async def test_noted_for_others(
    conn: Connection,
    pool: Pool,
    nursery: trio.Nursery,
    receiver: Receiver,
    handler: Webhooks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The instance that notes does so as often for endpoints that others serve as for its own."""
    await make_endpoint(handler, receiver)
    noted = 0
    note = webhook_deliveries.note

    async def count(conn: Connection, **options: float) -> bool:
        nonlocal noted
        noted += 1
        return await note(conn, **options)

    async def list_deliverers(conn: Connection) -> tuple[int, list[int]]:
        await trio.lowlevel.checkpoint()
        return 1, [2]  # all is another one's

    monkeypatch.setattr(webhook_deliveries, "note", count)
    monkeypatch.setattr(webhook_deliveries, "list_deliverers", list_deliverers)
    made = make_delivery(pool)
    await nursery.start(made.run)
    await wait_until(lambda: noted)
    monkeypatch.setattr(delivery, "REFRESH", 3600.0)
    before = noted
    await wait_until(lambda: noted > before + 5)
    assert made.is_noting and not made._endpoints


async def test_code_of_before(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """While an instance of the version before delivers, which has the lock alone, this one delivers nothing."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await make_endpoint(handler, receiver)
    async with pool.connection() as other:
        await other.execute("SELECT pg_advisory_lock(hashtext('parley.webhooks'))")
        made = make_delivery(pool)
        await nursery.start(made.run)
        await writer.send(group, alice).message()
        await publish(conn)
        await wait_until(lambda: made.lag > 0)
        assert not made.is_at_work and receiver.received == []
        await other.execute("SELECT pg_advisory_unlock(hashtext('parley.webhooks'))")
    await wait_until(lambda: receiver.received)


async def test_pages_that_were_not_marked(
    conn: Connection, pool: Pool, writer: Writer, receiver: Receiver, handler: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position moves behind a page, and in the middle of one that takes long; what was accepted and not marked when
    the process dies comes again, in its order, with its ids, before anything new."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await make_endpoint(handler, receiver)
    for number in range(5):
        await writer.send(group, alice, f"{number}").message()
    await publish(conn)
    reached = trio.Event()

    async def behave(received: Received) -> bytes:
        if received.event["data"]["seq"] == 5:
            reached.set()
            await trio.sleep_forever()
        return OK

    receiver.behave = behave
    for mark, seq in ((LONG, 1), (0.0, 4)):
        monkeypatch.setattr(delivery, "MARK", mark)
        reached = trio.Event()
        async with trio.open_nursery() as life:
            await life.start(make_delivery(pool).run)
            await reached.wait()
            life.cancel_scope.cancel()
        assert await fetch_value(conn, "SELECT seq FROM webhook_positions") == seq
    receiver.behave = accept
    async with trio.open_nursery() as life:
        await life.start(make_delivery(pool).run)
        await wait_for_rest(conn)
        life.cancel_scope.cancel()
    assert [one.event["data"]["seq"] for one in receiver.received] == [2, 3, 4, 5, 2, 3, 4, 5, 5, 6]
    assert_in_order(receiver, [2, 3, 4, 5, 6])


async def test_one_at_a_time(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """Of two instances one delivers to an endpoint; the other goes on when that one has ended; both know the lag."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await make_endpoint(handler, receiver)
    gate = trio.Event()

    async def wait(received: Received) -> bytes:
        await gate.wait()
        return OK

    receiver.behave = wait
    instances = [make_delivery(pool), make_delivery(pool)]
    lives = [trio.CancelScope(), trio.CancelScope()]

    async def live(number: int) -> None:
        with lives[number]:
            await instances[number].run()

    for number in range(2):
        nursery.start_soon(live, number)
    await wait_until(lambda: all(len(one._deliverers) == 2 for one in instances))
    await wait_until(lambda: sum(len(one._endpoints) for one in instances) == 1)
    await writer.send(group, alice).message()
    await publish(conn)
    await wait_until(lambda: receiver.received and all(one.lag > 0 for one in instances))
    [holder] = [number for number in range(2) if instances[number]._endpoints]
    lives[holder].cancel()
    gate.set()
    other = instances[1 - holder]
    await wait_until(lambda: other.delivered == 1)
    await wait_until(lambda: other.lag == 0)
    assert len({found.id for found in receiver.received}) == 1 and not instances[holder].is_at_work


async def test_faults_of_the_database(
    conn: Connection,
    pool: Pool,
    nursery: trio.Nursery,
    writer: Writer,
    receiver: Receiver,
    handler: Webhooks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it is away nothing is lost; a lost session is begun anew; a defect in one conversation costs no other."""
    monkeypatch.setattr(delivery, "MAX_PAUSE", 0.02)
    [alice] = await make_users(conn, 1)
    bad, good = await make_group(conn, [alice]), await make_group(conn, [alice])
    await make_endpoint(handler, receiver)
    original, faults = webhook_deliveries.list_happened, [Unavailable("away"), ZeroDivisionError("injected")]

    async def list_happened(conn: Connection, webhook_id: UUID, conversation_id: UUID) -> object:
        if conversation_id == bad and faults:
            raise faults.pop()
        return await original(conn, webhook_id, conversation_id)

    monkeypatch.setattr(webhook_deliveries, "list_happened", list_happened)
    made = make_delivery(pool)
    await nursery.start(made.run)
    await wait_until(lambda: made.is_at_work)
    for group in (bad, good):
        await writer.send(group, alice).message()
    await publish(conn)
    await wait_until(lambda: made.delivered == 2)
    await conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    for group in (bad, good):
        await writer.send(group, alice).message()
    await publish(conn)
    await wait_until(lambda: made.delivered == 4)


async def make_report(conn: Connection, by: UUID, about: UUID, *, conversation_id: UUID | None = None) -> UUID:
    found = await reports.insert_report(
        conn,
        new_id(),
        by,
        about,
        message_id=None if conversation_id is None else new_id(),
        conversation_id=conversation_id,
        category=ReportCategory.SPAM,
        comment="look",
        content="what was said",
    )
    assert found is not None
    return found.id


def reported(receiver: Receiver) -> list[str]:
    return [one.event["data"]["reportId"] for one in receiver.received if one.event["type"] == "report.created"]


async def test_reports(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """A report comes where it is asked for, beside what happens in conversations; one that is refused comes again, with
    the same id, and holds back no other one; what was rolled back does not come, nor one that is gone by then."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice])
    refused: set[str] = set()

    async def behave(found: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return answer(500) if found.event["data"].get("reportId") in refused else OK

    receiver.behave = behave
    async with receiving() as other, receiving() as narrow:
        await make_endpoint(handler, receiver)
        await make_endpoint(handler, other, "message.created")
        await make_endpoint(handler, narrow, "report.created", conversation_id=group)
        with pytest.raises(ZeroDivisionError):
            async with conn.transaction():
                await make_report(conn, alice, carol)
                raise ZeroDivisionError
        first = await make_report(conn, alice, bob)
        gone = await make_report(conn, carol, bob)
        await conn.execute("DELETE FROM reports WHERE id = %s", [gone])
        second = await make_report(conn, bob, alice, conversation_id=group)
        refused.add(str(first))
        await writer.send(group, alice).message()
        await publish(conn)
        made = make_delivery(pool)
        await nursery.start(made.run)
        await wait_until(lambda: made.failed >= 3 and narrow.received and other.received)
        await wait_until(lambda: str(second) in reported(receiver) and "message.created" in receiver.types)
        assert other.types == ["message.created"] and reported(narrow) == [str(second)]
        refused.clear()
        await wait_for_rest(conn)
        assert set(reported(receiver)) == {str(first), str(second)}
        ids = {one.event["data"]["reportId"]: one.id for one in receiver.received if "reportId" in one.event["data"]}
        assert all(
            one.id == ids[one.event["data"]["reportId"]] for one in receiver.received if "reportId" in one.event["data"]
        )
        data = narrow.received[0].event["data"]
        assert (data["reporterId"], data["userId"], data["comment"]) == (str(bob), str(alice), "look")
        assert b"what was said" not in narrow.received[0].body
    assert made.dead == 0


@pytest.mark.usefixtures("never_disabled")
async def test_a_report_is_given_up_and_replayed(
    conn: Connection, pool: Pool, nursery: trio.Nursery, receiver: Receiver, handler: Webhooks
) -> None:
    """After its time it is a dead letter that names it; replayed, it comes with its id, as long as it is there."""
    alice, bob = await make_users(conn, 2)
    is_refused = True

    async def behave(found: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return answer(500) if is_refused else OK

    receiver.behave = behave
    hook = await make_endpoint(handler, receiver, "report.created")
    report = await make_report(conn, alice, bob)
    made = make_delivery(pool, retry_time=0.3)
    await nursery.start(made.run)
    await wait_until(lambda: made.dead == 1)
    [letter], _ = await handler.dead_letters(None, hook.id, 10, None)
    assert (letter.type, letter.object_id, letter.message_id, letter.seq) == ("report.created", report, None, None)
    count = _count(receiver, letter.id)
    assert count >= 1
    is_refused = False
    await handler.replay(None, hook.id, ReplayDeadLetters((letter.id,)))
    await wait_until(lambda: _count(receiver, letter.id) > count)


async def test_a_report_after_a_crash(conn: Connection, pool: Pool, receiver: Receiver, handler: Webhooks) -> None:
    """Killed before it has noted that the report was accepted, or what it is about was read: it comes again with its
    id, and then no more."""
    alice, bob = await make_users(conn, 2)
    await make_endpoint(handler, receiver, "report.created")
    await make_report(conn, alice, bob)
    for name in ("fetch_waiting", "forget"):
        died = trio.Event()
        async with trio.open_nursery() as life:

            async def die(*args: object) -> None:
                died.set()  # noqa: B023
                life.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(webhook_events, name, die)
                await life.start(make_delivery(pool).run)
                await wait_until(died.is_set)
    async with trio.open_nursery() as life:
        await life.start(make_delivery(pool).run)
        await wait_for_rest(conn)
        life.cancel_scope.cancel()
    assert len(receiver.received) == 2 and len({one.id for one in receiver.received}) == 1


def test_backoff() -> None:
    """It doubles, up to an hour, and is never the same."""
    delays = [[delivery.backoff(attempts) for _ in range(50)] for attempts in range(1, 40)]
    first = delivery.FIRST_DELAY
    for number, found in enumerate(delays):
        least, most = min(first * 2.0**number, 3600.0) / 2, min(first * 2.0**number, 3600.0)
        assert all(least <= delay <= most for delay in found) and len(set(found)) > 25


async def test_positions_that_are_lost(
    conn: Connection, pool: Pool, nursery: trio.Nursery, writer: Writer, receiver: Receiver, handler: Webhooks
) -> None:
    """PostgreSQL comes back without the last moves of a position: what was delivered comes again, with its ids, in its
    order, before anything new."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await make_endpoint(handler, receiver)
    await nursery.start(make_delivery(pool).run)
    for number in range(5):
        await writer.send(group, alice, f"{number}").message()
    await publish(conn)
    await wait_until(lambda: len(receiver.received) == 5)
    await wait_for_rest(conn)
    await conn.execute("UPDATE webhook_positions SET seq = 3, due_at = NULL")
    await writer.send(group, alice, "new").message()
    await publish(conn)
    await wait_until(lambda: len(receiver.received) == 9)
    assert [one.event["data"]["seq"] for one in receiver.received] == [2, 3, 4, 5, 6, 4, 5, 6, 7]
    assert_in_order(receiver, [2, 3, 4, 5, 6, 7])
