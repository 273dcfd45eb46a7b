"""The rooms of this instance: how they are opened, joined, left and dissolved.

Owns which rooms are open, who is attached to them, and the connections by user. What is committed is delivered to rooms
that are open by `server.fanout.delivery`, which `Rooms` holds: it asks for a room (`Rooms.find`), and gives back what
changes members. Reads heads through `History`, and registers rooms and users with the other instances
(`Subscriptions`). `server.fanout.room` has the state of one room.

A connection is *attached* to a room (receives live events) or not; `server.hub.catch_up` brings it from a cursor to
the point where it can be attached. A room exists while a connection is attached or a task holds it open. One in which
nothing has happened since connections were attached to it is latent (`server.fanout.latent_rooms`).
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import trio

from handlers.errors import ChatError
from server.fanout.blocks import BlockLists
from server.fanout.delivery import Delivery
from server.fanout.latent_rooms import Latent, LatentRooms
from server.fanout.privacy import PrivacySettings
from server.fanout.recent_events import RecentEvents
from server.fanout.room import (
    BLOCKS,
    CHANGED,
    JOINED,
    ConversationNotifier,
    Cursors,
    History,
    Recovery,
    Room,
    Subscriber,
    Subscriptions,
)
from server.transport.send_queue import Flusher
from store import positions
from store.defects import guard
from store.errors import StoreError, Unavailable
from store.ids import PackedIds, octets, parted
from store.model import Change, Cursor, Position, Privacy
from store.postgres.blocks import Concerning
from store.postgres.privacy import Chosen
from store.redis.inbox_entries import BlockNotice, Disconnection, SettingsChange

OPENED = 250  # rooms opened at once: a user may have thousands, and each takes some 10 µs of a scheduler step
SETTLED = 2000  # the same of latent ones, which take one
BLOCKS_CHANGED = "BlocksChanged"
REMOVED = "ConversationRemoved"

_guard = guard("rooms")


class Rooms:
    """All rooms and all hub connections of this instance."""

    def __init__(
        self,
        history: History,
        flusher: Flusher,
        wanted: Subscriptions,
        *,
        notifier: Callable[[], ConversationNotifier | None] = lambda: None,
        cursors: Callable[[], Cursors | None] = lambda: None,
        recovery: Callable[[], Recovery | None] = lambda: None,
    ) -> None:
        """`notifier`, `cursors` and `recovery` are callables because these need the rooms: called at each use."""
        self._history = history
        self._wanted = wanted
        self._notifier = notifier
        self._connections: dict[UUID, list[Subscriber]] = {}
        self._rooms: dict[UUID, Room] = {}
        self._ids: set[bytes] = set()  # the octets of the same ids: thousands of a user are looked up at once
        self.latent = LatentRooms()
        self.delivery = Delivery(
            self._rooms,
            self.latent,
            history,
            flusher,
            wanted,
            find=self.find,
            members=self,
            notifier=notifier,
            cursors=cursors,
            recovery=recovery,
        )
        self.repair, self.history = self.delivery.repair, self.delivery.history
        self.openings = 0  # rooms opened since the start
        self.recent = RecentEvents()
        self.privacy = PrivacySettings()
        self.blocks = BlockLists()
        # Totals since the start.
        self.shed = 0  # ephemeral events dropped because a send queue was half full
        self.replays = 0  # catch-ups: after a cursor, or after lag

    # -- connections ---------------------------------------------------------------------------

    async def register(self, connection: Subscriber) -> None:
        """Deliver the events of the connection's user to it from now on.

        When this returns, that includes events from other instances.
        """
        connections = self._connections.setdefault(connection.user_id, [])
        if connection not in connections:  # it may have been cut off here before, and come back
            connections.append(connection)
        await self._wanted.want_user(connection.user_id)

    def unregister(self, connection: Subscriber) -> None:
        self._leave_all(connection)
        self.recent.forget(connection)
        connections = self._connections.get(connection.user_id)
        if connections is not None and connection in connections:
            connections.remove(connection)
            if not connections:
                del self._connections[connection.user_id]
                self.privacy.forget(connection.user_id)
                self.blocks.forget(connection.user_id)
                self._wanted.drop_user(connection.user_id)

    def set_privacy(self, user_id: UUID, privacy: Privacy, version: int) -> None:
        """Note what a user hides, if they are connected here."""
        if user_id in self._connections:
            self.privacy.set(user_id, privacy, version)

    def load_privacy(self, user_id: UUID, chosen: Chosen | None) -> None:
        """Note what a user hides as it was read just now, if they are connected here."""
        if user_id in self._connections:
            self.privacy.load(user_id, chosen)

    def load_blocks(self, user_id: UUID, blocks: Concerning, *, is_opening: bool = False) -> None:
        """Note all blocks that concern a user, if they are connected here.

        Their connections hear it if their own list is another than was known; one that opens, with no other beside it,
        asks for it (`Sync`).
        """
        connections = self._connections.get(user_id)
        if connections is not None:
            self.blocks.load(user_id, blocks)
            is_news = self.blocks.is_news(user_id, blocks.version, is_read=True)
            if is_news and not (is_opening and len(connections) == 1):
                self._notify_blocks(user_id)

    def set_block(self, notice: BlockNotice) -> None:
        """Note a block, or its end, of those of the two who are connected here."""
        pairs = ((notice.user_id, notice.other_id, True), (notice.other_id, notice.user_id, False))
        for user_id, other_id, is_own in pairs:
            if user_id in self._connections:
                self.blocks.set(user_id, other_id, notice.version, is_own=is_own, is_blocked=notice.is_blocked)
                if is_own and self.blocks.is_news(user_id, notice.version):
                    self._notify_blocks(user_id)

    def _notify_blocks(self, user_id: UUID) -> None:
        """Send the user's own connections that their list of blocks is another. It does not say whom it is about."""
        state = self.blocks.state_of(user_id)
        self.delivery.notify(self._connections[user_id], BLOCKS_CHANGED, (state,), user_id, BLOCKS)

    def connections_of(self, user_id: UUID) -> Sequence[Subscriber]:
        return tuple(self._connections.get(user_id, ()))

    def signed_in(self, user_ids: Iterable[UUID]) -> dict[UUID, UUID]:
        """Return the user of each sign-in session that a local connection of these users depends on."""
        connections = [connection for user_id in user_ids for connection in self._connections.get(user_id, ())]
        return {
            connection.caller.session_id: connection.user_id
            for connection in connections
            if connection.caller.session_id
        }

    def users(self) -> list[UUID]:
        """Return the users who have a connection here."""
        return list(self._connections)

    def notify_user(
        self, user_id: UUID, event: str, arguments: tuple[object, ...], conversation_id: UUID, news: str = CHANGED
    ) -> None:
        """Send an event about a conversation to every local connection of a user; or about what else the id is of,
        which `news` says."""
        self.delivery.notify(self._connections.get(user_id, ()), event, arguments, conversation_id, news)

    def refresh(self, changed: SettingsChange) -> None:
        """Send a user who is connected here their view of a conversation: they have changed their settings of it."""
        notifier = self._notifier()
        if notifier is not None and changed.user_id in self._connections:
            notifier.notify(changed.conversation_id, (changed.user_id,))

    def give_up(self, user_id: UUID, reference: str) -> None:
        """Close all local connections of a user after a defect. Clients may connect again, and then catch up."""
        for connection in self.connections_of(user_id):
            connection.give_up(reference)

    def disconnect(self, disconnection: Disconnection, *, opened_before: float = math.inf) -> None:
        """Close the local connections named by `disconnection` for good, and send them nothing more."""
        for connection in self.connections_of(disconnection.user_id):
            is_named = disconnection.session_id in (None, connection.caller.session_id)
            if is_named and connection.opened_at < opened_before:
                self.unregister(connection)
                try:
                    connection.disconnect(disconnection.code, disconnection.sentence)
                except Exception as error:
                    connection.give_up(_guard.caught(error))

    # -- rooms, and who is attached --------------------------------------------------------------

    def all(self) -> list[Room]:
        """The rooms that are not latent."""
        return list(self._rooms.values())

    def find(self, conversation_id: UUID) -> Room | None:
        """Return the room of a conversation if it is open here. One that is latent is not any more."""
        room = self._rooms.get(conversation_id)
        return self._wake(conversation_id) if room is None and self.latent else room

    def is_open(self, conversation_id: UUID) -> bool:
        """Whether a conversation has a room here, latent or not."""
        return conversation_id in self._rooms or self.latent.has(conversation_id.bytes)

    def audience(self, conversation_id: UUID) -> Collection[Subscriber]:
        """Return the connections that are attached to the room of a conversation, latent or not."""
        room = self._rooms.get(conversation_id)
        if room is not None:
            return room.attached
        return self.latent.attached_to(conversation_id) if self.latent else ()

    def audiences(self, conversation_ids: Sequence[bytes]) -> Iterator[Collection[Subscriber]]:
        """The same for those of these conversations that have a room, by the octets of their ids; what is latent
        together comes once. Each collection is as of when it is asked for.
        """
        open_here = self._ids.intersection(conversation_ids)
        for latent in self.latent.which_have(conversation_ids):
            yield latent.connections
        for conversation_id in open_here:
            yield self.audience(UUID(bytes=conversation_id))

    def is_in_any(self, connection: Subscriber, conversation_ids: PackedIds) -> bool:
        """Whether a connection is attached to the room of any of these."""
        ids = parted(conversation_ids.octets)
        return self.latent.is_in_any(connection, ids) or any(
            connection in self._rooms[UUID(bytes=each)].attached for each in self._ids.intersection(ids)
        )

    def is_attached(self, conversation_id: UUID, connection: Subscriber) -> bool:
        return connection in self.audience(conversation_id)

    def is_anywhere(self, connection: Subscriber) -> bool:
        """Whether it is attached to any room."""
        return bool(connection.rooms) or self.count(connection) > 0

    def count(self, connection: Subscriber) -> int:
        """To how many rooms it is attached."""
        return len(connection.rooms) + self.latent.count(connection)

    def octets_of(self, connection: Subscriber) -> set[bytes]:
        """The conversations to whose rooms it is attached, by the octets of their ids."""
        found = self.latent.ids_of(connection)
        found.update(room.conversation_id.bytes for room in connection.rooms)
        return found

    def conversations_of(self, connection: Subscriber) -> set[UUID]:
        """The same as UUIDs."""
        return {UUID(bytes=each) for each in self.octets_of(connection)}

    def leave(self, room: Room, connection: Subscriber) -> Cursor:
        """Detach the connection from a room. Return its cursor: the head, and what proves it."""
        cursor = room.cursor
        room.detach(connection)
        self._drop_if_idle(room)
        return cursor

    def detach_all(self, connection: Subscriber) -> dict[UUID, Cursor]:
        """Detach the connection from every room. Return its cursors: the head of each of them, and what proves it."""
        cursors = {room.conversation_id: room.cursor for room in connection.rooms}
        for record in self.latent.records_of(connection):
            conversation_id, position = positions.unpack(record)
            cursors[conversation_id] = position.cursor
        self._leave_all(connection)
        return cursors

    def _leave_all(self, connection: Subscriber) -> None:
        closed = self.latent.leave(connection)
        for room in connection.rooms:
            del room.attached[connection]
            if self._close_if_idle(room):
                closed.append(room.conversation_id.bytes)
        connection.rooms.clear()
        if closed:
            self._wanted.drop_many(closed)

    def detach(self, conversation_id: UUID, connection: Subscriber) -> None:
        room = self.find(conversation_id)
        if room is not None:
            room.detach(connection)
            self._drop_if_idle(room)

    def statistics(self) -> dict[str, int]:
        return {
            "rooms": len(self._rooms) + len(self.latent),
            "users": len(self._connections),
            "repaired": self.repair.repaired,
        }

    # -- opening ----------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self, conversation_ids: Collection[UUID]) -> AsyncIterator[dict[UUID, Room]]:
        """Keep the rooms of these conversations open and live, and create those that are missing.

        Conversations that do not exist are left out. Raise Unavailable if the heads cannot be read. While the head of
        a new room is being read, changes that arrive are held, so none is lost between reading it and going live. What
        there is no place for (`server.fanout.held_changes`) is read afterwards.

        A room that another task is opening is waited for. If PostgreSQL or Redis fails that task, it fails this one;
        if that task is cancelled, or has a defect, this one opens the room itself.
        """
        pinned: dict[UUID, Room] = {}
        try:
            ids = list(conversation_ids)
            for start in range(0, len(ids), OPENED):
                if start:
                    await trio.lowlevel.checkpoint()
                await self._open_some(ids[start : start + OPENED], pinned)
            yield {key: room for key, room in pinned.items() if room.next_seq is not None}
        finally:
            for room in pinned.values():
                room.pins -= 1
                self._drop_if_idle(room)

    async def _open_some(self, missing: Sequence[UUID], pinned: dict[UUID, Room]) -> None:
        while missing:
            fresh = self._pin(missing, pinned)
            if fresh:
                await self._open(fresh)
            failed = []
            for conversation_id in missing:
                room = pinned[conversation_id]
                if room.next_seq is None:
                    await self._wait_open(room)
                if room.failure is not None:
                    failed.append(conversation_id)
            missing = failed
            for conversation_id in missing:
                failure = pinned.pop(conversation_id).failure
                if isinstance(failure, StoreError):
                    raise Unavailable(str(failure)) from failure

    def _pin(self, conversation_ids: Collection[UUID], pinned: dict[UUID, Room]) -> list[Room]:
        """Keep the rooms of these conversations. Return those that are made by this, and have to be opened."""
        fresh = []
        for conversation_id in conversation_ids:
            room = self.find(conversation_id)
            if room is None:
                room = self._add(conversation_id)
                fresh.append(room)
            room.pins += 1
            pinned[conversation_id] = room
        return fresh

    def _add(self, conversation_id: UUID) -> Room:
        self._ids.add(conversation_id.bytes)
        room = self._rooms[conversation_id] = Room(conversation_id)
        return room

    async def _open(self, fresh: Sequence[Room]) -> None:
        try:
            # Before the head is read: no change is lost between the two.
            await self._wanted.want_rooms([room.conversation_id for room in fresh])
            await self._place_all(fresh)
        except BaseException as error:
            self._forget([room for room in fresh if room.next_seq is None], error)
            raise

    async def _place_all(self, rooms: Sequence[Room]) -> None:
        """Read the heads of these, which are registered, and let them go live; forget those that do not exist."""
        found = await self._history.positions([room.conversation_id for room in rooms])
        for room in rooms:
            position = found.get(room.conversation_id)
            if position is None:
                self._forget([room])
            else:
                self._place(room, position)

    def _place(self, room: Room, position: Position) -> None:
        self._number(room)
        room.place(position)
        room.moved()
        if room.held:
            self.delivery.release(room)

    def _number(self, room: Room) -> None:
        self.openings += 1
        room.opening = self.openings

    async def attach_latent(
        self,
        connection: Subscriber,
        conversation_ids: Sequence[bytes],
        read: Callable[[], Awaitable[bytes]],
        expelled: Collection[UUID],
    ) -> list[UUID]:
        """Attach a connection to the rooms of these conversations, by the octets of their ids in order, at their heads.
        Return those that have a room already, to which it is not attached: they are the caller's to open, as far as
        `read` returned them, if it was asked.

        The rooms are latent. `read` returns the records of all that are the user's by then, which is asked when they
        are registered: the memberships and the heads are of one moment, so of each removal it is either known, or the
        change comes. What is `expelled` by then is left out. Until its head is read, a room is made of what a change
        comes for, or what another task opens: it holds the change, or lets the task wait, and goes on at the head.

        Raises what `read` raises. Then, or if this is cancelled, no room is left of those whose heads were not read.
        """
        parts, taken = list[tuple[Latent, Sequence[bytes]]](), set[bytes]()
        try:
            for start in range(0, len(conversation_ids), SETTLED):
                if start:
                    await trio.lowlevel.checkpoint()
                some = conversation_ids[start : start + SETTLED]
                open_here = self._ids.intersection(some) | self.latent.among(some)
                if open_here:
                    taken |= open_here
                    some = [each for each in some if each not in open_here]
                if some:
                    parts.append((Latent(connection), some))
                    self.latent.begin(*parts[-1])
            if parts:
                mine = [each for _, ids in parts for each in ids]
                await self._wanted.want_many(mine)  # before the heads are read: no change is lost between the two
                packed = await read()
                is_same = positions.are_of(packed, b"".join(conversation_ids))
                if is_same and taken:
                    packed = positions.without(packed, (n for n, each in enumerate(conversation_ids) if each in taken))
                elif taken:
                    taken.intersection_update(positions.ids(packed))
                await self._settle(connection, parts, packed, expelled, is_same=is_same)
            # What is not the user's any more. None of it is made a room from here on, as nothing would place that.
            for begun, ids in parts:
                self._abandon(begun, ids)
            for begun, _ in parts:
                if begun.woken:
                    await self._place_all([*begun.woken.values()])
                    self._unpin(begun, [*begun.woken])
        except BaseException as error:
            for begun, _ in parts:
                self._forget((begun.woken or {}).values(), error)
            raise
        finally:
            for begun, ids in parts:
                self._abandon(begun, ids)
        return [UUID(bytes=each) for each in sorted(taken)]

    async def _settle(
        self,
        connection: Subscriber,
        parts: Sequence[tuple[Latent, Sequence[bytes]]],
        packed: bytes,
        expelled: Collection[UUID],
        *,
        is_same: bool,
    ) -> None:
        """Attach the connection to what these parts have and the records name. `is_same`: they are of all that the
        parts were given, in order."""
        at, step = 0, SETTLED * positions.SIZE
        pieces: list[tuple[Latent, Sequence[bytes], int, int]] = []  # with from where to where in the records
        for begun, ids in parts:
            if is_same:
                pieces.append((begun, ids, at, at + len(ids) * positions.SIZE))
                at += len(ids) * positions.SIZE
            else:
                pieces += ((begun, ids, start, start + step) for start in range(0, len(packed), step))
        for number, (begun, ids, start, end) in enumerate(pieces):
            if number:
                await trio.lowlevel.checkpoint()
            if expelled or connection.closed:
                some = ids if connection.closed else octets(expelled)
                self._abandon(begun, some)
            self.openings += 1
            for record in self.latent.settle(begun, packed[start:end], self.openings, is_same=is_same):
                conversation_id, position = positions.unpack(record)
                room = (begun.woken or {})[record[:16]]
                self._place(room, position)
                left = conversation_id in expelled or conversation_id in (connection.cursors or ())
                if not left and not connection.closed:
                    room.attach(connection)
                self._unpin(begun, (record[:16],))

    def _abandon(self, begun: Latent, conversation_ids: Collection[bytes]) -> None:
        """Forget those of these whose heads were not noted."""
        left = self.latent.abandon(begun, conversation_ids)
        if left:
            self._wanted.drop_many(left)

    def _unpin(self, begun: Latent, conversation_ids: Iterable[bytes]) -> None:
        """Let go of rooms that were woken before their heads were read."""
        for conversation_id in conversation_ids:
            room = (begun.woken or {}).pop(conversation_id)
            room.pins -= 1
            self._drop_if_idle(room)

    def _wake(self, conversation_id: UUID) -> Room | None:
        """Make a room of a latent one."""
        raw = conversation_id.bytes
        latent = self.latent.take(raw)
        if latent is None:
            return None
        room = self._add(conversation_id)
        if latent.packed is None:
            latent.hold(raw, room)
            room.pins += 1
        else:
            room.place(positions.position(positions.find(latent.packed, raw)))
            room.opening = latent.opening
            for connection in latent.connections:
                room.attach(connection)
            if self.latent.suspicions:
                self.history.hold(room)
        return room

    def _forget(self, rooms: Iterable[Room], failure: BaseException | None = None) -> None:
        """Remove rooms that could not be opened, and wake the tasks that wait for them. Without a `failure` their
        conversations do not exist."""
        for room in rooms:
            room.failure = failure
            if self._rooms.pop(room.conversation_id, None) is not None:
                self._ids.discard(room.conversation_id.bytes)
                self._wanted.drop_room(room.conversation_id)
            self._recheck_held(room)
            room.moved()

    def _recheck_held(self, room: Room) -> None:
        """Look up whom what a room holds adds or removes: it is gone, and does not deliver that any more."""
        for change in room.drop_held():
            if change.added or change.removed:
                self.delivery.restore(change)

    async def _wait_open(self, room: Room) -> None:
        """Wait until another task has opened the room, or has failed to."""
        while room.next_seq is None and self._rooms.get(room.conversation_id) is room:
            if room.advanced is None:
                room.advanced = trio.Event()
            await room.advanced.wait()

    async def wait_moved(self, room: Room) -> None:
        """Wait until the next change is delivered in `room`."""
        if room.advanced is None:
            room.advanced = trio.Event()
        await room.advanced.wait()

    def _drop_if_idle(self, room: Room) -> None:
        if self._close_if_idle(room):
            self._wanted.drop_room(room.conversation_id)

    def _close_if_idle(self, room: Room) -> bool:
        """Close a room that no one needs. Return whether it was closed, and is to be unregistered."""
        if room.attached or room.pins or self._rooms.get(room.conversation_id) is not room:
            return False
        del self._rooms[room.conversation_id]
        self._ids.discard(room.conversation_id.bytes)
        self.repair.drop(room)
        self.history.drop(room)
        self._recheck_held(room)
        return True

    # -- members ---------------------------------------------------------------------------------

    def change_members(self, room: Room | None, change: Change) -> None:
        """Attach the connections of users who were added, and detach those of users who were removed.

        A room that was closed meanwhile, behind the last connection, which lags, or has ended, counts as none. If there
        is another one by then, it may have passed the change: those concerned are looked up. So they are behind the
        change if there is none: what the room held may have added or removed them again.
        """
        conversation_id = change.conversation_id
        is_closed = room is not None and self._rooms.get(conversation_id) is not room
        if is_closed:
            room = None
            if self.is_open(conversation_id):
                self.recheck_all(change)
                return
        removed: dict[str, list[Subscriber]] = {}  # by reason
        for user_id in change.removed:
            reason = "deleted" if change.dissolved else "left" if change.message.sender_id == user_id else "removed"
            removed.setdefault(reason, []).extend(self._expel(room, change, user_id))
        for reason, expelled in removed.items():  # together: a group that is deleted may have any number of members
            self.delivery.notify(expelled, REMOVED, (conversation_id, reason), conversation_id, reason)
        for user_id in change.added:
            connections = self._connections.get(user_id, ())
            for connection in connections:
                if connection.expelled is not None:
                    connection.expelled.discard(conversation_id)
                if connection.following == conversation_id:
                    connection.owe(conversation_id, JOINED)  # its catch-up attaches it, unless it was removed before
                elif connection.auto_attach and conversation_id not in (connection.cursors or ()):
                    if conversation_id in (connection.owed or ()):
                        connection.resync(conversation_id)  # it has not heard yet that it was removed before
                        continue
                    room = room or self._new_room(change)
                    room.attach(connection)  # otherwise its catch-up attaches it, from an earlier cursor
            notifier = self._notifier()
            if connections and notifier is not None:
                notifier.settle(conversation_id, user_id)
                notifier.notify(conversation_id, (user_id,))
        if room is not None and change.dissolved:
            room.is_dissolved = True  # who was in it is not known, if the change was read: some may be about to attach
            self.delivery.notify(room.attached, REMOVED, (conversation_id, "deleted"), conversation_id, "deleted")
            for connection in list(room.attached):
                room.detach(connection)
        if room is not None:
            self._drop_if_idle(room)
        if is_closed:
            self.recheck_all(change)

    def _expel(self, room: Room | None, change: Change, user_id: UUID) -> Sequence[Subscriber]:
        """Detach the connections of a user who was removed, and return them."""
        connections = self._connections.get(user_id, ())
        for connection in connections:
            if connection.expelled is not None:
                connection.expelled.add(change.conversation_id)
            if room is not None:
                room.detach(connection)
        if connections:
            notifier = self._notifier()
            if notifier is not None:
                notifier.settle(change.conversation_id, user_id)
        return connections

    def recheck_members(self, room: Room, change: Change) -> None:
        """Verify members after a change that the room has passed: it was opened, or repaired, at a later seq."""
        for user_id in (*change.added, *change.removed):
            connections = self._connections.get(user_id, ())
            wrong = change.removed if user_id in change.removed else ()
            kept_out = False  # from a catch-up that is under way, though they may have been added again since
            for connection in connections:
                if wrong and connection.expelled is not None:
                    connection.expelled.add(change.conversation_id)
                    kept_out = True
            attached = [connection in room.attached for connection in connections if connection.auto_attach or wrong]
            notifier = self._notifier()
            if notifier is not None and (kept_out or any(attached) if wrong else not all(attached)):
                notifier.recheck(change.conversation_id, user_id)

    def recheck_all(self, change: Change) -> None:
        """Verify all whom a change adds or removes: it was not delivered, because of a defect or a failure."""
        notifier = self._notifier()
        for user_id in (*change.added, *change.removed):
            if notifier is not None and user_id in self._connections:
                notifier.recheck(change.conversation_id, user_id)

    def attach_user(self, room: Room, user_id: UUID) -> bool:
        """Attach the connections of a user who is a member, as of the head or later. Return True if one was not.

        Those that will catch up with the room from a cursor are left to that. Those that are catching up just now may
        be about to attach, and look again afterwards (`Subscriber.owe`).
        """
        is_new = False
        for connection in self._connections.get(user_id, ()):
            if connection.expelled is not None:
                connection.expelled.discard(room.conversation_id)  # a removal that came late
            if not connection.auto_attach or connection in room.attached:
                continue
            if connection.expelled is not None:
                connection.owe(room.conversation_id, JOINED)
            elif room.conversation_id not in (connection.cursors or ()):
                connection.resync(room.conversation_id)  # what was said since they were added has not come
                is_new = True
        return is_new

    def detach_user(self, conversation_id: UUID, user_id: UUID) -> bool:
        """Detach the connections of a user who is not a member. Return True if one was attached.

        Those that are catching up may have read their memberships before the removal, of which nothing has come here.
        """
        for connection in self._connections.get(user_id, ()):
            if connection.expelled is not None:
                connection.expelled.add(conversation_id)
        room = self.find(conversation_id)
        if room is None:
            return False
        found = [connection for connection in self._connections.get(user_id, ()) if connection in room.attached]
        for connection in found:
            room.detach(connection)
        self.delivery.notify(found, REMOVED, (conversation_id, "removed"), conversation_id, "removed")
        self._drop_if_idle(room)
        return bool(found)

    def _new_room(self, change: Change) -> Room:
        """Open a room at `change`, and schedule its repair.

        The repair registers the room first. So it also finds later changes that were committed before that.
        """
        room = self._add(change.conversation_id)
        message = change.message
        room.next_seq = change.seq + 1
        room.last_id = room.newest_id = message.id.int  # members are added by a message
        room.fresh = True
        self._number(room)
        self.repair.schedule(room, 0.0)
        return room


def no_such_conversation() -> ChatError:
    return ChatError("not_found", "There is no such conversation, or you are not a member of it.")
