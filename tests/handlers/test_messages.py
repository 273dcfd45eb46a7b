"""handlers.messages: what is decided before anything is written."""

from collections.abc import Awaitable
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
import trio
from msgspec.structs import replace

from handlers.errors import CODES, ChatError
from handlers.messages import MAX_CLIENT_ID, MAX_PINS, Messages
from handlers.model import Caller, CreateMessage, Once
from handlers.rate_limits import Limiter, Rate
from store.errors import Overloaded, StoreError, Unavailable
from store.ids import new_id
from store.model import Message, Role
from store.postgres.appends import AppendError
from store.postgres.messages import PAGE_BYTES
from tests.handlers.database import NOW, Database
from tests.handlers.memory import Act, Memory, nothing_half_done, refused

UNUSED: Any = None


class Lanes:
    def __init__(self) -> None:
        self.offered: list[str] = []

    def offer(self, append: Any) -> None:
        self.offered.append(append.content)


class Commits:
    async def run(self, write: Any) -> Any:
        await trio.lowlevel.checkpoint()


COMMITS: Any = Commits()


def test_a_message_keeps_its_appointment() -> None:
    """One that was refused and comes again with its clientMessageId is taken at its time: others of its sender, with an
    id of their own or without, do not take its place."""
    now = [0.0]
    lanes = Lanes()
    sends = Limiter[Any](Rate(200, 10.0), "messages", clock=lambda: now[0])
    messages = Messages(UNUSED, lanes, UNUSED, sends, max_message_bytes=1000, mention_all_up_to=2)
    caller, group = Caller(user_id=uuid4(), expires_at=1e12), uuid4()

    def send(name: str | None, content: str = "x") -> float:
        request = CreateMessage(conversation_id=group, content=content, client_message_id=name)
        try:
            messages.send_nowait(caller, request, lambda outcome: None)
        except ChatError as error:
            assert error.retry_after is not None
            return error.retry_after
        return 0.0

    waits = {name: wait for name in map(str, range(260)) if (wait := send(name))}
    assert len(waits) == 60
    for name, wait in waits.items():
        now[0] = wait
        assert send(None, "in between") > 0 and send(f"another {name}", "in between") > 0
        assert send(name) == 0
    assert len(lanes.offered) == 260 and "in between" not in lanes.offered


async def test_edits_and_deletions_keep_theirs() -> None:
    """They are known again by their message."""
    now = [0.0]
    sends = Limiter[Any](Rate(1, 10.0), "messages", clock=lambda: now[0])
    messages = Messages(UNUSED, Lanes(), COMMITS, sends, max_message_bytes=1000, mention_all_up_to=2)
    caller, one, two = Caller(user_id=uuid4(), expires_at=1e12), uuid4(), uuid4()
    await messages.edit(caller, uuid4(), "x")
    waits = []
    for too_soon in (messages.edit(caller, one, "x"), messages.delete(caller, two)):
        with pytest.raises(ChatError) as caught:
            await too_soon
        waits.append(caught.value.retry_after)
    assert waits == pytest.approx([10.0, 20.0])
    for now[0], again in ((10.0, messages.edit(caller, one, "x")), (20.0, messages.delete(caller, two))):
        with pytest.raises(ChatError):
            await messages.edit(caller, uuid4(), "in between")
        await again


def test_absurd_names_are_not_remembered() -> None:
    """What is no clientMessageId is none of a limiter's keys, however long."""
    sends = Limiter[Any](Rate(1, 10.0), "messages", clock=lambda: 0.0)
    messages = Messages(UNUSED, Lanes(), UNUSED, sends, max_message_bytes=1000, mention_all_up_to=2)
    caller = Caller(user_id=uuid4(), expires_at=1e12)
    for name in ("first", "a" * (MAX_CLIENT_ID + 1)):
        request = CreateMessage(conversation_id=uuid4(), content="x", client_message_id=name)
        if name == "first":
            messages.send_nowait(caller, request, lambda outcome: None)
            continue
        with pytest.raises(ChatError, match="At most 1 messages"):
            messages.send_nowait(caller, request, lambda outcome: None)
    assert not sends._appointments


# -- what may be sent -------------------------------------------------------------------------

LIMIT = 100  # bytes, of Memory's


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("a" * LIMIT, ""),
        ("a" * (LIMIT + 1), "too_large"),
        ("é" * (LIMIT // 2), ""),
        ("é" * (LIMIT // 2) + "a", "too_large"),
        ("a\ud800", "invalid_content"),
        ("a\0", "invalid_content"),
        ("", "invalid_content"),
        (" \n\u200d\u3164", "invalid_content"),
        ("\n👩\u200d👧\n", ""),
    ],
)
async def test_content(memory: Memory, content: str, code: str) -> None:
    """In bytes, to the last one; text that can be stored and seen. The same for an edit. What is refused is not
    offered, and costs no statement."""
    caller = memory.user()
    group = memory.group((caller, Role.MEMBER))
    said = memory.say(group, caller)
    for call in (memory.send(caller, group, content), memory.messages.edit(caller, said.id, content)):
        if code:
            assert (await refused(memory, call)).code == code
        else:
            assert (await call).content == content
    assert bool(memory.lanes.offered) is not bool(code)
    assert not code or memory.database.steps == []


@pytest.mark.parametrize(
    ("kind", "empty", "words"),
    [
        *((kind, "invalid_content", "") for kind in ("Text", "emoji", 0, 3)),
        *((kind, "invalid_request", "invalid_request") for kind in ("IMAGE", "File", 1, 2)),
        *((kind, "forbidden", "forbidden") for kind in ("System", "system", 4)),
        *((kind, "invalid_request", "invalid_request") for kind in ("Sticker", "", "\ud800", -1, 5, 2**63)),
    ],
)
async def test_types(memory: Memory, kind: str | int, empty: str, words: str) -> None:
    """Each needs what it is about: words to see, or a file; System is the server's; others do not exist."""
    caller, group = memory.user(), new_id()
    for content, code in (("", empty), ("words", words)):
        request = CreateMessage(group, content, kind)
        if code:
            error = await refused(memory, memory.messages.send(caller, request))
            assert error.code == code and "System" not in str(error.errors)
        else:
            memory.messages.prepare(caller, request, lambda outcome: None)


@pytest.mark.parametrize("kind", ["Image", "File"])
def test_a_file_needs_no_words(memory: Memory, kind: str) -> None:
    """It may be all that a message has."""
    request = CreateMessage(new_id(), "", kind, file_id=new_id())
    assert memory.messages.prepare(memory.user(), request, lambda outcome: None).file_id == request.file_id


@pytest.mark.parametrize(
    ("name", "is_good"),
    [("a" * MAX_CLIENT_ID, True), ("a" * (MAX_CLIENT_ID + 1), False), ("", False), ("a\nb", False), (" ", True)],
)
async def test_client_message_ids(memory: Memory, name: str, is_good: bool) -> None:
    """Of printable characters, to the bound."""
    caller = memory.user()
    group = memory.group((caller, Role.MEMBER))
    call = memory.send(caller, group, client_message_id=name)
    if is_good:
        assert (await call).client_message_id == name
    else:
        assert (await refused(memory, call)).code == "invalid_request" and memory.lanes.offered == []


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (AppendError("not_a_member"), "not_found"),
        (AppendError("no_conversation"), "not_found"),
        (AppendError("no_reply_target"), "not_found"),
        (AppendError("no_file"), "not_found"),
        (AppendError("muted"), "muted"),
        (AppendError("posting"), "posting_forbidden"),
        (AppendError("slow_mode", 1500), "slow_mode"),
        (AppendError("invalid_content"), "invalid_content"),
        (Unavailable("secret"), "unavailable"),
        (Overloaded("secret"), "overloaded"),
        (StoreError("secret"), "unavailable"),
        (ValueError("secret"), "internal"),
    ],
)
async def test_refused_by_the_lanes(memory: Memory, outcome: Exception, code: str) -> None:
    """Each reason has its code, the caller is answered once, and none of our words is in it. A conversation of others
    is the same as none."""
    memory.lanes.refusals = [outcome]
    heard: list[Message | ChatError] = []
    memory.messages.send_nowait(memory.user(), CreateMessage(new_id(), "x"), heard.append)
    [error] = heard
    assert isinstance(error, ChatError) and error.code == code and "secret" not in error.sentence
    assert error.retry_after == (1.5 if code == "slow_mode" else CODES[code].retry_after)
    if code == "not_found" and "conversation" in str(outcome):
        assert error.sentence == "There is no such conversation, or you are not a member of it."


# -- once -------------------------------------------------------------------------------------

ONE, OTHER = Once("a key", b"one"), Once("a key", b"other")


async def test_sent_once(memory: Memory) -> None:
    """The key is the clientMessageId where the body has none; the repeated request has the same message; another
    request with the key writes nothing."""
    caller = memory.user()
    group = memory.group((caller, Role.MEMBER))
    request = CreateMessage(group, "x")
    sent = await memory.messages.send_once(caller, request, ONE)
    assert sent.client_message_id == "a key"
    assert await memory.messages.send_once(caller, request, ONE) == sent
    for once in (OTHER, Once("a key", b"third")):
        error = await refused(memory, memory.messages.send_once(caller, CreateMessage(group, "y"), once))
        assert error.code == "idempotency_mismatch"
    assert (await memory.messages.send_once(caller, request, None)).id != sent.id


@pytest.mark.parametrize("field", ["content", "conversation_id", "reply_to_id", "type", "mentions", "mention_all"])
async def test_the_id_of_another_message(memory: Memory, field: str) -> None:
    """A clientMessageId that a different message has is refused with the key freed, whatever the difference."""
    caller = memory.user()
    group, elsewhere = (memory.group((caller, Role.MEMBER)) for _ in range(2))
    request = CreateMessage(group, "x", client_message_id="id")
    await memory.messages.send(caller, request)
    values = {"content": "y", "conversation_id": elsewhere, "reply_to_id": new_id(), "type": "Emoji"}
    values |= {"mentions": (caller.user_id,), "mention_all": True}
    other = replace(request, **{field: values[field]})
    assert (await refused(memory, memory.messages.send_once(caller, other, ONE))).code == "idempotency_mismatch"
    assert memory.tables.creations == {}
    await memory.messages.send_once(caller, request, ONE)


async def test_repeated_after_an_edit(memory: Memory) -> None:
    """The message is the answer, as it is now."""
    caller = memory.user()
    group = memory.group((caller, Role.MEMBER))
    sent = await memory.messages.send_once(caller, CreateMessage(group, "x"), ONE)
    edited = await memory.messages.edit(caller, sent.id, "y")
    assert await memory.messages.send_once(caller, CreateMessage(group, "x"), ONE) == edited


@pytest.mark.parametrize(
    ("outcome", "is_bound"),
    [(AppendError("muted"), False), (Overloaded("x"), False), (Unavailable("x"), True), (ValueError("x"), True)],
)
async def test_the_key_of_a_message_that_failed(memory: Memory, outcome: Exception, is_bound: bool) -> None:
    """Freed when nothing was written for certain; kept while it may have been, so that no other request has it."""
    caller = memory.user()
    group = memory.group((caller, Role.MEMBER))
    memory.lanes.refusals = [outcome]
    with pytest.raises(ChatError):
        await memory.messages.send_once(caller, CreateMessage(group, "x"), ONE)
    assert bool(memory.tables.creations) is is_bound
    assert (await memory.messages.send_once(caller, CreateMessage(group, "x"), ONE)).content == "x"


async def test_a_key_is_not_freed_by_the_second(memory: Memory) -> None:
    """Who comes with a key that is bound already does not free it when refused."""
    caller = memory.user()
    group = memory.group((caller, Role.MEMBER))
    await memory.messages.send_once(caller, CreateMessage(group, "x"), ONE)
    memory.lanes.refusals = [AppendError("muted")]
    with pytest.raises(ChatError, match="muted"):
        await memory.messages.send_once(caller, CreateMessage(group, "x"), ONE)
    assert memory.tables.creations


# -- changing and reading ---------------------------------------------------------------------


async def said_in(memory: Memory) -> tuple[Message, dict[str, Caller]]:
    people = {name: memory.user() for name in ("sender", "admin", "member", "stranger")}
    group = memory.group(
        (people["sender"], Role.MEMBER), (people["admin"], Role.ADMIN), (people["member"], Role.MEMBER)
    )
    return memory.say(group, people["sender"]), people


@pytest.mark.parametrize("who", ["sender", "admin", "member", "stranger"])
@pytest.mark.parametrize("action", ["edit", "delete", "get", "page"])
async def test_who_may(memory: Memory, who: str, action: str) -> None:
    """Members read; senders edit and delete, admins delete; for all others there is no message."""
    said, people = await said_in(memory)
    call: Awaitable[object]
    if action == "edit":
        call = memory.messages.edit(people[who], said.id, "y")
    elif action == "delete":
        call = memory.messages.delete(people[who], said.id)
    elif action == "get":
        call = memory.messages.get(people[who], said.id)
    else:
        call = memory.messages.page(people[who], said.conversation_id, before=None, after=None, limit=10)
    if who == "stranger":
        assert (await refused(memory, call)).code == "not_found"
    elif (action == "edit" and who != "sender") or (action == "delete" and who == "member"):
        assert (await refused(memory, call)).code == "forbidden"
    else:
        await call
        assert len(memory.publisher.changes) == (action in ("edit", "delete"))


async def test_a_removed_sender(memory: Memory) -> None:
    """Their own message is not there for them any more: no member sees a change of it."""
    said, people = await said_in(memory)
    del memory.tables.members[said.conversation_id, people["sender"].user_id]
    for call in (
        memory.messages.edit(people["sender"], said.id, "y"),
        memory.messages.delete(people["sender"], said.id),
        memory.messages.get(people["sender"], said.id),
    ):
        assert (await refused(memory, call)).code == "not_found"


async def test_a_deleted_message(memory: Memory) -> None:
    """Is gone for its members, and not there for others; in a conversation that is gone it is not there."""
    said, people = await said_in(memory)
    await memory.messages.delete(people["sender"], said.id)
    memory.publisher.published.clear()
    for who, code in (("sender", "gone"), ("stranger", "not_found")):
        assert (await refused(memory, memory.messages.edit(people[who], said.id, "y"))).code == code
        assert (await refused(memory, memory.messages.delete(people[who], said.id))).code == code
    memory.tables.dissolved[said.conversation_id] = None
    assert (await refused(memory, memory.messages.edit(people["sender"], said.id, "y"))).code == "not_found"


async def test_an_edit_and_whom_it_mentions(memory: Memory) -> None:
    """What it does not say stays; who was mentioned before may have left, who is named anew is a member."""
    said, people = await said_in(memory)
    sender, member, stranger = (people[who].user_id for who in ("sender", "member", "stranger"))
    edit = partial(memory.messages.edit, people["sender"], said.id)
    for given, expected in (
        ({"mentions": [member, member, sender]}, (member, sender)),
        ({}, (member, sender)),
        ({"mention_all": False}, (member, sender)),
        ({"mentions": [sender]}, (sender,)),
        ({"mentions": []}, ()),
        ({"mentions": [member]}, (member,)),
    ):
        assert (await edit("y", **given)).mentions == expected
    del memory.tables.members[said.conversation_id, member]
    assert (await edit("y", mentions=[member, sender])).mentions == (member, sender)
    memory.publisher.published.clear()
    error = await refused(memory, edit("y", mentions=[member, stranger]))
    assert (error.code, error.errors) == ("not_found", {"mentions": "not a member"})


@pytest.mark.parametrize(
    ("role", "others", "is_allowed"), [(Role.MEMBER, 1, True), (Role.MEMBER, 2, False), (Role.ADMIN, 2, True)]
)
async def test_who_mentions_all_in_an_edit(memory: Memory, role: Role, others: int, is_allowed: bool) -> None:
    """Admins; members of a small conversation. Whose message mentions all already may edit it in a large one, too."""
    caller = memory.user()
    group = memory.group((caller, role), *((memory.user(), Role.MEMBER) for _ in range(others)))
    said = memory.say(group, caller)
    if is_allowed:
        assert (await memory.messages.edit(caller, said.id, "y", mention_all=True)).mention_all
    else:
        call = memory.messages.edit(caller, said.id, "y", mention_all=True)
        assert (await refused(memory, call)).code == "mention_all_forbidden"
        memory.tables.messages[said.id] = replace(said, mention_all=True)
        assert (await memory.messages.edit(caller, said.id, "y", mention_all=True)).mention_all


@pytest.mark.parametrize(
    ("outcome", "code"), [("no_such_mention", "not_found"), ("mention_all", "mention_all_forbidden")]
)
async def test_a_mention_that_is_refused(memory: Memory, outcome: str, code: str) -> None:
    """The error says so; where somebody is no member, which field it is."""
    caller = memory.user()
    memory.lanes.refusals = [AppendError(outcome)]
    error = await refused(memory, memory.send(caller, memory.group((caller, Role.MEMBER)), mention_all=True))
    assert (error.code, "mentions" in error.errors) == (code, outcome == "no_such_mention")


async def test_pages_of_mentions(memory: Memory) -> None:
    """Newest first, each once, a page of long messages shorter; not what was deleted while it was read."""
    caller, other = memory.user(), memory.user()
    group = memory.group((caller, Role.MEMBER), (other, Role.MEMBER))
    sent = [await memory.send(other, group, str(number), mentions=(caller.user_id,)) for number in range(5)]
    sent.sort(key=lambda message: message.id)  # made within a millisecond
    long = "x" * (PAGE_BYTES - 1)
    memory.tables.messages[sent[2].id] = replace(sent[2], content=long)
    memory.tables.messages[sent[3].id] = replace(sent[3], deleted_at=NOW)
    pages, cursor = [], None
    while True:
        items, cursor = await memory.messages.mentioning(caller, limit=2, cursor=cursor)
        pages.append([message.id for message in items])
        if cursor is None:
            break
    assert pages == [[sent[4].id], [sent[2].id, sent[1].id], [sent[0].id]]
    with pytest.raises(ChatError, match="invalid_cursor"):
        await memory.messages.mentioning(caller, limit=2, cursor="?")


async def test_an_outdated_etag(memory: Memory) -> None:
    """Changed since: nothing is done, by edit or deletion; a stranger learns nothing of it."""
    said, people = await said_in(memory)
    edited = await memory.messages.edit(people["sender"], said.id, "y")
    memory.publisher.published.clear()
    for who, code in (("sender", "precondition_failed"), ("stranger", "not_found")):
        seen = [str(said.changed_seq)]
        for call in (
            memory.messages.edit(people[who], said.id, "z", if_match=seen),
            memory.messages.delete(people[who], said.id, if_match=seen),
        ):
            assert (await refused(memory, call)).code == code
    await memory.messages.delete(people["sender"], said.id, if_match=[str(edited.changed_seq)])


@pytest.mark.parametrize("action", ["edit", "delete"])
async def test_nothing_half_done(memory: Memory, action: str) -> None:
    """Wherever the database goes away: it is changed and published, or neither."""

    async def arrange(world: Memory) -> Act:
        said, people = await said_in(world)
        if action == "edit":
            return lambda: world.messages.edit(people["sender"], said.id, "y", if_match=[str(said.changed_seq)])
        return lambda: world.messages.delete(people["sender"], said.id)

    await nothing_half_done(arrange)


@pytest.mark.parametrize(
    ("state", "is_asked"),
    [("as new", True), ("behind", False), ("without it", False), ("down", False), ("away", False)],
)
async def test_read_from_the_replica(memory: Memory, state: str, is_asked: bool) -> None:
    """History is read there only while it has all that the primary has, else from the primary; and membership is never
    asked of it, so that who was removed reads no more."""
    caller = memory.user()
    group = memory.group((caller, Role.MEMBER))
    for _ in range(3):
        memory.say(group, caller)
    replica = Database()
    replica.tables.restore(memory.tables.copy())
    replica.tables.members.clear()
    if state == "behind":
        memory.say(group, caller)
    elif state == "without it":
        replica.tables.conversations.clear()
    elif state == "down":
        replica.is_reachable = False
    elif state == "away":
        replica.fails_at = 3
    messages = Messages(
        memory.database,
        memory.lanes,
        memory.transactions,
        memory.sends,
        max_message_bytes=10,
        mention_all_up_to=2,
        replica=replica,
    )
    page = await messages.page(caller, group, before=None, after=0, limit=10)
    assert [message.seq for message in page.messages] == list(range(1, 4 + (state == "behind")))
    assert ("list_messages_for" in memory.database.steps) is not is_asked
    memory.tables.members.clear()
    replica.steps.clear()
    with pytest.raises(ChatError, match="not_found"):
        await messages.page(caller, group, before=None, after=0, limit=10)
    assert replica.steps == []


# -- pins ---------------------------------------------------------------------------------------


async def test_who_may_pin(memory: Memory) -> None:
    """Both users of a direct conversation, admins and owners of a group; a stranger learns nothing."""
    one, other, admin, stranger = memory.user(), memory.user(), memory.user(), memory.user()
    direct = memory.direct(one, other)
    group = memory.group((one, Role.OWNER), (admin, Role.ADMIN), (other, Role.MEMBER))
    may = {direct: {one, other}, group: {one, admin}}
    for conversation, allowed in may.items():
        said = memory.say(conversation, other)
        for caller in (one, other, admin, stranger):
            if caller in allowed:
                assert (await memory.messages.pin(caller, said.id)).pinned_by == caller.user_id
                assert (await memory.messages.unpin(caller, said.id)).pinned_by is None
            else:
                memory.publisher.published.clear()
                is_member = conversation == group and caller is other
                for act in (memory.messages.pin, memory.messages.unpin):
                    error = await refused(memory, act(caller, said.id))
                    assert error.code == ("forbidden" if is_member else "not_found")


async def test_pinned_once(memory: Memory) -> None:
    """The same again is no change; nor is unpinning what is not pinned. The limit is of the conversation."""
    one, other = memory.user(), memory.user()
    direct = memory.direct(one, other)
    said = [memory.say(direct, one) for _ in range(MAX_PINS + 1)]
    for message in said[:MAX_PINS]:
        await memory.messages.pin(one, message.id)
    assert len(memory.publisher.changes) == MAX_PINS
    assert (await memory.messages.pin(other, said[0].id)).pinned_by == one.user_id
    assert (await memory.messages.unpin(other, said[-1].id)).pinned_by is None
    assert len(memory.publisher.changes) == MAX_PINS
    memory.publisher.published.clear()
    assert (await refused(memory, memory.messages.pin(other, said[-1].id))).code == "conflict"
    await memory.messages.delete(one, said[0].id)
    await memory.messages.pin(other, said[-1].id)
    found, following = await memory.messages.list_pins(other, direct, MAX_PINS, None)
    assert len(found) == MAX_PINS and following is None and said[0].id not in {one.id for one in found}


@pytest.mark.parametrize("cursor", ["AAAA", "é", "MjAyNi0wMS0wMVQwMDowMDowMFo"])
async def test_no_cursor_of_pins(memory: Memory, cursor: str) -> None:
    """What is none of ours is refused."""
    one = memory.user()
    group = memory.group((one, Role.OWNER))
    assert (await refused(memory, memory.messages.list_pins(one, group, 10, cursor))).code == "invalid_cursor"


@pytest.mark.parametrize("name", ["pin", "unpin"])
async def test_no_pin_is_half_done(memory: Memory, name: str) -> None:
    """Wherever the database goes away: it is there and published, or neither."""

    async def arrange(world: Memory) -> Act:
        one, other = world.user(), world.user()
        said = world.say(world.direct(one, other), one)
        if name == "unpin":
            await world.messages.pin(one, said.id)
            world.publisher.published.clear()
        return lambda: getattr(world.messages, name)(one, said.id)

    await nothing_half_done(arrange)
