"""One virtual user of a load test: its connection, what it sends, and what it must receive.

Owns the connection and everything that must survive its loss: the cursors, and the sends that are not acknowledged yet,
which are repeated with the same clientMessageId until they are. Never waits: a scenario drives thousands of virtual
users from one task. Every event goes to the oracle first, then to the scenario's hooks.
"""

import random
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from loadtest import results
from loadtest.connection import LOST, Connection, Listener
from loadtest.history_checker.recording import Recording, now
from loadtest.history_record import Call, ClientRecord
from loadtest.oracle import contents, invariants
from loadtest.oracle.client_view import ClientView
from loadtest.oracle.edits import Edits
from loadtest.oracle.mentions import NONE, Mentions, Named, named
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.pins import Pins
from loadtest.oracle.reactions import Reactions
from loadtest.oracle.refusals import Refusals
from loadtest.oracle.standing import OwnSettings
from loadtest.oracle.threads import OwnThreads, Threads, in_main
from loadtest.payloads import (
    CHANGED,
    ERROR,
    PRESENCE,
    RECEIVE,
    RESYNC,
    STATUS,
    THREAD,
    TYPED,
    TYPING,
    VIEWED,
    Message,
    Resync,
    Settings,
    StatusUpdate,
    Synced,
    ThreadState,
    Typing,
    UserStatus,
    Viewed,
)
from loadtest.plan import Conversation, Person
from loadtest.recorder import Recorder

RETRYABLE = (LOST, "unavailable", "overloaded", "draining", "rate_limited")
RETRY_AFTER = 0.1  # seconds
OFFLINE = "Offline"
BACKOFF, BACKOFF_MAX = 0.1, 5.0  # seconds before connecting again: doubled each time, and spread

# Operations that are timed.
CONNECT, SEND, DELIVER, RECEIPT, HISTORY, RESUME = "connect", "send", "deliver", "receipt", "history", "resume"
EDIT, DELETE, REACT, PIN, SET, FOLLOW, MARK = "edit", "delete", "react", "pin", "settings", "follow", "read thread"


def code_of(error: str) -> str:
    """The slug of an error's text."""
    return error.partition(":")[0]


class Manner(NamedTuple):
    """How a virtual user connects, and under which name the latency of what it receives is recorded."""

    delivery: str = DELIVER
    options: Mapping[str, Any] = {}  # for `LeanClient.open`


USUAL = Manner()


class Surroundings(Protocol):
    """What a virtual user needs of the world that it is in."""

    @property
    def run(self) -> str:
        """The name of the run, which is in the key of every message."""

    @property
    def attach(self) -> str: ...

    @property
    def conversations(self) -> Mapping[str, Conversation]: ...

    @property
    def oracle(self) -> Oracle: ...

    @property
    def reactions(self) -> Reactions: ...

    @property
    def pins(self) -> Pins: ...

    @property
    def threads(self) -> Threads: ...

    @property
    def deleted(self) -> set[str]:
        """Messages, by id, whose deletion was acknowledged."""

    @property
    def recorder(self) -> Recorder: ...

    @property
    def recording(self) -> Recording | None:
        """The record for the history checker, where one is kept."""

    @property
    def rng(self) -> random.Random: ...

    def now(self) -> float:
        """Seconds since the start of the run."""

    def open(self, listener: Listener, query: dict[str, str], options: Mapping[str, Any], token: str) -> Connection: ...

    def later(self, delay: float, call: Callable[[], None]) -> None: ...

    def ask(self, virtual_user: "VirtualUser", conversation: str) -> None:
        """Ask REST for a conversation, and show its settings to `virtual_user.settings`."""

    def arrived(self, virtual_user: "VirtualUser") -> None:
        """It is online, for the first time or again."""

    def left(self, virtual_user: "VirtualUser") -> None:
        """It was online, and has lost its connection."""


class Send:
    """A message under way, from when it was due until it is acknowledged."""

    __slots__ = ("body", "due", "number")

    def __init__(self, number: int, due: float, body: dict[str, object]) -> None:
        self.number = number
        self.due = due
        self.body = body


class VirtualUser:
    """`person` is the account it uses."""

    __slots__ = (
        "_backoff",
        "_due",
        "_synced_once",
        "acknowledged",
        "connection",
        "conversations",
        "delivery",
        "edits",
        "last",
        "marked",
        "mentions",
        "number",
        "online",
        "options",
        "peers",
        "pending",
        "person",
        "record",
        "refusals",
        "removed",
        "settings",
        "threads",
        "views",
        "wanted",
        "world",
    )

    def __init__(
        self, world: Surroundings, person: Person, conversations: Sequence[str], manner: Manner = USUAL
    ) -> None:
        self.world = world
        self.person = person
        self.number = person.number
        self.conversations = conversations
        self.views: dict[str, ClientView] = {}
        self.connection: Connection | None = None
        self.wanted = False  # it should be online
        self.online = False  # it is online, and has everything up to the seqs at which it was attached
        self.pending: dict[int, Send] = {}
        self.acknowledged: array[int] | None = None  # by number of the send: the hash of its message's id, 0 if none
        self.edits = Edits(world.oracle, person.number)
        self.mentions = Mentions(world.oracle, person.number)
        self.refusals = Refusals(world.oracle, person.number)
        self.removed: dict[str, int] = {}  # conversations that it is kept out of: the last change that it got there
        self.settings = OwnSettings(world.oracle, person.number)
        self.threads = OwnThreads()
        self.marked: dict[str, int] = {}  # by conversation: how far MarkRead was acknowledged
        self.peers: dict[str, str] = {}  # what UserStatusChanged said last, by user
        self.last: Message | None = None  # the last message it sent, as it was acknowledged
        self.delivery, self.options = manner
        recording = world.recording
        self.record = ClientRecord(recording, f"p{self.number}") if recording is not None else None
        self._due = 0.0
        self._synced_once = False
        self._backoff = BACKOFF

    @property
    def user_id(self) -> str:
        return self.person.id

    # -- coming and going ------------------------------------------------------------------------

    def connect(self, due: float | None = None) -> None:
        """Come online, and stay so until `leave`."""
        self.wanted = True
        self._due = self.world.now() if due is None else due
        self._open()

    def _open(self) -> None:
        if not self.wanted or self.connection is not None:
            return
        query = {} if self.world.attach == "auto" and not self._synced_once else {"sync": "manual"}
        self.connection = self.world.open(self, query, self.options, self.person.token)

    def leave(self) -> None:
        """Go, as one who closes the app."""
        self.wanted = False
        if self.connection is not None:
            self.connection.finish()

    def retire(self) -> None:
        """Stay away once the connection is lost: the run has ended."""
        self.wanted = False

    def cut(self) -> None:
        """Cut the connection, as a failing network does. A virtual user that is `wanted` reconnects by itself."""
        if self.connection is not None:
            self.connection.cut()

    def opened(self) -> None:
        """The handshake is done: join each conversation from the cursor up to which it has everything."""
        connection = self.connection
        assert connection is not None
        self.world.oracle.note(self.number, "opened")
        record = self.record
        if record is not None:
            record.connected()
        connection.ping()
        if self.world.attach == "auto" and not self._synced_once:
            for conversation in self.conversations:
                self.views.setdefault(conversation, ClientView(self.world.oracle, self.number, conversation, None))
                if record is not None:
                    record.resuming(conversation, None)
            connection.call("Ping", (), self._attached)
            return
        for conversation in self.conversations:
            if conversation not in self.views:
                head = self.world.conversations[conversation].head
                self.views[conversation] = ClientView(self.world.oracle, self.number, conversation, head)
        mine = {key: view for key, view in self.views.items() if key in self.conversations}
        for view in mine.values():
            view.resuming()
        cursors = {key: view.cursor or 0 for key, view in mine.items()}
        if record is not None:
            for conversation, cursor in cursors.items():
                record.resuming(conversation, cursor)
        connection.call("Sync", (cursors,), self._synced, Synced)

    def _attached(self, error: str | None, result: Any) -> None:
        if error is None:
            if self.record is not None:
                for conversation in self.conversations:
                    self.record.attached(conversation, None)
            self._arrived()
        elif error != LOST:
            self.world.recorder.error(code_of(error))
            self.cut()

    def _synced(self, error: str | None, synced: Synced) -> None:
        if error is not None:
            if error != LOST:
                self.world.recorder.error(code_of(error))
                self.cut()
            return
        self.world.oracle.note(self.number, "synced")
        for conversation in synced.resync:
            # Where none has said it before the answer; and not where it was removed since it asked.
            if conversation in self.views and self.views[conversation].is_resuming:
                self._resync(conversation, synced.heads.get(conversation, 0), answered=True)
        for conversation, head in synced.heads.items():
            if conversation not in self.views:
                continue
            self.views[conversation].synced(head)
            if self.record is not None and conversation not in synced.resync:
                self.record.attached(conversation, head)
        for one in synced.conversations:
            if one.conversation_id in self.views and self.settings.synced(one.conversation_id, one.settings_version):
                self.world.ask(self, one.conversation_id)
        self._arrived()

    def _arrived(self) -> None:
        self.online = True
        self._backoff = BACKOFF
        recorder = self.world.recorder
        recorder.count(results.CONNECTS)
        recorder.record(RESUME if self._synced_once else CONNECT, self._due)
        self._synced_once = True
        self.world.arrived(self)
        for send in list(self.pending.values()):
            self._write(send)

    def lost(self, reason: str) -> None:
        was_online, self.online, self.connection = self.online, False, None
        self.threads.unsure()
        world = self.world
        world.oracle.note(self.number, "lost", key=reason)
        if self.record is not None:
            self.record.disconnected(reason)
        if was_online:
            world.recorder.count(results.DISCONNECTS)
            world.left(self)
        if not self.wanted:
            return
        if reason != "cut":
            world.recorder.error(f"connection_{reason}")
        if was_online:
            self._due = world.now()
        delay = self._backoff * world.rng.uniform(0.5, 1.5)
        self._backoff = min(BACKOFF_MAX, 2 * self._backoff)
        world.later(delay, self._open)

    # -- what it does ----------------------------------------------------------------------------

    def send(self, conversation: str, due: float, size: int, mentions: Named = NONE) -> None:
        """Send a message that is due at `due`, from when its latency counts. While offline it is kept."""
        self.repeat(self.draft(conversation, due, size, mentions))

    def reply(self, root: Message, due: float, size: int, mentions: Named = NONE, *, also: bool = False) -> None:
        """The same in the thread of a message, and with `also` in the conversation."""
        send = self.draft(root.conversation_id, due, size, mentions)
        send.body |= {"threadId": root.id, "alsoInConversation": also}
        self.world.threads.send(str(send.body["clientMessageId"]), root.id, mentions, also=also)
        self.repeat(send)

    def draft(self, conversation: str, due: float, size: int, mentions: Named = NONE) -> Send:
        """A message that somebody is about to send."""
        if self.acknowledged is None:
            self.acknowledged = array("q", [])
        number = len(self.acknowledged)
        self.acknowledged.append(0)
        key = contents.make_key(self.world.run, self.number, number)
        content = contents.make_content(key, due, size)
        send = Send(number, due, {"conversationId": conversation, "content": content, "clientMessageId": key})
        if mentions != NONE:
            send.body |= {"mentions": mentions[0], "mentionAll": mentions[1]}
            self.mentions.send(number, mentions)
            self.world.threads.send(key, None, mentions)
        self.pending[number] = send
        return send

    def repeat(self, send: Send) -> None:
        """Send a message over the hub, for the first time or again; while offline, after the reconnect."""
        if self.online and send.number in self.pending:
            self._write(send)

    def _write(self, send: Send) -> None:
        assert self.connection is not None
        self.world.recorder.count(results.SENT)
        call, began = self.sending(send), self.world.now()
        self.connection.call(
            "SendMessage", (send.body,), lambda error, message: self._sent(send, call, began, error, message), Message
        )

    def sending(self, send: Send) -> Call | None:
        """Note that it is about to be sent, where a record is kept."""
        if self.record is None:
            return None
        body = send.body
        return self.record.sent(str(body["conversationId"]), str(body["clientMessageId"]), str(body["content"]))

    def _sent(self, send: Send, call: Call | None, began: float, error: str | None, message: Message) -> None:
        where = str(send.body["conversationId"])
        if error is None:
            self.refusals.accept(send.number, where, began)
            self.acknowledge(send, message, call)
            return
        code = code_of(error)
        if error == LOST or code not in RETRYABLE or code == "unavailable":
            self.refusals.refuse(send.number, code, where, began)
        if error == LOST:
            return  # `_arrived` repeats it
        self.world.recorder.error(code)
        if self.record is not None and call is not None:
            self.record.refused(call, code)
        if code in RETRYABLE:
            self.world.later(RETRY_AFTER, lambda: self.repeat(send))
        else:
            self.pending.pop(send.number, None)

    def acknowledge(self, send: Send, message: Message, call: Call | None) -> None:
        """The server says that it is stored. `call` is what `sending` returned."""
        world = self.world
        if self.record is not None and call is not None:
            self.record.acknowledged(call, message)
        oracle = world.oracle
        assert self.acknowledged is not None
        oracle.note(self.number, "acknowledged", message.conversation_id, message.seq, str(send.number))
        if self.pending.pop(send.number, None) is None:
            if self.acknowledged[send.number] != hash(message.id):
                text = f"send {send.number} of p{self.number} was answered with two messages, the second {message.id}"
                oracle.breach(invariants.DUPLICATED, text, virtual_user=self.number)
            return
        self.acknowledged[send.number] = hash(message.id)
        self.last = message
        oracle.checked[invariants.MISSING] += 1
        answered = (message.client_message_id, message.content, message.conversation_id)
        if answered != tuple(send.body[name] for name in ("clientMessageId", "content", "conversationId")):
            text = f"send {send.number} of p{self.number} was answered with {answered[0]} in {answered[2]}"
            oracle.breach(invariants.ALTERED, text, virtual_user=self.number)
        world.threads.check(message)
        view = self.views.get(message.conversation_id)
        if message.changed_seq == message.seq:
            if named(message) != self.mentions.sent(send.number):
                text = f"send {send.number} of p{self.number} was answered with mentions of {named(message)}"
                oracle.breach(invariants.MENTION, text, virtual_user=self.number)
            if view is not None:
                view.compare(message)
        world.recorder.count(results.ACKNOWLEDGED)
        world.recorder.record(SEND, send.due)

    def edit(self, due: float, size: int, mentions: Named | None = None) -> None:
        """Edit the last message, and whom it mentions if `mentions` says so. Not repeated if it fails."""
        message, connection = self.last, self.connection
        if message is None or message.client_message_id is None:
            return
        key = contents.parse_key(self.world.run, message.client_message_id)
        if not self.online or connection is None:
            self.world.recorder.count(results.DROPPED)
            return

        content = contents.make_content(message.client_message_id, due, size)
        record = self.record
        call = record.edited(message.conversation_id, message.id, content) if record is not None else None
        arguments: tuple[object, ...] = (message.id, content)
        if mentions is not None and key is not None:
            arguments += mentions
            self.mentions.ask(key.number, mentions)
            self.world.threads.edit(message.client_message_id, mentions)

        def done(error: str | None, edited: Message) -> None:
            if error is None:
                self._edited(message.id, content, edited)
                self.world.recorder.record(EDIT, due)
                if mentions is not None and key is not None:
                    self.mentions.answer(key.number, mentions, edited)
            elif self._failed(error) and mentions is not None and key is not None:
                self.mentions.refuse(key.number, mentions)
            if record is not None and call is not None and error != LOST:
                if error is None:
                    record.acknowledged(call, edited)
                else:
                    record.refused(call, code_of(error))

        connection.call("EditMessage", arguments, done, Message)

    def delete(self, due: float) -> None:
        """Delete the last message. Not repeated if it fails."""
        message, connection = self.last, self.connection
        if message is None:
            return
        if not self.online or connection is None:
            self.world.recorder.count(results.DROPPED)
            return
        self.last = None

        def done(error: str | None, answer: Message) -> None:
            if error is not None:
                self._failed(error)
                return
            self.edits.delete(message.id, answer)
            self.world.deleted.add(message.id)
            self._compare(answer)
            self.world.recorder.record(DELETE, due)

        connection.call("DeleteMessage", (message.id,), done, Message)

    def pin(self, message: Message, due: float, *, is_pinned: bool) -> None:
        """Pin a message, or take its pin away. Not repeated if it fails."""
        connection, pins = self.connection, self.world.pins
        if not self.online or connection is None:
            self.world.recorder.count(results.DROPPED)
            return

        def done(error: str | None, answer: Message) -> None:
            if error is None:
                pins.answer(answer, is_pinned=is_pinned)
                self._compare(answer)
                self.world.recorder.record(PIN, due)
            elif self._failed(error):
                pins.refuse(message.id)

        pins.ask(message.id, message.conversation_id)
        connection.call("Pin" if is_pinned else "Unpin", (message.id,), done, Message)

    def set(self, conversation: str, change: Mapping[str, object], due: float) -> None:
        """Set something for oneself, as UpdateSettings says it. Not repeated if it fails."""
        connection = self.connection
        if not self.online or connection is None:
            self.world.recorder.count(results.DROPPED)
            return

        def done(error: str | None, answer: Settings) -> None:
            if error is None:
                self.settings.answer(conversation, change, answer)
                self.world.recorder.record(SET, due)
            elif self._failed(error):
                self.settings.refuse(conversation)

        self.settings.ask(conversation)
        connection.call("UpdateConversationSettings", (conversation, change), done, Settings)

    def follow(self, root: Message, due: float, *, is_following: bool) -> None:
        """Follow a thread, or not any more. Not repeated if it fails."""
        self._of_thread("FollowThread" if is_following else "UnfollowThread", root, (), due)

    def mark_thread_read(self, root: Message, seq: int, due: float) -> None:
        """Not repeated if it fails."""
        self._of_thread("MarkThreadRead", root, (seq,), due)

    def _of_thread(self, target: str, root: Message, arguments: tuple[int, ...], due: float) -> None:
        connection = self.connection
        if not self.online or connection is None:
            self.world.recorder.count(results.DROPPED)
            return

        def done(error: str | None, answer: ThreadState) -> None:
            if error is None:
                if arguments:
                    self.threads.mark(answer, *arguments)
                else:
                    self.threads.answer(answer)
                self.world.recorder.record(MARK if arguments else FOLLOW, due)
            elif self._failed(error):
                self.threads.refuse(root.id)

        self.threads.ask(root.id)
        connection.call(target, (root.id, *arguments), done, ThreadState)

    def react(self, message: Message, emoji: str, due: float) -> None:
        """Put an emoji under a message, or take it back if it is there. Not repeated if it fails."""
        connection, reactions = self.connection, self.world.reactions
        was_there = reactions.holds(message.id, emoji, self.user_id)
        if not self.online or connection is None or was_there is None:
            self.world.recorder.count(results.DROPPED)
            return

        def done(error: str | None, answer: Message) -> None:
            if error is None:
                reactions.answer(message.id, emoji, self.user_id, is_there=not was_there)
                self._compare(answer)
                self.world.recorder.record(REACT, due)
            elif self._failed(error):
                reactions.answer(message.id, emoji, self.user_id, is_there=was_there)

        reactions.ask(message.id, emoji, self.user_id)
        connection.call("Unreact" if was_there else "React", (message.id, emoji), done, Message)

    def _edited(self, message_id: str, content: str, answer: Message) -> None:
        if self.edits.acknowledge(message_id, content, answer):
            self._compare(answer)

    def _compare(self, answer: Message) -> None:
        """What an act was answered with is what others are shown at its place."""
        view = self.views.get(answer.conversation_id)
        if view is not None:
            view.compare(answer)

    def seen(self, conversation: str) -> int:
        view = self.views.get(conversation)
        return (view.cursor or 0) if view is not None else 0

    def mark_read(self, conversation: str, seq: int, due: float) -> None:
        connection = self.connection
        if not seq:
            return
        if not self.online or connection is None:
            self.world.recorder.count(results.DROPPED)
            return

        def done(error: str | None, _: Any) -> None:
            if error is None and conversation in self.removed:
                pass  # since then
            elif error is None:
                self.marked[conversation] = max(seq, self.marked.get(conversation, 0))
                self.world.recorder.record(RECEIPT, due)
            else:
                self._failed(error)

        connection.call("MarkRead", (conversation, seq), done)

    def _failed(self, error: str) -> bool:
        """Of what is not repeated. Return True if it was refused, and so has changed nothing."""
        if error == LOST:
            self.world.recorder.count(results.DROPPED)
            return False
        code = code_of(error)
        self.world.recorder.error(code)
        return code not in RETRYABLE

    def type(self, conversation: str) -> None:
        if self.online and self.connection is not None:
            self.connection.send("StartTyping", (conversation,))

    def read_history(self, conversation: str, due: float, limit: int) -> None:
        """A page of the main history over the hub, newest first; its order and its conversation are checked. Where a
        record is kept it is of the whole history: the history checker knows of no threads."""
        connection = self.connection
        if not self.online or connection is None:
            self.world.recorder.count(results.DROPPED)
            return
        before = 1 << 60
        record, called = self.record, now()
        shown: list[Message] = []  # where a record is kept

        def item(message: Message) -> None:
            nonlocal before
            if message.conversation_id != conversation:
                self._stranger(message.conversation_id, "a page of history")
            if record is None and not in_main(message):
                text = f"history of {conversation} has the reply {message.id}"
                self.world.oracle.breach(invariants.THREAD, text, virtual_user=self.number)
            if message.seq >= before:
                text = f"history of {conversation} has {message.seq} after {before}"
                self.world.oracle.breach(invariants.ORDER, text, virtual_user=self.number)
            before = message.seq
            if record is not None:
                shown.append(message)
            self.world.recorder.count("history_items")

        def done(error: str | None, _: Any) -> None:
            if error is None:
                self.world.recorder.record(HISTORY, due)
                if record is not None:
                    record.page(conversation, called, shown, after=before - 1 if len(shown) == limit else 0)
            else:
                self._failed(error)

        connection.stream("StreamHistory", (conversation, None, limit, record is not None), item, done, Message)

    def call(self, target: str, arguments: Sequence[object], done: Callable[[Any], None], kind: Any = Any) -> None:
        """Any other call; `done` gets its result, nothing happens when it fails."""
        if self.online and self.connection is not None:
            self.connection.call(target, arguments, lambda error, result: None if error else done(result), kind)

    # -- what it receives ------------------------------------------------------------------------

    def event(self, target: str, payload: Any) -> None:
        if target in (RECEIVE, CHANGED):
            self._message(payload, new=target == RECEIVE)
        elif target == STATUS:
            self._status(payload)
        elif target == PRESENCE:
            self._presence(payload)
        elif target in (TYPING, TYPED):
            self._typing(payload, target)
        elif target == RESYNC:
            self._resynced(payload)
        elif target == VIEWED:
            self._viewed(payload)
        elif target == THREAD:
            self.threads.see(payload)
        elif target == ERROR:
            self.world.recorder.error(code_of(payload))

    def _message(self, message: Message, *, new: bool) -> None:
        world = self.world
        view = self.views.get(message.conversation_id)
        if self.record is not None:
            self.record.received(message, new=new)
        world.oracle.note(
            self.number, RECEIVE if new else CHANGED, message.conversation_id, message.changed_seq, message.id
        )
        if view is None:
            if message.conversation_id in self.removed:
                last = self.removed[message.conversation_id]
                self.removed[message.conversation_id] = max(last, message.changed_seq)
            else:
                self._stranger(message.conversation_id, RECEIVE)
            return
        view.take(message, new=new)
        due = world.oracle.read(message, self.number)
        world.recorder.count(results.DELIVERED)
        if due is not None and new and message.sender_id != self.person.id:
            world.recorder.record(self.delivery, due)

    def _status(self, update: StatusUpdate) -> None:
        self.world.recorder.count("status_updates")
        view = self.views.get(update.conversation_id)
        if view is None:
            self._stranger(update.conversation_id, STATUS)
            return
        self.world.oracle.note(self.number, f"{STATUS} {update.status}", update.conversation_id, update.seq)
        view.receipt(update)

    def _presence(self, update: UserStatus) -> None:
        self.world.recorder.count("presence_updates")
        self.peers[update.user_id] = update.status
        if update.status != OFFLINE:
            self.refusals.see(update.user_id, update.status)

    def _viewed(self, view: Viewed) -> None:
        if view.id in self.views:
            self.threads.unsure(view.id)
            self.settings.see(view.id, view.settings)
        else:
            self._stranger(view.id, VIEWED)

    def _typing(self, update: Typing, target: str) -> None:
        self.world.recorder.count(results.TYPING)
        if target == TYPING:
            self.refusals.see(update.user_id, "typing")
        if update.conversation_id not in self.views:
            self._stranger(update.conversation_id, TYPING)

    def _resynced(self, resync: Resync) -> None:
        if resync.conversation_id in self.views:
            self._resync(resync.conversation_id, resync.last_seq, answered=False)
        else:
            self._stranger(resync.conversation_id, RESYNC)

    def _resync(self, conversation: str, head: int, *, answered: bool) -> None:
        if self.record is not None:
            self.record.resynced(conversation, head, answered=answered)
        self.world.recorder.count("resyncs")
        self.world.oracle.note(self.number, "resync", conversation, head)
        self.views[conversation].resync(head, answered=answered)

    def remove(self, conversation: str) -> None:
        """It was removed from there, and kept out. What it sends there is refused; what still comes is noted."""
        view = self.views.pop(conversation, None)
        self.removed[conversation] = (view.cursor or 0) if view is not None else 0
        self.conversations = [one for one in self.conversations if one != conversation]
        self.marked.pop(conversation, None)

    def _stranger(self, conversation: str, what: str) -> None:
        if conversation in self.removed:
            return  # on its way when it was removed
        text = f"p{self.number} got {what} of {conversation}, of which it is not a member"
        self.world.oracle.breach(invariants.STRANGER, text, virtual_user=self.number)
