"""Webhooks while instances and the receiver are killed: nothing is missing, the order is kept, repeats have an id.

So it is with what happens in conversations, with reports, and with members who are offline with unread messages.
"""

import json
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from handlers.model import CreateWebhook
from handlers.webhooks import Rules, Webhooks
from store.ids import new_id
from store.model import ReportCategory, WebhookEvent
from store.postgres import conversations, outbox, reports
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.signing import SigningKeys
from tests.running import JWT_KEY, Running, free_port, running
from tests.store.world import Writer, fetch_value, make_group, make_users, make_writer
from tests.waiting import wait_until

INSTANCES = 2
HOST = "127.0.0.1"
WAVE = 100  # messages that are sent at once
RENAMED = 40  # of so many messages one is followed by another name of the group, and a report
REPORT, UNREAD = WebhookEvent.REPORT_CREATED.value, WebhookEvent.USER_OFFLINE_WITH_UNREAD.value
OWN = (REPORT, UNREAD)  # those that are no changes of a conversation


class Receiver:
    """The process, at one port and with one file, however often it is killed."""

    def __init__(self, place: Path, chance: random.Random) -> None:
        self.port = free_port()
        self.secret = ""
        self.place = place
        self.kills = 0
        self._chance = chance
        self._process: trio.Process | None = None

    async def start(self) -> None:
        module = "tests.chaos.webhook_receiver_process"
        given = [str(self.port), str(self.place), self.secret, str(self._chance.randrange(2**31))]
        self._process = await trio.lowlevel.open_process(
            [sys.executable, "-m", module, *given], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )

    async def kill(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, "it has ended by itself: what came was not signed, or not understood"
        self._process.kill()
        await self._process.wait()
        self.kills += 1

    def count(self) -> int:
        return self.place.read_bytes().count(b"\n") if self.place.exists() else 0

    def kept(self) -> list[tuple[str, str, UUID, int]]:
        """(id, type, conversation, seq), in the order in which they came."""
        lines = self.place.read_text().splitlines() if self.place.exists() else []
        return [(one, kind, UUID(conversation), seq) for one, kind, conversation, seq in map(json.loads, lines)]


class Instances:
    """They run until `done`; one that is killed is begun anew."""

    def __init__(self, database: str, redis_url: str) -> None:
        self._database, self._redis_url = database, redis_url
        self.done = trio.Event()
        self.alive: dict[int, Running] = {}
        self.kills = 0

    async def keep(self, number: int) -> None:
        while not self.done.is_set():
            options: dict[str, Any] = {"webhook_hosts": HOST, "webhook_unread_delay": "1s"}
            async with running(self._database, self._redis_url, **options) as one:
                self.alive[number] = one
                await wait_until(lambda: self.done.is_set() or one.process.poll() is not None)
                self.alive.pop(number)

    def kill(self, chance: random.Random) -> None:
        if self.alive:
            self.alive[chance.choice(sorted(self.alive))].kill()
            self.kills += 1


@asynccontextmanager
async def writing(database: str) -> AsyncIterator[tuple[Connection, Pool, Writer]]:
    """What commits and never publishes, as a publisher that dies each time: instances announce it."""
    async with trio.open_nursery() as nursery:
        pool = Pool(database, name="chaos", size=3)
        await nursery.start(pool.run)
        writer = make_writer(pool, outbox=True)
        await nursery.start(writer.lanes.run)
        conn = await Connection.open(database)
        yield conn, pool, writer
        await conn.close()
        nursery.cancel_scope.cancel()


async def fill(conn: Connection, writer: Writer, groups: list[UUID], alice: UUID, count: int) -> set[UUID]:
    """So many messages, spread over the groups, and now and then another name, and a report. Return the reports."""
    reported = set()
    for start in range(0, count, WAVE):
        numbers = range(start, min(start + WAVE, count))
        sent = [writer.send(groups[number % len(groups)], alice, f"{number}") for number in numbers]
        for one in sent:
            await one.message()
        for number in numbers:
            if number % RENAMED == 0:
                async with conn.transaction():
                    group = groups[number % len(groups)]
                    change = await conversations.update_title(conn, group, f"name {number}", by=alice)
                    await outbox.insert_outbox(conn, [change])
                    found = await reports.insert_report(
                        conn,
                        new_id(),
                        new_id(),
                        alice,
                        message_id=new_id(),
                        conversation_id=group,
                        category=ReportCategory.SPAM,
                        comment=None,
                        content=None,
                    )
                assert found is not None
                reported.add(found.id)
    return reported


async def disturb(
    receiver: Receiver, instances: Instances, chance: random.Random, *, pause: float, events: int
) -> None:
    """Kill one of them after the other. Between two of them something arrives, however slow the machine is."""
    while True:
        before = receiver.count()
        await wait_until(lambda: receiver.count() > before or receiver.count() >= events)  # noqa: B023
        await trio.sleep(pause * chance.uniform(0.5, 1.5))  # at its own pace
        if chance.random() < 0.5:
            instances.kill(chance)
        else:
            await receiver.kill()
            await receiver.start()


async def is_all_delivered(conn: Connection) -> bool:
    left = "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM webhook_queue)"
    waiting = "SELECT count(*) FROM webhook_positions WHERE due_at IS NOT NULL"
    unread = "SELECT count(*) FROM unread_scans WHERE due_at IS NOT NULL"  # and what is found there is an event next
    own = "SELECT count(*) FROM webhook_events"
    return all([await fetch_value(conn, query) == 0 for query in (left, waiting, unread, own)])


def judge(
    kept: list[tuple[str, str, UUID, int]],
    expected: dict[UUID, list[int]],
    reported: Collection[UUID] = (),
    unread: Mapping[UUID, int] | None = None,
) -> int:
    """Each event came, those of a conversation the first time in order; each id stands for one event, and each event
    for one id. `unread`: the last message of each conversation, which the newest event about it has. Return how many
    came again."""
    of_id: dict[str, tuple[str, UUID, int]] = {}
    first: dict[UUID, list[int]] = defaultdict(list)
    for event_id, kind, about, seq in kept:
        if event_id not in of_id and kind not in OWN:
            first[about].append(seq)
        what = (kind if kind in OWN else "", about, seq)
        assert of_id.setdefault(event_id, what) == what
    assert len(of_id) == len(set(of_id.values()))
    assert {about for kind, about, _ in of_id.values() if kind == REPORT} == set(reported), "reports are missing"
    newest: dict[UUID, int] = {}
    for kind, about, seq in of_id.values():
        if kind == UNREAD:
            newest[about] = max(seq, newest.get(about, 0))
    assert newest == (unread or {}), "what is unread at the end was not said"
    for conversation, seqs in expected.items():
        missing = set(seqs) - set(first[conversation])
        assert not missing, f"{len(missing)} of {len(seqs)} are missing: {sorted(missing)[:10]}"
        assert first[conversation] == seqs, "out of order"
    return len(kept) - len(of_id)


async def run(database: str, redis_url: str, place: Path, *, events: int, groups: int, pause: float, seed: int) -> str:
    chance = random.Random(seed)
    receiver, instances = Receiver(place, chance), Instances(database, redis_url)
    async with writing(database) as (conn, pool, writer):
        alice, bob = await make_users(conn, 2)  # who are never connected
        made = [await make_group(conn, [alice, bob]) for _ in range(groups)]
        handler = Webhooks(pool, SigningKeys(JWT_KEY), Rules((HOST,)))
        every = tuple(event.value for event in WebhookEvent)
        hook = await handler.create(None, CreateWebhook(f"http://{HOST}:{receiver.port}/in", every))
        receiver.secret = hook.secret
        await receiver.start()
        async with trio.open_nursery() as life:
            for number in range(INSTANCES):
                life.start_soon(instances.keep, number)
            await wait_until(lambda: len(instances.alive) == INSTANCES)
            async with trio.open_nursery() as chaos:
                chaos.start_soon(partial(disturb, receiver, instances, chance, pause=pause, events=events))
                reported = await fill(conn, writer, made, alice, events)
                await wait_until(lambda: instances.kills >= 2 and receiver.kills >= 2)
                await wait_until(lambda: receiver.count() >= events * 0.9)
                chaos.cancel_scope.cancel()
            began = trio.current_time()
            await wait_until(lambda: is_all_delivered(conn))
            seconds = trio.current_time() - began
            instances.done.set()
        await receiver.kill()
        rows = await (
            await conn.execute(
                "SELECT conversation_id, array_agg(seq ORDER BY seq) FROM messages WHERE seq > 1 GROUP BY 1"
            )
        ).fetchall()
        newest = await conn.execute(
            "SELECT conversation_id, max(seq) FROM messages WHERE kind <> 'System' GROUP BY conversation_id"
        )
        kept = receiver.kept()
        repeated = judge(kept, dict(rows), reported, dict(await newest.fetchall()))
        total = sum(len(seqs) for _, seqs in rows)
        said = len({event_id for event_id, kind, _, _ in kept if kind == UNREAD})
    return (
        f"{total} events in {groups} conversations, {len(reported)} reports and {said} of a user who is offline, "
        f"{instances.kills} instances and {receiver.kills} receivers killed (seed {seed}): none is missing, "
        f"{repeated} came again; the rest took {seconds:.0f} s"
    )


async def test_short(database: str, redis_url: str, tmp_path: Path) -> None:
    """Some hundred events, through kill -9 of instances and of the receiver."""
    await run(database, redis_url, tmp_path / "kept", events=400, groups=8, pause=2.0, seed=1)


async def test_long(database: str, redis_url: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """The same with many thousand."""
    events = pytestconfig.getoption("--webhook-events")
    if not events:
        pytest.skip("--webhook-events was not given")
    seed = pytestconfig.getoption("--webhook-seed") or random.SystemRandom().randrange(2**31)
    print(f"seed {seed}")  # noqa: T201
    said = await run(database, redis_url, tmp_path / "kept", events=events, groups=60, pause=2.5, seed=seed)
    print(said)  # noqa: T201


def test_the_judge() -> None:
    """It sees what is missing, out of order, or has another id the second time."""
    group = UUID(int=1)
    good = [("a", "x", group, 2), ("b", "x", group, 3), ("a", "x", group, 2)]
    assert judge(good, {group: [2, 3]}) == 1
    report, unread = ("r", REPORT, UUID(int=2), 0), ("u", UNREAD, group, 3)
    assert judge([*good, report, report, unread], {group: [2, 3]}, {UUID(int=2)}, {group: 3}) == 2
    for lost in ([*good, report], [*good, unread], [*good, report, ("u", UNREAD, group, 2)]):
        with pytest.raises(AssertionError):
            judge(lost, {group: [2, 3]}, {UUID(int=2)}, {group: 3})
    for bad in (good[:1], good[1:], [*good, ("c", "x", group, 3)], [*good, ("a", "x", group, 4)]):
        with pytest.raises(AssertionError):
            judge(bad, {group: [2, 3]})
