"""server.cluster.recovery: after a lost membership no user keeps access that was withdrawn meanwhile (P9)."""

from collections.abc import Collection, Sequence
from typing import cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from handlers.model import Caller
from server.cluster import recovery
from server.cluster.recovery import SLACK, Recovery
from server.fanout.conversation_updates import ConversationNotifier
from server.fanout.thread_updates import ThreadNotifier
from store.errors import Unavailable
from store.ids import PackedIds, new_id
from store.model import Privacy
from store.postgres.blocks import Around, Concerning
from store.redis.inbox_entries import BANNED, ENDED, killing_of, moderated
from tests.server.fanout.test_rooms import CONVERSATION, Connection, World


class Truth:
    """PostgreSQL as it is now."""

    def __init__(self) -> None:
        self.members: dict[UUID, list[UUID]] = {}
        self.most_asked = 0  # users at once
        self.gone: set[UUID] = set()
        self.over: set[UUID] = set()
        self.hiding: dict[UUID, tuple[Privacy, int]] = {}
        self.late: list[tuple[UUID, UUID]] = []
        self.set_late: list[tuple[UUID, UUID]] = []
        self.threads_late: list[tuple[UUID, UUID]] = []
        self.out: set[UUID] = set()
        self.around: dict[UUID, Concerning] = {}

    async def all_memberships(self, user_ids: Collection[UUID]) -> dict[UUID, PackedIds]:
        self.most_asked = max(self.most_asked, len(user_ids))
        return {user_id: PackedIds.of(self.members[user_id]) for user_id in user_ids if user_id in self.members}

    async def deleted(self, user_ids: Collection[UUID]) -> list[UUID]:
        return [user_id for user_id in user_ids if user_id in self.gone]

    async def banned(self, user_ids: Collection[UUID]) -> list[UUID]:
        return [user_id for user_id in user_ids if user_id in self.out]

    async def blocks(self, user_ids: Collection[UUID]) -> dict[UUID, Concerning]:
        return {user_id: self.around[user_id] for user_id in user_ids if user_id in self.around}

    async def privacy(self, user_ids: Collection[UUID]) -> dict[UUID, tuple[Privacy, int]]:
        return {user_id: self.hiding[user_id] for user_id in user_ids if user_id in self.hiding}

    async def ended(self, session_ids: Collection[UUID]) -> Collection[UUID]:
        return [session_id for session_id in session_ids if session_id in self.over]

    async def joined(self, user_ids: Collection[UUID], seconds: float) -> Sequence[tuple[UUID, UUID]]:
        assert seconds == 5 + SLACK
        return [(user_id, conversation_id) for user_id, conversation_id in self.late if user_id in user_ids]

    async def settings_changed(self, user_ids: Collection[UUID], seconds: float) -> Sequence[tuple[UUID, UUID]]:
        assert seconds == 5 + SLACK
        return [(user_id, conversation_id) for user_id, conversation_id in self.set_late if user_id in user_ids]

    async def threads_changed(self, user_ids: Collection[UUID], seconds: float) -> Sequence[tuple[UUID, UUID]]:
        assert seconds == 5 + SLACK
        return [(user_id, thread_id) for user_id, thread_id in self.threads_late if user_id in user_ids]


class Threads:
    def __init__(self) -> None:
        self.notified: list[tuple[UUID, UUID]] = []

    def notify(self, user_id: UUID, thread_id: UUID) -> None:
        self.notified.append((user_id, thread_id))


class Doubts:
    def __init__(self) -> None:
        self.asked: list[tuple[UUID, UUID]] = []
        self.notified: list[tuple[UUID, UUID]] = []

    def notify(self, conversation_id: UUID, user_ids: Collection[UUID]) -> None:
        self.notified += [(conversation_id, user_id) for user_id in user_ids]

    def recheck(self, conversation_id: UUID, user_id: UUID) -> None:
        self.asked.append((conversation_id, user_id))


class Cluster:
    """An instance that was away from the others, and what is true meanwhile."""

    def __init__(self) -> None:
        self.world = World()
        self.truth = Truth()
        self.doubts = Doubts()
        self.killed: dict[UUID, float] = {}
        self.threads = Threads()
        notifiers = cast(ConversationNotifier, self.doubts), cast(ThreadNotifier, self.threads)
        self.recovery = Recovery(self.world.rooms, *notifiers, self.truth, self, self)
        self.caught_up: list[float] = []

    async def catch_up(self, seconds: float) -> None:
        self.caught_up.append(seconds)

    async def list_killed(self, user_ids: Collection[UUID]) -> dict[UUID, float]:
        return {user_id: ago for user_id, ago in self.killed.items() if user_id in user_ids}

    async def attached(self, user_id: UUID, sign_in: UUID | None = None) -> Connection:
        connection = await self.world.connection(user_id)
        connection.caller = Caller(user_id, float("inf"), session_id=sign_in)
        async with self.world.rooms.opened([CONVERSATION]) as opened:
            opened[CONVERSATION].attach(connection)
        self.truth.members[user_id] = [CONVERSATION]
        return connection

    def is_here(self, connection: Connection) -> bool:
        return connection in self.world.rooms.connections_of(connection.user_id)


async def test_sign_ins_that_ended_meanwhile() -> None:
    """Their connections are closed; another of the same user, and those of no sign-in session, stay."""
    cluster, user, ended, live = Cluster(), new_id(), new_id(), new_id()
    first, second, third = [await cluster.attached(user, sign_in) for sign_in in (ended, live, None)]
    cluster.truth.over = {ended}
    await cluster.recovery.check_all(5)
    assert [cluster.is_here(connection) for connection in (first, second, third)] == [False, True, True]
    assert cluster.doubts.asked == [] and cluster.caught_up == [5 + SLACK]


async def test_what_was_hidden_meanwhile() -> None:
    """What users hide who are connected here is read, of others nothing is kept."""
    cluster, stranger = Cluster(), new_id()
    connection = await cluster.attached(new_id())
    hidden = Privacy(typing=False)
    cluster.truth.hiding = {connection.user_id: (hidden, 2), stranger: (hidden, 2)}
    await cluster.recovery.check_all(5)
    settings = cluster.world.rooms.privacy
    assert (settings.of(connection.user_id), len(settings)) == (hidden, 1)


async def test_blocks_that_were_made_meanwhile() -> None:
    """Of the users who are connected here, both sides; what is gone by the next time is forgotten."""
    cluster, other = Cluster(), new_id()
    connection = await cluster.attached(new_id())
    blocks = cluster.world.rooms.blocks
    cluster.truth.around = {
        connection.user_id: Concerning(0, [Around(other, False, 2)]),
        new_id(): Concerning(3, [Around(other, True, 3)]),
    }
    await cluster.recovery.check_privacy()
    assert blocks.is_hidden(connection.user_id, other) and len(blocks) == 1
    cluster.truth.around = {}
    await cluster.recovery.check_privacy()
    assert len(blocks) == 0


async def test_users_who_were_deleted_meanwhile() -> None:
    """All connections of an erased user are closed, and no others."""
    cluster = Cluster()
    gone, other = await cluster.attached(new_id()), await cluster.attached(new_id())
    cluster.truth.gone = {gone.user_id}
    await cluster.recovery.check_all(5)
    assert not cluster.is_here(gone) and cluster.is_here(other)


async def test_users_who_were_banned_meanwhile() -> None:
    """Their connections are closed with that reason, and no others: without Redis it is how a ban reaches them."""
    cluster = Cluster()
    out, other = await cluster.attached(new_id()), await cluster.attached(new_id())
    cluster.truth.out = {out.user_id}
    await cluster.recovery.check_access()
    assert not cluster.is_here(out) and cluster.is_here(other)


async def test_late_news_of_a_ban(autojump_clock: MockClock) -> None:
    """Whom PostgreSQL still knows as banned is disconnected; so is everybody when it does not say, or takes long, for
    access that was withdrawn must not last (P9)."""
    cluster = Cluster()
    banned, lifted, ended = new_id(), new_id(), new_id()
    cluster.truth.out.add(banned)
    found = [moderated(banned, BANNED), moderated(lifted, BANNED), moderated(ended, ENDED), killing_of(ended)]
    assert await cluster.recovery.still_due(found) == (found[0], *found[2:])

    async def away(user_ids: Collection[UUID]) -> list[UUID]:
        await trio.lowlevel.checkpoint()
        raise Unavailable("away")

    async def silent(user_ids: Collection[UUID]) -> list[UUID]:
        await trio.sleep_forever()
        raise AssertionError

    for banned_now in (away, silent):
        cluster.truth.banned = banned_now  # type: ignore[method-assign]
        assert await cluster.recovery.still_due(found) == tuple(found)


async def test_access_is_not_kept_by_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose access has ended is gone also while heads cannot be compared; that is repeated."""

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise Unavailable("a page cannot be read")

    cluster, ended = Cluster(), new_id()
    gone, over, killed = [await cluster.attached(new_id(), sign_in) for sign_in in (None, ended, None)]
    stays = await cluster.attached(new_id())
    cluster.truth.gone, cluster.truth.over, cluster.killed = {gone.user_id}, {ended}, {killed.user_id: -1.0}
    monkeypatch.setattr(cluster.world.rooms.history, "check_heads", fail)
    with pytest.raises(Unavailable):
        await cluster.recovery.check_all(5)
    assert [cluster.is_here(connection) for connection in (gone, over, killed, stays)] == [False, False, False, True]


async def test_without_the_others() -> None:
    """What PostgreSQL says of users and sign-ins is looked at also while the instance is away from the others."""
    cluster, ended = Cluster(), new_id()
    gone, over, other = await cluster.attached(new_id()), await cluster.attached(new_id(), ended), new_id()
    stays = await cluster.attached(other)
    cluster.truth.gone, cluster.truth.over = {gone.user_id}, {ended}
    await cluster.recovery.check_access()
    assert [cluster.is_here(connection) for connection in (gone, over, stays)] == [False, False, True]


async def test_users_whom_an_operator_has_disconnected_meanwhile(autojump_clock: MockClock) -> None:
    """Their connections of before are closed, those that they have opened since stay, and those of others."""
    cluster, user = Cluster(), new_id()
    before, since, other = [await cluster.attached(each) for each in (user, user, new_id())]
    before.opened_at = trio.current_time()
    await trio.sleep(20)
    since.opened_at = trio.current_time()
    other.opened_at = before.opened_at
    cluster.killed = {user: 10.0}
    await cluster.recovery.check_all(5)
    assert [cluster.is_here(connection) for connection in (before, since, other)] == [False, True, True]


async def test_members_who_were_removed_meanwhile() -> None:
    """Users who are attached but not members are rechecked; members are not."""
    cluster = Cluster()
    removed, member = await cluster.attached(new_id()), await cluster.attached(new_id())
    cluster.truth.members[removed.user_id] = []
    await cluster.recovery.check_all(5)
    assert cluster.doubts.asked == [(CONVERSATION, removed.user_id)]
    assert cluster.is_here(removed) and cluster.is_here(member)


async def test_members_who_were_added_meanwhile() -> None:
    """Users who have joined a conversation are rechecked, although no connection of theirs is attached to it."""
    cluster, conversation = Cluster(), new_id()
    added, other = await cluster.attached(new_id()), await cluster.attached(new_id())
    cluster.truth.members[added.user_id].append(conversation)
    cluster.truth.late = [(added.user_id, conversation), (new_id(), conversation)]
    await cluster.recovery.check_all(5)
    assert cluster.doubts.asked == [(conversation, added.user_id)] and cluster.is_here(other)


async def test_settings_that_were_changed_meanwhile() -> None:
    """The user's connections are notified, and attached to nothing that they have left."""
    cluster = Cluster()
    here = await cluster.attached(new_id())
    cluster.truth.set_late = [(here.user_id, CONVERSATION), (new_id(), CONVERSATION)]
    await cluster.recovery.check_all(5)
    assert cluster.doubts.notified == [(CONVERSATION, here.user_id)] and cluster.doubts.asked == []


async def test_members_whom_a_lost_history_had_removed() -> None:
    """They are attached again, with a Resync, where the history went back; others are left as they are."""
    cluster = Cluster()
    connection, manual = await cluster.attached(new_id()), await cluster.attached(new_id())
    manual.auto_attach = False
    for one in (connection, manual):
        cluster.world.rooms.detach(CONVERSATION, one)
    await cluster.recovery.check_people()
    assert connection.resynced == []
    await cluster.recovery.check_people([CONVERSATION, new_id()])
    assert connection.resynced == [CONVERSATION] and manual.resynced == []


async def test_connections_of_one_user_are_compared_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have their turn between two connections of a user who is in very many conversations. What changes
    meanwhile is seen at the connections that follow, and those that have ended are not brought back."""
    cluster, user = Cluster(), new_id()
    monkeypatch.setattr(recovery, "COMPARED", 1)
    connections = [await cluster.attached(user) for _ in range(5)]
    rooms, steps = cluster.world.rooms, 0

    async def meanwhile() -> None:
        nonlocal steps
        while True:
            await trio.lowlevel.checkpoint()
            steps += 1
            if connections[0].resynced and not connections[3].closed:
                rooms.detach(CONVERSATION, connections[4])
                connections[3].closed = True
                rooms.unregister(connections[3])

    rooms.detach(CONVERSATION, connections[0])
    rooms.detach(CONVERSATION, connections[3])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meanwhile)
        await cluster.recovery.check_people([CONVERSATION])
        nursery.cancel_scope.cancel()
    assert [one.resynced for one in connections] == [[CONVERSATION], [], [], [], [CONVERSATION]]
    assert steps >= 4 and cluster.doubts.asked == []


async def test_memberships_are_read_of_a_few_users_at_a_time() -> None:
    """Each may be in thousands of conversations; who is in none any more is rechecked like others."""
    cluster = Cluster()
    people = [await cluster.attached(new_id()) for _ in range(2 * recovery.PACKED + 1)]
    del cluster.truth.members[people[0].user_id]
    await cluster.recovery.check_people()
    assert cluster.truth.most_asked == recovery.PACKED
    assert cluster.doubts.asked == [(CONVERSATION, people[0].user_id)]
