"""The messages of the SignalR hub protocol as values, whatever their encoding.

Owns the types and the protocol's errors. Sans-I/O. Arguments, items and results stay encoded
(`msgspec.Raw`) until somebody knows their types. Section numbers below are those of the SignalR
HubProtocol specification's message table.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Raw

INVOCATION, STREAM_ITEM, COMPLETION, STREAM_INVOCATION, CANCEL_INVOCATION = 1, 2, 3, 4, 5
PING, CLOSE, ACK, SEQUENCE = 6, 7, 8, 9

MAX_INVOCATION_ID = 128  # characters; ids are chosen by the peer and kept while a call runs
SKIPPED = 1.5  # times the limit of a hub message: as long as that, it is skipped and its invocation fails
KEPT = 4096  # bytes of what stands beside the arguments of a message that is skipped


Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # of a message; the decoder refuses what has more bits


class HubProtocolError(Exception):
    """The peer broke the hub protocol: a Close says so. `messages` were complete before the violation."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.messages: list[HubMessage] = []


class TooBig(HubProtocolError):
    """A message is so long that it is not even skipped, or is over the limit and no invocation is recognised in it."""


class ArgumentsError(Exception):
    """The arguments do not fit the method: this call fails, the connection lives. `fields` says which, and why."""

    def __init__(self, sentence: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.fields = fields


class Invocation(msgspec.Struct, frozen=True, gc=False):
    """`invocation_id` None means fire and forget: nothing is ever answered."""

    invocation_id: str | None
    target: str
    arguments: Raw
    stream_ids: tuple[str, ...] = ()


class StreamInvocation(msgspec.Struct, frozen=True, gc=False):
    invocation_id: str
    target: str
    arguments: Raw
    stream_ids: tuple[str, ...] = ()


class Oversized(msgspec.Struct, frozen=True, gc=False):
    """An invocation, plain or streamed, that is over the size limit: what was kept of it, to answer it."""

    invocation_id: str | None
    target: str
    size: int


class StreamItem(msgspec.Struct, frozen=True, gc=False):
    invocation_id: str
    item: Raw


class Completion(msgspec.Struct, frozen=True, gc=False):
    """With `error`, with `result`, or with neither (a void method)."""

    invocation_id: str
    error: str | None = None
    result: Raw | None = None


class CancelInvocation(msgspec.Struct, frozen=True, gc=False):
    invocation_id: str


class Ping(msgspec.Struct, frozen=True, gc=False):
    pass


class Close(msgspec.Struct, frozen=True, gc=False):
    error: str | None = None
    allow_reconnect: bool = False


class Ack(msgspec.Struct, frozen=True, gc=False):
    sequence_id: int


class Sequence(msgspec.Struct, frozen=True, gc=False):
    sequence_id: int


HubMessage = (
    Invocation
    | Oversized
    | StreamItem
    | Completion
    | StreamInvocation
    | CancelInvocation
    | Ping
    | Close
    | Ack
    | Sequence
)


def too_big(most: int) -> TooBig:
    return TooBig(f"A message is longer than {most} bytes.")


def checked_id(value: str | None) -> str:
    """An invocation id where one is required (types 2 to 5)."""
    if not value:
        raise HubProtocolError("A message that needs an invocation id has none.")
    if len(value) > MAX_INVOCATION_ID:
        raise HubProtocolError(f"An invocation id is longer than {MAX_INVOCATION_ID} characters.")
    return value


def optional_id(value: str | None) -> str | None:
    """Return the id of an invocation: an empty one counts as none."""
    return checked_id(value) if value else None
