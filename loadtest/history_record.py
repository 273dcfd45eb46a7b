"""What one client of a test writes into the record for the history checker, in the words of the payloads.

Owns the numbers of its calls, and which answers leave open whether a call was done.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loadtest.history_checker import records
from loadtest.history_checker.recording import Recording, now
from loadtest.history_checker.records import State, digest
from loadtest.payloads import SYSTEM, Message

OPEN = ("unavailable", "internal", "draining", "timeout")  # codes of errors after which a call may have been done
STORED_AT_ONCE = 500  # messages in one line


def state(message: Message) -> State:
    deleted = message.deleted_at is not None
    return State(
        id=message.id,
        seq=message.seq,
        changed_seq=message.changed_seq,
        content=digest(message.deleted_at if deleted else message.content),
        deleted=deleted,
        key=message.client_message_id,
        sender=message.sender_id,
        system=message.type == SYSTEM,
    )


def write_stored(recording: Recording, conversation: str, messages: Sequence[Message]) -> None:
    """Everything that is stored of a conversation."""
    for start in range(0, len(messages) or 1, STORED_AT_ONCE):
        part = tuple(state(message) for message in messages[start : start + STORED_AT_ONCE])
        recording.write(records.Stored(conversation=conversation, messages=part))


class Call(NamedTuple):
    number: int
    conversation: str


class ClientRecord:
    """The record of one client, by this name."""

    __slots__ = ("_calls", "_client", "_recording")

    def __init__(self, recording: Recording, client: str) -> None:
        self._recording = recording
        self._client = client
        self._calls = 0

    def connected(self) -> None:
        self._recording.write(records.Connected(client=self._client, at=now()))

    def disconnected(self, reason: str = "") -> None:
        self._recording.write(records.Disconnected(client=self._client, at=now(), reason=reason))

    def resuming(self, conversation: str, cursor: int | None) -> None:
        client = self._client
        self._recording.write(records.Resuming(client=client, conversation=conversation, at=now(), cursor=cursor))

    def attached(self, conversation: str, head: int | None) -> None:
        client = self._client
        self._recording.write(records.Attached(client=client, conversation=conversation, at=now(), head=head))

    def resynced(self, conversation: str, head: int, *, answered: bool) -> None:
        event = records.Resynced(client=self._client, conversation=conversation, at=now(), head=head, answered=answered)
        self._recording.write(event)

    def received(self, message: Message, *, new: bool) -> None:
        event = records.Received(
            client=self._client, conversation=message.conversation_id, at=now(), new=new, message=state(message)
        )
        self._recording.write(event)

    def page(
        self, conversation: str, called: int, messages: Iterable[Message], *, after: int, before: int | None = None
    ) -> None:
        shown = tuple(state(message) for message in messages)
        event = records.Page(
            client=self._client,
            conversation=conversation,
            at=now(),
            called=called,
            after=after,
            before=before,
            messages=shown,
        )
        self._recording.write(event)

    def settled(self, conversation: str) -> None:
        self._recording.write(records.Settled(client=self._client, conversation=conversation, at=now()))

    # -- calls -----------------------------------------------------------------------------------

    def sent(self, conversation: str, key: str, content: str) -> Call:
        call = self._call(conversation)
        event = records.Sent(
            client=self._client,
            conversation=conversation,
            at=now(),
            call=call.number,
            key=key,
            content=digest(content),
        )
        self._recording.write(event)
        return call

    def edited(self, conversation: str, message: str, content: str) -> Call:
        call = self._call(conversation)
        event = records.Edited(
            client=self._client,
            conversation=conversation,
            at=now(),
            call=call.number,
            id=message,
            content=digest(content),
        )
        self._recording.write(event)
        return call

    def _call(self, conversation: str) -> Call:
        self._calls += 1
        return Call(self._calls, conversation)

    def acknowledged(self, call: Call, message: Message) -> None:
        event = records.Acknowledged(
            client=self._client, conversation=call.conversation, at=now(), call=call.number, message=state(message)
        )
        self._recording.write(event)

    def refused(self, call: Call, code: str) -> None:
        event = records.Refused(
            client=self._client,
            conversation=call.conversation,
            at=now(),
            call=call.number,
            code=code,
            unknown=code in OPEN,
        )
        self._recording.write(event)
