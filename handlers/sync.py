"""What a client needs to resume without a gap: its conversations, their heads, the changes after a cursor.

Owns the membership check of replays. Reads only; also serves the rooms of this process (`server.fanout.room.History`).
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
import trio

from handlers import page_cursors as cursors
from handlers import permissions, standing
from handlers.errors import ChatError
from handlers.model import Caller, CursorProof
from handlers.ports import Connections
from store import receipts
from store.ids import PackedIds, epoch_ms
from store.model import Change, Conversation, Cursor, MemberCursor, Position, ThreadState, Timestamp
from store.postgres import accounts, conversation_views, conversations, messages, moderation, threads, users
from store.postgres import cursors as positions
from store.postgres.batch_loader import BatchLoader
from store.postgres.blocks import Concerning, list_blocks_around
from store.postgres.conversations import Standing
from store.postgres.privacy import Chosen, list_privacy

LOWERED = 100  # conversations whose receipts are lowered in one transaction, which locks them
COUNTED = 200  # conversations whose unread messages are counted with one query: up to 1,000 entries of an index each
MAX_AROUND = 20_001  # blocks of one user, and against them, that are read: one more than an instance keeps
PROVED = 500  # cursors looked up with one query
PACKED = 20  # users all of whose conversations are read with one query, or the heads of these: each may have thousands

# A user, the sign-in session that their access token names, and whether the connection wants their conversations.
Connecting = tuple[UUID, UUID | None, bool]
Proof = tuple[UUID, int, bytes, int]  # the conversation and the cursor, as a key that hashes with a key of this process


class Opening(NamedTuple):
    """What a connection begins with: what its user has chosen to hide, and the blocks that concern them, if any; their
    conversations, if it wants them."""

    privacy: Chosen | None
    blocks: Concerning | None
    memberships: bytes = b""  # the octets of their ids, as there may be thousands


class _Found(NamedTuple):
    opening: Opening
    has_ended: bool  # the session
    is_present: bool  # the user
    banned_until: Timestamp | None


class Sync:
    """`run` answers what every connect asks: many together, when many come together."""

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._memberships: BatchLoader[UUID, PackedIds] = BatchLoader(self._fetch_memberships, PACKED)
        self._heads: BatchLoader[UUID, int] = BatchLoader(self._fetch_heads)
        self._positions: BatchLoader[UUID, Position] = BatchLoader(self._fetch_positions)
        self._packed: BatchLoader[UUID, bytes] = BatchLoader(self._pack_memberships, PACKED)
        self._diverged: BatchLoader[Proof, None] = BatchLoader(self._fetch_diverged, PROVED)
        self._standings: BatchLoader[tuple[UUID, UUID], Standing] = BatchLoader(self._fetch_standings, COUNTED)
        self._ended: BatchLoader[UUID, None] = BatchLoader(self._fetch_ended)
        self._present: BatchLoader[UUID, Timestamp | None] = BatchLoader(self._fetch_present)
        self._privacy: BatchLoader[UUID, Chosen] = BatchLoader(self._fetch_privacy)
        self._blocks: BatchLoader[UUID, Concerning] = BatchLoader(self._fetch_blocks)
        self._openings: BatchLoader[Connecting, _Found] = BatchLoader(self._fetch_openings)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._memberships.run)
            await nursery.start(self._heads.run)
            await nursery.start(self._positions.run)
            await nursery.start(self._packed.run)
            await nursery.start(self._diverged.run)
            await nursery.start(self._standings.run)
            await nursery.start(self._ended.run)
            await nursery.start(self._present.run)
            await nursery.start(self._privacy.run)
            await nursery.start(self._blocks.run)
            await nursery.start(self._openings.run)
            task_status.started()

    async def memberships(self, user_id: UUID) -> PackedIds:
        """Return the user's conversations, in order. Raises ChatError("unauthenticated") when there is no such user."""
        found = (await self._memberships.get([user_id])).get(user_id)
        if found is None:
            await self._require_account(user_id)
        return found or PackedIds()

    async def memberships_with_positions(self, user_id: UUID) -> bytes:
        """Return the user's conversations with their heads, as of one moment, packed (`store.positions`). Raises the
        same."""
        found = (await self._packed.get([user_id])).get(user_id)
        if found is None:
            await self._require_account(user_id)
        return found or b""

    async def _require_account(self, user_id: UUID) -> None:
        async with self._pool.connection() as conn:
            if await users.fetch_account(conn, user_id) is None:
                raise ChatError("unauthenticated", "There is no such user (any more).")

    async def opening(self, user_id: UUID, session_id: UUID | None, *, attaches: bool = False) -> Opening:
        """What a connection of this user begins with. `session_id`: of their sign-in, if the access token names one;
        `attaches`: it wants the user's conversations.

        Raises ChatError: "unauthenticated" when the session has ended, or there is no such user (any more), "banned".
        """
        key = (user_id, session_id, attaches)
        found = (await self._openings.get([key]))[key]
        if found.has_ended:
            raise _session_ended()
        _require(user_id, {user_id: found.banned_until} if found.is_present else {})
        return found.opening

    async def require_user(self, user_id: UUID) -> None:
        """Raises ChatError: "unauthenticated" when there is no such user (any more), "banned"."""
        _require(user_id, await self._present.get([user_id]))

    async def require_session(self, session_id: UUID) -> None:
        """Raises ChatError("unauthenticated") when this sign-in session has ended."""
        if await self._ended.get([session_id]):
            raise _session_ended()

    async def ended(self, session_ids: Collection[UUID]) -> Collection[UUID]:
        """Return those of these sign-in sessions that have ended. For the process itself."""
        return await self._ended.get(session_ids)

    async def privacy(self, user_ids: Collection[UUID]) -> dict[UUID, Chosen]:
        """Return what these users hide, without those who have never chosen. For the process itself."""
        return await self._privacy.get(user_ids)

    async def blocks(self, user_ids: Collection[UUID]) -> dict[UUID, Concerning]:
        """Return the blocks of these users, theirs and others' against them, without users whom no block concerns. For
        the process itself.
        """
        return await self._blocks.get(user_ids)

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        """Return the last seq of each conversation that exists or existed."""
        return await self._heads.get(conversation_ids)

    async def positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        """Return the head of each conversation that exists or existed, with the message of its last change."""
        return await self._positions.get(conversation_ids)

    async def packed_positions(self, conversation_ids: Sequence[bytes]) -> bytes:
        """Return the heads of thousands of conversations, named by their octets, packed (`store.positions`). For the
        process itself.
        """
        async with self._pool.connection() as conn:
            return await positions.pack_positions(conn, conversation_ids)

    async def diverged(self, shown: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        """Return the indexes of those of these cursors that are not of the history that PostgreSQL has."""
        keys = [_key(conversation_id, cursor) for conversation_id, cursor in shown]
        lost: set[Proof] = set()
        for start in range(0, len(keys), PROVED):
            lost.update(await self._diverged.get(keys[start : start + PROVED]))
        return [index for index, key in enumerate(keys) if key in lost]

    async def standings(self, user_id: UUID, conversation_ids: Sequence[UUID]) -> dict[UUID, Standing]:
        """Return what is the user's own of each of their conversations among these: how much they have not read, their
        settings.
        """
        found: dict[UUID, Standing] = {}
        for start in range(0, len(conversation_ids), COUNTED):
            some = [(user_id, conversation_id) for conversation_id in conversation_ids[start : start + COUNTED]]
            found |= {key: standing for (_, key), standing in (await self._standings.get(some)).items()}
        return found

    async def fetch_watermark(self, conversation_id: UUID) -> int:
        """Return the seq up to which changes of the conversation are not kept. For the process itself."""
        async with self._pool.connection() as conn:
            return await conversations.fetch_watermark(conn, conversation_id)

    async def lower_receipts(self, conversation_ids: Collection[UUID]) -> None:
        """Lower members' receipts that are above the head, as what they were about is lost. For the process."""
        ids = sorted(conversation_ids)
        for start in range(0, len(ids), LOWERED):
            async with self._pool.connection() as conn:
                await receipts.lower_receipts(conn, ids[start : start + LOWERED])

    async def _fetch_positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        async with self._pool.connection() as conn:
            return await positions.fetch_positions(conn, conversation_ids)

    async def view(self, user_id: UUID, conversation_id: UUID) -> Conversation | None:
        """Return the conversation as this user sees it; None if they are not a member (any more)."""
        async with self._pool.connection() as conn:
            return (await conversation_views.list_views(conn, conversation_id, [user_id])).get(user_id)

    async def thread_state(self, user_id: UUID, thread_id: UUID) -> ThreadState | None:
        """Return what a thread is to this user; None if they are not a member (any more), or have nothing to do with
        it.
        """
        async with self._pool.connection() as conn:
            return (await threads.list_thread_states(conn, user_id, [thread_id])).get(thread_id)

    async def _pack_memberships(self, user_ids: Collection[UUID]) -> dict[UUID, bytes]:
        async with self._pool.connection() as conn:
            return await positions.pack_memberships(conn, user_ids)

    async def _fetch_diverged(self, keys: Collection[Proof]) -> dict[Proof, None]:
        asked = list(keys)
        async with self._pool.connection() as conn:
            lost = await positions.list_diverged(conn, [(key[0], _cursor(key)) for key in asked])
        return {asked[index]: None for index in lost}

    async def _fetch_standings(self, views: Collection[tuple[UUID, UUID]]) -> dict[tuple[UUID, UUID], Standing]:
        async with self._pool.connection() as conn:
            return await conversations.list_standings(conn, views)

    async def _fetch_memberships(self, user_ids: Collection[UUID]) -> dict[UUID, PackedIds]:
        async with self._pool.connection() as conn:
            return await conversations.list_memberships(conn, user_ids)

    async def _fetch_heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        async with self._pool.connection() as conn:
            return await conversations.fetch_heads(conn, conversation_ids)

    async def _fetch_ended(self, session_ids: Collection[UUID]) -> dict[UUID, None]:
        async with self._pool.connection() as conn:
            return dict.fromkeys(await accounts.list_ended(conn, session_ids))

    async def _fetch_openings(self, keys: Collection[Connecting]) -> dict[Connecting, _Found]:
        """All of it from one connection and, where there are neither sessions nor blocks, by one statement."""
        wanted = dict.fromkeys((user_id for user_id, _, _ in keys), False)
        wanted |= {user_id: True for user_id, _, attaches in keys if attaches}
        session_ids = {session_id for _, session_id, _ in keys if session_id is not None}
        async with self._pool.connection() as conn:
            ended = set(await accounts.list_ended(conn, session_ids)) if session_ids else set()
            found = await moderation.list_openings(conn, wanted)
            with_blocks = [user_id for user_id, one in found.items() if one.has_blocks]
            blocks = await list_blocks_around(conn, with_blocks, MAX_AROUND) if with_blocks else {}
        return {key: _found(found.get(key[0]), blocks.get(key[0]), key, ended) for key in keys}

    async def _fetch_present(self, user_ids: Collection[UUID]) -> dict[UUID, Timestamp | None]:
        async with self._pool.connection() as conn:
            return await moderation.list_bans_of_present(conn, user_ids)

    async def _fetch_blocks(self, user_ids: Collection[UUID]) -> dict[UUID, Concerning]:
        async with self._pool.connection() as conn:
            return await list_blocks_around(conn, user_ids, MAX_AROUND)

    async def _fetch_privacy(self, user_ids: Collection[UUID]) -> dict[UUID, Chosen]:
        async with self._pool.connection() as conn:
            return await list_privacy(conn, user_ids)

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        """Read changes for a room of this process: there is no one caller to check."""
        async with self._pool.connection() as conn:
            return await messages.list_changes(conn, conversation_id, after, limit=limit, max_bytes=max_bytes)

    async def require_member(self, caller: Caller, conversation_id: UUID) -> None:
        """Raises ChatError("not_found")."""
        async with self._pool.connection() as conn:
            permissions.require_member(await conversations.fetch_member(conn, conversation_id, caller.user_id))

    async def deleted(self, user_ids: Collection[UUID]) -> list[UUID]:
        """Return those of these users who were deleted. For the process itself."""
        async with self._pool.connection() as conn:
            return await users.list_deleted(conn, user_ids)

    async def banned(self, user_ids: Collection[UUID]) -> Collection[UUID]:
        """Return those of these users who are banned. For the process itself."""
        async with self._pool.connection() as conn:
            return await moderation.list_banned(conn, user_ids)

    async def all_memberships(self, user_ids: Collection[UUID]) -> dict[UUID, PackedIds]:
        """Return the conversations of each of these users, in order. For the process itself."""
        return await self._memberships.get(user_ids)

    async def joined(self, user_ids: Collection[UUID], seconds: float) -> Sequence[tuple[UUID, UUID]]:
        """Return the users among these who have joined a conversation in the last `seconds`, each with its id."""
        async with self._pool.connection() as conn:
            return await conversations.list_joined(conn, user_ids, seconds)

    async def settings_changed(self, user_ids: Collection[UUID], seconds: float) -> Sequence[tuple[UUID, UUID]]:
        """Return the users among these who have changed their settings of a conversation in the last `seconds`, each
        with its id.
        """
        async with self._pool.connection() as conn:
            return await conversations.list_settings_changed(conn, user_ids, seconds)

    async def threads_changed(self, user_ids: Collection[UUID], seconds: float) -> Sequence[tuple[UUID, UUID]]:
        """Return the users among these who have followed, left or read a thread in the last `seconds`, each with its
        id.
        """
        async with self._pool.connection() as conn:
            return await threads.list_threads_changed(conn, user_ids, seconds)

    async def changes_after(
        self, caller: Caller, conversation_id: UUID, cursor: int, *, limit: int, max_bytes: int
    ) -> Sequence[Change] | None:
        """None when retention has dropped some of them. Raises ChatError("not_found")."""
        async with self._pool.connection() as conn:
            permissions.require_member(await conversations.fetch_member(conn, conversation_id, caller.user_id))
            found = await messages.list_changes(conn, conversation_id, cursor, limit=limit, max_bytes=max_bytes)
            # Asked afterwards: the retention watermark is raised before anything is dropped.
            return found if cursor >= await conversations.fetch_watermark(conn, conversation_id) else None

    async def cursors(self, caller: Caller, conversation_id: UUID) -> tuple[tuple[MemberCursor, ...], str | None]:
        """(of the first members by id, where the list of members goes on): a group has any number of them."""
        async with self._pool.connection() as conn:
            permissions.require_member(await conversations.fetch_member(conn, conversation_id, caller.user_id))
            found = await conversations.list_cursors(
                conn, conversation_id, caller.user_id, conversation_views.MEMBERS_SHOWN + 1
            )
        shown = found[: conversation_views.MEMBERS_SHOWN]
        return shown, cursors.encode_id(shown[-1].user_id) if len(found) > len(shown) else None


def _found(
    one: moderation.Opening | None, blocks: Concerning | None, key: Connecting, ended: Collection[UUID]
) -> _Found:
    _, session_id, attaches = key
    if one is None:
        return _Found(Opening(None, None), has_ended=session_id in ended, is_present=False, banned_until=None)
    opening = Opening(one.privacy, blocks, one.memberships if attaches else b"")
    return _Found(opening, has_ended=session_id in ended, is_present=True, banned_until=one.banned_until)


def _require(user_id: UUID, bans: Mapping[UUID, Timestamp | None]) -> None:
    """`bans`: of those who exist, until when they are banned. Raises ChatError."""
    if user_id not in bans:
        raise ChatError("unauthenticated", "There is no such user (any more).")
    until = bans[user_id]
    if until is not None:
        raise standing.banned(until)


def _session_ended() -> ChatError:
    return ChatError("unauthenticated", "The session was ended.")


def _key(conversation_id: UUID, cursor: Cursor) -> Proof:
    message_id = b"" if cursor.message_id is None else cursor.message_id.bytes
    return conversation_id, cursor.seq, message_id, -1 if cursor.changed_ms is None else cursor.changed_ms


def _cursor(key: Proof) -> Cursor:
    _, seq, message_id, changed_ms = key
    return Cursor(seq, UUID(bytes=message_id) if message_id else None, None if changed_ms < 0 else changed_ms)


def read_cursor(shown: int | CursorProof) -> Cursor | None:
    """Return the cursor that a client shows; None if its id or its time is not valid. Raises
    ChatError("invalid_cursor").
    """
    seq = shown if isinstance(shown, int) else shown.seq
    if seq < 0:
        raise ChatError("invalid_cursor", "A cursor is a seq: 0 or more.")
    if isinstance(shown, int) or shown.message_id is None:
        return Cursor(seq)
    try:
        message_id = msgspec.convert(shown.message_id, UUID)
        if shown.changed_at is None:
            return Cursor(seq, message_id)
        changed_at = msgspec.convert(shown.changed_at, datetime)
    except msgspec.ValidationError:
        return None
    return None if changed_at.tzinfo is None else Cursor(seq, message_id, max(epoch_ms(changed_at), 0))
