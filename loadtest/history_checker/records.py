"""The record of a run, an event a line: what each client asked for and was shown, and when.

Owns the format (docs/load-testing.md). A file has the events of one or several clients, each client's in the order in
which they happened to it, and all of a client's in one file. `at` is nanoseconds of a monotonic clock; times of files
with the same `clock` can be compared.
"""

import zlib

import msgspec

FORMAT = 2  # 1 did not say which messages are the server's own


class State(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """A message as it was shown. `content` is a digest of what it says; `key` its clientMessageId; `system` marks one
    that the server wrote itself: no client sent it, and it has no key."""

    id: str
    seq: int
    changed_seq: int
    content: int = 0
    deleted: bool = False
    key: str | None = None
    sender: str | None = None
    system: bool = False


class _Event(
    msgspec.Struct,
    frozen=True,
    gc=False,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="event",
    tag=str.lower,
):
    pass


class Begun(_Event, frozen=True, gc=False, kw_only=True):
    """The first line of a file. `clock` names the clock of its times."""

    format: int
    clock: str


class Connected(_Event, frozen=True, gc=False, kw_only=True):
    client: str
    at: int


class Disconnected(_Event, frozen=True, gc=False, kw_only=True):
    client: str
    at: int
    reason: str = ""


class _OfConversation(_Event, frozen=True, gc=False, kw_only=True):
    client: str
    conversation: str
    at: int


class Resuming(_OfConversation, frozen=True, gc=False, kw_only=True):
    """The client is about to ask for what comes after `cursor`; None lets the server choose where it begins."""

    cursor: int | None


class Attached(_OfConversation, frozen=True, gc=False, kw_only=True):
    """The server says that everything up to `head` was replayed: from here on events are live. None where the server
    has chosen where it begins, and not said where."""

    head: int | None


class Resynced(_OfConversation, frozen=True, gc=False, kw_only=True):
    """The server says that it does not replay: the client forgets the conversation, and begins again at `head`.
    `answered` when it says so in its answer to what was asked at `resuming`, and not by an event."""

    head: int
    answered: bool = False


class Detached(_OfConversation, frozen=True, gc=False, kw_only=True):
    """The client left the conversation, or was removed from it."""


class Received(_OfConversation, frozen=True, gc=False, kw_only=True):
    """An event showed a message: as `new`, or as one that was changed."""

    new: bool
    message: State


class Sent(_OfConversation, frozen=True, gc=False, kw_only=True):
    """A message is about to be sent, for the first time or again. `call` is the client's number of this call."""

    call: int
    key: str
    content: int


class Edited(_OfConversation, frozen=True, gc=False, kw_only=True):
    """An edit, or a deletion, is about to be asked for."""

    call: int
    id: str
    content: int = 0
    deleted: bool = False


class Acknowledged(_OfConversation, frozen=True, gc=False, kw_only=True):
    """The call was answered with this message."""

    call: int
    message: State


class Refused(_OfConversation, frozen=True, gc=False, kw_only=True):
    """The call was answered with an error. `unknown` says that it may have been done nevertheless."""

    call: int
    code: str = ""
    unknown: bool = True


class Page(_OfConversation, frozen=True, gc=False, kw_only=True):
    """A page of history that was asked for at `called` and is here at `at`: all messages whose seq is above `after`
    and, unless it is None, below `before`."""

    called: int
    after: int = 0
    before: int | None = None
    messages: tuple[State, ...] = ()


class Settled(_OfConversation, frozen=True, gc=False, kw_only=True):
    """The run is over, the client is attached, and has had all the time that it needs to receive everything."""


class Stored(_Event, frozen=True, gc=False, kw_only=True):
    """What the database has at the end. All such lines of a conversation together are the whole."""

    conversation: str
    messages: tuple[State, ...] = ()


Event = (
    Begun
    | Connected
    | Disconnected
    | Resuming
    | Attached
    | Resynced
    | Detached
    | Received
    | Sent
    | Edited
    | Acknowledged
    | Refused
    | Page
    | Settled
    | Stored
)

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Event).decode


def digest(content: str | None) -> int:
    """What stands for a content in a record."""
    return zlib.crc32((content or "").encode("utf-8", "surrogatepass"))
