"""handlers.receipts: who may say how far they have got, and that it is durable when they are answered."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from handlers.errors import ChatError
from handlers.receipts import Receipts, parse_status
from store.errors import Overloaded, StoreError, Unavailable
from store.ids import new_id
from store.model import MessageStatus, Role
from store.receipts import MAX_SEQ
from store.redis.inbox_entries import Receipt
from tests.handlers.database import Database
from tests.handlers.memory import DurableReceipts, Memory, refused

DELIVERED, READ = MessageStatus.DELIVERED, MessageStatus.READ


@given(st.integers(0, 2**64), st.sampled_from([DELIVERED, READ]))
def test_marked(seq: int, status: MessageStatus) -> None:
    """Read is delivered as well, delivered is not read; what a client may say is bounded to what is kept."""
    durable = DurableReceipts()
    user_id, conversation_id = new_id(), new_id()
    Receipts(Database(), durable).mark_nowait(user_id, conversation_id, seq, status)
    kept = min(seq, 2**62)
    assert MAX_SEQ == 2**62
    assert durable.offered == [Receipt(conversation_id, user_id, kept, kept if status is READ else 0)]


@pytest.mark.parametrize("seq", [-1, -(2**63)])
async def test_before_the_beginning(memory: Memory, seq: int) -> None:
    """Is no cursor: nothing is offered."""
    caller = memory.user()
    group = memory.group((caller, Role.OWNER))
    assert (await refused(memory, memory.receipts.mark(caller, group, seq, READ))).code == "invalid_cursor"
    assert memory.durable.offered == []


async def test_who_may_mark(memory: Memory) -> None:
    """Members, for themselves. Strangers get not_found for the conversation and for any message of it."""
    member, stranger = memory.user(), memory.user()
    group = memory.group((member, Role.MEMBER))
    said = memory.say(group, member)
    for call in (
        memory.receipts.mark(stranger, group, 1, READ),
        memory.receipts.mark(stranger, new_id(), 1, READ),
        memory.receipts.mark_message(stranger, said.id, READ),
        memory.receipts.mark_message(member, new_id(), READ),
        memory.receipts.list(stranger, said.id, 10, None),
        memory.receipts.list(member, new_id(), 10, None),
    ):
        assert (await refused(memory, call)).code == "not_found"
    assert memory.durable.offered == []
    await memory.receipts.mark_message(member, said.id, DELIVERED)
    assert memory.durable.offered == [Receipt(group, member.user_id, said.seq, 0)]


async def test_a_removed_sender(memory: Memory) -> None:
    """Of their own message they neither learn who has it nor say that they do."""
    member, removed = memory.user(), memory.user()
    group = memory.group((member, Role.MEMBER), (removed, Role.MEMBER))
    said = memory.say(group, removed)
    del memory.tables.members[group, removed.user_id]
    for call in (
        memory.receipts.mark_message(removed, said.id, READ),
        memory.receipts.list(removed, said.id, 10, None),
    ):
        assert (await refused(memory, call)).code == "not_found"
    assert memory.durable.offered == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(Unavailable("x"), "unavailable"), (Overloaded("x"), "overloaded"), (StoreError("x"), "internal")],
)
async def test_not_durable(memory: Memory, error: StoreError, code: str) -> None:
    """Who waits for it is not answered as if it were; who does not wait hears once."""
    caller = memory.user()
    group = memory.group((caller, Role.OWNER))
    memory.durable.error = error
    with pytest.raises(ChatError) as caught:
        await memory.receipts.mark(caller, group, 1, READ)
    assert caught.value.code == code
    heard: list[ChatError | None] = []
    memory.receipts.mark_nowait(caller.user_id, group, 1, READ, heard.append)
    memory.receipts.mark_nowait(caller.user_id, group, 1, READ)
    assert [error and error.code for error in heard] == [code]


@pytest.mark.parametrize("value", ["Sent", "sent", 0, -1, 3, 2**63, "", "Seen", "\ud800"])
def test_no_such_status(value: str | int) -> None:
    """Sent is the server's to say; the error names the two."""
    with pytest.raises(ChatError) as caught:
        parse_status(value)
    assert caught.value.code == "invalid_request" and caught.value.errors == {"status": "Delivered, Read"}


@pytest.mark.parametrize(("value", "status"), [("delivered", DELIVERED), (1, DELIVERED), ("READ", READ), (2, READ)])
def test_statuses(value: str | int, status: MessageStatus) -> None:
    """By name in any case, or by number."""
    assert parse_status(value) is status


def got(memory: Memory, group: UUID, user_id: UUID, delivered: int, read: int) -> None:
    member = memory.tables.members[group, user_id]
    memory.tables.members[group, user_id] = replace(member, delivered_seq=delivered, read_seq=read)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
async def test_who_has_got_it(memory: Memory, limit: int) -> None:
    """Each member who has, once over all pages, with how far; not the sender, nor who has less."""
    sender, *others = (memory.user() for _ in range(6))
    group = memory.group(*[(one, Role.MEMBER) for one in (sender, *others)])
    memory.say(group, sender)
    said = memory.say(group, sender)
    cursors = [(2, 2), (2, 1), (1, 1), (0, 0), (3, 3)]
    for other, (delivered, read) in zip(others, cursors, strict=True):
        got(memory, group, other.user_id, delivered, read)
    got(memory, group, sender.user_id, 9, 9)
    found, cursor = [], None
    while True:
        items, cursor = await memory.receipts.list(sender, said.id, limit, cursor)
        found += [(item.user_id, item.status) for item in items]
        if cursor is None:
            break
    expected = {others[0].user_id: READ, others[1].user_id: DELIVERED, others[4].user_id: READ}
    assert found == sorted(expected.items(), key=lambda item: item[0].bytes)


async def test_a_cursor_that_is_none(memory: Memory) -> None:
    """Is refused before anything is read."""
    call = memory.receipts.list(memory.user(), new_id(), 10, "no cursor")
    assert (await refused(memory, call)).code == "invalid_cursor" and memory.database.steps == []
