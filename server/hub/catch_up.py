"""Bring a connection from a cursor to the head of a room: on connect, on resume, and after it read too slowly.

Owns the one mechanism for all three (docs/design.md 4): read changes from PostgreSQL up to the head, and attach in the
scheduler step in which the cursor equals the head. Live events are never buffered meanwhile. Afterwards comes what no
cursor counts and the connection had no room for: the state of conversations (`settle`), and the latest receipts,
presence and typing (`repeat_missed`). Touches connections and rooms, and the store through `SyncSource`.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from itertools import islice
from typing import Protocol
from uuid import UUID

import trio

from handlers.errors import ChatError
from handlers.model import Caller, Others, Synced, SyncedConversation, SyncOutcome
from handlers.sync import Opening
from server.fanout.conversation_updates import CHANGED
from server.fanout.delivery import RESYNC
from server.fanout.recent_events import Broadcast
from server.fanout.room import BLOCKS, JOINED, THREAD, Room, Subscriber, cursor_at, resync_at
from server.fanout.rooms import BLOCKS_CHANGED, REMOVED, Rooms, no_such_conversation
from server.fanout.thread_updates import CHANGED as THREAD_CHANGED
from server.hub.user_shares import AtWork, Share
from store.ids import PackedIds, octets, parted
from store.model import Change, Conversation, Cursor, Position, ThreadState
from store.postgres.conversations import Standing

MAX_BEHIND = 1000  # changes; further behind, paging with REST is cheaper for everybody (docs/hub.md)
PAGE = 250  # changes read at once: each page costs three queries, and its encoding holds the loop for some 2 ms
PAGE_BYTES = 128 * 1024
STEP = 200  # ephemeral events looked at in one scheduler step
LOOKED = 10  # conversations that are looked up in the time that one takes
LARGE = 500  # conversations, from which on connections of one user are attached one after the other
MISSING = 1.0  # seconds that this waits for a change which is committed, before it is asked whether it still is
MAX_NAMED = 1000  # conversations in one call of Sync
MAX_LISTED = 400  # conversations in one answer to Sync
LISTED_BYTES = 320  # of an answer, for each conversation that it lists, at most
NAMED_BYTES = 90  # for each that is named, at most
START = UUID(int=0)  # below every conversation's id
BEGINNING = Cursor(0)  # of a client that has nothing
NO_MEMBER = Standing(0, 0, 0)
BY_DEFAULT = {
    Others.REPLAY: SyncOutcome.REPLAYED,
    Others.ATTACH: SyncOutcome.ATTACHED,
    Others.IGNORE: SyncOutcome.IGNORED,
}
LOST = Cursor(2**63 - 1)  # above every head: of a client that may have seen a history that is lost


class SyncSource(Protocol):
    """What `handlers.sync` offers."""

    async def memberships(self, user_id: UUID) -> PackedIds:
        """Return the user's conversations, in order."""

    async def memberships_with_positions(self, user_id: UUID) -> bytes:
        """Return the memberships with their heads, as of one moment, packed (`store.positions`)."""

    async def opening(self, user_id: UUID, session_id: UUID | None, *, attaches: bool) -> Opening:
        """What the user hides, the blocks that concern them and, for a connection that `attaches`, their conversations.
        `session_id`: of their sign-in, if there is one.

        Raises ChatError: "unauthenticated" when the session has ended, or there is no such user (any more), "banned".
        """

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]: ...

    async def positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        """Return the head of each of these conversations, with the message of its last change."""

    async def diverged(self, cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        """Return the indexes of those of these cursors that are not of the history that PostgreSQL has."""

    async def standings(self, user_id: UUID, conversation_ids: Sequence[UUID]) -> dict[UUID, Standing]:
        """Return what is the user's own of each conversation: what is not read, counted to 1,000, and their
        settings.
        """

    async def require_member(self, caller: Caller, conversation_id: UUID) -> None:
        """Raises ChatError("not_found")."""

    async def view(self, user_id: UUID, conversation_id: UUID) -> Conversation | None:
        """Return the conversation as this user sees it; None if they are not a member (any more)."""

    async def thread_state(self, user_id: UUID, thread_id: UUID) -> ThreadState | None:
        """Return what the thread is to this user; None if they are not a member (any more), or have nothing to do with
        it.
        """

    async def changes_after(
        self, caller: Caller, conversation_id: UUID, cursor: int, *, limit: int, max_bytes: int
    ) -> Sequence[Change] | None:
        """None when some are gone for good. Raises ChatError("not_found") when the caller is no member (any more)."""


class Target(Subscriber, Protocol):
    """What catching up needs of a hub connection."""

    closed: bool
    cursors: dict[UUID, Cursor] | None
    share: Share | None
    owed: dict[UUID, str] | None
    following: UUID | None

    @property
    def is_resumable(self) -> bool:
        """Whether it can outlive its transport: then a catch-up that is cut short goes on later."""

    def sync_lock(self) -> AbstractAsyncContextManager[None]: ...

    async def wait_room(self) -> None: ...

    def send_change(self, change: Change, *, created: bool) -> None: ...

    def send_event(self, target: str, arguments: Sequence[object]) -> None: ...


class moving_cursors:  # noqa: N801  # called like a function
    """Hold the lock on the cursors. Yields the conversations that the connection leaves, or is removed from, meanwhile.

    Each catch-up has awaits between the question "is this user a member?" and the moment in which it attaches. A
    removal that is delivered in between finds no attached connection to detach. It puts the conversation into
    `expelled` instead, and a catch-up that is about to attach looks there, in the same scheduler step (`_attach`). One
    lock for each connection, so that two catch-ups of the same room cannot send its changes twice.
    """

    def __init__(self, connection: Target) -> None:
        self._connection = connection
        self._lock = connection.sync_lock()

    async def __aenter__(self) -> set[UUID]:
        await self._lock.__aenter__()
        expelled = self._connection.expelled = set()
        return expelled

    async def __aexit__(self, *raised: object) -> None:
        self._connection.expelled = None
        await self._lock.__aexit__(None, None, None)


@contextmanager
def _following(connection: Target, conversation_id: UUID) -> Iterator[None]:
    """Keep a change that adds the user from attaching the connection: it is caught up from a cursor, and would be sent
    the same changes twice, or has not heard yet that it was removed before. It is owed instead."""
    connection.following = conversation_id
    try:
        yield
    finally:
        connection.following = None


async def attach_all(
    connection: Target, rooms: Rooms, sync: SyncSource, mine: bytes, openings: int, expelled: Collection[UUID]
) -> None:
    """On connect: attach to every conversation of the user, at its head.

    `mine` are the user's memberships, as octets, read when there had been that many `openings`; `expelled` is of
    `moving_cursors`, which was begun before. So was the registration of the connection: a change that adds the user
    while their memberships are read attaches it itself, and one that removes them puts the conversation into
    `expelled`. Memberships are read once more with the heads of the rooms that are opened (`Rooms.attach_latent`).
    """

    async def read() -> bytes:
        nonlocal openings
        openings = rooms.openings
        return await sync.memberships_with_positions(connection.user_id)

    ids: Sequence[bytes] = parted(mine)
    if connection.cursors:  # its transport was lost in the middle of this: where it was attached, it is caught up
        left = set(octets(connection.cursors))
        ids = [one for one in ids if one not in left]
    if not expelled:
        ids = rooms.latent.join(connection, ids, openings)
    others = await rooms.attach_latent(connection, ids, read, expelled)
    if others:
        others = await _attach_to_open(connection, rooms, others, openings, expelled)
    if not others:
        return
    async with rooms.opened(others) as opened:
        still = await _memberships_again(connection, sync, opened, openings)
        if still is not None:
            opened = {key: room for key, room in opened.items() if key.bytes in still}
        for number, room in enumerate(opened.values(), 1):
            if _may_attach(connection, room.conversation_id, expelled):
                room.attach(connection)
            if number % STEP == 0:
                await trio.lowlevel.checkpoint()


async def attach_in_turn(
    connection: Target, rooms: Rooms, sync: SyncSource, mine: bytes, openings: int, expelled: Collection[UUID]
) -> None:
    """The same, where the user may be in thousands of conversations: behind another connection of theirs that is about
    it.

    All of those are latent then, and are joined together. While their heads are read, each would be made a room for the
    second connection. What is joined has to be a membership as of then (`LatentRooms.join`).
    """
    share = connection.share
    if share is None or len(mine) < 16 * LARGE:
        await attach_all(connection, rooms, sync, mine, openings, expelled)
        return
    attaching = share.attaching()
    has_waited = attaching.locked()
    async with attaching:
        if has_waited and not connection.closed:
            openings = rooms.openings
            mine = (await sync.memberships(connection.user_id)).octets
        await attach_all(connection, rooms, sync, mine, openings, expelled)


async def _attach_to_open(
    connection: Target, rooms: Rooms, others: Collection[UUID], openings: int, expelled: Collection[UUID]
) -> list[UUID]:
    """Attach to those of these rooms that are live, and were when there had been that many `openings`. Return the rest.

    Each is looked at and attached in one step, so none is kept open. Of each removal since the memberships were read
    such a room has delivered the change, or will (`_memberships_again`).
    """
    rest: list[UUID] = []
    for number, conversation_id in enumerate(others, 1):
        if _may_attach(connection, conversation_id, expelled):
            room = rooms.find(conversation_id)
            if room is not None and room.next_seq is not None and room.opening <= openings:
                room.attach(connection)
            else:
                rest.append(conversation_id)
        if number % STEP == 0:
            await trio.lowlevel.checkpoint()
    return rest


def _may_attach(connection: Target, conversation_id: UUID, expelled: Collection[UUID]) -> bool:
    """Whether nothing has come in between: a removal, a cursor with which it is caught up, the end."""
    return not (conversation_id in expelled or conversation_id in (connection.cursors or ()) or connection.closed)


async def _memberships_again(
    connection: Target, sync: SyncSource, opened: Mapping[UUID, Room], openings: int
) -> Collection[bytes] | None:
    """Return the memberships as of the heads of these rooms or later, by their octets. None: those are good that were
    read when there had been that many `openings`.

    A room that was open by then has delivered every removal since, or will. One that was opened since begins at a head
    that may be behind a removal which is in neither: it was committed after the memberships were read, and sent to
    those who had registered for the conversation by then. News of it for the user may come late, or never, if Redis is
    out of reach meanwhile. So they are read once more, while the rooms are open.
    """
    if all(room.opening <= openings for room in opened.values()):
        return None
    async with AtWork(connection.share):
        return set(parted((await sync.memberships(connection.user_id)).octets))


async def sync_all(
    connection: Target,
    rooms: Rooms,
    sync: SyncSource,
    shown: Sequence[tuple[UUID, Cursor | None]],
    others: Others = Others.REPLAY,
    listed_after: UUID | None = None,
) -> Synced:
    """Replay after each cursor, in order, and attach; do with the user's `others` what is asked; list them all.

    What is too far behind is attached at its head and named in `resync`. So is a conversation whose cursor cannot be
    proved, or cannot be read at all (None). Those that are not the user's are gone, and the client asks REST for the
    reason. The ids are the client's choice: they are looked up in the user's memberships, and never become keys of a
    table of ours.

    Others are those that are not named, and to which the connection is not attached. So a client with more cursors
    than one call takes names them in several calls, the last one of which says what becomes of the others. They are
    worked on in the order of their ids, as many as the answer has room to list, and the next call goes on after them.

    From here on the connection is attached to what its user is added to, whatever it began with.

    Raises ChatError("too_large"), and does nothing, when more are named than the answer has room for.
    """
    most_named = min(MAX_NAMED, connection.send_queue.limit // 2 // NAMED_BYTES)
    if len(shown) > most_named:
        sentence = f"At most {most_named} conversations may be named at once."
        raise ChatError("too_large", sentence, errors={"cursors": f"at most {most_named}"})
    connection.auto_attach = True
    async with moving_cursors(connection):
        openings = rooms.openings
        most = (connection.send_queue.limit // 2 - NAMED_BYTES * len(shown)) // LISTED_BYTES
        most = max(1, min(most, MAX_LISTED))
        start = START if listed_after is None else listed_after
        async with AtWork(connection.share):
            # Thousands: as octets, which are no objects to the garbage collector, and quick to compare.
            ids = parted((await sync.memberships(connection.user_id)).octets)
        mine = set(ids)
        named = {conversation_id: cursor for conversation_id, cursor in shown if conversation_id.bytes in mine}
        gone = [conversation_id for conversation_id, _ in shown if conversation_id.bytes not in mine]
        room = max(0, most - len(shown))
        rest = _following_ids(ids, start.bytes, set(octets(named)), room + 1)
        page = [UUID(bytes=one) for one in rest[:room]]
        outcomes = dict.fromkeys(named, SyncOutcome.REPLAYED) | _meant_for(page, others, connection, rooms)
        cursors = dict.fromkeys(outcomes, BEGINNING) | named
        heads = await _carry_out(connection, rooms, sync, cursors, outcomes, mine, openings)
        ignored = await sync.positions([key for key in outcomes if outcomes[key] is SyncOutcome.IGNORED])
        shown_heads = heads | {key: position.cursor for key, position in ignored.items()}
        gone += [key for key in outcomes if outcomes[key] is SyncOutcome.GONE]
        listed = [*(conversation_id for conversation_id, _ in shown[:most]), *page]
        async with AtWork(connection.share):
            standings = await sync.standings(connection.user_id, [key for key in listed if key in shown_heads])
        return Synced(
            heads={conversation_id: head.seq for conversation_id, head in heads.items()},
            resync=(*gone, *(key for key in outcomes if outcomes[key] is SyncOutcome.RESYNC)),
            conversations=tuple(
                _synced(
                    key,
                    shown_heads.get(key, BEGINNING),
                    outcomes.get(key, SyncOutcome.GONE),
                    standings.get(key, NO_MEMBER),
                )
                for key in listed
            ),
            blocks_version=rooms.blocks.state_of(connection.user_id).version,
            next=None if len(page) == len(rest) and len(shown) <= most else page[-1] if page else start,
        )


def _following_ids(ids: Sequence[bytes], start: bytes, named: Collection[bytes], most: int) -> list[bytes]:
    """Return the next of these, which are in order, behind `start` and without those that are named."""
    behind = (ids[at] for at in range(bisect_right(ids, start), len(ids)))
    return list(islice((one for one in behind if one not in named), most))


def _meant_for(page: Sequence[UUID], others: Others, connection: Target, rooms: Rooms) -> dict[UUID, SyncOutcome]:
    """Return what is to become of each of these conversations, which the client has not named."""
    lagging = connection.cursors or {}
    return {
        key: SyncOutcome.ATTACHED if key in lagging or rooms.is_attached(key, connection) else BY_DEFAULT[others]
        for key in page
    }


def _synced(conversation_id: UUID, head: Cursor, outcome: SyncOutcome, standing: Standing) -> SyncedConversation:
    return SyncedConversation(
        conversation_id=conversation_id,
        last_seq=head.seq,
        message_id=head.message_id,
        unread_count=standing.unread_count,
        mention_count=standing.mention_count,
        outcome=outcome,
        settings_version=standing.settings_version,
    )


async def _carry_out(
    connection: Target,
    rooms: Rooms,
    sync: SyncSource,
    cursors: Mapping[UUID, Cursor | None],
    outcomes: dict[UUID, SyncOutcome],
    mine: Collection[bytes],
    openings: int,
) -> dict[UUID, Cursor]:
    """Replay and attach as `outcomes` says, and write there what has come of it. Return the heads of what is attached.

    `mine` are the user's memberships, by their octets, read when there had been that many `openings` of rooms.

    A conversation is detached first and attached at the end of its own replay, so while one of many is replayed the
    others are live already, or still detached, but never both live and replayed.
    """
    heads: dict[UUID, Cursor] = {}
    wanted = [key for key, outcome in outcomes.items() if outcome is not SyncOutcome.IGNORED]
    async with rooms.opened(wanted) as opened:
        generations = {room: room.generation for room in opened.values()}
        again = await _memberships_again(connection, sync, opened, openings)
        still = mine if again is None else again
        proved = await _prove(sync, cursors)
        for conversation_id in wanted:
            room = opened.get(conversation_id)
            left = (connection.cursors or {}).get(conversation_id)
            if room is None or conversation_id.bytes not in still:
                outcomes[conversation_id] = SyncOutcome.GONE
                continue
            try:
                if outcomes[conversation_id] is SyncOutcome.REPLAYED:
                    room.detach(connection)
                    if left is not None and connection.cursors is not None:
                        del connection.cursors[conversation_id]
                    with _following(connection, conversation_id):
                        cursor, generation = proved[conversation_id], generations[room]
                        if not await _replay(connection, rooms, sync, room, cursor, generation):
                            outcomes[conversation_id] = SyncOutcome.RESYNC
                elif left is None:
                    _attach(connection, room)
            except ChatError as error:
                if error.code != "not_found":
                    raise
                outcomes[conversation_id] = SyncOutcome.GONE  # removed meanwhile: REST says so too
            else:
                heads[conversation_id] = room.cursor
        for room, generation in generations.items():
            if room.generation != generation and room.conversation_id in heads:
                heads[room.conversation_id] = room.cursor  # its history went back while others were replayed
                outcomes[room.conversation_id] = SyncOutcome.RESYNC
    return heads


async def join(
    connection: Target, rooms: Rooms, sync: SyncSource, conversation_id: UUID, since: Cursor | None
) -> tuple[Cursor, bool]:
    """Attach to one conversation, after `since` or at its head. Returns the head and whether to resync.

    Raises ChatError("not_found") when the user is not a member, also when that becomes so during the replay. A cursor
    that lag left for this room is dropped: the position that the client names is the newer one, and both would send
    the changes between them twice.
    """
    async with moving_cursors(connection):
        openings = rooms.openings
        await sync.require_member(connection.caller, conversation_id)
        async with rooms.opened([conversation_id]) as opened:
            room = opened.get(conversation_id)
            if room is None:
                raise no_such_conversation()
            if room.opening > openings:  # as in `_memberships_again`
                await sync.require_member(connection.caller, conversation_id)
            if connection.cursors is not None:
                connection.cursors.pop(conversation_id, None)  # else what lag has left behind would come once more
            if since is None:
                _attach(connection, room)
                return room.cursor, False
            room.detach(connection)
            generation = room.generation
            with _following(connection, conversation_id):
                proved = await _prove(sync, {conversation_id: since})
                caught_up = await _replay(connection, rooms, sync, room, proved[conversation_id], generation)
            return room.cursor, not caught_up


async def resume_room(
    connection: Target, rooms: Rooms, sync: SyncSource, conversation_id: UUID, cursor: Cursor
) -> None:
    """After lag, or on another transport: replay from `cursor` to the head, or send Resync when that is too far, or the
    cursor is not of PostgreSQL's history any more.

    The caller has taken `cursor` out of `connection.cursors`. When this is cancelled (the transport is lost) the
    position reached so far is put back, wherever the cancellation came: while the room was opened by the handler
    below, during the replay by `_follow`.
    """
    try:
        with _following(connection, conversation_id):
            await _resume(connection, rooms, sync, conversation_id, cursor)
    except trio.Cancelled:
        if conversation_id not in (connection.cursors or {}):  # while the room was opened
            _keep(connection, conversation_id, cursor)
        raise


async def _resume(connection: Target, rooms: Rooms, sync: SyncSource, conversation_id: UUID, cursor: Cursor) -> None:
    async with rooms.opened([conversation_id]) as opened:
        room = opened.get(conversation_id)
        if room is None:  # it does not exist any more, or PostgreSQL has lost that it was ever made
            _send_gone(connection, conversation_id)
            return
        if connection in room.attached:
            return
        generation = room.generation
        try:
            proved = await _prove(sync, {conversation_id: cursor})
            if proved[conversation_id] is None:
                await sync.require_member(connection.caller, conversation_id)  # nothing is replayed, which asks it
            await _replay(connection, rooms, sync, room, proved[conversation_id], generation)
        except ChatError as error:
            if error.code != "not_found":
                raise
            _send_gone(connection, conversation_id)


async def settle(connection: Target, rooms: Rooms, sync: SyncSource, conversation_id: UUID, news: str) -> None:
    """Send what is true of a conversation, of a thread or of the user's blocks by now, after an event about it for the
    user had no place in the send queue.

    Not the event itself: several of them are one, and it may be out of date. A connection that should have been
    attached (`JOINED`) is, at the head, with a `Resync`: what was said until then was not sent.
    The caller has taken the conversation out of `connection.owed`. When this is cancelled, it is put back.
    """
    try:
        with _following(connection, conversation_id):
            await _settle(connection, rooms, sync, conversation_id, news)
    except trio.Cancelled:
        if connection.is_resumable:
            connection.owed = {conversation_id: news, **(connection.owed or {})}
        raise


async def _settle(connection: Target, rooms: Rooms, sync: SyncSource, conversation_id: UUID, news: str) -> None:
    if news == BLOCKS:
        await connection.wait_room()
        connection.send_event(BLOCKS_CHANGED, (rooms.blocks.state_of(connection.user_id),))
        return
    if news == THREAD:
        state = await sync.thread_state(connection.user_id, conversation_id)
        await connection.wait_room()
        if state is not None:
            connection.send_event(THREAD_CHANGED, (state,))
        return
    async with rooms.opened([conversation_id] if news == JOINED else ()) as opened:
        if opened:
            await connection.wait_room()
        view = await sync.view(connection.user_id, conversation_id)
        room = opened.get(conversation_id)
        if view is not None and room is not None and connection not in room.attached:
            left = {*(connection.expelled or ()), *(connection.cursors or ())}
            if conversation_id not in left and not connection.closed:
                room.attach(connection)
                connection.send_event(RESYNC, (resync_at(conversation_id, room.cursor),))  # as in `_replay`
            view = await sync.view(connection.user_id, conversation_id)
    await connection.wait_room()
    if view is None:
        _send_removed(connection, conversation_id, news)
        return
    if conversation_id in (connection.expelled or ()):  # they have heard that they were removed, or have left it
        view = await sync.view(connection.user_id, conversation_id)
    if view is not None:
        connection.send_event(CHANGED, (view,))


def _send_gone(connection: Target, conversation_id: UUID) -> None:
    """Send that it is not among the user's conversations any more: with the reason, if the event had no room. Whether
    it is again is looked up behind that."""
    owed = connection.owed or {}
    reason = None if owed.get(conversation_id) == JOINED else owed.pop(conversation_id, None)
    _send_removed(connection, conversation_id, reason)


def _send_removed(connection: Target, conversation_id: UUID, news: str | None) -> None:
    reason = news if news in ("left", "deleted") else "removed"
    connection.send_event(REMOVED, (conversation_id, reason))


async def repeat_missed(connection: Target, rooms: Rooms) -> bool:
    """Send the latest of the ephemeral events that the connection has missed in its rooms (P6, P7).

    An event that it has received may be among them: it says the same again. Return False if some are not kept any more.
    """
    found = rooms.recent.missed(connection)
    if found is None:
        return False
    number, missed = found
    looked = 0
    for about in missed:
        await connection.wait_room()
        broadcast = rooms.recent.latest(about)  # as of this step: nothing newer can overtake it
        if connection.closed:
            return True
        if broadcast is not None and _concerns(broadcast, connection, rooms):
            arguments = broadcast.arguments_for(connection.user_id, rooms.privacy)
            if arguments is not None:
                connection.send_event(broadcast.event, arguments)
        looked += 1 if broadcast is None else 1 + len(broadcast.conversation_ids) // LOOKED
        if looked >= STEP:
            looked = 0
            await trio.lowlevel.checkpoint()
    rooms.recent.caught_up(connection, number)
    return True


def _concerns(broadcast: Broadcast, connection: Target, rooms: Rooms) -> bool:
    return broadcast.concerns(connection.user_id, rooms.blocks) and _is_in_any(connection, broadcast, rooms)


def _is_in_any(connection: Target, broadcast: Broadcast, rooms: Rooms) -> bool:
    ids = broadcast.conversation_ids
    if isinstance(ids, PackedIds):
        return rooms.is_in_any(connection, ids)
    return any(rooms.is_attached(conversation_id, connection) for conversation_id in ids)


async def _prove(sync: SyncSource, cursors: Mapping[UUID, Cursor | None]) -> dict[UUID, Cursor | None]:
    """Return the cursors, with None in place of those that are not of the history that PostgreSQL has."""
    proved = dict(cursors)
    shown = [(conversation_id, cursor) for conversation_id, cursor in cursors.items() if cursor and cursor.seq]
    for index in await sync.diverged(shown):
        proved[shown[index][0]] = None
    return proved


async def _replay(
    connection: Target, rooms: Rooms, sync: SyncSource, room: Room, proved: Cursor | None, generation: int
) -> bool:
    """Replay and attach (`_follow`), or send `Resync` in the step in which it attached at the head without a replay.

    The answer to `Sync` or `JoinConversation` names the conversation as well, but comes later. Without the event, live
    events that come before the answer would look as if they followed on the client's cursor; cut off then, the client
    would show a cursor that hides what it has not got (P4).
    """
    caught_up = await _follow(connection, rooms, sync, room, proved, generation)
    if not caught_up:
        connection.send_event(RESYNC, (resync_at(room.conversation_id, room.cursor),))
    return caught_up


async def _follow(
    connection: Target, rooms: Rooms, sync: SyncSource, room: Room, proved: Cursor | None, generation: int
) -> bool:
    """Replay until the cursor equals the head, then attach. Return False when it attached at the head without a replay.

    Guaranteed: the client gets every change after `cursor` in order, each message at least in its final state, and
    goes on with live events without a gap and without a repeat. The head moves while pages are read, so the end is
    decided by comparing cursor and head with no await between that and the attaching: from that step on the room
    delivers the next change itself. Three cases end without a replay, and `_replay` sends the client to REST: more
    than MAX_BEHIND changes behind, changes that retention has deleted, and a history that went back: the cursor is not
    of it (`proved` is None), or the room has started over since the cursor was looked up, in its `generation`. A cursor
    that is ahead of this room but not of the database is none of these: the change is committed and has not been
    delivered here yet, so this waits for it.

    Not guaranteed: intermediate states. A message that was created and edited after `cursor` comes once, as it is
    now. It is announced as created only if the client cannot have seen it: its seq is after `start`, and no earlier
    page of this replay had it (an edit between two pages moves a message to the later page as well).

    The pace is the client's: a change is sent only while the send queue is at most half full, so a replay never makes
    its own connection lag.
    """
    conversation_id = room.conversation_id
    rooms.replays += 1
    reached = proved or LOST
    start = reached.seq  # the client has seen every message made up to here
    seen: set[int] = set()  # and those made by these: one that is edited between two pages is in both
    last: Change | None = None  # that was sent: `reached` is behind it when a page is through, or is cut off
    try:
        await connection.wait_room()
        while not connection.closed:
            head, cursor = room.head, reached.seq
            if proved is None or room.generation != generation or head - cursor > MAX_BEHIND:
                _attach(connection, room)
                return False
            if cursor == head:
                _attach(connection, room)
                return room.has_at_head(reached)
            if cursor > head:  # committed, not yet delivered here: it comes at once, or is fetched
                rooms.repair.expect(room, cursor)
                with trio.move_on_after(MISSING) as patience:
                    await rooms.wait_moved(room)
                if patience.cancelled_caught and await sync.diverged([(conversation_id, reached)]):
                    proved = None
                continue
            async with AtWork(connection.share):
                changes = await sync.changes_after(
                    connection.caller, conversation_id, cursor, limit=PAGE, max_bytes=PAGE_BYTES
                )
            if not changes:
                _attach(connection, room)
                return False  # its messages are gone (retention)
            for change in changes:
                await connection.wait_room()
                if room.generation != generation:
                    break
                if conversation_id in (connection.expelled or ()):
                    raise no_such_conversation()
                made = change.message.seq
                connection.send_change(change, created=made > start and made not in seen)
                seen.add(made)
                last = change
            reached = reached if last is None else cursor_at(last)
        return True
    except trio.Cancelled:
        _keep(connection, conversation_id, reached if last is None else cursor_at(last))
        raise


def _keep(connection: Target, conversation_id: UUID, cursor: Cursor) -> None:
    """Remember the position of a catch-up that was cut short, for when the client is back. If its user was removed, or
    seemed to be, that is looked up and said then."""
    if connection.is_resumable and conversation_id in (connection.expelled or ()):
        connection.owed = {conversation_id: "removed", **(connection.owed or {})}
    elif connection.is_resumable:
        connection.cursors = {**(connection.cursors or {}), conversation_id: cursor}


def _attach(connection: Target, room: Room) -> None:
    """Attach, in the scheduler step in which the cursor was compared with the head."""
    if connection.closed:
        return
    if room.is_dissolved or room.conversation_id in (connection.expelled or ()):
        raise no_such_conversation()
    room.attach(connection)
