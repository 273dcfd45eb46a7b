"""store.redis.instances: leases, subscriptions, inboxes and reaping, on a real Valkey."""

import time
from itertools import compress

import pytest
import trio

from store.ids import new_id, octets
from store.redis import keys
from store.redis.client import Redis
from store.redis.instances import (
    INBOX_LIFE,
    LIFE,
    LISTS_LIFE,
    MEMBERS,
    MOVED_KEPT,
    Instances,
    make_id,
    process_of,
)
from tests.store.world import WAIT
from tests.waiting import wait_until

pytestmark = pytest.mark.services  # Valkeys of their own


async def test_interest(instances: Instances) -> None:
    """Who registers is found, by conversation and by user, until it unregisters; users are counted over instances."""
    conversations, users = [new_id() for _ in range(3)], [new_id() for _ in range(2)]
    await instances.enlist("a", 60)
    await instances.enlist("b", 60)
    assert await instances.register("a", octets(conversations[:2]), users) == dict.fromkeys(users, 1)
    assert await instances.register("b", octets(conversations[1:]), users[:1]) == {users[0]: 2}
    interested, present = await instances.list_interested(conversations, users)
    assert [sorted(names) for names in interested.values()] == [["a"], ["a", "b"], ["b"]]
    assert [sorted(names) for names in present.values()] == [["a", "b"], ["a"]]
    stranger = new_id()
    assert await instances.count_sessions([*users, stranger]) == {users[0]: 2, users[1]: 1, stranger: 0}
    assert await instances.unregister("a", octets(conversations), users) == dict(zip(users, (1, 0), strict=True))
    interested, present = await instances.list_interested(conversations, users)
    assert list(interested.values()) == [[], ["b"], ["b"]]
    assert list(present.values()) == [["b"], []]


async def test_users_whose_connections_were_ended(instances: Instances) -> None:
    """They are remembered, with how long ago that was."""
    killed, other = new_id(), new_id()
    assert await instances.list_killed([killed, other]) == {}
    await instances.note_killed(killed)
    assert (await instances.list_killed([other, killed])).keys() == {killed}

    async def is_past() -> bool:
        return 0.05 < (await instances.list_killed([killed]))[killed] < WAIT

    await wait_until(is_past)


async def test_users_whose_presence_moved(instances: Instances, redis: Redis) -> None:
    """Those of the time asked for, each once; the latest of them are kept."""
    users = [new_id() for _ in range(3)]
    await instances.note_moved(users[:2])
    await instances.note_moved(users[1:])
    assert set(await instances.list_moved(WAIT)) == set(users)
    async with redis.bounded() as client:
        await client.zadd(keys.MOVED, {users[0].bytes: time.time() - 2 * WAIT})
    assert set(await instances.list_moved(WAIT)) == set(users[1:])
    some = [new_id() for _ in range(MOVED_KEPT)]
    for start in range(0, MOVED_KEPT, 5000):
        await instances.note_moved(some[start : start + 5000])
    assert set(await instances.list_moved(WAIT)) == set(some)


async def test_fewer_questions(instances: Instances, redis: Redis) -> None:
    """With fewer instances than conversations the instances' own lists are read, with the same answer: all registered
    instances are found, also new ones and those not reaped yet, and none that has gone."""
    conversations, users = [new_id() for _ in range(MEMBERS + 3)], [new_id() for _ in range(3)]
    others = Instances(redis)
    await others.enlist("a", 60)
    await others.register("a", octets(conversations[1:]), users[:1])
    for _ in range(3):  # by conversation; by instance, not knowing any; knowing them
        interested, present = await instances.list_interested(conversations, users)
        assert list(interested) == conversations and list(present) == users
        assert list(interested.values()) == [[], *[["a"]] * (MEMBERS + 2)] and list(present.values()) == [["a"], [], []]
    await others.enlist("b", 0.001)
    await others.register("b", octets(conversations[-1:]), users[1:])
    interested, present = await instances.list_interested(conversations, users)
    assert interested[conversations[-1]] == ["a", "b"] and interested[conversations[-2]] == ["a"]
    assert list(present.values()) == [["a"], ["b"], ["b"]]
    await others.unregister("a", octets(conversations[2:]), users)
    await others.forget("b")
    interested, present = await instances.list_interested(conversations, users)
    assert {some_id for some_id, names in interested.items() if names} == {conversations[1]}
    assert list(present.values()) == [[], [], []]
    assert (await instances.list_interested(conversations[:1], ()))[0] == {conversations[0]: []}
    interested, _ = await instances.list_interested(conversations, (), but="a")
    assert not any(interested.values())
    await others.enlist("c", 60)
    await others.register("c", octets(conversations[:1]), ())
    interested, _ = await instances.list_interested(conversations, (), but="a")
    assert interested[conversations[0]] == ["c"]


async def test_who_listens_in_thousands(instances: Instances, redis: Redis) -> None:
    """It is found by conversation and by instance, likewise, and said by instance: for which of them it listens."""
    conversations = octets(new_id() for _ in range(MEMBERS + 3))
    others = Instances(redis)
    for name, mine in (("me", conversations[1:2]), ("a", conversations[1:]), ("b", conversations[-1:])):
        await others.enlist(name, 60)
        await others.register(name, mine, ())
    await others.enlist("idle", 60)
    for _ in range(3):  # by conversation; by instance, not knowing any; knowing them
        listening = await instances.list_listening(conversations, but="me")
        listening.pop("me", None)
        assert {name: [*compress(conversations, its)] for name, its in listening.items()} == {
            "a": conversations[1:],
            "b": conversations[-1:],
        }
    assert (await instances.list_listening(conversations[:1], but="me")) == {}
    [its] = (await instances.list_listening(conversations[2:3], but="me")).values()
    assert its == [True]


async def test_being_alone(instances: Instances, redis: Redis) -> None:
    """It is known after a look, and only until the next one finds that another instance has come."""
    room = [new_id()]
    await instances.enlist("me", 60)
    assert not instances.is_alone
    for _ in range(2):  # the first look only counts
        await instances.list_interested(room, but="me")
    assert instances.is_alone
    others = Instances(redis)
    await others.enlist("a", 60)
    await others.register("a", octets(room), ())
    assert (await instances.list_interested(room, but="me"))[0] == {room[0]: ["a"]}
    assert not instances.is_alone
    await others.forget("a")
    await instances.list_interested(room, but="me")
    assert instances.is_alone


async def test_inbox(instances: Instances) -> None:
    """What is delivered is read in order, from where one stopped; who has no inbox is named."""
    await instances.enlist("a", 10)
    assert await instances.deliver([("a", b"1"), ("gone", b"x"), ("a", b"2")]) == {"gone"}
    first = await instances.read("a", b"0-0", 0.5)
    assert [delivery.data for delivery in first] == [b"", b"1", b"2"]
    assert await instances.read("a", first[-1].id, 0.01) == []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(instances.deliver, [("a", b"3")])
        with trio.fail_after(WAIT):
            [third] = await instances.read("a", first[-1].id, 1.0)
    await instances.trim("a", third.id)
    assert third.data == b"3"


async def test_delivering_with_a_question(instances: Instances) -> None:
    """Both are done, whichever way is asked: by conversation at first, then by instance."""
    rooms = [new_id() for _ in range(2)]
    await instances.enlist("a", 10)
    await instances.register("a", octets(rooms[:1]), ())
    for number in range(3):
        data = b"%d" % number
        found = await instances.deliver_and_ask([("a", data), ("gone", b"x")], rooms, but="me")
        assert found == ({rooms[0]: ["a"], rooms[1]: []}, {}, {"gone"})
    read = await instances.read("a", b"0-0", 0.5)
    assert [delivery.data for delivery in read] == [b"", b"0", b"1", b"2"]


async def test_lease(instances: Instances) -> None:
    """A lease that is renewed holds; one that has run out cannot be, and its instance is dead until it is forgotten."""
    await instances.enlist("a", 0.05)
    await instances.enlist("b", 60)

    async def dead() -> list[str]:
        return sorted((await instances.list_alive_and_dead())[1])

    assert await wait_until(dead) == ["a"]
    assert not await instances.renew("a", 10)
    assert await instances.renew("b", 10)
    await instances.leave("b", 0.01)

    async def are_dead() -> bool:
        return await dead() == ["a", "b"]

    await wait_until(are_dead)
    await instances.forget("a")
    assert await dead() == ["b"]
    await instances.enlist("c", 60)
    assert await instances.renew("c", 60) and await instances.is_held("c") and not await instances.is_held("a")
    await instances.forget("c")  # a Redis that has lost the list and not the lease
    assert not await instances.renew("c", 60)


async def test_reaping(instances: Instances, redis: Redis) -> None:
    """One instance reaps at a time; the dead one's registrations go, users who were only there are returned, and
    nothing stays."""
    users, rooms = [new_id() for _ in range(MEMBERS + 3)], [new_id() for _ in range(3)]
    await instances.enlist("dead", 0.01)
    await instances.enlist("alive", 60)
    await instances.register("dead", octets(rooms), users)
    await instances.register("alive", octets(rooms[:1]), users[:1])
    assert await instances.claim_reaping("dead")
    assert not await instances.claim_reaping("dead")
    assert await instances.deliver([("dead", b"late")]) == {"dead"}
    gone: set[object] = set()
    while (await instances.count_left("dead"))[0]:
        gone.update(await instances.reap_users("dead"))
    assert gone == set(users[1:])
    while (await instances.count_left("dead"))[1]:
        await instances.reap_rooms("dead")
    await instances.forget("dead")
    interested, present = await instances.list_interested(rooms, users[:2])
    assert list(interested.values()) == [["alive"], [], []] and list(present.values()) == [["alive"], []]
    async with redis.bounded() as client:
        left = {key.decode() for key in await client.keys("parley:*")}
    assert not {key for key in left if "dead" in key} - {keys.reaping("dead")}


async def test_lifetimes(instances: Instances, redis: Redis) -> None:
    """Nothing of an instance stays for ever: not its inbox, not its lists, and not what was refreshed. The lists, which
    lead to the rest, stay longest."""
    room, user = new_id(), new_id()
    await instances.enlist("a", 60)
    await instances.register("a", octets([room]), [user])
    assert await instances.refresh("a", octets([room]), [user])
    names = keys.inbox("a"), keys.rooms("a"), keys.users("a"), keys.interest(room), keys.sessions(user)
    left = await redis.for_each(names, lambda pipe, key: pipe.pttl(key))
    for milliseconds, life in zip(left, (INBOX_LIFE, LISTS_LIFE, LISTS_LIFE, LIFE, LIFE), strict=True):
        assert 0 < milliseconds <= life * 1000
    assert min(left[1:3]) > max(left[3:])


@pytest.mark.parametrize("key", ["rooms", "users", "interest", "sessions"])
async def test_a_key_is_gone(instances: Instances, redis: Redis, key: str) -> None:
    """Each key that is evicted or deleted is noticed when it is refreshed, and written again."""
    room, user = new_id(), new_id()
    await instances.enlist("a", 60)
    await instances.register("a", octets([room]), [user])
    assert await instances.refresh("a", octets([room]), [user])
    argument: object = {"rooms": "a", "users": "a", "interest": room, "sessions": user}[key]
    async with redis.bounded() as client:
        assert await client.delete([getattr(keys, key)(argument)]) == 1
    assert not await instances.refresh("a", octets([room]), [user])
    assert await instances.refresh("a", octets([room]), [user])
    assert await instances.list_interested([room], [user]) == ({room: ["a"]}, {user: ["a"]})


async def test_an_inbox_is_gone(instances: Instances, redis: Redis) -> None:
    """A lease is not renewed without an inbox: what others send would go nowhere. Enlisted once more, there is one."""
    await instances.enlist("a", 60)
    assert await instances.renew("a", 60)
    async with redis.bounded() as client:
        await client.delete([keys.inbox("a")])
    assert not await instances.renew("a", 60)
    await instances.enlist("a", 60)
    assert await instances.renew("a", 60)


def test_ids() -> None:
    """Epochs of one process have that in common. Of an id that older code made nothing is guessed."""
    assert process_of(make_id("10.0.0.1:5000~0123abcd", 7)) == "10.0.0.1:5000~0123abcd"
    assert process_of("10.0.0.1:5000~0123abcd") == "10.0.0.1:5000~0123abcd"
