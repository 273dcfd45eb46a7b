"""Groups in slow mode, with links by which people join, while things break: counted and spaced by the database."""

from functools import partial
from pathlib import Path

import trio

from tests.chaos import faults
from tests.chaos.groups import USES, SlowGroup, note_times, open_group
from tests.chaos.services import Single
from tests.chaos.world import PATIENCE, open_world
from tests.store.cluster import Cluster as Postgres
from tests.waiting import wait_until

PAUSE = 0.5  # seconds between one's messages
FAULTS: tuple[faults.Fault, ...] = (
    faults.calm,
    faults.die_between_commit_and_publish,
    faults.kill_an_instance,
    faults.kill_redis_and_its_data,
    faults.restart_postgres,
    faults.cut_postgres,
    faults.delay_postgres,
)


def has_heard_all(group: SlowGroup) -> bool:
    """Each who joined has sent something since, and somebody tried too early."""
    return group.joined <= group.senders and group.early > 0


async def test_no_use_too_many_and_no_message_too_early(short_dir: Path, breakable: Postgres) -> None:
    """Whatever breaks while more people than a link has uses join by it, through all instances, and each member sends
    from two places: as many are in as it has uses, those who were answered so; and between two messages of one member,
    or the joining and the first of them, there is the whole interval by the time of the database."""
    async with open_world(short_dir, Single(short_dir), breakable, instances=3) as world:
        world.pause = PAUSE
        await world.populate(2)
        await note_times(world)
        for number, fault in enumerate(FAULTS):
            group = await open_group(world, number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(group.go)
                await fault(world)
                with trio.fail_after(2 * PATIENCE):
                    await group.all_answered.wait()
                    await wait_until(partial(has_heard_all, group))
                nursery.cancel_scope.cancel()
            assert await group.differences() == [], fault.__name__
            assert len(group.joined) == USES
        await world.settle()
    assert not world.logs, world.logs[0]


async def test_what_is_too_much_is_seen(short_dir: Path, breakable: Postgres) -> None:
    """Changed in the database behind the server's back: one more member than were answered so, a use that is not
    counted, a message that is gone, and one that came too early are each found."""
    async with open_world(short_dir, Single(short_dir), breakable, instances=1, proxied=False) as world:
        await world.populate(2)
        await note_times(world)
        group = await open_group(world, 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.go)
            await group.all_answered.wait()
            await wait_until(partial(has_heard_all, group))
            nursery.cancel_scope.cancel()
        assert await group.differences() == []

        async def wrong(sql: str) -> str:
            assert len(await world.query(f"{sql} RETURNING 1")) == 1  # of one row
            return "\n".join(await group.differences())

        newcomer = sorted(group.joined)[0]
        every = f"SELECT message_id::text FROM sent_at WHERE sender_id = '{newcomer}' ORDER BY at DESC"  # noqa: S608
        last = next(message for (message,) in await world.query(every) if message in group.sent)
        await world.execute(f"DELETE FROM sent_at WHERE sender_id = '{newcomer}' AND message_id <> '{last}'")  # noqa: S608
        group.sent.intersection_update(row[0] for row in await world.query("SELECT message_id::text FROM sent_at"))
        await world.execute(
            f"UPDATE members SET joined_at = (SELECT at FROM sent_at WHERE message_id = '{last}')"  # noqa: S608
            f" - interval '1.05 seconds' WHERE user_id = '{newcomer}'"
        )
        assert await group.differences() == []
        found = await wrong(f"UPDATE sent_at SET at = at - interval '0.06 seconds' WHERE message_id = '{last}'")  # noqa: S608
        assert f"{newcomer} sent" in found and "only 00:00:00.99 after" in found
        found = await wrong(f"DELETE FROM sent_at WHERE message_id = '{last}'")  # noqa: S608
        assert "were acknowledged" in found
        found = await wrong(f"UPDATE join_links SET uses = uses - 1 WHERE id = '{group.link}'")  # noqa: S608
        assert f"was used {USES - 1} times of {USES}, and {USES} are in by it" in found and "were refused" in found
        other = sorted(group.refused)[0]
        found = await wrong(
            f"INSERT INTO members (conversation_id, user_id, role, joined_at, joined_seq, delivered_seq, read_seq)"  # noqa: S608
            f" SELECT conversation_id, '{other}', role, joined_at, joined_seq, delivered_seq, read_seq FROM members"
            f" WHERE user_id = '{newcomer}'"
        )
        assert f"and {USES + 1} are in by it" in found and f"'{other}'" in found
        assert "members, and has" in found
