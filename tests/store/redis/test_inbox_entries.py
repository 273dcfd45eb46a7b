"""store.redis.inbox_entries: what instances of different versions write, each reads."""

import gc
from typing import Any
from uuid import UUID

import msgspec
import pytest

from store.ids import PackedIds
from store.model import UserStatus
from store.redis.inbox_entries import (
    BlockNotice,
    Draft,
    Entry,
    Head,
    InstanceMessage,
    Personal,
    PrivacyNotice,
    Receipt,
    SettingsChange,
    StatusNotice,
    ThreadChange,
    TraceMark,
    Typing,
    disconnection_of,
    entry_of,
    unpack,
)

ROOM, USER, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
MESSAGES: list[InstanceMessage] = [
    Head(ROOM, 7),
    Receipt(ROOM, USER, 3, 2, "t"),
    Typing(ROOM, USER, True),
    StatusNotice(USER, UserStatus.BUSY, "x", None, PackedIds.of((ROOM,))),
    disconnection_of(USER),
    TraceMark(ROOM, 7, "00-1"),
    SettingsChange(USER, ROOM, 9),
    PrivacyNotice(USER, False, True, False, 3),
    ThreadChange(USER, ROOM, 4),
    BlockNotice(USER, OTHER, True, 5, PackedIds.of((ROOM,)), ((OTHER, "x"),)),
]
# The same messages as version 0.1 wrote them: arrays, each kind in a place of its own, behind the changes.
WRITTEN: list[list[list[Any]]] = [
    [],
    [[str(ROOM), 7]],
    [[str(ROOM), str(USER), 3, 2, "t", False]],
    [[str(ROOM), str(USER), True]],
    [[str(USER), "Busy", "x", None, [str(ROOM)]]],
    [[str(USER), "The user was deleted.", None, "unauthenticated", None]],
    [[str(ROOM), 7, "00-1"]],
    [[str(USER), str(ROOM), 9]],
    [[str(USER), False, True, False, 3]],
    [[str(USER), str(ROOM), 4]],
    [[str(USER), str(OTHER), True, 5, [str(ROOM)], [[str(OTHER), "x"]]]],
]


def test_every_kind_is_here() -> None:
    """A kind of message without an example below is not known to be readable by the version before."""
    kinds = {type(message) for message in MESSAGES}
    assert kinds == {kind for kind in every(InstanceMessage) if not kind.__name__.startswith("_")}
    assert [type(message) for message in entry_of(MESSAGES).messages()] == [type(message) for message in MESSAGES]


def every(kind: type[InstanceMessage]) -> set[type[InstanceMessage]]:
    return {one for below in kind.__subclasses__() for one in (below, *every(below))}


def test_the_written_form() -> None:
    """Byte for byte what the version before writes and reads, and nothing is lost on the way."""
    draft = Draft()
    for message in reversed(MESSAGES):
        draft.add(message)
    assert draft.pack() == msgspec.msgpack.encode(WRITTEN)
    assert unpack(msgspec.msgpack.encode(WRITTEN)) == entry_of(MESSAGES)


def test_conversations_of_who_is_in_thousands() -> None:
    """They are no objects of which the garbage collector has to know; what is no id is refused, as whole."""
    ids = PackedIds.of(UUID(int=number) for number in range(9000))
    draft = Draft()
    draft.add(StatusNotice(USER, UserStatus.BUSY, "x", None, ids))
    packed = draft.pack()
    gc.collect()
    before = len(gc.get_objects())
    entry = unpack(packed)
    assert entry.statuses[0].conversation_ids == ids
    assert len(gc.get_objects()) - before < 100
    with pytest.raises(msgspec.DecodeError):
        unpack(packed.replace(str(UUID(int=8999)).encode(), b"x" * 36))


def test_shorter_and_longer_entries() -> None:
    """Fields are added at the end, of an entry and of a message: the old lacks some, the new has more than is known."""
    older = [WRITTEN[0], WRITTEN[1], [one[:4] for one in WRITTEN[2]]]
    assert unpack(msgspec.msgpack.encode(older)) == entry_of([MESSAGES[0], Receipt(ROOM, USER, 3, 2)])
    newer = [[*message, "more"] for message in WRITTEN[1]]
    assert unpack(msgspec.msgpack.encode([WRITTEN[0], newer, *WRITTEN[2:], [["a new kind"]]])) == entry_of(MESSAGES)
    assert unpack(msgspec.msgpack.encode([])) == Entry()


def test_whom_it_concerns() -> None:
    """Each goes to the instances of a conversation, or of a user; one that goes nowhere would never arrive."""
    for message in MESSAGES:
        if isinstance(message, BlockNotice):
            assert (message.conversations, message.users) == ((), (USER, OTHER))
            continue
        if isinstance(message, StatusNotice):  # it is asked about them a few at a time
            assert (message.conversation_ids, message.conversations) == (PackedIds.of((ROOM,)), ())
            continue
        expected = ((), (USER,)) if isinstance(message, Personal | PrivacyNotice) else ((ROOM,), ())
        assert (message.conversations, message.users) == expected
