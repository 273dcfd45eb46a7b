"""The official JavaScript client with the recipe of docs/hub.md, as printed, while instances are killed, drained and
paused, connections cut, and history goes back. At the end what each person is shown equals what PostgreSQL has."""

import random
from pathlib import Path

import pytest
import trio

from tests.clients.live import Instances, instances, last_words
from tests.clients.stock import Person
from tests.interop.conftest import install
from tests.running import lasting
from tests.waiting import WITHIN, wait_until


async def people(servers: Instances, count: int, groups: int) -> list[Person]:
    """Registered, each in one of the groups."""
    server = servers.first
    users = [lasting(await server.register(f"person{number}")) for number in range(count)]
    found = []
    for number in range(groups):
        members = users[number::groups]
        group = await server.group(*members)
        found += [Person(user, group, servers, users.index(user)) for user in members]
    return found


async def test_long(
    node: str, npm: str, database: str, redis_url: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """For minutes: 50 people on three instances, one fault after another."""
    minutes = pytestconfig.getoption("--clients-minutes")
    if not minutes:
        pytest.skip("--clients-minutes is not given: make test-clients")
    seed = pytestconfig.getoption("--clients-seed") or random.randrange(1, 10**6)
    print(f"seed {seed}")  # noqa: T201
    await trio.to_thread.run_sync(install, npm)
    dice = random.Random(seed)
    lost: list[str] = []
    async with instances(database, redis_url, 3) as servers, trio.open_nursery() as nursery:
        found = await people(servers, 50, 5)
        for number, person in enumerate(found):
            (tmp_path / str(number)).mkdir()
            nursery.start_soon(person.run, node, tmp_path / str(number))
        await wait_until(lambda: all(person.sees_something for person in found))
        for person in found:
            nursery.start_soon(person.talk, 2.0, random.Random(dice.random()))
        end = trio.current_time() + minutes * 60
        while trio.current_time() < end:
            await trio.sleep(dice.uniform(0.5, 5))  # the pace of faults
            if dice.randrange(10) < 2:
                lost += await servers.lose_history(dice.choice(found).conversation, dice)
            else:
                await servers.fail(dice)
        await quiet(found, servers, [content.split(",")[0] for content in lost])
        sent, edits, resets = (sum(numbers) for numbers in zip(*(one.numbers for one in found), strict=True))
        said = f"{sent} messages and {edits} edits by {len(found)} people, {len(lost)} contents lost, {resets} resets"
        print(f"{said}, through {dict(servers.faults)}, 0 mismatches")  # noqa: T201


async def quiet(found: list[Person], servers: Instances, lost: list[str]) -> None:
    """All faults are over: each person is shown what there is, and has nothing left to say."""
    await trio.sleep(5)  # more is said than was lost
    for person in found:
        person.is_talking = False
    await last_words(servers.first, [person.user for person in found], sorted({one.conversation for one in found}))
    wrong: list[str] = ["not compared yet"]
    with trio.move_on_after(WITHIN):
        while wrong:
            await trio.sleep(1)  # what was said last is on its way
            wrong = [problem for one in found for problem in one.compare(servers.database, lost)]
    assert not wrong, "\n".join(wrong)
    async with trio.open_nursery() as nursery:
        for person in found:
            nursery.start_soon(person.end)
    assert not [problem for one in found for problem in one.compare(servers.database, lost)]
