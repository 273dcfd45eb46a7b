"""A client of a test, as the load test's oracle sees it: one judge of the promises for all suites.

Owns the views of one client over all its connections, and the keys of what it sends. The oracle records
breaches; `require` raises the first.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import trio

from loadtest.history_checker.recording import Recording
from loadtest.history_record import Call, ClientRecord
from loadtest.oracle import contents, invariants
from loadtest.oracle.client_view import ClientView
from loadtest.oracle.edits import Edits
from loadtest.oracle.mentions import NONE, Mentions, Named
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.pins import Pins
from loadtest.oracle.reactions import Reactions
from loadtest.oracle.reconciliation import Reconciliation
from loadtest.oracle.refusals import Refusals
from loadtest.oracle.standing import OwnSettings
from loadtest.oracle.threads import OwnThreads, Threads
from loadtest.payloads import CHANGED, RECEIVE, RESYNC, THREAD, VIEWED, Message, Resync, Synced, ThreadState, Viewed

RUN = "test"
SHOWN = 8  # breaches


class Breach(AssertionError):
    """A promise was broken. The message says which, to whom, and shows the events before."""


def make_oracle(user_ids: Sequence[str]) -> Oracle:
    """`user_ids` are those of all clients, by number."""
    start = trio.current_time()
    return Oracle(RUN, lambda: trio.current_time() - start, user_ids)


def require(oracle: Oracle) -> None:
    """Raises Breach when something was seen broken: with the trace of the first, and the texts of some others."""
    if oracle.breaches:
        (first, *others), counts = oracle.breaches[:SHOWN], dict(oracle.breached)
        besides = [f"and {other.promise}: {other.text}" for other in others]
        raise Breach("\n  ".join([f"{first.promise}: {first.text} (in all: {counts})", *besides, *first.trace]))


def judge(
    oracle: Oracle,
    oracle_clients: Iterable["OracleClient"],
    stored: Mapping[str, Sequence[dict[str, Any]]],
    reactions: Reactions | None = None,
    pins: Pins | None = None,
    threads: Threads | None = None,
) -> None:
    """At the end. `stored` is everything there is, by conversation, as REST shows it. Raises Breach."""
    people = {oracle_client.number: oracle_client for oracle_client in oracle_clients}
    reconciliation = Reconciliation(oracle, people, reactions, pins, threads)
    for conversation, messages in stored.items():
        views = (oracle_client.views.get(conversation) for oracle_client in people.values())
        reconciliation.compare(
            conversation, msgspec.convert(messages, list[Message]), [view for view in views if view is not None]
        )
    reconciliation.missing()
    require(oracle)


class OracleClient:
    """With a `recording` it also writes the record for the history checker."""

    def __init__(
        self,
        oracle: Oracle,
        number: int,
        user_id: str,
        conversations: Iterable[str],
        recording: Recording | None = None,
    ) -> None:
        self.record = ClientRecord(recording, f"p{number}") if recording is not None else None
        self.oracle = oracle
        self.number = number
        self.user_id = user_id
        self.views = {conversation: ClientView(oracle, number, conversation) for conversation in conversations}
        self.edits = Edits(oracle, number)
        self.mentions = Mentions(oracle, number)
        self.refusals = Refusals(oracle, number)
        self.settings = OwnSettings(oracle, number)
        self.threads = OwnThreads()
        self.acknowledged: list[int] = []  # by number of the send: the hash of its message's id, 0 while there is none

    @property
    def cursors(self) -> dict[str, int]:
        return {conversation: view.cursor or 0 for conversation, view in self.views.items()}

    @property
    def has_gaps(self) -> bool:
        """Whether changes were left out, in any of the conversations."""
        return any(view.gaps for view in self.views.values())

    def connected(self) -> None:
        """A new connection, on which Sync(cursors) is called first."""
        self.oracle.note(self.number, "connected")
        for view in self.views.values():
            view.resuming()
        if self.record is not None:
            self.record.connected()
            for conversation, cursor in self.cursors.items():
                self.record.resuming(conversation, cursor)

    def disconnected(self) -> None:
        self.threads.unsure()
        if self.record is not None:
            self.record.disconnected()

    def synced(self, answer: dict[str, Any]) -> Synced:
        """The answer to Sync."""
        self.oracle.note(self.number, "synced")
        synced = msgspec.convert(answer, Synced)
        for conversation in synced.resync:
            if self.views[conversation].is_resuming:  # no Resync has said it before the answer
                self._resync(conversation, synced.heads.get(conversation, 0), answered=True)
        for conversation, head in synced.heads.items():
            self.views[conversation].synced(head)
            if self.record is not None and conversation not in synced.resync:
                self.record.attached(conversation, head)
        return synced

    def _resync(self, conversation: str, head: int, *, answered: bool) -> None:
        if self.record is not None:
            self.record.resynced(conversation, head, answered=answered)
        self.views[conversation].resync(head, answered=answered)

    def event(self, target: str, arguments: list[Any]) -> tuple[Message, float | None] | None:
        """The message that came with it, and when it was due; None for all other events."""
        if target == RESYNC:
            notice = msgspec.convert(arguments[0], Resync)
            self.oracle.note(self.number, RESYNC, notice.conversation_id, notice.last_seq)
            self._resync(notice.conversation_id, notice.last_seq, answered=False)
        elif target == VIEWED:
            viewed = msgspec.convert(arguments[0], Viewed)
            self.settings.see(viewed.id, viewed.settings)
            self.threads.unsure(viewed.id)
        elif target == THREAD:
            self.threads.see(msgspec.convert(arguments[0], ThreadState))
        if target not in (RECEIVE, CHANGED):
            return None
        message = msgspec.convert(arguments[0], Message)
        if self.record is not None:
            self.record.received(message, new=target == RECEIVE)
        self.oracle.note(self.number, target, message.conversation_id, message.changed_seq, message.id)
        view = self.views.get(message.conversation_id)
        if view is None:
            text = f"p{self.number} got {target} of {message.conversation_id}, of which they are no member"
            self.oracle.breach(invariants.STRANGER, text, virtual_user=self.number)
        else:
            view.take(message, new=target == RECEIVE)
        return message, self.oracle.read(message, self.number)

    def draft(self, mentions: Named = NONE) -> tuple[int, str]:
        """The number of a new send that mentions these, and its clientMessageId."""
        self.acknowledged.append(0)
        number = len(self.acknowledged) - 1
        self.mentions.send(number, mentions)
        return number, contents.make_key(RUN, self.number, number)

    def sending(self, body: Mapping[str, object]) -> Call | None:
        """An attempt to send this is about to begin; its answer goes to `answered`."""
        if self.record is None:
            return None
        return self.record.sent(str(body["conversationId"]), str(body["clientMessageId"]), str(body["content"]))

    def editing(self, conversation: str, message_id: str, content: str) -> Call | None:
        """The same for an edit."""
        return self.record.edited(conversation, message_id, content) if self.record is not None else None

    def answered(self, call: Call | None, message: dict[str, Any]) -> None:
        if self.record is not None and call is not None:
            self.record.acknowledged(call, msgspec.convert(message, Message))

    def refused(self, call: Call | None, code: str) -> None:
        """An attempt was refused, as all others must be."""
        if self.record is not None and call is not None:
            self.record.refused(call, code)

    def edited(self, call: Call | None, message_id: str, content: str, message: dict[str, Any]) -> None:
        """The edit was answered with this message."""
        self.answered(call, message)
        self.edits.acknowledge(message_id, content, msgspec.convert(message, Message))

    def settled(self) -> None:
        """The run is over, and everything has had the time to come."""
        if self.record is not None:
            for conversation in self.views:
                self.record.settled(conversation)

    def acknowledge(self, number: int, message_id: str) -> None:
        """Record that the send was acknowledged, and as which message."""
        self.acknowledged[number] = hash(message_id)
