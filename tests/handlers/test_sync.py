"""handlers.sync: what a client resumes with, which is a member's to have."""

from collections.abc import AsyncIterator, Collection
from uuid import UUID

import pytest
import trio
from msgspec.structs import replace

from handlers.errors import ChatError
from handlers.model import Caller, Client, CursorProof
from handlers.sync import PACKED, read_cursor
from store.ids import PackedIds, new_id, octets
from store.model import FOR_EVER, Cursor, Position, Role
from store.positions import records, unpack
from store.postgres import cursors as positions
from store.postgres.connection import Connection
from store.postgres.conversation_views import MEMBERS_SHOWN
from tests.handlers.database import EXPIRES
from tests.handlers.memory import Memory, refused


@pytest.fixture
async def running(memory: Memory) -> AsyncIterator[Memory]:
    async with trio.open_nursery() as nursery:
        await nursery.start(memory.sync.run)
        yield memory
        nursery.cancel_scope.cancel()


async def test_memberships(running: Memory) -> None:
    """A user's own conversations; a user in none has none, and one who is gone is not authenticated any more."""
    one, other, gone = running.user(), running.user(), new_id()
    mine = [running.group((one, Role.MEMBER)) for _ in range(2)]
    assert await running.sync.memberships(one.user_id) == PackedIds.of(mine)
    assert await running.sync.memberships(other.user_id) == PackedIds()
    assert await running.sync.all_memberships([one.user_id, gone]) == {one.user_id: PackedIds.of(mine)}
    opening = await running.sync.opening(one.user_id, None, attaches=True)
    assert opening.memberships == b"".join(octets(mine))
    packed = await running.sync.memberships_with_positions(one.user_id)
    heads = await running.sync.heads(mine)
    assert dict(map(unpack, records(packed))) == {key: Position(Cursor(head)) for key, head in heads.items()}
    assert await running.sync.packed_positions(octets([*mine, gone])) == packed
    assert await running.sync.memberships_with_positions(other.user_id) == b""
    assert (await refused(running, running.sync.memberships(gone))).code == "unauthenticated"
    assert (await refused(running, running.sync.memberships_with_positions(gone))).code == "unauthenticated"
    for call in (running.sync.require_user(gone), running.sync.opening(gone, None)):
        assert (await refused(running, call)).code == "unauthenticated"
    await running.sync.require_user(other.user_id)
    running.tables.bans[other.user_id] = FOR_EVER
    for call in (running.sync.require_user(other.user_id), running.sync.opening(other.user_id, None)):
        error = await refused(running, call)
        assert (error.code, error.until) == ("banned", FOR_EVER)
    assert await running.sync.banned([one.user_id, other.user_id]) == [other.user_id]


async def test_many_connect_at_once(running: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversations of few users are read with one query: those of all may take longer than a statement may."""
    users = [running.user() for _ in range(2 * PACKED + 1)]
    mine = {one.user_id: running.group((one, Role.MEMBER)) for one in users}
    asked, read = list[int](), positions.pack_memberships

    async def pack_memberships(conn: Connection, user_ids: Collection[UUID]) -> dict[UUID, bytes]:
        asked.append(len(user_ids))
        return await read(conn, user_ids)

    monkeypatch.setattr(positions, "pack_memberships", pack_memberships)
    found: dict[UUID, UUID] = {}

    async def ask(user_id: UUID) -> None:
        [record] = records(await running.sync.memberships_with_positions(user_id))
        found[user_id], _ = unpack(record)

    async with trio.open_nursery() as nursery:
        for one in users:
            nursery.start_soon(ask, one.user_id)
    assert found == mine and max(asked) <= PACKED and sum(asked) == len(users)


async def test_sessions_that_have_ended(running: Memory) -> None:
    """Are those ended and those that never were; a live one is none of them."""
    user = running.user()
    live, ended = [await running.accounts.begin(user.user_id, Client()) for _ in range(2)]
    await running.accounts.revoke(user, ended.session_id)
    running.publisher.published.clear()
    assert await running.sync.opening(user.user_id, live.session_id) == (None, None, b"")
    await running.sync.require_session(live.session_id)
    unknown = new_id()
    for session_id in (ended.session_id, unknown):
        for call in (running.sync.require_session(session_id), running.sync.opening(user.user_id, session_id)):
            assert (await refused(running, call)).code == "unauthenticated"
    assert set(await running.sync.ended([live.session_id, ended.session_id, unknown])) == {ended.session_id, unknown}


async def test_heads(running: Memory) -> None:
    """Of conversations that are or were; none of one that never was."""
    user = running.user()
    group = running.group((user, Role.OWNER))
    running.say(group, user)
    await running.conversations.delete(user, group)
    assert await running.sync.heads([group, new_id()]) == {group: 2}


async def test_users_who_are_gone(memory: Memory) -> None:
    """Only those deleted, not those unknown."""
    user, other = memory.user(), memory.user()
    await memory.users.delete(user, user.user_id)
    assert await memory.sync.deleted([user.user_id, other.user_id, new_id()]) == [user.user_id]


async def test_a_replay_is_a_members(memory: Memory) -> None:
    """Strangers, and who was removed, get not_found and no change, whatever the cursor."""
    member, gone, stranger = memory.user(), memory.user(), memory.user()
    group = memory.group((member, Role.OWNER), (gone, Role.MEMBER))
    memory.say(group, member)
    await memory.conversations.remove_member(member, group, gone.user_id)
    memory.publisher.published.clear()
    for caller in (gone, stranger):
        for call in (
            memory.sync.changes_after(caller, group, 0, limit=10, max_bytes=1000),
            memory.sync.cursors(caller, group),
            memory.sync.require_member(caller, group),
        ):
            assert (await refused(memory, call)).code == "not_found"
    await memory.sync.require_member(member, group)
    found = await memory.sync.changes_after(member, group, 0, limit=10, max_bytes=1000)
    assert found is not None and [change.seq for change in found] == [1, 2]
    assert [change.seq for change in await memory.sync.changes(group, 1, limit=10, max_bytes=1000)] == [2]


@pytest.mark.parametrize(("cursor", "is_whole"), [(0, False), (1, False), (2, True), (3, True), (2**63 - 1, True)])
async def test_what_retention_has_dropped(memory: Memory, cursor: int, is_whole: bool) -> None:
    """A cursor below the floor cannot be served whole: None, so that the client reads anew; at the floor it can."""
    member = memory.user()
    group = memory.group((member, Role.OWNER))
    for _ in range(3):
        memory.say(group, member)
    memory.tables.floors[group] = 2
    found = await memory.sync.changes_after(member, group, cursor, limit=10, max_bytes=1000)
    assert (found is not None) is is_whole
    assert [change.seq for change in found or ()] == [seq for seq in (3,) if is_whole and seq > cursor]


async def test_the_floor_is_asked_last(memory: Memory) -> None:
    """It is raised before anything is dropped: asked after the changes, none that was dropped meanwhile is missing."""
    member = memory.user()
    group = memory.group((member, Role.OWNER))
    await memory.sync.changes_after(member, group, 0, limit=10, max_bytes=1000)
    steps = memory.database.steps
    assert steps.index("list_changes") < steps.index("fetch_watermark")


@pytest.mark.parametrize("members", [1, MEMBERS_SHOWN, MEMBERS_SHOWN + 1])
async def test_cursors_of_the_first_members(memory: Memory, members: int) -> None:
    """All of them, and where the list goes on when there are more: no member twice, none left out."""
    people = [memory.user() for _ in range(members)]
    group = memory.group(*[(one, Role.MEMBER) for one in people])
    found, cursor = await memory.sync.cursors(people[0], group)
    seen = [one.user_id for one in found]
    assert (cursor is not None) is (members > MEMBERS_SHOWN)
    if cursor is not None:
        rest, end = await memory.conversations.list_members(people[0], group, 10, cursor)
        assert end is None
        seen += [one.user_id for one in rest]
    assert seen == sorted((one.user_id for one in people), key=lambda one: one.bytes)


async def test_the_database_is_away(running: Memory) -> None:
    """A connect is refused as something to try again, never as a user who is gone or a session that has ended."""
    user = running.user()
    tokens = await running.accounts.begin(user.user_id, Client())
    caller = replace(Caller(user.user_id, EXPIRES), session_id=tokens.session_id)
    running.database.fails_at = 1
    assert caller.session_id is not None
    for call in (
        running.sync.memberships(user.user_id),
        running.sync.require_user(user.user_id),
        running.sync.require_session(caller.session_id),
        running.sync.opening(caller.user_id, caller.session_id),
    ):
        try:
            await call
        except ChatError as error:
            raise AssertionError("it says more than is known") from error
        except Exception as error:  # noqa: BLE001  # which one is looked at
            assert "away" in str(error)
        else:
            raise AssertionError("it says more than is known")


def test_cursors_that_are_shown() -> None:
    """A seq, or a position with a message and the time of its change; None where these are none; never below 0."""
    message_id, at = new_id(), "2026-11-28T12:00:00.250Z"
    ms = 1795867200250
    assert read_cursor(7) == read_cursor(CursorProof(7)) == Cursor(7)
    assert read_cursor(CursorProof(7, str(message_id))) == Cursor(7, message_id)
    assert read_cursor(CursorProof(7, str(message_id), at)) == Cursor(7, message_id, ms)
    assert read_cursor(CursorProof(7, str(message_id), "2026-11-28T13:00:00.25+01:00")) == Cursor(7, message_id, ms)
    for wrong in ("", "garbage", "0", str(message_id)[:-1]):
        assert read_cursor(CursorProof(7, wrong)) is None
    for wrong in ("", "noon", "2026-11-28", "2026-11-28T12:00:00"):
        assert read_cursor(CursorProof(7, str(message_id), wrong)) is None
    for below in (-1, CursorProof(-1, str(message_id))):
        with pytest.raises(ChatError, match="invalid_cursor"):
            read_cursor(below)
