"""Coalesce and broadcast the events that are not kept: moved receipts, typing, and presence (docs/hub.md).

Owns the pending announcements of receipts and presence, coalesced per user, and who is typing where. Every instance
expires typing by itself: if the instance that received the start dies, the others announce the end. These events are
the first to be shed when a connection reads slowly; the latest of each is sent to it afterwards.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import UUID

import msgspec
import trio
from msgspec import Struct

from handlers.model import StatusUpdate, TypingUpdate, UserStatusUpdate
from server.fanout.recent_events import Broadcast
from server.fanout.rooms import Rooms
from store.defects import divided, guard
from store.ids import PackedIds
from store.model import Message, MessageStatus, Privacy, UserStatus
from store.redis.inbox_entries import (
    BlockNotice,
    Entry,
    InstanceMessage,
    PrivacyNotice,
    Receipt,
    StatusNotice,
    Typing,
    merged,
)

TICK = 0.1  # seconds: at most one MessageStatusUpdated per member and tick
MAX_PER_TICK = 50  # receipts announced in one conversation and tick; the others wait, and go on coalescing
MAX_STATUSES = 200  # users whose presence is announced in one tick, likewise
MEMORY = 30.0  # seconds for which no cursor below an announced one is announced
TYPING_TTL = 6.0  # seconds after the last sign of typing at which it has stopped (docs/hub.md)
REPEAT = 2.0  # seconds after which other instances are notified again that a user still types
MAX_TYPING = 20  # users announced in one conversation and tick as having begun or stopped to type
MAX_TURNED = 1000  # of all conversations, likewise
SLACK = 1.0  # seconds longer that another instance waits for the next sign of typing

_guard = guard("ephemeral_events")

UPDATED, STARTED, STOPPED, STATUS = (
    "MessageStatusUpdated",
    "UserStartedTyping",
    "UserStoppedTyping",
    "UserStatusChanged",
)


class OtherInstances(Protocol):
    """Sends to the other instances (`server.cluster.publisher`)."""

    def send(self, messages: Iterable[InstanceMessage]) -> None: ...


class Broadcaster(Protocol):
    """Sends events to local connections (`server.fanout.broadcaster`)."""

    async def broadcast(self, broadcasts: Sequence[Broadcast]) -> None: ...


class _Typist(Struct):
    expires_at: float
    is_here: bool  # connected to this instance, which therefore notifies the others
    announced_at: float  # when other instances were notified last; -inf for a user of another instance


class EphemeralEvents:
    def __init__(self, rooms: Rooms, others: OtherInstances, broadcaster: Broadcaster) -> None:
        self._rooms = rooms
        self._others = others
        self._broadcaster = broadcaster
        self._statuses: dict[UUID, StatusNotice] = {}  # to be announced, by user
        # Who is offline to whom from now on, with the status text and the conversations in which they saw each other.
        self._parted: dict[tuple[UUID, UUID], tuple[str | None, PackedIds]] = {}
        self._receipts: dict[UUID, dict[UUID, Receipt]] = {}  # to be announced, by conversation and member
        self._typists: dict[tuple[UUID, UUID], _Typist] = {}
        self._turned: dict[tuple[UUID, UUID], bool] = {}  # began or stopped since the last tick; True: received here
        self._typing_shown: set[tuple[UUID, UUID]] = set()  # announced to local connections as typing
        self._announced: dict[tuple[UUID, UUID], tuple[int, int]] = {}  # (delivered, read), by member
        self._announced_before: dict[tuple[UUID, UUID], tuple[int, int]] = {}
        self._forget_at = 0.0
        self._wake = trio.Event()

    # -- local events ----------------------------------------------------------------------------------

    def announce_receipts(self, receipts: list[Receipt]) -> None:
        """Announce that these cursors have moved, here and on the other instances."""
        self._others.send(receipts)
        self._gather(receipts)

    def sent(self, message: Message, *, is_private: bool) -> None:
        """Announce the receipt implied by a message: its sender has read everything before it.

        Every instance receives the message itself, so nothing is sent to the others.
        """
        seq = message.seq
        self._gather((Receipt(message.conversation_id, message.sender_id, seq, seq, message.created_at, is_private),))

    def forget(self, conversation_id: UUID) -> None:
        """Forget which receipts were announced: the history went back, and the same seqs are announced again.

        Those of all conversations, as this is rare: at worst an older receipt is announced once more.
        """
        self._receipts.pop(conversation_id, None)
        self._announced.clear()
        self._announced_before = {}

    def type(self, conversation_id: UUID, user_id: UUID) -> None:
        """Note that a user types, if they let others know. Clients repeat it for as long as the user goes on."""
        if self._rooms.privacy.of(user_id).typing:
            self._start((conversation_id, user_id), TYPING_TTL, is_here=True)

    def stop_typing(self, conversation_id: UUID, user_id: UUID) -> None:
        self._stop((conversation_id, user_id), is_here=True)

    def user_left(self, user_id: UUID) -> None:
        """Stop the user's typing: their last connection here has ended."""
        for conversation_id in [key[0] for key in self._typists if key[1] == user_id]:
            self.stop_typing(conversation_id, user_id)

    def announce_privacy(self, notice: PrivacyNotice) -> None:
        """Observe what a user hides from now on, here and on the other instances."""
        self._others.send((notice,))
        self._observe(notice)

    def announce_block(self, notice: BlockNotice) -> None:
        """Keep the presence of two users from each other from now on, or not any more, here and on the other
        instances."""
        self._others.send((notice,))
        self._observe_block(notice)

    def announce_statuses(self, notices: list[StatusNotice]) -> None:
        """Announce the presence of these users, here and on the other instances."""
        self._others.send(notices)
        self._announce_statuses(notices)

    def show_statuses(self, notices: list[StatusNotice]) -> None:
        """Announce the presence of these users here only: the other instances have heard of it."""
        self._announce_statuses(notices)

    # -- from other instances -----------------------------------------------------------------------------

    def receive(self, entry: Entry) -> None:
        for block in entry.blocks:
            self._observe_block(block)
        for one in entry.privacy:
            self._observe(one)
        self._gather(entry.receipts)
        for notice in entry.typing:
            key = notice.conversation_id, notice.user_id
            if notice.typing:
                self._start(key, TYPING_TTL + SLACK, is_here=False)
            else:
                self._stop(key, is_here=False)
        self._announce_statuses(entry.statuses)

    # -- announcing --------------------------------------------------------------------------------------

    def _observe(self, notice: PrivacyNotice) -> None:
        shown = Privacy(notice.read_receipts, notice.typing, notice.last_seen)
        self._rooms.set_privacy(notice.user_id, shown, notice.version)
        if not self._rooms.privacy.of(notice.user_id).typing:
            self.user_left(notice.user_id)  # what they have said of typing is taken back

    def _observe_block(self, notice: BlockNotice) -> None:
        """Show each of the two as offline to the other from now on: to a connection that saw the other as
        online, once.
        """
        self._rooms.set_block(notice)
        for user_id, text in notice.shown:
            viewer_id = notice.other_id if user_id == notice.user_id else notice.user_id
            if self._rooms.connections_of(viewer_id):
                self._parted[user_id, viewer_id] = text, notice.conversation_ids
                self._wake.set()

    def _gather(self, receipts: Iterable[Receipt]) -> None:
        for receipt in receipts:
            if self._rooms.is_open(receipt.conversation_id):
                waiting = self._receipts.setdefault(receipt.conversation_id, {})
                known = waiting.get(receipt.user_id)
                waiting[receipt.user_id] = receipt if known is None else merged(known, receipt)
                self._wake.set()

    def _start(self, key: tuple[UUID, UUID], seconds: float, *, is_here: bool) -> None:
        now = trio.current_time()
        typist = self._typists.get(key)
        if typist is None:
            typist = self._typists[key] = _Typist(now + seconds, is_here, float("-inf"))
        typist.expires_at = now + seconds
        typist.is_here = typist.is_here or is_here
        if key not in self._typing_shown or (is_here and now - typist.announced_at >= REPEAT):
            self._turned[key] = is_here or self._turned.get(key, False)
            self._wake.set()

    def _stop(self, key: tuple[UUID, UUID], *, is_here: bool) -> None:
        if self._typists.pop(key, None) is not None:
            self._turned[key] = is_here or self._turned.get(key, False)
            self._wake.set()

    def _announce_statuses(self, notices: Iterable[StatusNotice]) -> None:
        for one in notices:
            self._statuses[one.user_id] = one
            self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce what has gathered, once a tick, and expire typing, until cancelled."""
        task_status.started()
        while True:
            if not (self._receipts or self._typists or self._statuses or self._turned or self._parted):
                self._wake = trio.Event()
                await self._wake.wait()
            try:
                await self._tick()
            except Exception as error:  # what was in this tick is not kept anyway
                _guard.caught(error)
            await trio.sleep(TICK)

    async def _tick(self) -> None:
        self._forget()
        now = trio.current_time()
        for key in [key for key, typist in self._typists.items() if typist.expires_at <= now]:
            self._stop(key, is_here=False)  # other instances expire it themselves
        seen = [*self._take_parted(), *self._take_seen()]
        broadcasts = [*self._take_typing(now), *self._take_receipts(), *seen]
        await divided(_guard, broadcasts, self._broadcaster.broadcast, lambda one, reference: None)

    def _take_typing(self, now: float) -> list[Broadcast]:
        """Return the events of users whose typing has begun or stopped, and notify the other instances.

        Only the state at the end of the tick counts, compared with what connections were shown last: a user who began
        and stopped within one tick causes no event. At most `MAX_TYPING` events go to one conversation; users beyond
        that stay in `_turned` for the next tick. Only the user's own instance notifies the others: at the start, every
        `REPEAT` seconds while it lasts, and at the end. When typing expires, it sends nothing, because each instance
        expires it by itself.
        """
        counts: Counter[UUID] = Counter()
        broadcasts: list[Broadcast] = []
        notices: list[Typing] = []
        for key in list(self._turned)[:MAX_TURNED]:
            conversation_id, user_id = key
            if counts[conversation_id] >= MAX_TYPING:
                continue  # in the next tick
            is_here, typist = self._turned.pop(key), self._typists.get(key)
            if typist is not None and typist.is_here and now - typist.announced_at >= REPEAT:
                typist.announced_at = now
                notices.append(Typing(conversation_id, user_id, True))
            if (typist is not None) is (key in self._typing_shown):
                continue
            counts[conversation_id] += 1
            if typist is not None:
                self._typing_shown.add(key)
            else:
                self._typing_shown.discard(key)
                if is_here:
                    notices.append(Typing(conversation_id, user_id, False))
            event = STOPPED if typist is None else STARTED
            update = TypingUpdate(conversation_id, user_id)
            about = ("typing", *key)
            hidden_by = "" if typist is None else "typing"  # the end is for all who were shown the beginning
            broadcasts.append(
                Broadcast(
                    (conversation_id,), event, (update,), but=user_id, about=about, hidden_by=hidden_by, by=user_id
                )
            )
        if notices:
            self._others.send(notices)
        return broadcasts

    def _take_seen(self) -> list[Broadcast]:
        taken = [self._statuses.pop(user_id) for user_id in list(self._statuses)[:MAX_STATUSES]]
        return [
            Broadcast(
                one.conversation_ids,
                STATUS,
                (UserStatusUpdate(one.user_id, one.status, one.status_text, one.last_seen_at),),
                but=one.user_id,
                about=("presence", one.user_id),
                hidden_by="" if one.last_seen_at is None else "last_seen",
                instead=(UserStatusUpdate(one.user_id, one.status, one.status_text, None),),
                by=one.user_id,
            )
            for one in taken
        ]

    def _take_parted(self) -> list[Broadcast]:
        parted, self._parted = self._parted, {}
        return [
            Broadcast(
                conversation_ids,
                STATUS,
                (UserStatusUpdate(user_id, UserStatus.OFFLINE, text, None),),
                about=("parted", user_id, viewer_id),
                only=viewer_id,
            )
            for (user_id, viewer_id), (text, conversation_ids) in parted.items()
        ]

    def _take_receipts(self) -> list[Broadcast]:
        broadcasts = []
        for conversation_id, waiting in list(self._receipts.items()):
            for user_id in list(waiting)[:MAX_PER_TICK]:
                receipt = self._moved(waiting.pop(user_id))
                if receipt is None:
                    continue
                if receipt.delivered_seq > receipt.read_seq > 0:
                    waiting[user_id] = msgspec.structs.replace(receipt, read_seq=0)
                read = receipt.read_seq > 0
                update = StatusUpdate(
                    conversation_id=conversation_id,
                    user_id=user_id,
                    status=MessageStatus.READ if read else MessageStatus.DELIVERED,
                    seq=receipt.read_seq if read else receipt.delivered_seq,
                    at=receipt.at,
                )
                about = (update.status, conversation_id, user_id)
                broadcast = Broadcast((conversation_id,), UPDATED, (update,), about=about)
                if read:
                    received = msgspec.structs.replace(update, status=MessageStatus.DELIVERED)
                    broadcast = broadcast._replace(
                        hidden_by="read_receipts", of=user_id, is_hidden=receipt.is_private, instead=(received,)
                    )
                broadcasts.append(broadcast)
            if not waiting:
                del self._receipts[conversation_id]
        return broadcasts

    def _moved(self, receipt: Receipt) -> Receipt | None:
        """Return the receipt without cursors announced before, or None if none is left.

        Receipts that two instances have written may arrive in another order: an older one must not lower a cursor.
        """
        key = receipt.conversation_id, receipt.user_id
        delivered, read = self._announced.get(key) or self._announced_before.get(key, (0, 0))
        moved = Receipt(
            *key,
            receipt.delivered_seq if receipt.delivered_seq > delivered else 0,
            receipt.read_seq if receipt.read_seq > read else 0,
            receipt.at,
            receipt.is_private,
        )
        if not moved.delivered_seq and not moved.read_seq:
            return None
        if moved.read_seq:  # announced now; what is delivered beyond it, in the next tick
            self._announced[key] = max(delivered, moved.read_seq), moved.read_seq
        else:
            self._announced[key] = moved.delivered_seq, read
        return moved

    def _forget(self) -> None:
        """Forget cursors announced more than `MEMORY` to twice `MEMORY` ago."""
        now = trio.current_time()
        if now >= self._forget_at:
            self._announced_before, self._announced = self._announced, {}
            self._forget_at = now + MEMORY
