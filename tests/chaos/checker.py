"""What one client may see, and what it may not: the promises as a state machine over its events.

Owns the record of one client. Pure: it is told what came, and raises Breach at the first event that breaks a promise.

Per conversation a client has a cursor. While it is *replaying* (from its Sync until the answer), changes come by
rising changedSeq, each message in its final state; after that it is *live*, and each change is the next one (P3). In
its whole life, over all its connections, it sees each message made exactly once, and at the end it has seen every
message there is (P4, P5).
"""

from collections.abc import Iterable, Mapping
from typing import Any


class Breach(AssertionError):
    """A promise was broken. The message says which, to whom, and shows the events before."""


class Checker:
    def __init__(self, name: str, conversations: Iterable[str]) -> None:
        self.name = name
        self.cursors = dict.fromkeys(conversations, 0)
        self.replaying: set[str] = set()
        self.created: dict[str, dict[str, Any]] = {}  # messages by id, as they were first seen
        self.latest: dict[str, dict[str, Any]] = {}  # and as they were last seen
        self.jumps: list[tuple[str, int, str]] = []  # conversation and seq that live events left out, and the trace
        self.trace: list[str] = []

    def connected(self) -> None:
        """A new connection, on which Sync(cursors) is called first."""
        self.replaying = set(self.cursors)
        self._note("connected")

    def synced(self, heads: Mapping[str, int], resync: Iterable[str]) -> None:
        """The answer to Sync."""
        for conversation in resync:
            self._breach(f"resync of {conversation}, which was not far behind")
        for conversation, head in heads.items():
            if self.cursors[conversation] < head:
                self._breach(f"replay of {conversation} ended at {self.cursors[conversation]}, before the head {head}")
        self.replaying.clear()
        self._note("synced")

    def event(self, target: str, arguments: list[Any]) -> None:
        if target not in ("ReceiveMessage", "MessageChanged"):
            return
        message = arguments[0]
        conversation, seq, key = message["conversationId"], message["changedSeq"], message["id"]
        self._note(f"{target} {conversation[-4:]} {seq} {key[-4:]}")
        cursor = self.cursors[conversation]
        if seq <= cursor:
            self._breach(f"change {seq} of {conversation} after {cursor}: repeated or out of order")
        if conversation not in self.replaying:
            trace = "\n  ".join(self.trace[-5:]) if seq > cursor + 1 else ""
            self.jumps += ((conversation, left_out, trace) for left_out in range(cursor + 1, seq))
        if target == "ReceiveMessage":
            if key in self.created:
                self._breach(f"message {key} came twice as a new one")
            self.created[key] = message
        elif key not in self.created:
            self._breach(f"message {key} was changed before it was there")
        self.latest[key] = message
        self.cursors[conversation] = seq

    def finish(self, stored: Mapping[str, Mapping[str, Any]], acknowledged: Mapping[str, str]) -> None:
        """At the end. `stored` are the messages in the database by id, `acknowledged` the id that each send was
        answered with, by its clientMessageId."""
        for key, message in stored.items():
            if key not in self.created:
                self._breach(f"message {key} (seq {message['seq']} of {message['conversationId']}) was never seen")
            if self.latest[key]["content"] != message["content"]:
                self._breach(
                    f"message {key} was last seen as {self.latest[key]['content']!r}, not {message['content']!r}"
                )
        for key in self.created:
            if key not in stored:
                self._breach(f"message {key} was seen but is not stored")
        for conversation, seq, trace in self.jumps:
            if not any(
                message["conversationId"] == conversation and message["seq"] <= seq < message["changedSeq"]
                for message in stored.values()
            ):
                self._breach(f"a hole: change {seq} of {conversation} was left out, and overtaken by none\n  {trace}")
        sends = {message["clientMessageId"]: key for key, message in stored.items() if message["clientMessageId"]}
        if len(sends) != sum(bool(message["clientMessageId"]) for message in stored.values()):
            self._breach("a send is stored twice")
        for client_id, key in acknowledged.items():
            if sends.get(client_id) != key:
                self._breach(f"send {client_id} was acknowledged as {key}, but is stored as {sends.get(client_id)}")

    def _note(self, line: str) -> None:
        self.trace.append(line)
        del self.trace[:-40]

    def _breach(self, what: str) -> None:
        raise Breach(f"{self.name}: {what}\n  " + "\n  ".join(self.trace[-15:]))
