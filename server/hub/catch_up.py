"""Attach when caught up: the one mechanism for connect, resume and slow readers (docs/design.md 4).

Brings a session from a cursor to the head of a room by reading changes from PostgreSQL, and
attaches it in the same scheduler step in which the cursor equals the head. Nothing is buffered for
anybody. Touches sessions and rooms, and the store through `SyncSource`.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import trio

from handlers.errors import ChatError
from handlers.model import Caller, Resync, Synced
from server.fanout.room import Room
from server.fanout.rooms import Rooms, no_such_conversation
from store.model import Change

if TYPE_CHECKING:
    from server.hub.connection import HubSession

MAX_BEHIND = 1000  # changes; further behind, paging with REST is cheaper for everybody (docs/hub.md)
PAGE = 100  # changes read at once
PAGE_BYTES = 128 * 1024


class SyncSource(Protocol):
    """What `handlers.sync` offers."""

    async def memberships(self, user_id: UUID) -> Sequence[UUID]: ...

    async def require_user(self, user_id: UUID) -> None:
        """Raises ChatError("unauthenticated") when there is no such user (any more)."""

    async def require_session(self, session_id: UUID) -> None:
        """Raises ChatError("unauthenticated") when this sign-in session has ended."""

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]: ...

    async def changes_after(
        self, caller: Caller, conversation_id: UUID, cursor: int, *, limit: int, max_bytes: int
    ) -> Sequence[Change] | None:
        """None when some are gone for good. Raises ChatError("not_found") when the caller is no member (any more)."""


@asynccontextmanager
async def moving(session: "HubSession") -> AsyncIterator[set[UUID]]:
    """Hold what moves the session's cursors. Gives the conversations that it was removed from, or left, meanwhile."""
    async with session.sync_lock():
        session.expelled = set()
        try:
            yield session.expelled
        finally:
            session.expelled = None


async def attach_all(session: "HubSession", rooms: Rooms, sync: SyncSource) -> None:
    """On connect: attach to every conversation of the user, at its head."""
    async with moving(session) as expelled:
        mine = await sync.memberships(session.user_id)
        async with rooms.opened(mine) as opened:
            for room in opened.values():
                if room.conversation_id not in expelled and not session.closed:
                    room.attach(session)


async def sync_all(session: "HubSession", rooms: Rooms, sync: SyncSource, shown: Sequence[tuple[UUID, int]]) -> Synced:
    """Replay after each cursor, in order, and attach; what is too far behind is attached at its head and named.

    What is no conversation of the user's is looked up, and never made a key: these ids are the client's choice.
    """
    async with moving(session):
        mine = set(await sync.memberships(session.user_id))
        heads: dict[UUID, int] = {}
        resync = [conversation_id for conversation_id, _ in shown if conversation_id not in mine]
        cursors = {conversation_id: seq for conversation_id, seq in shown if conversation_id in mine}
        async with rooms.opened(cursors) as opened:
            for conversation_id, room in opened.items():
                room.detach(session)
                if session.cursors is not None:
                    session.cursors.pop(conversation_id, None)
                try:
                    caught_up = await _follow(session, rooms, sync, room, cursors[conversation_id])
                except ChatError as error:
                    if error.code != "not_found":
                        raise
                    resync.append(conversation_id)  # removed meanwhile: REST says so too
                    continue
                heads[conversation_id] = room.head
                if not caught_up:
                    resync.append(conversation_id)
        return Synced(heads=heads, resync=tuple(resync))


async def join(
    session: "HubSession", rooms: Rooms, sync: SyncSource, conversation_id: UUID, since: int | None
) -> tuple[int, bool]:
    """Attach to one conversation, after `since` or at its head. Returns the head and whether to resync."""
    async with moving(session) as expelled:
        if conversation_id not in await sync.memberships(session.user_id):
            raise no_such_conversation()
        async with rooms.opened([conversation_id]) as opened:
            room = opened.get(conversation_id)
            if room is None:
                raise no_such_conversation()
            if session.cursors is not None:
                session.cursors.pop(conversation_id, None)  # else what lag has left behind would come once more
            if since is None:
                if conversation_id in expelled:
                    raise no_such_conversation()
                room.attach(session)
                return room.head, False
            room.detach(session)
            caught_up = await _follow(session, rooms, sync, room, since)
            return room.head, not caught_up


async def resume(session: "HubSession", rooms: Rooms, sync: SyncSource, conversation_id: UUID, cursor: int) -> None:
    """After lag: from `cursor` to the head, or a Resync event when that is too far."""
    try:
        async with rooms.opened([conversation_id]) as opened:
            room = opened.get(conversation_id)
            if room is None:
                return
            try:
                caught_up = await _follow(session, rooms, sync, room, cursor)
            except ChatError as error:
                if error.code != "not_found":
                    raise
                session.send_event("ConversationRemoved", (conversation_id, "removed"))  # while it did not read
                return
            if not caught_up:
                session.send_event("Resync", (Resync(conversation_id=conversation_id, last_seq=room.head),))
    except trio.Cancelled:
        if conversation_id not in (session.cursors or {}):  # while the room was opened
            _keep(session, conversation_id, cursor)
        raise


async def _follow(session: "HubSession", rooms: Rooms, sync: SyncSource, room: Room, cursor: int) -> bool:
    """Replay until the cursor equals the head, then attach. False: attached at the head without a replay."""
    conversation_id = room.conversation_id
    rooms.replays += 1
    start = cursor  # the client has seen every message made up to here
    seen: set[UUID] = set()  # and these: one that is edited between two pages is in both
    try:
        if cursor > room.head and cursor > (await sync.heads([conversation_id])).get(conversation_id, 0):
            cursor = -MAX_BEHIND - 1  # a seq from the future: the database was restored to an earlier state
        while not session.closed:
            head = room.head
            if cursor == head:
                _attach(session, room)
                return True
            if cursor > head:  # committed, not yet delivered here: it comes at once, or is fetched
                rooms.repair.expect(room, cursor)
                await rooms.wait_moved(room)
                continue
            if head - cursor > MAX_BEHIND:
                _attach(session, room)
                return False
            changes = await sync.changes_after(
                session.caller, conversation_id, cursor, limit=PAGE, max_bytes=PAGE_BYTES
            )
            if not changes:
                _attach(session, room)
                return False  # its messages are gone (retention)
            for change in changes:
                await session.wait_room()
                session.send_change(change, created=change.message.seq > start and change.message.id not in seen)
                seen.add(change.message.id)
                cursor = change.seq
        return True
    except trio.Cancelled:
        _keep(session, conversation_id, cursor)
        raise


def _keep(session: "HubSession", conversation_id: UUID, cursor: int) -> None:
    """Cut short: the client may come back, and goes on from here, unless it has left, or its user was removed."""
    if session.reliable is not None and conversation_id not in (session.expelled or ()):
        session.cursors = {**(session.cursors or {}), conversation_id: cursor}


def _attach(session: "HubSession", room: Room) -> None:
    """In the same scheduler step as the check of the cursor."""
    if session.closed:
        return
    if session.expelled is not None and room.conversation_id in session.expelled:
        raise no_such_conversation()
    room.attach(session)
