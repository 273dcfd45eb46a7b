"""P1 to P7 on several instances, while things break. Short here; `make test-chaos` for ten minutes."""

import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from loadtest.client import ClientError
from loadtest.oracle.threads import OwnThreads
from tests.chaos import conftest, faults
from tests.chaos.services import Cluster, Single, system_redis
from tests.chaos.standing import differences
from tests.chaos.world import Person, World, open_world, require_one_history
from tests.oracle_client import Breach, OracleClient, make_oracle
from tests.running import User
from tests.store.cluster import Cluster as Postgres
from tests.waiting import wait_until

# Each fault once, and what differs between the kinds of Redis on each: its end, with its data and without it. Faults of
# PostgreSQL and of the connections know nothing of the kind; a killed instance leaves keys in all slots of a Cluster.
FAULTS: dict[str, list[faults.Fault]] = {
    "valkey": [
        faults.die_between_commit_and_publish,
        faults.die_before_a_root_shows,
        faults.kill_redis_and_its_data,
        faults.restart_postgres,
        faults.pause_an_instance,
        *faults.PROXIED.values(),
    ],
    "cluster": [faults.kill_an_instance, faults.kill_redis, faults.kill_redis_and_its_data],
    "redis": [faults.calm, faults.kill_redis, faults.kill_redis_and_its_data],
}
ALL = faults.ANYWHERE | faults.PROXIED
PAUSE = 0.4  # seconds between one's messages: enough for some to be under way at each moment


def make_redis(backend: str, directory: Path) -> Single:
    if backend == "cluster":
        return Cluster(directory)
    if backend == "redis":
        program = system_redis()
        if program is None:
            pytest.skip("the system's redis-server is not installed")
        return Single(directory, program)
    return Single(directory)


async def survive(world: World, backend: str, name: str, fault: faults.Fault) -> None:
    """Load, the fault, load, and then everything is as promised."""
    world.shuffle()
    await world.write_for(1.0)
    await fault(world)
    await world.write_for(0.5)
    seconds = await world.settle()
    conftest.healed.append((backend, name, seconds))


def test_each_fault_has_its_turn() -> None:
    """None is left to the long run alone."""
    assert {fault for found in FAULTS.values() for fault in found} == {*ALL.values()}


@pytest.mark.parametrize("backend", FAULTS)
async def test_every_fault(backend: str, short_dir: Path, breakable: Postgres) -> None:
    """After each fault in turn: one order everywhere, no repeat, no gap, nothing acknowledged lost; at the end
    receipts, presence and what is found are right, and no defect was logged."""
    redis = make_redis(backend, short_dir)
    instances = 3 if backend == "valkey" else 2
    async with open_world(short_dir, redis, breakable, instances=instances, proxied=backend == "valkey") as world:
        world.pause = PAUSE
        await world.populate(6)
        for fault in FAULTS[backend]:
            await survive(world, backend, fault.__name__, fault)
        await world.settle_receipts()
        await world.settle_search()
        await world.settle_presence()
        await require_one_history(world)
    assert not world.logs, world.logs[0]


async def test_long(request: pytest.FixtureRequest, short_dir: Path, breakable: Postgres) -> None:
    """The same with four instances, for minutes, in random order."""
    minutes = request.config.getoption("--chaos-minutes")
    if not minutes:
        pytest.skip("`make test-chaos` runs it")
    seed = request.config.getoption("--chaos-seed") or random.randrange(10**6)
    choice = random.Random(seed)
    async with open_world(short_dir, make_redis("valkey", short_dir), breakable, instances=4) as world:
        await world.populate(16)
        start = trio.current_time()
        while trio.current_time() < start + 60 * minutes:
            name = choice.choice(list(ALL))
            print(f"{trio.current_time() - start:5.0f} s  {name} (seed {seed})", flush=True)  # noqa: T201
            await survive(world, "valkey", name, ALL[name])
        await world.settle_receipts()
        await world.settle_search()
        await world.settle_presence()
        await require_one_history(world)
    assert not world.logs, world.logs[0]


async def test_wrong_threads_are_seen(short_dir: Path, breakable: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed in the database behind the server's back, so that a root shows another count, a reply is in no thread, a
    user follows none, and a cursor is elsewhere: each is found, and at whom."""
    async with open_world(short_dir, make_redis("valkey", short_dir), breakable, instances=1, proxied=False) as world:
        await world.populate(2)
        alice, bob = world.people
        group, root = world.conversations[0], ""
        for person, thread in ((alice, False), (bob, True), (alice, True)):
            number, key = person.oracle_client.draft()
            sent = await person.send(group, number, key, root=root if thread else None)
            assert sent is not None
            root = root or sent
        await bob.of_thread("UnfollowThread", root)
        await world.settle()
        stored = await world.judge()
        assert await differences(world, stored) == []
        (shown,) = (message.thread for message in stored[group] if message.id == root)
        assert shown is not None and shown.reply_count == 2
        await bob.of_thread("UnfollowThread", root)
        monkeypatch.setattr(OwnThreads, "unsure", lambda *_: None)  # nothing is set from here on, whatever is lost

        async def wrong(sql: str) -> str:
            assert len(await world.query(f"{sql} RETURNING 1")) == 1  # of one row
            return "\n".join(await differences(world, stored))

        bobs = f"root_id = '{root}' AND user_id = '{bob.user.id}'"
        found = await wrong(f"UPDATE threads SET reply_count = 3 WHERE root_id = '{root}'")  # noqa: S608
        assert f"there is a row of threads that no message explains: ('{root}', 3" in found
        found = await wrong(f"UPDATE thread_members SET reply_count = 2 WHERE {bobs}")  # noqa: S608
        assert f"a row of thread_members is missing: ('{root}', '{bob.user.id}', 1" in found
        found = await wrong(f"UPDATE thread_members SET is_following = true WHERE {bobs}")  # noqa: S608
        assert f"{bob.user.id} follows {root}: True, and should be False" in found
        others = f"root_id = '{root}' AND user_id = '{alice.user.id}'"
        found = await wrong(f"UPDATE thread_members SET read_seq = 0 WHERE {others}")  # noqa: S608
        assert f"{alice.user.id} replied in {root} as" in found
        found = await wrong(f"UPDATE messages SET also_in_conversation = true WHERE id = '{sent}'")  # noqa: S608
        assert f"the main history of {group} has" in found
        await wrong(f"UPDATE messages SET thread = NULL WHERE id = '{root}'")  # noqa: S608
        with pytest.raises(Breach):
            await world.judge()
    assert any(text.startswith(f"{root} shows None") for text in (one.text for one in world.oracle.breaches))


async def test_wrong_counts_are_seen(short_dir: Path, breakable: Postgres) -> None:
    """Changed in the database behind the server's back, so that a count, a pin, a setting and a search are wrong: each
    is found, and at whom."""
    async with open_world(short_dir, make_redis("valkey", short_dir), breakable, instances=1, proxied=False) as world:
        await world.populate(2)
        alice, bob = world.people
        group, id_ = world.conversations[0], f"'{bob.user.id}'"
        message: str | None = ""
        for mentions in (((bob.user.id,), False), ((), True)):
            number, key = alice.oracle_client.draft(mentions)
            message = await alice.send(group, number, key, mentions)
        await wait_until(lambda: alice.newest.get(group) == message)
        await alice.pin(group)
        await bob.set(group, {"archived": True})
        await world.settle()
        stored = await world.judge()
        assert await differences(world, stored) == []

        async def wrong(sql: str) -> str:
            assert len(await world.query(f"{sql} RETURNING 1")) == 1  # of one row
            return "\n".join(await differences(world, stored))

        found = await wrong(f"DELETE FROM mentions WHERE user_id = {id_}")  # noqa: S608
        assert f"a row of mentions is missing: ({id_}" in found
        assert "p1 is answered 2 unread and 1 mentions" in found
        found = await wrong(f"DELETE FROM pins WHERE message_id = '{message}'")  # noqa: S608
        assert f"p0 is listed the pins [] in {group}, not ['{message}']" in found
        assert f"p1 is listed the pins [] in {group}, not ['{message}']" in found
        where = f"user_id = {id_} AND conversation_id = '{group}'"
        found = await wrong(f"UPDATE members SET favourite = true WHERE {where}")  # noqa: S608
        assert found.count("p1 has settings Settings(archived=True, favourite=False") == 2  # on both devices
        found = await wrong(f"DELETE FROM message_search WHERE id = '{message}'")  # noqa: S608
        assert f"in {group} finds set(): {message}" in found
        found = await wrong(f"UPDATE messages SET sender_id = {id_} WHERE id = '{message}'")  # noqa: S608
        assert "p1 is answered 1 unread" in found


async def test_who_waits_for_a_connection_gets_it(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when attempts to come back failed meanwhile: else a user would do nothing any more, and a run not end."""
    attempts = 0

    async def connect(person: Person, instance: object) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ClientError("it is away")
        person.online.set()
        await trio.sleep_forever()

    monkeypatch.setattr(Person, "_connect", connect)
    world: Any = SimpleNamespace(instances=[SimpleNamespace(alive=True)])
    person = Person(world, User("", "p0", ""), OracleClient(make_oracle([""]), 0, "", []))
    online = person.online
    nursery.start_soon(person.live)
    with trio.fail_after(60):
        await online.wait()
    nursery.cancel_scope.cancel()


async def test_no_rest_while_an_answer_is_awaited(
    short_dir: Path, breakable: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is stopped answers nothing, and nothing changes: what it was asked it does later, so it is no rest
    before it has."""
    async with open_world(short_dir, make_redis("valkey", short_dir), breakable, instances=1, proxied=False) as world:
        await world.populate(2)
        await world.settle()
        running = world.instances[0].running
        assert running is not None
        heads, looks, rested = world._heads, list[int](), list[object]()

        async def look() -> dict[str, int]:
            looks.append(len(looks))
            return await heads()

        async def rest() -> None:
            rested.append(await world.rest())

        monkeypatch.setattr(world, "_heads", look)
        running.pause()
        try:
            world.writing.set()
            await wait_until(lambda: all(person.is_busy for person in world.people))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rest)
                await wait_until(lambda: rested or len(looks) > 5)  # as many as find the same
                assert not rested
                running.resume()
        finally:
            running.resume()
        assert rested[0] and not any(person.is_busy for person in world.people)
        await world.settle()


class Tampering:
    """Breaks the stream of one client's events on purpose, once, at its tenth message."""

    def __init__(self, how: str) -> None:
        self._how = how
        self._seen = 0
        self._kept: list[tuple[str, list[Any]]] = []

    @property
    def is_done(self) -> bool:
        return self._seen > 10 and not self._kept

    def __call__(self, target: str, arguments: list[Any]) -> list[tuple[str, list[Any]]]:
        event = (target, arguments)
        if target != "ReceiveMessage":
            return [event]
        self._seen += 1
        if self._kept and self._kept[0][1][0]["conversationId"] == arguments[0]["conversationId"]:
            kept, self._kept = self._kept, []
            return [event, *kept]
        if self._seen == 10:
            if self._how == "drop":
                return []
            if self._how == "duplicate":
                return [event, event]
            self._kept = [event]
            return []
        return [event]


async def test_the_oracle_sees_it(short_dir: Path, breakable: Postgres) -> None:
    """A message dropped, duplicated or reordered on purpose is found, and at whom; also by the history checker."""
    tampering = {3: Tampering("drop"), 4: Tampering("duplicate"), 5: Tampering("reorder")}
    async with open_world(short_dir, make_redis("valkey", short_dir), breakable, instances=1, proxied=False) as world:
        await world.populate(6, tampering)
        world.writing.set()
        await wait_until(
            lambda: all(each.is_done for each in tampering.values()) and world.people[3].oracle_client.has_gaps
        )
        assert await world.rest(though_breached=True)
        with pytest.raises(Breach):
            await world.judge()
        counts = (await world.check_history()).counts
    assert counts.keys() <= {"repeat", "order", "gap"}, counts
    assert counts["repeat"] and counts["order"] and counts["gap"] + counts["order"] > 1, counts
    texts = [breach.text for breach in world.oracle.breaches]
    assert any("left out for p3" in text or "changed before p3 had seen it" in text for text in texts), texts
    assert any("came to p4" in text and text.endswith("for the second time") for text in texts), texts
    assert any("came to p5 after" in text for text in texts), texts
    assert not any(re.search("p[012]\\b", text) for text in texts), texts
