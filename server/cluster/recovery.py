"""Compare the state of this instance with PostgreSQL, after it may have missed changes (docs/design.md 6 and 7).

Owns no state. `server.fanout.gap_repair` repairs rooms that are behind; `server.fanout.conversation_updates` verifies
memberships. A change of members that was missed shows in no head if its conversation is not open here: users who have
joined a conversation meanwhile are read by time, and users who have left one are found by what they are attached to.
"""

import time
from collections.abc import Collection, Sequence
from typing import Protocol
from uuid import UUID

import trio

from server.fanout.conversation_updates import ConversationNotifier
from server.fanout.rooms import Rooms
from server.fanout.thread_updates import ThreadNotifier
from store.errors import StoreError
from store.ids import PackedIds, id_ms, octets, parted
from store.model import Privacy
from store.postgres.blocks import Concerning
from store.redis.inbox_entries import BANNED, Disconnection, disconnection_of, killing_of, moderated

CHUNK = 500  # users in one query
COMPARED = 5000  # conversations in one scheduler step: some two milliseconds
PACKED = 20  # users whose memberships are read at once: each may have thousands
NONE = Concerning()
SLACK = 30.0  # seconds that a change may have taken to be sent, and clocks may differ
LATE = 5.0  # seconds after a ban: who is let in again sooner may be disconnected once more
SAID_WITHIN = 1.0  # seconds for PostgreSQL to say who is still banned: other entries wait meanwhile


class Truth(Protocol):
    """Reads memberships, erased and banned users, and ended sessions (`handlers.sync`)."""

    async def all_memberships(self, user_ids: Collection[UUID]) -> dict[UUID, PackedIds]: ...

    async def joined(self, user_ids: Collection[UUID], seconds: float) -> Sequence[tuple[UUID, UUID]]:
        """Return the users among these who have joined a conversation in the last `seconds`, each with its id."""

    async def settings_changed(self, user_ids: Collection[UUID], seconds: float) -> Sequence[tuple[UUID, UUID]]:
        """Return those who have changed their settings of a conversation, likewise."""

    async def threads_changed(self, user_ids: Collection[UUID], seconds: float) -> Sequence[tuple[UUID, UUID]]:
        """Return those who have followed, left or read a thread, likewise, each with its id."""

    async def deleted(self, user_ids: Collection[UUID]) -> list[UUID]: ...

    async def banned(self, user_ids: Collection[UUID]) -> Collection[UUID]: ...

    async def privacy(self, user_ids: Collection[UUID]) -> dict[UUID, tuple[Privacy, int]]:
        """Return what these users hide, each with its version, without those who have never chosen."""

    async def blocks(self, user_ids: Collection[UUID]) -> dict[UUID, Concerning]:
        """Return the blocks of these users, theirs and others' against them, without users whom no block concerns."""

    async def ended(self, session_ids: Collection[UUID]) -> Collection[UUID]: ...


class Operators(Protocol):
    """Remembers what operators did while this instance could not hear of it (`store.redis.instances`)."""

    async def list_killed(self, user_ids: Collection[UUID]) -> dict[UUID, float]: ...


class Presence(Protocol):
    """Announces who comes and goes (`server.fanout.presence`)."""

    async def catch_up(self, seconds: float) -> None: ...


def may_be_lifted(disconnection: Disconnection, delay: float) -> bool:
    """Whether this is of a ban that was made so long ago that the user may have been let in again. `delay`: how long
    the news of it has waited here, if not elsewhere."""
    if disconnection.code != BANNED:
        return False
    act_id = disconnection.act_id
    return delay > LATE or (act_id is not None and time.time() - id_ms(act_id) / 1000 > LATE)


class Recovery:
    def __init__(
        self,
        rooms: Rooms,
        notifier: ConversationNotifier,
        threads: ThreadNotifier,
        truth: Truth,
        operators: Operators,
        presence: Presence,
    ) -> None:
        self._rooms = rooms
        self._notifier = notifier
        self._threads = threads
        self._truth = truth
        self._operators = operators
        self._presence = presence

    async def check_all(self, seconds: float) -> None:
        """Compare users, sign-in sessions, heads, memberships and presence, after `seconds` without contact. Raise
        StoreError.

        What withdraws access comes first: a head that cannot be read, or very many, do not put it off.
        """
        await self.check_access()
        await self._check_killed()
        await self.check_heads()
        await self.check_people(seconds=seconds)
        await self._presence.catch_up(seconds + SLACK)

    async def check_heads(self) -> None:
        """Compare every room with PostgreSQL. Raise StoreError.

        Those that lack a committed change are scheduled for repair, those of a history that is lost start over.
        """
        await self._rooms.history.check_heads()

    async def check_access(self) -> None:
        """Close the connections of users who were erased or banned, and of sign-in sessions that have ended (P9), and
        read what users hide. Raise StoreError."""
        users = self._rooms.users()
        for start in range(0, len(users), CHUNK):
            await self._close_withdrawn(users[start : start + CHUNK])
        await self.check_privacy()

    async def still_due(self, found: Sequence[Disconnection]) -> tuple[Disconnection, ...]:
        """Without those of bans that were lifted meanwhile, or are over: their users may have connected again since.
        All of them where PostgreSQL does not say so at once."""
        banned = {one.user_id for one in found if one.code == BANNED}
        still: Collection[UUID] = banned
        with trio.move_on_after(SAID_WITHIN):
            try:
                still = set(await self._truth.banned(banned))
            except StoreError:
                pass  # logged elsewhere
        return tuple(one for one in found if one.code != BANNED or one.user_id in still)

    async def check_privacy(self) -> None:
        """Read what the users hide who are connected here, and the blocks that concern them: a notice is lost if its
        instance dies behind the commit. Raise StoreError."""
        users = self._rooms.users()
        for start in range(0, len(users), CHUNK):
            found = await self._truth.privacy(users[start : start + CHUNK])
            for user_id in users[start : start + CHUNK]:
                self._rooms.load_privacy(user_id, found.get(user_id))
            blocks = await self._truth.blocks(users[start : start + CHUNK])
            for user_id in users[start : start + CHUNK]:
                self._rooms.load_blocks(user_id, blocks.get(user_id, NONE))

    async def _close_withdrawn(self, users: Collection[UUID]) -> None:
        for user_id in await self._truth.deleted(users):
            self._rooms.disconnect(disconnection_of(user_id))
        for user_id in await self._truth.banned(users):
            self._rooms.disconnect(moderated(user_id, BANNED))
        signed_in = self._rooms.signed_in(users)
        for session_id in await self._truth.ended(signed_in):
            self._rooms.disconnect(disconnection_of(signed_in[session_id], session_id))

    async def _check_killed(self) -> None:
        """Close the connections that an operator has ended, of users who have not connected again since."""
        for user_id, ago in (await self._operators.list_killed(self._rooms.users())).items():
            self._rooms.disconnect(killing_of(user_id), opened_before=trio.current_time() - ago)

    async def check_people(self, went_back: Collection[UUID] = (), *, seconds: float | None = None) -> None:
        """Close connections of users who were erased or banned, and of ended sessions, and recheck memberships that
        were lost or won (P4, P9).

        `went_back` are conversations of which a part of the history is lost. Somebody may be a member of them whom that
        part had removed: they are attached again, with a `Resync`. Users who joined a conversation in the last
        `seconds` are notified on all connections, and attached; who has changed their settings of one is notified, and
        who has followed, left or read a thread.
        Raise StoreError.
        """
        users = self._rooms.users()
        again = set(octets(went_back))
        for start in range(0, len(users), CHUNK):
            chunk = users[start : start + CHUNK]
            await self._close_withdrawn(chunk)
            for first in range(0, len(chunk), PACKED):
                await self._compare(chunk[first : first + PACKED], again)
            if seconds is not None:
                for user_id, conversation_id in await self._truth.joined(chunk, seconds + SLACK):
                    self._notifier.recheck(conversation_id, user_id)
                for user_id, conversation_id in await self._truth.settings_changed(chunk, seconds + SLACK):
                    self._notifier.notify(conversation_id, (user_id,))
                for user_id, thread_id in await self._truth.threads_changed(chunk, seconds + SLACK):
                    self._threads.notify(user_id, thread_id)
            await trio.lowlevel.checkpoint()

    async def _compare(self, users: Collection[UUID], again: Collection[bytes]) -> None:
        """Compare to what the connections of these users are attached with what they are members of: with a checkpoint
        after the connection with which many conversations were compared.

        What happens to members and connections in between stays as it is: who seems to be attached wrongly is looked
        up, and a connection is brought back only into what its user is a member of then. Raise StoreError.
        """
        compared = 0
        memberships = await self._truth.all_memberships(users)
        for user_id in users:
            mine = set(parted(memberships[user_id].octets)) if user_id in memberships else set[bytes]()
            for connection in self._rooms.connections_of(user_id):
                attached = self._rooms.octets_of(connection)
                for conversation_id in attached - mine:
                    self._notifier.recheck(UUID(bytes=conversation_id), user_id)
                if again and connection.auto_attach and not connection.closed:
                    for conversation_id in mine.intersection(again) - attached:
                        connection.resync(UUID(bytes=conversation_id))
                compared += len(mine) + len(attached)
                if compared >= COMPARED:
                    compared = 0
                    await trio.lowlevel.checkpoint()
