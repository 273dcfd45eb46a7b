"""What is told and not kept: moved receipts, typing, presence (docs/hub.md).

Owns what is about to be told of receipts and presence, coalesced per person, and who is typing where, with an expiry of
its own on every instance: should the one that heard the start die, nobody types forever. All of it is shed before
anything else when a connection reads slowly.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import UUID

import trio
from msgspec import Struct

from handlers.model import StatusUpdate, TypingUpdate, UserStatusUpdate
from server.fanout.broadcaster import Broadcast
from server.fanout.rooms import Rooms
from store.defects import divided, guard
from store.model import Message, MessageStatus
from store.redis.inbox_entries import Entry, InstanceMessage, Receipt, Seen, Typing, merged

TICK = 0.1  # seconds: at most one MessageStatusUpdated per member and tick
MAX_PER_TICK = 50  # members of one conversation told of in a tick; the others in the next, with what they have by then
MAX_SEEN = 200  # people who came or went told of in a tick, likewise
MEMORY = 30.0  # seconds for which a cursor that was told is not told lower
TYPING_TTL = 6.0  # seconds without a word after which typing has stopped (docs/hub.md)
REPEAT = 2.0  # seconds after which others are told again that somebody still types
MAX_TYPING = 20  # people of one conversation of whom it is told in a tick that they began or stopped typing
MAX_TURNED = 1000  # of all conversations, likewise
SLACK = 1.0  # seconds more that another instance waits for the next word

_guard = guard("ephemeral_events")

UPDATED, STARTED, STOPPED, SHOWN = (
    "MessageStatusUpdated",
    "UserStartedTyping",
    "UserStoppedTyping",
    "UserStatusChanged",
)


class OtherInstances(Protocol):
    """The way to the other instances (`server.cluster.publisher`)."""

    def send(self, messages: Iterable[InstanceMessage]) -> None: ...


class Broadcaster(Protocol):
    """Whoever tells it (`server.fanout.broadcaster`)."""

    async def tell(self, news: Sequence[Broadcast]) -> None: ...


class _Typist(Struct):
    expires_at: float
    is_here: bool  # connected to this instance: it is for us to tell the others
    told_at: float  # when other instances heard of it last; of those that they told us, never


class EphemeralEvents:
    def __init__(self, rooms: Rooms, others: OtherInstances, broadcaster: Broadcaster) -> None:
        self._rooms = rooms
        self._others = others
        self._broadcaster = broadcaster
        self._seen: dict[UUID, Seen] = {}  # to be told, by user
        self._receipts: dict[UUID, dict[UUID, Receipt]] = {}  # to be told, by conversation and member
        self._typists: dict[tuple[UUID, UUID], _Typist] = {}
        self._turned: dict[tuple[UUID, UUID], bool] = {}  # began or stopped since the last tick; True: said here
        self._typing_shown: set[tuple[UUID, UUID]] = set()  # of whom people here were told that they type
        self._told: dict[tuple[UUID, UUID], tuple[int, int]] = {}  # how far each member was told to be
        self._told_before: dict[tuple[UUID, UUID], tuple[int, int]] = {}
        self._forget_at = 0.0
        self._wake = trio.Event()

    # -- from here ----------------------------------------------------------------------------------

    def tell_receipts(self, receipts: list[Receipt]) -> None:
        """These cursors have moved."""
        self._others.send(receipts)
        self._gather(receipts)

    def sent(self, message: Message) -> None:
        """A message whose sender has read what came before it. It comes to every instance by itself, whoever dies: the
        cursor needs no message of its own."""
        seq = message.seq
        self._gather((Receipt(message.conversation_id, message.sender_id, seq, seq, message.created_at),))

    def type(self, conversation_id: UUID, user_id: UUID) -> None:
        """A user types. Said again while she goes on."""
        self._start((conversation_id, user_id), TYPING_TTL, is_here=True)

    def stop_typing(self, conversation_id: UUID, user_id: UUID) -> None:
        self._stop((conversation_id, user_id), is_here=True)

    def user_left(self, user_id: UUID) -> None:
        """Her last connection here has ended."""
        for conversation_id in [key[0] for key in self._typists if key[1] == user_id]:
            self.stop_typing(conversation_id, user_id)

    def show(self, seen: list[Seen]) -> None:
        """How users are to be seen from now on."""
        self._others.send(seen)
        self._show(seen)

    # -- from elsewhere -----------------------------------------------------------------------------

    def receive(self, entry: Entry) -> None:
        self._gather(entry.receipts)
        for said in entry.typing:
            key = said.conversation_id, said.user_id
            if said.typing:
                self._start(key, TYPING_TTL + SLACK, is_here=False)
            else:
                self._stop(key, is_here=False)
        self._show(entry.seen)

    # -- telling --------------------------------------------------------------------------------------

    def _gather(self, receipts: Iterable[Receipt]) -> None:
        for receipt in receipts:
            if self._rooms.find(receipt.conversation_id) is not None:
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
        if key not in self._typing_shown or (is_here and now - typist.told_at >= REPEAT):
            self._turned[key] = is_here or self._turned.get(key, False)
            self._wake.set()

    def _stop(self, key: tuple[UUID, UUID], *, is_here: bool) -> None:
        if self._typists.pop(key, None) is not None:
            self._turned[key] = is_here or self._turned.get(key, False)
            self._wake.set()

    def _show(self, seen: Iterable[Seen]) -> None:
        for one in seen:
            self._seen[one.user_id] = one
            self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell what has gathered, tick by tick; end what has expired."""
        task_status.started()
        while True:
            if not self._receipts and not self._typists and not self._seen and not self._turned:
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
            self._stop(key, is_here=False)  # other instances know by themselves
        news = [*self._take_typing(now), *self._take_receipts(), *self._take_seen()]
        await divided(_guard, news, self._broadcaster.tell, lambda one, reference: None)

    def _take_typing(self, now: float) -> list[Broadcast]:
        """However often somebody began and stopped in a tick: the last of it, and nothing when that is known."""
        told: Counter[UUID] = Counter()
        news: list[Broadcast] = []
        said: list[Typing] = []
        for key in list(self._turned)[:MAX_TURNED]:
            conversation_id, user_id = key
            if told[conversation_id] >= MAX_TYPING:
                continue  # in the next tick
            is_here, typist = self._turned.pop(key), self._typists.get(key)
            if typist is not None and typist.is_here and now - typist.told_at >= REPEAT:
                typist.told_at = now
                said.append(Typing(conversation_id, user_id, True))
            if (typist is not None) is (key in self._typing_shown):
                continue
            told[conversation_id] += 1
            if typist is not None:
                self._typing_shown.add(key)
            else:
                self._typing_shown.discard(key)
                if is_here:
                    said.append(Typing(conversation_id, user_id, False))
            event = STOPPED if typist is None else STARTED
            news.append(Broadcast((conversation_id,), event, (TypingUpdate(conversation_id, user_id),), but=user_id))
        if said:
            self._others.send(said)
        return news

    def _take_seen(self) -> list[Broadcast]:
        taken = [self._seen.pop(user_id) for user_id in list(self._seen)[:MAX_SEEN]]
        return [
            Broadcast(
                one.conversation_ids,
                SHOWN,
                (UserStatusUpdate(one.user_id, one.status, one.status_text, one.last_seen_at),),
                but=one.user_id,
            )
            for one in taken
        ]

    def _take_receipts(self) -> list[Broadcast]:
        news = []
        for conversation_id, waiting in list(self._receipts.items()):
            for user_id in list(waiting)[:MAX_PER_TICK]:
                receipt = self._news(waiting.pop(user_id))
                if receipt is None:
                    continue
                if receipt.delivered_seq > receipt.read_seq > 0:
                    waiting[user_id] = Receipt(conversation_id, user_id, receipt.delivered_seq, 0, receipt.at)
                read = receipt.read_seq > 0
                update = StatusUpdate(
                    conversation_id=conversation_id,
                    user_id=user_id,
                    status=MessageStatus.READ if read else MessageStatus.DELIVERED,
                    seq=receipt.read_seq if read else receipt.delivered_seq,
                    at=receipt.at,
                )
                news.append(Broadcast((conversation_id,), UPDATED, (update,)))
            if not waiting:
                del self._receipts[conversation_id]
        return news

    def _news(self, receipt: Receipt) -> Receipt | None:
        """Without what was told before: two instances may write, and be heard, in another order."""
        key = receipt.conversation_id, receipt.user_id
        delivered, read = self._told.get(key) or self._told_before.get(key, (0, 0))
        moved = Receipt(
            *key,
            receipt.delivered_seq if receipt.delivered_seq > delivered else 0,
            receipt.read_seq if receipt.read_seq > read else 0,
            receipt.at,
        )
        if not moved.delivered_seq and not moved.read_seq:
            return None
        if moved.read_seq:  # told now; what is delivered beyond it, in the next tick
            self._told[key] = max(delivered, moved.read_seq), moved.read_seq
        else:
            self._told[key] = moved.delivered_seq, read
        return moved

    def _forget(self) -> None:
        """What was told is remembered for MEMORY to twice as long."""
        now = trio.current_time()
        if now >= self._forget_at:
            self._told_before, self._told = self._told, {}
            self._forget_at = now + MEMORY
