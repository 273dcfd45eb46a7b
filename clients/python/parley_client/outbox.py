"""The messages that one sends, sans I/O: what waits, in which order, and what became of it.

Owns the queue of each conversation (one message under way at a time, so that they keep their order), and the memory of
what was sent lately, from which it is sent again when PostgreSQL comes back without it. A message keeps its
`clientMessageId` for ever, so whatever is sent twice is one message. Touches nothing.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from parley_client.errors import ParleyError
from parley_client.model import Message, MessageType

REMEMBERED = 600.0  # seconds for which a message that was sent is kept, should the history go back
MAX_REMEMBERED = 10_000  # messages: the oldest are forgotten before their time
DAY = 86_400.0  # seconds
SAFE = 6 * DAY  # after the first attempt: the server keeps a clientMessageId for seven days, and clocks differ

OUTCOME_UNKNOWN = "outcome_unknown"

Stage: TypeAlias = Literal["pending", "sent", "failed"]
Status: TypeAlias = Literal[Stage, "delivered", "read"]  # what others have reached with a message is its conversation's


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent, as it is kept in a store."""

    id: str
    conversation_id: str
    content: str
    type: str = MessageType.TEXT.value
    file_id: str | None = None
    reply_to_id: str | None = None
    created: float = 0.0  # seconds since 1970
    error_code: str | None = None
    error_message: str = ""
    sent: float | None = None  # seconds since 1970
    message_id: str | None = None
    seq: int = 0  # of the message
    mentions: tuple[str, ...] = ()
    mention_all: bool = False
    thread_id: str | None = None
    also_in_conversation: bool = False

    def request(self) -> dict[str, object]:
        """Return it as the server takes it."""
        found: dict[str, object] = {
            "conversationId": self.conversation_id,
            "content": self.content,
            "type": self.type,
            "clientMessageId": self.id,
        }
        if self.file_id is not None:
            found["fileId"] = self.file_id
        if self.reply_to_id is not None:
            found["replyToId"] = self.reply_to_id
        if self.mentions:
            found["mentions"] = self.mentions
        if self.mention_all:
            found["mentionAll"] = True
        if self.thread_id is not None:
            found["threadId"] = self.thread_id
        if self.also_in_conversation:
            found["alsoInConversation"] = True
        return found


class Watcher(Protocol):
    """Who wants to know of one entry."""

    def _on_changed(self) -> None: ...


class Entry:
    """One message that is sent, was sent, or failed. `draft` changes as a whole."""

    __slots__ = ("attempt", "draft", "error", "is_kept", "message", "stage", "watcher")

    def __init__(self, draft: Draft, stage: Stage, error: ParleyError | None = None) -> None:
        self.draft = draft
        self.stage: Stage = stage
        self.error = error
        self.message: Message | None = None
        self.attempt = 0  # rises when it is queued anew: answers to what was asked before do not count
        self.is_kept = False  # a store may have it, so that another process may send it
        self.watcher: Watcher | None = None

    def watch(self, watcher: Watcher) -> None:
        """Notify it of each change from now on, and no other."""
        self.watcher = watcher

    def become(self, stage: Stage) -> None:
        self.stage = stage
        if self.watcher is not None:
            self.watcher._on_changed()


class Outbox:
    """All of it, for one user."""

    def __init__(self, drafts: Iterable[Draft] = (), clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}  # by clientMessageId, oldest first
        self._waiting: dict[str, deque[Entry]] = {}  # by conversation, the first may be under way
        self._sent: deque[Entry] = deque()
        self._attempts: dict[str, float] = {}  # what waits: when it was first sent to a server, seconds since 1970
        self._over: dict[str, float] = {}  # the same of what waits no more, while a store may say that it does
        self.take_over(drafts)

    def take_over(self, drafts: Iterable[Draft], attempts: Mapping[str, float] | None = None) -> None:
        """Take what a store has kept: it was there before what is in here. A store of a version that kept no attempts
        does not say what was never sent: each may have been, as soon as it was made."""
        later, self._entries = self._entries, {}
        queued, self._waiting = self._waiting, {}
        for draft in drafts:
            if draft.error_code is not None:
                entry = Entry(draft, "failed", ParleyError(draft.error_code, draft.error_message))
            elif draft.sent is not None:
                entry = Entry(draft, "sent")
                self._sent.append(entry)
            else:
                entry = Entry(draft, "pending")
                self._waiting.setdefault(draft.conversation_id, deque()).append(entry)
                if attempts is None:
                    self._attempts[draft.id] = draft.created or self._clock()
                elif draft.id in attempts:
                    self._attempts[draft.id] = attempts[draft.id]
            entry.is_kept = True
            self._entries[draft.id] = entry
        self._entries.update(later)
        for conversation_id, queue in queued.items():
            self._waiting.setdefault(conversation_id, deque()).extend(queue)

    # -- what there is -------------------------------------------------------------------------------------------------

    def drafts(self) -> list[Draft]:
        """Return all that a store has to keep, and will from now on."""
        for entry in self._entries.values():
            entry.is_kept = True
        self._over.clear()
        return [entry.draft for entry in self._entries.values()]

    def attempts(self) -> dict[str, float]:
        """Return when what waits was first sent to a server; a store keeps it, too."""
        return self._over | self._attempts

    def is_uncertain(self, entry: Entry) -> bool:
        """Whether the server may have forgotten by now that it has the message. A time that is more than a day ahead
        says that the clock was set back since, by an unknown time."""
        attempted = self._attempts.get(entry.draft.id)
        return attempted is not None and not -DAY <= self._clock() - attempted <= SAFE

    def get(self, client_message_id: str | None) -> Entry | None:
        return self._entries.get(client_message_id or "")

    def waiting(self, conversation_id: str) -> Entry | None:
        """Return the message that is to be sent next, or is under way."""
        queue = self._waiting.get(conversation_id)
        return queue[0] if queue else None

    def conversations(self) -> list[str]:
        """Return the conversations in which something waits."""
        return list(self._waiting)

    def shown(self, conversation_id: str) -> list[Entry]:
        """Return what is in no history yet: what waits and what failed, oldest first."""
        return [
            entry
            for entry in self._entries.values()
            if entry.draft.conversation_id == conversation_id and entry.stage in ("pending", "failed")
        ]

    # -- what happens --------------------------------------------------------------------------------------------------

    def add(
        self,
        conversation_id: str,
        content: str,
        *,
        type: str = MessageType.TEXT.value,
        file_id: str | None = None,
        reply_to_id: str | None = None,
        client_message_id: str | None = None,
        mentions: Sequence[str] = (),
        mention_all: bool = False,
        thread_id: str | None = None,
        also_in_conversation: bool = False,
    ) -> Entry:
        """Queue a message. With the `client_message_id` of one that is known it is that one, and nothing is queued.

        Raises ParleyError for what no server takes, and no store.
        """
        known = self._entries.get(client_message_id) if client_message_id is not None else None
        if known is not None:
            return known
        draft = Draft(
            id=str(uuid.uuid4()) if client_message_id is None else client_message_id,
            conversation_id=conversation_id,
            content=content,
            type=type,
            file_id=file_id,
            reply_to_id=reply_to_id,
            created=self._clock(),
            mentions=tuple(mentions),
            mention_all=mention_all,
            thread_id=thread_id,
            also_in_conversation=also_in_conversation,
        )
        try:
            msgspec.json.encode(draft)
        except UnicodeEncodeError:
            raise ParleyError("invalid_content", "the content is not Unicode: it has half a surrogate pair") from None
        entry = self._entries[draft.id] = Entry(draft, "pending")
        self._waiting.setdefault(conversation_id, deque()).append(entry)
        return entry

    def sent(self, entry: Entry, message: Message) -> bool:
        """It is committed: its answer says so, or its event. Returns whether that is news."""
        entry.message = message
        if entry.stage != "pending" and entry.draft.error_code != OUTCOME_UNKNOWN:
            return False
        self._leave_queue(entry)
        entry.draft = msgspec.structs.replace(
            entry.draft,
            sent=self._clock(),
            message_id=message.id,
            seq=message.seq,
            error_code=None,
            error_message="",
        )
        entry.error = None
        self._sent.append(entry)
        entry.become("sent")
        self._forget()
        return True

    def wake(self) -> None:
        """Have those who wait for what is not sent look again."""
        for queue in self._waiting.values():
            for entry in queue:
                entry.become(entry.stage)

    def begin(self, entry: Entry) -> None:
        """It is sent to a server now, if not for the first time."""
        self._attempts.setdefault(entry.draft.id, self._clock())

    def changed(self, entry: Entry, message: Message) -> bool:
        """It was edited, or deleted: should it be lost, it is sent again as it was last, or not at all. Returns whether
        that is news."""
        if entry.stage != "sent":
            return False
        if message.deleted_at is not None:
            self._entries.pop(entry.draft.id, None)
            self._sent = deque(one for one in self._sent if one is not entry)
            return True
        if message.content == entry.draft.content:
            return False
        entry.draft = msgspec.structs.replace(entry.draft, content=message.content)
        return True

    def failed(self, entry: Entry, error: ParleyError) -> None:
        """It is refused for good. What waits behind it goes on."""
        self._leave_queue(entry)
        entry.draft = msgspec.structs.replace(entry.draft, error_code=error.code, error_message=error.message)
        entry.error = error
        entry.become("failed")

    def retry(self, entry: Entry) -> None:
        """Put a message that failed at the end of its queue, as the same message."""
        if entry.stage == "failed":
            self._over.pop(entry.draft.id, None)  # what becomes of it from now on is the user's wish
            self._again(entry)
            self._waiting.setdefault(entry.draft.conversation_id, deque()).append(entry)

    def discard(self, entry: Entry) -> None:
        """Forget a message that failed."""
        if entry.stage == "failed":
            self._entries.pop(entry.draft.id, None)

    def drop(self, conversation_id: str, error: ParleyError) -> list[Entry]:
        """The conversation is gone. Returns the messages that fail with it."""
        found = list(self._waiting.get(conversation_id, ()))
        for entry in found:
            self.failed(entry, error)
        return found

    def missing(self, conversation_id: str, is_there: Callable[[Entry], bool]) -> list[Entry]:
        """Queue anew, before what waits, what was sent lately and is in the history no more. Returns it.

        Too much does no harm: for the server they are the messages that it has.
        """
        self._forget()
        lost = [entry for entry in self._sent if entry.draft.conversation_id == conversation_id and not is_there(entry)]
        for entry in lost:
            self._sent.remove(entry)
            self._attempts[entry.draft.id] = entry.draft.sent or self._clock()
            self._again(entry)
        if lost:
            self._waiting.setdefault(conversation_id, deque()).extendleft(reversed(lost))
        return lost

    def _again(self, entry: Entry) -> None:
        entry.draft = msgspec.structs.replace(
            entry.draft, error_code=None, error_message="", sent=None, message_id=None, seq=0
        )
        entry.error = entry.message = None
        entry.attempt += 1
        entry.become("pending")

    def _leave_queue(self, entry: Entry) -> None:
        attempted = self._attempts.pop(entry.draft.id, None)
        if attempted is not None:
            self._over[entry.draft.id] = attempted
        queue = self._waiting.get(entry.draft.conversation_id)
        if queue is not None and entry in queue:
            queue.remove(entry)
            if not queue:
                del self._waiting[entry.draft.conversation_id]

    def _forget(self) -> None:
        """Let go of what was sent too long ago."""
        oldest = self._clock() - REMEMBERED
        while self._sent and ((self._sent[0].draft.sent or 0) < oldest or len(self._sent) > MAX_REMEMBERED):
            entry = self._sent.popleft()
            self._entries.pop(entry.draft.id, None)
