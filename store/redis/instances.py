"""What instances share through Redis: which are alive, which changes each wants, and their inboxes.

Owns the commands on leases, interest, sessions and inbox streams (docs/design.md 6); names of keys are in
`store.redis.keys`. No policy: when to do what is decided in `server.cluster`. No command takes keys of two slots,
and nothing here is the only copy of anything: all of it can be lost and is then made again. Everything raises
Unavailable.

An instance also keeps two lists of its own, of the conversations and users it has registered, so that the instance
that reaps it (`reap_users`, `reap_rooms`) knows which keys have its name.

Nothing stays for ever that is not renewed: an inbox ends a minute after its instance, registrations after a day
(`refresh`), and the lists that lead to them an hour later.
"""

import math
import re
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from coredis import PureToken

from store.ids import octets, text_of
from store.redis import keys
from store.redis.client import Redis
from store.redis.resp import Command, OnEach, OnIds, Part

INBOX_LENGTH = 10_000  # entries kept for an instance that does not read; the rest it repairs from PostgreSQL
READ_COUNT = 200  # entries read at once
MEMBERS = 500  # members of a set in one command
REAPING = 10.0  # seconds for which one instance has the task of reaping another
INBOX_LIFE = 60.0  # seconds without a renewal: much longer than a lease
LIFE = 86_400.0  # seconds without a refresh, of registrations
KILLED_LIFE = 86_400.0  # seconds for which it is remembered that a user's connections were ended
LEFT_LIFE = 3600.0  # seconds for which it is remembered that a process has left: its lease ends much sooner
MOVED_KEPT, MOVED_LIFE = 20_000, 3600.0  # users whose presence moved last, and seconds without one
LISTS_LIFE = LIFE + 3600  # seconds; the lists say where registrations are, so they stay longer
_FIELD = b"e"
_ADD, _REMOVE = b"SADD", b"SREM"
_BOUND = (b"MAXLEN", b"~", b"%d" % INBOX_LENGTH)
_EPOCH = re.compile(r"(.*~[0-9a-f]{8})\.\d+")


def make_id(process: str, epoch: int) -> str:
    """Return the id of an instance: of one epoch of a process, where `process` is NAME~NONCE with eight hexadecimal
    digits.
    """
    return f"{process}.{epoch}"


def process_of(instance: str) -> str:
    """Return what all epochs of one process have in common. For an id of another form, made by older code, that is all
    of it.
    """
    found = _EPOCH.fullmatch(instance)
    return found[1] if found else instance


class Delivery(NamedTuple):
    """One entry of an inbox: its id in the stream, and what was sent."""

    id: bytes
    data: bytes


class Known(NamedTuple):
    """An instance that is listed. `renewed_at` is in seconds since 1970, by the clock of the process that wrote it."""

    instance: str
    renewed_at: float
    alive: bool
    users: int
    rooms: int


class Instances:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._listed: list[str] = []  # as of the last look; new instances are asked about, too
        self._count: float = math.inf  # how many are listed, as of the last look

    @property
    def is_alone(self) -> bool:
        """Whether the last look found no instance but the one that looked."""
        return not self._count

    # -- being alive ----------------------------------------------------------------------------

    async def enlist(self, instance: str, ttl: float) -> None:
        """Be an instance from now on: a lease for `ttl` seconds and an inbox. May be repeated.

        What ends by itself comes first: an attempt that fails leaves no name.
        """
        await self._redis.together(
            lambda pipe: [
                pipe.set(keys.lease(instance), b"1", px=int(ttl * 1000)),
                pipe.xadd(keys.inbox(instance), {_FIELD: b""}),
                pipe.pexpire(keys.inbox(instance), int(INBOX_LIFE * 1000)),
            ]
        )
        await self._redis.together(lambda pipe: [pipe.zadd(keys.INSTANCES, {instance: time.time()})])

    async def renew(self, instance: str, ttl: float) -> bool:
        """Renew the lease for `ttl` seconds. Return False if it has run out, so that the instance may have been reaped,
        or if the instance is not listed any more, or has no inbox."""
        held, listed, has_inbox = await self._redis.together(
            lambda pipe: [
                pipe.set(keys.lease(instance), b"1", px=int(ttl * 1000), condition=PureToken.XX),
                pipe.zadd(keys.INSTANCES, {instance: time.time()}, condition=PureToken.XX, change=True),
                pipe.pexpire(keys.inbox(instance), int(INBOX_LIFE * 1000)),
            ]
        )
        return bool(held and listed and has_inbox)

    async def is_held(self, instance: str) -> bool:
        """Whether the lease is there: if not, Redis may have lost what others have registered, too."""
        async with self._redis.bounded() as client:
            return bool(await client.exists([keys.lease(instance)]))

    async def leave(self, instance: str, ttl: float) -> None:
        """Let the lease end in `ttl` seconds. Until then the instance's users count as online."""
        left = keys.left(process_of(instance))
        await self._redis.together(
            lambda pipe: [
                pipe.set(left, b"1", px=int(LEFT_LIFE * 1000)),
                pipe.pexpire(keys.lease(instance), max(1, int(ttl * 1000))),
            ]
        )

    async def has_left(self, instance: str) -> bool:
        """Whether the process of this instance has said that it leaves."""
        async with self._redis.bounded() as client:
            return bool(await client.exists([keys.left(process_of(instance))]))

    async def list_alive_and_dead(self) -> tuple[list[str], list[str]]:
        """Return the instances that have a lease, and those whose lease has run out and that are not reaped yet."""
        [names] = await self._redis.together(lambda pipe: [pipe.zrange(keys.INSTANCES, 0, -1)])
        instances = [name.decode() for name in names]
        leases = await self._redis.for_each(instances, lambda pipe, name: pipe.exists([keys.lease(name)]))
        each = list(zip(instances, leases, strict=True))
        return [name for name, lease in each if lease], [name for name, lease in each if not lease]

    async def list_all(self) -> list[Known]:
        """Return every instance that is listed, including dead ones that are not reaped yet."""
        [listed] = await self._redis.together(lambda pipe: [pipe.zrange(keys.INSTANCES, 0, -1, withscores=True)])
        names = {member.decode(): score for member, score in listed}
        answers = await self._redis.for_each(
            list(names),
            lambda pipe, name: pipe.exists([keys.lease(name)]),
            lambda pipe, name: pipe.scard(keys.users(name)),
            lambda pipe, name: pipe.scard(keys.rooms(name)),
        )
        each = zip(answers[::3], answers[1::3], answers[2::3], strict=True)
        return [
            Known(name, renewed_at, bool(alive), users, rooms)
            for (name, renewed_at), (alive, users, rooms) in zip(names.items(), each, strict=True)
        ]

    # -- wanting --------------------------------------------------------------------------------

    async def register(
        self, instance: str, conversation_ids: Collection[bytes], user_ids: Collection[UUID]
    ) -> dict[UUID, int]:
        """Register this instance for these conversations and users. Return on how many instances each user is now.

        Conversations are named by the octets of their ids, as there may be thousands. The instance's own lists are
        written first: the instance that reaps it finds all other keys through them.
        """
        rooms, users = keys.rooms(instance), keys.users(instance)
        each = ((rooms, conversation_ids), (users, octets(user_ids)))
        own = [_adding(key, run) for key, ids in each for run in _runs(ids)]
        own += [_lasting(key, LISTS_LIFE) for key, ids in each if ids]
        answers = await self._redis.exchange_parts(own, *_standing(_ADD, instance, conversation_ids, user_ids))
        return _counts(user_ids, answers[len(own) + len(conversation_ids) :])

    async def refresh(self, instance: str, conversation_ids: Collection[bytes], user_ids: Collection[UUID]) -> bool:
        """Let these registrations last, and both lists. Return False if some of them were missing; they are there now.

        The lists, too, are then only as complete as what was given.
        """
        rooms, users = keys.rooms(instance), keys.users(instance)
        each = ((rooms, conversation_ids), (users, octets(user_ids)))
        adding = [_adding(key, run) for key, ids in each for run in _runs(ids)]
        lasting = [_lasting(rooms, LISTS_LIFE), _lasting(users, LISTS_LIFE)]
        conversations = (UUID(bytes=some_id) for some_id in conversation_ids)
        for key in (*map(keys.interest, conversations), *map(keys.sessions, user_ids)):
            adding.append((_ADD, key.encode(), instance.encode()))
            lasting.append(_lasting(key, LIFE))
        answers = await self._redis.exchange([*adding, *lasting])
        return not any(answers[: len(adding)])

    async def unregister(
        self, instance: str, conversation_ids: Collection[bytes], user_ids: Collection[UUID]
    ) -> dict[UUID, int]:
        """Do the opposite of `register`, in the opposite order. Return on how many instances each user still is."""
        each = ((keys.rooms(instance), conversation_ids), (keys.users(instance), octets(user_ids)))
        own = [_removing(key, run) for key, ids in each for run in _runs(ids)]
        answers = await self._redis.exchange_parts(*_standing(_REMOVE, instance, conversation_ids, user_ids), own)
        return _counts(user_ids, answers[len(conversation_ids) : len(answers) - len(own)])

    async def note_killed(self, user_id: UUID) -> None:
        """Remember that an operator has ended the connections of a user, for instances that cannot hear of it now."""
        async with self._redis.bounded() as client:
            await client.set(keys.killed(user_id), b"1", px=int(KILLED_LIFE * 1000))

    async def list_killed(self, user_ids: Collection[UUID]) -> dict[UUID, float]:
        """Return those of these users whose connections an operator has ended, and how many seconds ago."""
        left = await self._redis.for_each(user_ids, lambda pipe, user_id: pipe.pttl(keys.killed(user_id)))
        return {
            user_id: KILLED_LIFE - milliseconds / 1000
            for user_id, milliseconds in zip(user_ids, left, strict=True)
            if milliseconds >= 0
        }

    async def note_moved(self, user_ids: Collection[UUID]) -> None:
        """Remember that the presence of these users is announced now, for instances that cannot hear of it."""
        now = time.time()
        moved = {user_id.bytes: now for user_id in user_ids}
        await self._redis.together(
            lambda pipe: [
                pipe.zadd(keys.MOVED, moved),
                pipe.zremrangebyrank(keys.MOVED, 0, -MOVED_KEPT - 1),
                pipe.pexpire(keys.MOVED, int(MOVED_LIFE * 1000)),
            ]
        )

    async def list_moved(self, seconds: float) -> list[UUID]:
        """Return the users whose presence was announced in the last `seconds`, by the clocks of those instances."""
        async with self._redis.bounded() as client:
            found: Any = await client.zrange(keys.MOVED, time.time() - seconds, "+inf", sortby=PureToken.BYSCORE)
        return [UUID(bytes=one) for one in found]

    async def count_sessions(self, user_ids: Collection[UUID]) -> dict[UUID, int]:
        """On how many instances each of these users is."""
        counts = await self._redis.for_each(user_ids, lambda pipe, user_id: pipe.scard(keys.sessions(user_id)))
        return dict(zip(user_ids, counts, strict=True))

    async def list_interested(
        self, conversation_ids: Collection[UUID], user_ids: Collection[UUID] = (), *, but: str = ""
    ) -> tuple[dict[UUID, list[str]], dict[UUID, list[str]]]:
        """Return the instances registered for each conversation, and those that each user is on.

        The instance `but` is not asked about: it may be in the answer or not. There is one question for each instance,
        or one for each conversation and user, whichever are fewer. Both ways find every instance that had registered
        when this was called: an instance is listed before it registers anything, and its own lists are written before
        the sets of conversations and users. An instance that registers or leaves meanwhile may be in the answer or
        not; one that is dead and not reaped yet is.
        """
        rooms, users, _ = await self.deliver_and_ask((), conversation_ids, user_ids, but=but)
        return rooms, users

    async def deliver_and_ask(
        self,
        entries: Sequence[tuple[str, bytes]],
        conversation_ids: Collection[UUID],
        user_ids: Collection[UUID] = (),
        *,
        but: str = "",
    ) -> tuple[dict[UUID, list[str]], dict[UUID, list[str]], set[str]]:
        """`deliver` and `list_interested` in one exchange. Return what the second does, and what the first does."""
        ids = [*conversation_ids, *user_ids]
        delivering = _delivering(entries)
        if self._count <= len(ids):
            found, answers = await self._ask_by_instance(conversation_ids, user_ids, but, delivering)
        else:
            wanted = (*map(keys.interest, conversation_ids), *map(keys.sessions, user_ids))
            self._count, *answers = await self._redis.exchange(
                [(b"ZCARD", keys.INSTANCES.encode()), *((b"SMEMBERS", key.encode()) for key in wanted), *delivering]
            )
            found = [[name.decode() for name in names] for names in answers[: len(wanted)]]
            del answers[: len(wanted)]
        middle = len(conversation_ids)
        return (
            dict(zip(conversation_ids, found[:middle], strict=True)),
            dict(zip(user_ids, found[middle:], strict=True)),
            _without_inbox(entries, answers),
        )

    async def list_listening(self, conversation_ids: Sequence[bytes], *, but: str = "") -> dict[str, list[bool]]:
        """Return for which of these conversations, by the octets of their ids, each instance is registered that is for
        any: as `list_interested`, without an object for each of thousands."""
        if self._count <= len(conversation_ids):
            held, _ = await self._held_by_instance(conversation_ids, (), but, ())
            return {name: its for name, its in held.items() if any(its)}
        prefix = keys.INTEREST.encode()
        self._count, *answers = await self._redis.exchange(
            [
                (b"ZCARD", keys.INSTANCES.encode()),
                *((b"SMEMBERS", prefix + text_of(one)) for one in conversation_ids),
            ]
        )
        names = {name for answer in answers for name in answer}
        return {name.decode(): [name in answer for answer in answers] for name in names}

    async def _ask_by_instance(
        self, conversation_ids: Collection[UUID], user_ids: Collection[UUID], but: str, more: Sequence[Command]
    ) -> tuple[list[list[str]], list[Any]]:
        """For each conversation, then for each user, the instances that have it on their own lists. And the answers to
        `more`."""
        held, others = await self._held_by_instance(octets(conversation_ids), octets(user_ids), but, more)
        found: list[list[str]] = [[] for _ in range(len(conversation_ids) + len(user_ids))]
        for name, its in held.items():
            for interested, is_held in zip(found, its, strict=True):
                if is_held:
                    interested.append(name)
        return found, others

    async def _held_by_instance(
        self, conversation_ids: Sequence[bytes], user_ids: Sequence[bytes], but: str, more: Sequence[Command]
    ) -> tuple[dict[str, list[bool]], list[Any]]:
        """For each instance, which of these conversations, then users, it has on its own lists. And the answers to
        `more`."""
        asked = self._listed
        listed, held, others = await self._ask(asked, conversation_ids, user_ids, more)
        self._listed = names = [name for name in listed if name != but]
        self._count = len(names)
        new = [name for name in names if name not in asked]
        if new:
            held |= (await self._ask(new, conversation_ids, user_ids))[1]
        return {name: held[name] for name in names}, others

    async def _ask(
        self,
        names: Sequence[str],
        conversation_ids: Sequence[bytes],
        user_ids: Sequence[bytes],
        more: Sequence[Command] = (),
    ) -> tuple[list[str], dict[str, list[bool]], list[Any]]:
        """Return the listed instances, by name which of these conversations, then users, each has registered, and the
        answers to `more`."""
        rooms, users = _runs(conversation_ids), _runs(user_ids)
        listed, *answers = await self._redis.exchange(
            [
                (b"ZRANGE", keys.INSTANCES.encode(), b"0", b"-1"),
                *(
                    (b"SMISMEMBER", key.encode(), *run)
                    for name in names
                    for key, runs in ((keys.rooms(name), rooms), (keys.users(name), users))
                    for run in runs
                ),
                *more,
            ]
        )
        of_one = len(rooms) + len(users)  # answers
        held = {
            name: [is_held for answer in answers[index * of_one : (index + 1) * of_one] for is_held in answer]
            for index, name in enumerate(names)
        }
        return [name.decode() for name in listed], held, answers[len(names) * of_one :]

    # -- inboxes --------------------------------------------------------------------------------

    async def deliver(self, entries: Sequence[tuple[str, bytes]]) -> set[str]:
        """Append each entry to the inbox of its instance. Return the instances that have no inbox (any more)."""
        if not entries:
            return set()
        return _without_inbox(entries, await self._redis.exchange(_delivering(entries)))

    async def read(self, instance: str, after: bytes, block: float) -> list[Delivery]:
        """Return what has come into the inbox after the entry `after`. Wait up to `block` seconds for something."""
        key = keys.inbox(instance).encode()
        count, wait = b"%d" % READ_COUNT, b"%d" % max(1, int(block * 1000))
        [found] = await self._redis.exchange(
            [(b"XREAD", b"COUNT", count, b"BLOCK", wait, b"STREAMS", key, after)], [key]
        )
        entries = [entry for _, some in (found or ()) for entry in some]
        return [Delivery(entry_id, fields[fields.index(_FIELD) + 1]) for entry_id, fields in entries]

    async def has_entry(self, instance: str, entry_id: bytes) -> bool:
        """Whether this entry is still in the inbox: if so, none after it was dropped for want of room."""
        async with self._redis.bounded() as client:
            return bool(await client.xrange(keys.inbox(instance), start=entry_id, end=entry_id, count=1))

    async def trim(self, instance: str, before: bytes) -> None:
        """Forget the entries before this one."""
        await self._redis.together(
            lambda pipe: [
                pipe.xtrim(keys.inbox(instance), PureToken.MINID, before, trim_operator=PureToken.APPROXIMATELY)
            ]
        )

    # -- reaping --------------------------------------------------------------------------------

    async def claim_reaping(self, dead: str) -> bool:
        """Claim the task of reaping a dead instance; return False if another has it. Its inbox is deleted at once."""
        if not await self._redis.claim(keys.reaping(dead), REAPING):
            return False
        await self._redis.together(lambda pipe: [pipe.unlink([keys.inbox(dead)])])
        return True

    async def reap_users(self, dead: str) -> list[UUID]:
        """Unregister some of the dead instance's users. Return those who are on no other instance."""
        user_ids = [UUID(bytes=user_id) for user_id in await self._some_of(keys.users(dead))]
        left = await self.unregister(dead, (), user_ids)
        return [user_id for user_id, count in left.items() if count == 0]

    async def count_left(self, dead: str) -> tuple[int, int]:
        """Return how many users and rooms of a dead instance are still listed."""
        users, rooms = await self._redis.together(
            lambda pipe: [pipe.scard(keys.users(dead)), pipe.scard(keys.rooms(dead))]
        )
        return users, rooms

    async def reap_rooms(self, dead: str) -> None:
        """Unregister some of the dead instance's conversations."""
        await self.unregister(dead, await self._some_of(keys.rooms(dead)), ())

    async def forget(self, dead: str) -> None:
        """All is done: the name goes from the list."""
        await self._redis.together(
            lambda pipe: [
                pipe.unlink([keys.inbox(dead)]),
                pipe.unlink([keys.users(dead)]),
                pipe.unlink([keys.rooms(dead)]),
                pipe.unlink([keys.lease(dead)]),  # of a former epoch it may hold
                pipe.zrem(keys.INSTANCES, [dead]),
            ]
        )

    async def _some_of(self, key: str) -> list[bytes]:
        [members] = await self._redis.together(lambda pipe: [pipe.srandmember(key, MEMBERS)])
        return list(members)


def _standing(
    verb: bytes, instance: str, conversation_ids: Collection[bytes], user_ids: Collection[UUID]
) -> tuple[Part, Part]:
    """What lets the instance's name stand, or not stand, with these conversations, then with these users, and asks how
    many stand with each user then (`_counts`)."""
    name = instance.encode()
    commands: list[Command] = []
    for user_id in user_ids:
        key = keys.sessions(user_id).encode()
        commands += ((verb, key, name), (b"SCARD", key))
    return OnEach(verb, keys.INTEREST.encode(), list(conversation_ids), name), commands


def _counts(user_ids: Collection[UUID], answers: Sequence[Any]) -> dict[UUID, int]:
    return dict(zip(user_ids, answers[1::2], strict=True))


def _delivering(entries: Sequence[tuple[str, bytes]]) -> list[Command]:
    return [(b"XADD", keys.inbox(name).encode(), b"NOMKSTREAM", *_BOUND, b"*", _FIELD, data) for name, data in entries]


def _without_inbox(entries: Sequence[tuple[str, bytes]], entry_ids: Sequence[Any]) -> set[str]:
    return {instance for (instance, _), entry_id in zip(entries, entry_ids, strict=True) if entry_id is None}


def _adding(key: str, ids: Iterable[bytes]) -> Command:
    return OnIds((_ADD, key.encode(), *ids))


def _lasting(key: str, seconds: float) -> Command:
    return b"PEXPIRE", key.encode(), b"%d" % int(seconds * 1000)


def _removing(key: str, ids: Iterable[bytes]) -> Command:
    return OnIds((_REMOVE, key.encode(), *ids))


def _runs(ids: Collection[bytes]) -> list[list[bytes]]:
    """So many for one command."""
    members = list(ids)
    return [members[start : start + MEMBERS] for start in range(0, len(members), MEMBERS)]
