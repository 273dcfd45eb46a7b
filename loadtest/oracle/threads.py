"""Threads: what roots must show of their replies, who must follow them, and what one client knows of that.

Owns what each send was to reply to and whom it named: both decide what follows from a reply, also once it is deleted.
All else is computed from the stored messages: a reply counts from its seq on, and no more from the change that deleted
it; conversations have one order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from loadtest.oracle import invariants
from loadtest.oracle.mentions import NONE, Named
from loadtest.oracle.oracle import Oracle
from loadtest.payloads import Message, Thread, ThreadState, ThreadSummary

PARTICIPANTS = 10  # users shown with a root
COUNTED = 1000  # replies of which unreadCount of a thread counts


class Replies:
    """All replies of one root, by seq, also those that were deleted."""

    __slots__ = ("counts", "every", "first_ids", "last", "there")

    def __init__(self, every: Sequence[Message]) -> None:
        self.every = every
        self.there = [reply for reply in every if reply.deleted_at is None]
        self.last = self.there[-1] if self.there else None
        self.counts: Counter[str] = Counter()  # of each user, of those that are there
        self.first_ids: dict[str, str] = {}  # of each user: the reply with which they became a participant
        acts = [(reply.seq, reply, 1) for reply in every]
        acts += [(reply.changed_seq, reply, -1) for reply in every if reply.deleted_at is not None]
        for _, reply, step in sorted(acts, key=lambda act: act[0]):
            user = reply.sender_id or ""
            self.counts[user] += step
            if not self.counts[user]:
                del self.counts[user], self.first_ids[user]
            else:
                self.first_ids.setdefault(user, reply.id)

    @property
    def summary(self) -> ThreadSummary | None:
        """What the root has to show."""
        if self.last is None:
            return None
        people = sorted(self.first_ids, key=self.first_ids.__getitem__)
        return ThreadSummary(len(self.there), self.last.created_at, tuple(people[:PARTICIPANTS]))

    def unread(self, read_seq: int) -> int:
        """For a user who follows the thread, and has read so far."""
        return min(COUNTED, sum(reply.seq > read_seq for reply in self.there))


def replies_of(stored: Sequence[Message]) -> dict[str, Replies]:
    """By root, of one conversation, all of whose messages are stored, by seq."""
    found: dict[str, list[Message]] = {}
    for message in stored:
        if message.thread_id is not None:
            found.setdefault(message.thread_id, []).append(message)
    return {root: Replies(replies) for root, replies in found.items()}


def behind(stored: Sequence[Message]) -> list[str]:
    """Roots that do not show what their replies have come to, and what is wrong."""
    threads = replies_of(stored)
    found = []
    for message in stored:
        replies = threads.get(message.id)
        truth = replies.summary if replies is not None else None
        if message.thread != truth:
            found.append(f"{message.id} shows {message.thread}; its replies are {truth}")
    return found


def in_main(message: Message) -> bool:
    """Whether the main history has it."""
    return message.thread_id is None or message.also_in_conversation


class Threads:
    """What the clients of this worker have sent."""

    __slots__ = ("_named", "_oracle", "_sent")

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._sent: dict[str, tuple[str, bool]] = {}  # by clientMessageId: the root, and whether it is in both
        self._named: dict[str, list[Named]] = {}  # the same: whom it named, first when it was sent, then by edits

    def send(self, key: str, root_id: str | None, mentions: Named, *, also: bool = False) -> None:
        if root_id is not None:
            self._sent[key] = root_id, also
        self._named[key] = [mentions]

    def edit(self, key: str, mentions: Named) -> None:
        """An edit asks for these mentions."""
        self._named.setdefault(key, [NONE]).append(mentions)

    def check(self, message: Message) -> None:
        """What one of ours has sent is in the thread that it was sent to, in answers and where it is stored."""
        asked = self._sent.get(message.client_message_id or "", (None, False))
        if asked[0] is not None:
            self._oracle.checked[invariants.THREAD] += 1
        if (message.thread_id, message.also_in_conversation) != asked:
            shown = message.thread_id, message.also_in_conversation
            self._breach(message.conversation_id, f"{message.id} is in the thread {shown}, and was sent to {asked}")

    def check_roots(self, stored: Sequence[Message]) -> None:
        """After the patience: every root shows exactly what its replies are."""
        self._oracle.checked[invariants.THREAD] += sum(message.thread is not None for message in stored)
        for text in behind(stored):
            self._breach(stored[0].conversation_id, text)

    def check_main(self, conversation: str, main: Sequence[Message], stored: Sequence[Message]) -> None:
        """The main history has all messages but the replies that are in their threads only."""
        self._oracle.checked[invariants.THREAD] += 1
        truth = [message for message in stored if in_main(message)]
        if list(main) != truth:
            here, there = {message.id for message in main}, {message.id for message in truth}
            text = f"the main history of {conversation} has {sorted(here - there)}, and not {sorted(there - here)}"
            self._breach(conversation, text if here != there else f"the main history of {conversation} is in disorder")

    def check_replies(self, root_id: str, listed: Sequence[Message], replies: Replies) -> None:
        """A thread has its replies that are there, the oldest first."""
        self._oracle.checked[invariants.THREAD] += 1
        if list(listed) != replies.there:
            ids = [message.id for message in listed], [message.id for message in replies.there]
            self._breach(replies.every[0].conversation_id, f"the replies of {root_id} are listed as {ids[0]}: {ids[1]}")

    def _breach(self, conversation: str, text: str) -> None:
        self._oracle.breach(invariants.THREAD, text, conversation=conversation)

    # -- who follows ---------------------------------------------------------------------------------

    def follows(self, user_id: str, root: Message | None, replies: Replies, state: ThreadState | None) -> bool | None:
        """Whether a user follows a thread, by what was said there after `state`, in which they have set it last. None
        where that does not say it: what is deleted may have been so before, and edits have changed who was named."""
        has_set = state is not None and state.version > 0
        if state is not None and has_set and state.is_following:
            return True
        found: bool | None = False
        for reply in replies.every:
            if state is not None and has_set and reply.seq <= state.last_reply_seq:
                continue
            is_named = user_id in self._first_named(reply)
            if reply.sender_id == user_id or is_named:
                if not has_set or reply.deleted_at is None:
                    return True
                found = None
        if not has_set and replies.every and root is not None:
            if root.sender_id == user_id:
                return True
            versions = self._named.get(root.client_message_id or "", [(root.mentions, False)])
            naming = [user_id in mentions for mentions, _ in versions]
            return True if all(naming) else None if any(naming) else found
        return found

    def _first_named(self, message: Message) -> tuple[str, ...]:
        versions = self._named.get(message.client_message_id or "")
        return message.mentions if versions is None else versions[0][0]

    def standing(
        self,
        user_id: str,
        stored: Mapping[str, Message],
        threads: Mapping[str, Replies],
        listed: Sequence[Thread],
        own: "OwnThreads",
    ) -> list[str]:
        """What is wrong with a user's list of threads of one conversation. `stored`: its roots by id."""
        found = []
        last_ids = [threads[one.thread_id].last for one in listed if one.thread_id in threads]
        ids = [last.id for last in last_ids if last is not None]
        if ids != sorted(ids, reverse=True):
            found.append(f"{user_id} is listed threads that are not in the order of their last replies")
        there = {one.thread_id: one for one in listed}
        for root_id, replies in threads.items():
            if replies.last is None:
                continue
            one, state = there.get(root_id), own.known(root_id)
            follows = self.follows(user_id, stored.get(root_id), replies, state)
            is_later = one is not None and state is not None and one.version > state.version
            is_sure = not own.is_used or own.is_sure(root_id)
            if follows is not None and follows != (one is not None) and not is_later and is_sure:
                found.append(f"{user_id} follows {root_id}: {one is not None}, and should be {follows}, by {state}")
            if one is not None:
                found += self._thread(user_id, one, stored.get(root_id), replies)
        return found

    @staticmethod
    def _thread(user_id: str, one: Thread, root: Message | None, replies: Replies) -> list[str]:
        found = {"unreadCount": one.unread_count, "lastReplySeq": one.last_reply_seq, "root": one.root}
        last = replies.last.seq if replies.last is not None else 0
        truth = {"unreadCount": replies.unread(one.read_seq), "lastReplySeq": last, "root": root}
        who = f"of {user_id} in the thread {one.thread_id}, read up to {one.read_seq}"
        wrong = [f"{name} {who}, is {found[name]}, not {truth[name]}" for name in truth if found[name] != truth[name]]
        own = max((reply.seq for reply in replies.every if reply.sender_id == user_id), default=0)
        if one.read_seq < own:
            wrong.append(f"{user_id} replied in {one.thread_id} as {own}, and has read it up to {one.read_seq}")
        return wrong


class OwnThreads:
    """What one client has of the threads that its user has set something of: the state with the highest version. It is
    sure of it until events may have been lost; what it was answered holds all the same."""

    __slots__ = ("_known", "_marked", "_open", "_sure")

    def __init__(self) -> None:
        self._known: dict[str, ThreadState] = {}
        self._sure: set[str] = set()
        self._open: Counter[str] = Counter()  # acts without an answer
        self._marked: dict[str, int] = {}  # how far MarkThreadRead was acknowledged

    @property
    def is_used(self) -> bool:
        return bool(self._known or self._open)

    def known(self, root_id: str) -> ThreadState | None:
        return self._known.get(root_id)

    def is_sure(self, root_id: str) -> bool:
        """Whether nothing can have been set since that this client has not heard of."""
        return not self._open[root_id] and (root_id in self._sure or root_id not in self._known)

    def ask(self, root_id: str) -> None:
        self._open[root_id] += 1

    def refuse(self, root_id: str) -> None:
        self._open[root_id] -= 1

    def answer(self, state: ThreadState) -> None:
        self._open[state.thread_id] -= 1
        self.see(state)

    def mark(self, state: ThreadState, seq: int) -> None:
        """MarkThreadRead up to there was answered with this."""
        self.answer(state)
        if state.version or state.is_following:
            marked = min(seq, state.read_seq)
            self._marked[state.thread_id] = max(marked, self._marked.get(state.thread_id, 0))

    def see(self, state: ThreadState) -> None:
        """It came with an event, or an answer."""
        known = self._known.get(state.thread_id)
        if known is None or state.version > known.version:
            self._known[state.thread_id] = state
        if known is None or state.version >= known.version:
            self._sure.add(state.thread_id)

    def unsure(self, conversation: str | None = None) -> None:
        """Events may have been lost, of all conversations or of one."""
        self._sure = {
            root_id
            for root_id in self._sure
            if conversation is not None and self._known[root_id].conversation_id != conversation
        }

    def differences(self, stored: Sequence[ThreadState]) -> list[str]:
        """What is stored is what this client was answered and notified of last."""
        found = []
        for one in stored:
            known = self._known.get(one.thread_id)
            if one.read_seq < self._marked.get(one.thread_id, 0):
                found.append(f"{one.thread_id} is read up to {one.read_seq}, not {self._marked[one.thread_id]}")
            if known is None:
                continue
            is_missed = one.version > known.version and self.is_sure(one.thread_id)
            if one.version < known.version or is_missed:
                found.append(f"the state of {one.thread_id} is {one}, and is known as {known}")
        return found
