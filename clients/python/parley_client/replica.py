"""A user's chat as this client has it, sans I/O: what events, answers and lists make of it.

Owns the conversations and the outbox, which events the application hears of, and what a store keeps. The rule for all
of it: cursors move with events only, what was had before is passed over, and what the server cannot replay is read
anew. Touches nothing: `server` events come in by `take`, and what is to be done stands in `work`.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from parley_client import events
from parley_client.conversation import Actions, Conversation, Outgoing, Receipt
from parley_client.errors import ParleyError, from_sentence
from parley_client.events import Event
from parley_client.model import (
    BlocksState,
    ConversationInfo,
    ConversationSettings,
    Cursor,
    Message,
    MessageStatus,
    Outcome,
    Presence,
    Resync,
    StatusUpdate,
    Synced,
    SyncedConversation,
    ThreadState,
    TypingUpdate,
)
from parley_client.outbox import OUTCOME_UNKNOWN, Draft, Entry, Outbox
from parley_client.view import View, joined_at

STORED = 100  # messages of each conversation in the store: the newest
KEPT = 10_000  # messages of each conversation in memory
OVERTAKEN = 8  # answers that are older than what has come, until no other is asked for
TYPING = 7.0  # seconds after which typing has ended, when nothing was heard of it

Others: TypeAlias = Literal["replay", "attach"]


class _Meta(msgspec.Struct):
    user_id: str
    url: str
    has_synced: bool = False


class _Stored(msgspec.Struct):
    """A conversation in a store."""

    info: ConversationInfo
    cursor: Cursor | None
    floor: int
    seen_to: int
    is_stale: bool
    messages: list[Message]
    mark_read: int = 0


class Replica:
    """All of it, for one user. `emit` is given every event, `work` is called when there is something to do."""

    def __init__(
        self, actions: Actions, emit: Callable[[Event], None], work: Callable[[], None], *, keep: int = KEPT
    ) -> None:
        self._actions = actions
        self._to_application = emit
        self._work = work
        self._keep = keep
        self.conversations: dict[str, Conversation] = {}
        self.outbox = Outbox()
        self.presence: dict[str, Presence] = {}
        self.has_synced = False  # once: what is new to this client then came while it was away
        self._kept_synced = False  # the same, with what the store has
        self._was_synced = False  # and with what it had before the last records
        self.dirty: set[str] = set()  # names of records
        self._user_id = ""
        self._url = ""
        self.blocked: frozenset[str] = frozenset()
        self.blocks_version = 0  # of what was read
        self.blocks_heard = 0
        # While the connection catches up:
        self._others: Others | None = None
        self._early: dict[str, list[tuple[Message, bool]]] = {}  # of conversations about which nothing is known yet
        self._held: list[tuple[Conversation, Message]] | None = None  # not shown yet: they are put into order first
        self._anew: set[str] = set()  # in which a Resync has come on this connection
        self._stale: set[str] = set()
        # Conversations whose details are to be asked for (again), and how many answers were older than what had come.
        self._outdated: dict[str, int] = {}
        self._asked: dict[
            str, dict[str, None]
        ] = {}  # by conversation: threads of which it is to be asked what they are
        # What has happened in conversations of which no title and no members are known yet: the application hears of it
        # when they are, so that it can say where.
        self._nameless: dict[str, list[Event]] = {}

    def _emit(self, event: Event) -> None:
        waiting = self._nameless.get(event.conversation.id) if isinstance(event, events.InConversation) else None
        if waiting is None:
            self._to_application(event)
        else:
            waiting.append(event)

    # -- the store -----------------------------------------------------------------------------------------------------

    def restore(self, records: Mapping[str, bytes], user_id: str, url: str) -> bool:
        """Go on from what a store has. Returns False if it is another user's, another server's, or empty: nothing of it
        is used then. Raises msgspec errors."""
        self._user_id, self._url = user_id, url
        self.dirty.add("meta")
        if "meta" not in records:
            return False
        meta = msgspec.json.decode(records["meta"], type=_Meta)
        if (meta.user_id, meta.url) != (user_id, url):
            return False
        drafts = msgspec.json.decode(records.get("outbox", b"[]"), type=list[Draft])
        stored = [
            msgspec.json.decode(record, type=_Stored) for name, record in records.items() if name.startswith("in ")
        ]
        added = self.outbox.drafts()
        attempts = records.get("attempts")
        self.outbox.take_over(
            drafts, None if attempts is None else msgspec.json.decode(attempts, type=dict[str, float])
        )
        if added:
            self._touch("outbox")
        self.has_synced = self._kept_synced = meta.has_synced
        for one in stored:
            view = View(one.cursor, one.floor, one.messages, seen_to=one.seen_to, is_stale=one.is_stale)
            found = self._made(one.info, view)
            found._mark_read = one.mark_read
        return True

    def records(self) -> dict[str, bytes | None]:
        """Return what has changed since the last time, as a store keeps it. While the client catches up that is what
        one sends, and no conversation; else all but conversations that have no details yet."""
        self._was_synced = self._kept_synced
        if self._held is not None:
            later = self.dirty - {"meta", "outbox", "attempts"}
        else:
            later = {f"in {id_}" for id_ in self._nameless}  # of them the application is to hear, by whatever program
            self._kept_synced = self.has_synced
        names, self.dirty = self.dirty - later, self.dirty & later
        if "outbox" in names:
            names.add("attempts")
        if self._kept_synced != self.has_synced:
            self.dirty.add("meta")  # it goes with the conversations
        return {name: self._record(name) for name in names}

    def not_saved(self, names: Iterable[str]) -> None:
        """The last records, or these attempts, could not be written: they are in later ones."""
        self.dirty.update(names)
        if "meta" in names:
            self._kept_synced = self._was_synced

    def attempts(self) -> bytes:
        """Return the record that a store has to have before what it keeps is sent to a server."""
        return msgspec.json.encode(self.outbox.attempts())

    def _record(self, name: str) -> bytes | None:
        if name == "meta":
            return msgspec.json.encode(_Meta(self._user_id, self._url, self._kept_synced))
        if name == "outbox":
            return msgspec.json.encode(self.outbox.drafts())
        if name == "attempts":
            return self.attempts()
        found = self.conversations.get(name.removeprefix("in "))
        if found is None:
            return None
        view = found._view
        messages = view.messages
        is_cut = len(messages) > STORED
        return msgspec.json.encode(
            _Stored(
                info=found._info,
                cursor=view.safe_cursor,
                floor=messages[-STORED - 1].seq if is_cut else view.floor,
                seen_to=view.seen_to,
                is_stale=view.is_stale,
                messages=messages[-STORED:],
                mark_read=found._mark_read,
            )
        )

    def _touch(self, name: str) -> None:
        self.dirty.add(name)
        self._work()

    @property
    def is_catching_up(self) -> bool:
        """Whether it is not known yet how the history goes on: no page of it can be taken."""
        return self._others is not None

    # -- catching up ---------------------------------------------------------------------------------------------------

    def begin_sync(self) -> tuple[dict[str, Cursor], Others]:
        """A connection was made. Returns the cursors to say, and what is to become of the other conversations."""
        self._others = "replay" if self.has_synced else "attach"
        self._early.clear()
        self._anew.clear()
        self._held = [] if self._held is None else self._held
        said = {id_: found._view.rewind() for id_, found in self.conversations.items()}
        return {id_: cursor for id_, cursor in said.items() if cursor is not None}, self._others

    def take_synced(self, answer: Synced) -> None:
        for one in answer.conversations:
            self._take_outcome(one)
        if answer.blocks_version is not None:
            self.blocks_heard = answer.blocks_version

    def end_sync(self) -> None:
        """Everything was answered: what came is shown, and what follows is live."""
        early, self._early, self._others = self._early, {}, None
        for id_, came in early.items():
            self._begin_with(self._known(id_), came)
        if not self.has_synced:
            self.has_synced = True
            self.dirty.add("meta")
        self._outdated = dict.fromkeys(self._nameless, 0)  # all others are asked for on each connection
        self._show_held()
        for found in self.conversations.values():
            if not found._view.is_stale:
                self._send_missing(found, found._view.floor)

    def lost(self) -> None:
        """The connection is gone. What came is shown: the cursors have moved with it."""
        self._early.clear()
        self._others = None
        self._show_held()
        for found in self.conversations.values():
            for user_id in list(found._typing):
                self._end_typing(found, user_id)

    def _take_outcome(self, one: SyncedConversation) -> None:
        id_, head = one.conversation_id, Cursor(seq=one.last_seq, message_id=one.message_id)
        if one.outcome is Outcome.GONE:
            self._remove(id_, "gone")
            return
        if one.outcome not in (Outcome.REPLAYED, Outcome.ATTACHED, Outcome.RESYNC):
            return
        found = self._known(id_)
        early = self._early.pop(id_, [])
        if one.outcome is Outcome.RESYNC:
            if id_ not in self._anew:
                self._restart(found, head)
        elif found.cursor is None:
            if one.outcome is Outcome.REPLAYED and early:
                self._discover(found, early)
            elif self._others == "attach" or not early:
                found._view.attach(head)
                for message, _ in early:
                    self._apply(found, message)
            else:
                self._begin_with(found, early)
        elif found._view.is_doubtful(one.last_seq):
            self._read_anew(found, found.cursor)
        self._begin_round(found, one)
        self._touch(f"in {id_}")

    def _begin_round(self, found: Conversation, one: SyncedConversation) -> None:
        """It is caught up. What events do not repeat may have gone back with the history, though the cursor is good."""
        found._round += 1
        found._heard.clear()
        found._view.caught_up()
        for receipt in found._receipts.values():
            receipt.renew()
        found._mark_read = min(found._mark_read, one.last_seq)
        found._info = msgspec.structs.replace(
            found._info, last_seq=one.last_seq, unread_count=one.unread_count, mention_count=one.mention_count
        )
        settings = found._info.settings
        if one.settings_version not in (None, settings.version):
            # Whatever the answer is, also a lower version, counts: what one had set was lost, or belongs to an earlier
            # membership.
            settings = msgspec.structs.replace(settings, version=min(settings.version, one.settings_version or 0))
            found._info = msgspec.structs.replace(found._info, settings=settings)
            self._ask_again(found)

    def _discover(self, found: Conversation, came: list[tuple[Message, bool]]) -> None:
        """A conversation that the user was added to meanwhile, from its beginning: what was said before is no news."""
        since = joined_at((message for message, _ in came), self._user_id) or 0
        for message, _ in came:
            self._apply(found, message, is_news=message.seq >= since)

    def can_load(self, found: Conversation) -> bool:
        """Whether it is known where the list of this conversation ends, so that a page below it can be taken."""
        is_known = found.cursor is not None or found.id not in self._nameless
        return is_known and not (found._view.is_stale or self.is_catching_up)

    def attach(self, found: Conversation) -> None:
        """Begin the list of a conversation of which no event has come, as pages are wanted: the server sends what
        follows the change that made the user a member, so all that comes is above the head that the details have."""
        if found.cursor is None and not found.is_removed:
            last, head = found._info.last_message, found._info.last_seq
            named = last is not None and last.changed_seq == head
            found._view.attach(Cursor(seq=head, message_id=last.id if named and last is not None else None))
            self._touch(f"in {found.id}")

    def _begin_with(self, found: Conversation, came: list[tuple[Message, bool]]) -> None:
        """A conversation that is live from the change that added the user."""
        for message, created in came:
            found._view.begin_at(message.seq if created else message.changed_seq + 1)
            self._apply(found, message)

    def _show_held(self) -> None:
        held, self._held = self._held, None
        in_order: dict[Conversation, list[Message]] = {}
        for found, message in held or ():
            in_order.setdefault(found, []).append(message)
        for found, messages in in_order.items():
            for message in sorted(messages, key=lambda one: one.seq):
                self._emit(events.MessageReceived(found, found._view.get(message.id) or message))

    # -- events of the server ------------------------------------------------------------------------------------------

    def take(self, target: str, arguments: msgspec.Raw) -> None:
        """Take an event as it came. One that is not known is passed over. Raises msgspec errors."""
        take = self._TAKES.get(target.casefold())
        if take is not None:
            kind, method = take
            values = msgspec.json.decode(arguments, type=kind)
            method(self, *values)

    def _take_new(self, message: Message) -> None:
        self._take_message(message, True)

    def _take_changed(self, message: Message) -> None:
        self._take_message(message, False)

    def _take_message(self, message: Message, created: bool) -> None:
        found = self.conversations.get(message.conversation_id)
        if found is not None and found.cursor is not None:
            self._apply(found, message)
        elif self._others is not None:
            self._early.setdefault(message.conversation_id, []).append((message, created))
        else:
            self._begin_with(self._known(message.conversation_id), [(message, created)])

    def _apply(self, found: Conversation, message: Message, *, is_news: bool = True) -> None:
        applied = found._view.apply(message)
        if applied is None:
            return
        me = self._user_id
        if message.sender_id == me:
            entry = self.outbox.get(message.client_message_id)
            if entry is not None:
                self._committed(entry, message)
        elif applied.is_new:
            self._end_typing(found, message.sender_id)
            found._mark_delivered = max(found._mark_delivered, message.seq)
        self._receipt(found, message.sender_id).rise(MessageStatus.READ, message.seq)
        found._view.trim(self._keep)
        self._touch(f"in {found.id}")
        if self._others is None and found._view.is_doubtful(sys.maxsize):
            self._read_anew(found, found._view.cursor)
        if found._view.is_stale:
            return  # the application hears of it with the reset
        if applied.is_new:
            if not is_news:
                return
            if self._held is not None:
                self._held.append((found, message))
            else:
                self._emit(events.MessageReceived(found, message))
        elif applied.previous != message:
            self._emit(events.MessageChanged(found, message, applied.previous))

    def _take_resync(self, notice: Resync) -> None:
        self._anew.add(notice.conversation_id)
        self._early.pop(notice.conversation_id, None)
        head = Cursor(seq=notice.last_seq, message_id=notice.message_id)
        self._restart(self._known(notice.conversation_id), head)

    def _restart(self, found: Conversation, head: Cursor) -> None:
        """The server goes on from this head."""
        if found.cursor is None and self._others == "attach":
            found._view.attach(head)  # what was before the first connection is no news
        else:
            self._read_anew(found, head)

    def _read_anew(self, found: Conversation, head: Cursor | None) -> None:
        assert head is not None
        found._view.begin_anew(head)
        found._receipts.clear()
        found._threads.clear()
        found._heard.clear()
        found._mark_read = found._mark_delivered = 0
        found._round += 1
        last_seq = min(found._info.last_seq, head.seq)
        found._info = msgspec.structs.replace(found._info, last_seq=last_seq, last_message=None)
        self._stale.add(found.id)
        self._outdated[found.id] = 0
        self._touch(f"in {found.id}")

    def end_anew(self, found: Conversation, generation: int) -> bool:
        """The history was read, and is shown. Returns False if it was read for nothing."""
        is_first = not found._view.messages and found._view.seen_to == 0
        new = found._view.end_anew(generation)
        if new is None:
            return False
        self._stale.discard(found.id)
        self._touch(f"in {found.id}")
        self._emit(events.ConversationReset(found))
        since = (joined_at(new, self._user_id) or 0) if is_first else 0
        for message in new:
            entry = self.outbox.get(message.client_message_id) if message.sender_id == self._user_id else None
            if entry is not None:
                self._committed(entry, message)
            if message.seq >= since:
                self._emit(events.MessageReceived(found, message))
        others = [message.seq for message in new if message.sender_id != self._user_id]
        if others:
            found._mark_delivered = max(found._mark_delivered, others[-1])
        self._send_missing(found, 0)
        found._view.trim(self._keep)
        return True

    def _send_missing(self, found: Conversation, floor: int) -> None:
        """Send again what was sent lately and is in the history no more, but for what lies below this seq."""
        holds = found._view.holds

        def is_there(entry: Entry) -> bool:
            seq = entry.message.seq if entry.message is not None else entry.draft.seq
            return holds(entry.draft.message_id or "") or seq <= floor

        if self.outbox.missing(found.id, is_there):
            self._touch("outbox")

    def _take_conversation(self, info: ConversationInfo) -> None:
        found = self._known(info.id)
        if not self._take_info(found, info):
            self._ask_again(found)
        self._emit(events.ConversationChanged(found))

    def rounds(self) -> dict[str, int]:
        """Return what `take_answer` has to know of the time at which something is asked for."""
        return {id_: found._round for id_, found in self.conversations.items()}

    def take_answer(self, info: ConversationInfo, asked: Mapping[str, int]) -> Conversation | None:
        """Take what an answer says of a conversation, with the `rounds` of when it was asked for. It is asked for again
        if it may be of a lost history, or is older than what has come. None: the conversation was removed meanwhile."""
        if info.id in asked and info.id not in self.conversations:
            return None
        found = self._known(info.id)
        if found._round == asked.get(info.id, 0) and self._take_info(found, info):
            self._outdated.pop(info.id, None)
        else:
            self._ask_again(found)
        return found

    def outdated(self) -> list[Conversation]:
        """Return the conversations whose details are to be asked for."""
        return [self.conversations[id_] for id_ in self._outdated if id_ in self.conversations]

    def take_details(self, info: ConversationInfo, asked: Mapping[str, int]) -> None:
        """Take an answer that was asked for because of `outdated`. When events overtake one after the other it is given
        up: the next event that says something of the conversation says it all."""
        found = self.take_answer(info, asked)
        if found is None:
            return
        if info.id not in self._outdated:
            self._emit(events.ConversationChanged(found))
        elif self._outdated[info.id] + 1 < OVERTAKEN or info.id in self._nameless:
            self._outdated[info.id] += 1
        else:
            del self._outdated[info.id]

    def _ask_again(self, found: Conversation) -> None:
        self._outdated.setdefault(found.id, 0)
        self._work()

    def take_settings(self, found: Conversation, settings: ConversationSettings) -> bool:
        """Take what one has set, unless something later has come. Return whether it is other than before."""
        known = found._info.settings
        if settings.version < known.version or settings == known:
            return False
        found._info = msgspec.structs.replace(found._info, settings=settings)
        self._touch(f"in {found.id}")
        return True

    def set_settings(self, conversation_id: str, settings: ConversationSettings, asked: Mapping[str, int]) -> None:
        """Take the answer to a change of one's own, with the `rounds` of when it was asked for."""
        found = self.conversations.get(conversation_id)
        if found is None:
            return
        if found._round != asked.get(conversation_id, 0):
            self._ask_again(found)
        elif self.take_settings(found, settings):
            self._emit(events.ConversationChanged(found))

    def _take_info(self, found: Conversation, info: ConversationInfo) -> bool:
        """Take what the server says of a conversation. Returns False if it does not, as events have overtaken it."""
        self.take_settings(found, info.settings)
        info = msgspec.structs.replace(info, settings=found._info.settings)
        cursor = found.cursor.seq if found.cursor is not None else 0
        if info.last_seq < found._info.last_seq and info.last_seq < cursor:
            return False
        said = info.members
        if len(info.members) < len(found._info.members) and info.member_count == found._info.member_count:
            # Lists have fewer members than there may be.
            later = {member.user_id: member for member in info.members}
            members = tuple(later.get(member.user_id, member) for member in found._info.members)
            info = msgspec.structs.replace(info, members=members)
        found._info = info
        for member in said:
            self._receipt(found, member.user_id).take(member)
        self._touch(f"in {info.id}")
        if info.id in self._nameless:
            self._outdated.pop(info.id, None)
            for event in self._nameless.pop(info.id):
                self._emit(event)
        return True

    def ask_thread(self, conversation_id: str, root_id: str) -> None:
        """Ask what a thread is to the user, as soon as there is a connection."""
        asked = self._asked.setdefault(conversation_id, {})
        if root_id not in asked:
            asked[root_id] = None
            self._work()

    def asked(self) -> list[Conversation]:
        """Return the conversations with threads that are to be asked for."""
        return [self.conversations[id_] for id_ in self._asked if id_ in self.conversations]

    def next_asked(self, found: Conversation) -> str | None:
        """Return the root of one of them."""
        return next(iter(self._asked.get(found.id, ())), None)

    def take_asked(self, found: Conversation, root_id: str, state: ThreadState | None, round: int) -> None:
        """Take the answer, which was asked for in that round; None: there is no such thread. One of an earlier round
        may be of a lost history: it is asked for again."""
        if round != found._round:
            return
        before, known = found.is_following(root_id), found._threads.get(root_id)
        asked = self._asked.get(found.id, {})
        asked.pop(root_id, None)
        if not asked:
            self._asked.pop(found.id, None)
        if state is None:
            if root_id not in found._heard:
                found._threads.pop(root_id, None)
            found._heard.add(root_id)
        elif self.take_thread(state) and (known is not None or found.is_following(root_id) != before):
            self._emit(events.ThreadChanged(found, state))

    def take_thread(self, state: ThreadState, asked: Mapping[str, int] | None = None) -> bool:
        """Take what a thread is to the user, unless something later has come on this connection. What was said on one
        before may be of a history that is lost: an answer, with the `rounds` of when it was asked for, is asked for
        again then. Return whether it is new."""
        found = self.conversations.get(state.conversation_id)
        if found is None:
            return False
        if asked is not None and found._round != asked.get(found.id, 0):
            self.ask_thread(found.id, state.thread_id)
            return False
        known = found._threads.get(state.thread_id)
        is_first = state.thread_id not in found._heard
        found._heard.add(state.thread_id)
        if known is None or is_first:
            is_new = state != known
        else:
            is_new = (state.version, state.last_reply_seq) > (known.version, known.last_reply_seq)
        if is_new:
            found._threads[state.thread_id] = state
        return is_new

    def set_thread(self, state: ThreadState, asked: Mapping[str, int] | None = None) -> None:
        """Take what one has set, or what has come of it."""
        if self.take_thread(state, asked):
            self._emit(events.ThreadChanged(self.conversations[state.conversation_id], state))

    # -- blocks --------------------------------------------------------------------------------------------------------

    def _take_blocks(self, state: BlocksState) -> None:
        self.blocks_heard = state.version
        self._work()

    @property
    def has_other_blocks(self) -> bool:
        """Whether the list is to be read. A version that is lower is of a history that went back: it counts as well."""
        return self.blocks_version != self.blocks_heard

    def set_blocks(self, user_ids: Iterable[str], version: int | None = None) -> None:
        """Take what was read, with the version that had been heard before, or what one has done oneself."""
        before, self.blocked = self.blocked, frozenset(user_ids)
        if version is not None:
            self.blocks_version = version
        if self.blocked != before:
            self._emit(events.BlocksChanged(self.blocked))

    def conversation_gone(self, conversation_id: str) -> None:
        """It turned out that there is no such conversation (any more)."""
        self._remove(conversation_id, "gone")

    def _take_removed(self, conversation_id: str, reason: str) -> None:
        self._remove(conversation_id, reason)

    def _remove(self, conversation_id: str, reason: str) -> None:
        self._early.pop(conversation_id, None)
        self._stale.discard(conversation_id)
        self._outdated.pop(conversation_id, None)
        self._asked.pop(conversation_id, None)
        self._nameless.pop(conversation_id, None)
        found = self.conversations.pop(conversation_id, None)
        if found is None:
            return
        found.is_removed = True
        self._touch(f"in {conversation_id}")
        error = ParleyError("not_found", f"the conversation is gone ({reason})")
        for entry in self.outbox.drop(conversation_id, error):
            self._touch("outbox")
            self._emit(events.MessageFailed(Outgoing.of(entry, self._actions)))
        self._emit(events.ConversationRemoved(conversation_id, reason))

    def _take_receipt(self, update: StatusUpdate) -> None:
        found = self.conversations.get(update.conversation_id)
        if found is not None and self._receipt(found, update.user_id).rise(update.status, update.seq):
            self._touch(f"in {found.id}")
            self._emit(events.ReceiptChanged(found, update))

    def _take_presence(self, presence: Presence) -> None:
        self.presence[presence.user_id] = presence
        self._emit(events.PresenceChanged(presence))

    def _take_typing(self, update: TypingUpdate) -> None:
        found = self.conversations.get(update.conversation_id)
        if found is not None and update.user_id != self._user_id:
            is_news = update.user_id not in found._typing
            found._typing[update.user_id] = time.monotonic() + TYPING
            if is_news:
                self._emit(events.TypingChanged(found, update.user_id, True))

    def _take_not_typing(self, update: TypingUpdate) -> None:
        found = self.conversations.get(update.conversation_id)
        if found is not None:
            self._end_typing(found, update.user_id)

    def _end_typing(self, found: Conversation, user_id: str) -> None:
        if found._typing.pop(user_id, None) is not None:
            self._emit(events.TypingChanged(found, user_id, False))

    def expire_typing(self) -> None:
        """End the typing of which nothing was heard for long."""
        now = time.monotonic()
        for found in self.conversations.values():
            for user_id, until in list(found._typing.items()):
                if until <= now:
                    self._end_typing(found, user_id)

    def _take_error(self, sentence: str) -> None:
        self._emit(events.ErrorOccurred(from_sentence(sentence)))

    _TAKES: ClassVar[dict[str, tuple[Any, Callable[..., None]]]] = {
        "receivemessage": (tuple[Message], _take_new),
        "messagechanged": (tuple[Message], _take_changed),
        "resync": (tuple[Resync], _take_resync),
        "conversationchanged": (tuple[ConversationInfo], _take_conversation),
        "threadchanged": (tuple[ThreadState], set_thread),
        "blockschanged": (tuple[BlocksState], _take_blocks),
        "conversationremoved": (tuple[str, str], _take_removed),
        "messagestatusupdated": (tuple[StatusUpdate], _take_receipt),
        "userstatuschanged": (tuple[Presence], _take_presence),
        "userstartedtyping": (tuple[TypingUpdate], _take_typing),
        "userstoppedtyping": (tuple[TypingUpdate], _take_not_typing),
        "error": (tuple[str], _take_error),
    }

    # -- one's own messages --------------------------------------------------------------------------------------------

    def may_send(self, entry: Entry) -> bool:
        """Whether a message that waits is to be sent now; that it is, is remembered. What was sent so long ago that the
        server may not know it again is not: it is in the history, or it fails, or it waits until that is read."""
        if not self.outbox.is_uncertain(entry):
            self.outbox.begin(entry)
            self.dirty.add("attempts")
            return True
        found = self.conversations.get(entry.draft.conversation_id)
        if found is not None and found._view.is_stale:
            return False
        shown = found._view.messages if found is not None else ()
        mine = (one for one in shown if one.client_message_id == entry.draft.id and one.sender_id == self._user_id)
        if (message := next(mine, None)) is not None:
            self._committed(entry, message)
        else:
            error = ParleyError(OUTCOME_UNKNOWN, "it was sent long ago, and may have arrived or not")
            self.refused(entry, entry.attempt, error)
        return False

    def answered(self, entry: Entry, attempt: int, message: Message) -> None:
        """The answer to a send: it is committed, and its event shows where in the list it stands. An answer that comes
        late may be of a history that was lost meanwhile."""
        if entry.attempt != attempt:
            return
        self._committed(entry, message)
        found = self.conversations.get(message.conversation_id)
        if found is not None and not found._view.expect(message):
            self._send_missing(found, found._view.floor)

    def refused(self, entry: Entry, attempt: int, error: ParleyError) -> None:
        if entry.stage == "pending" and entry.attempt == attempt:
            self.outbox.failed(entry, error)
            self._touch("outbox")
            self._emit(events.MessageFailed(Outgoing.of(entry, self._actions)))

    def _committed(self, entry: Entry, message: Message) -> None:
        if self.outbox.sent(entry, message):
            self._touch("outbox")
            self._emit(events.MessageSent(Outgoing.of(entry, self._actions)))
        if self.outbox.changed(entry, message):
            self._touch("outbox")

    def touch_outbox(self) -> None:
        """Something was put into the outbox, or taken out."""
        self._touch("outbox")

    # -- conversations -------------------------------------------------------------------------------------------------

    def stale(self) -> list[Conversation]:
        """Return the conversations whose history is to be read anew."""
        return [self.conversations[id_] for id_ in self._stale]

    def marks(self) -> list[Conversation]:
        """Return the conversations in which a receipt is to be given."""
        return [found for found in self.conversations.values() if found._mark_read or found._mark_delivered]

    def mark_read(self, found: Conversation, seq: int) -> None:
        """Remember to say that this was read: of what is there. While the history is read anew, what is shown is not
        what is there, and it is passed over."""
        seq = min(seq, found.head if found.cursor is None else found.cursor.seq)
        if seq > found.read_seq and not found._view.is_stale:
            found._mark_read = seq
            self._touch(f"in {found.id}")

    def marked(self, found: Conversation, read: int, delivered: int, round: int) -> None:
        """It was said, in a round, and is durable."""
        if round != found._round:
            return  # it may have been said of a lost history
        if read:
            self._receipt(found, self._user_id).rise(MessageStatus.READ, min(read, found.head))
        if found._mark_read <= read:
            found._mark_read = 0
        if found._mark_delivered <= max(read, delivered):
            found._mark_delivered = 0
        self._touch(f"in {found.id}")

    def _known(self, conversation_id: str) -> Conversation:
        found = self.conversations.get(conversation_id)
        if found is None:
            self._nameless[conversation_id] = []
            found = self._made(ConversationInfo(id=conversation_id), View())
            self._ask_again(found)
        return found

    def _made(self, info: ConversationInfo, view: View) -> Conversation:
        found = self.conversations[info.id] = Conversation(info, view, self.outbox, self._actions)
        if view.is_stale:
            self._stale.add(info.id)
        for member in info.members:
            self._receipt(found, member.user_id).take(member)
        return found

    @staticmethod
    def _receipt(found: Conversation, user_id: str) -> Receipt:
        return found._receipts.setdefault(user_id, Receipt())
