"""handlers.conversations: who may change what, and that a change is whole, published once, or not at all."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
import structlog
from msgspec.structs import replace

from handlers.conversations import Conversations
from handlers.errors import ChatError
from handlers.model import (
    AddMember,
    Caller,
    ChangeRole,
    CreateConversation,
    CreateJoinLink,
    NotificationsChoice,
    Once,
    UpdateConversation,
    UpdateSettings,
)
from handlers.preconditions import of_conversation
from store.errors import Unavailable
from store.ids import new_id
from store.model import Posting, Role
from store.postgres.conversation_views import Filter
from store.redis.inbox_entries import SettingsChange
from tests.handlers.memory import Act, Memory, nothing_half_done, refused

OWNER, ADMIN, MEMBER = Role.OWNER, Role.ADMIN, Role.MEMBER
ONE, OTHER = Once("a key", b"one request"), Once("a key", b"another")


def roles(memory: Memory, conversation_id: UUID) -> dict[UUID, Role]:
    return {member.user_id: member.role for member in memory.tables.members_of(conversation_id)}


# -- who may do what --------------------------------------------------------------------------

# By the action and the role of who is concerned: the roles that may, in a group of two owners, and others.
MAY = {
    ("rename", None): {OWNER, ADMIN},
    ("describe", None): {OWNER, ADMIN},
    ("restrict", None): {OWNER, ADMIN},
    ("publish", None): {OWNER},
    ("delete", None): {OWNER},
    ("add", MEMBER): {OWNER, ADMIN},
    ("add", ADMIN): {OWNER},
    ("add", OWNER): {OWNER},
    ("remove", MEMBER): {OWNER, ADMIN},
    ("remove", ADMIN): {OWNER},
    ("remove", OWNER): {OWNER},
    ("promote", MEMBER): {OWNER},
    ("promote", ADMIN): {OWNER},
    ("demote", ADMIN): {OWNER},
    ("demote", OWNER): {OWNER},
    ("leave", None): {OWNER, ADMIN, MEMBER},
    ("read", None): {OWNER, ADMIN, MEMBER},
}
NEXT = {MEMBER: ADMIN, ADMIN: OWNER}


async def act(memory: Memory, group: UUID, action: str, role: Role | None, caller: Caller) -> None:
    conversations = memory.conversations
    stranger, target = memory.user("stranger"), memory.user("target")
    if action in ("remove", "promote", "demote"):
        assert role is not None
        memory.tables.join(group, target.user_id, role)
    match action, role:
        case "rename", _:
            await conversations.update(caller, group, UpdateConversation("new"))
        case "describe", _:
            await conversations.update(caller, group, UpdateConversation(description="what for"))
        case "restrict", _:
            await conversations.update(caller, group, UpdateConversation(posting="Admins", slow_mode_seconds=60))
        case "publish", _:
            await conversations.update(caller, group, UpdateConversation(is_public=True))
        case "delete", _:
            await conversations.delete(caller, group)
        case "add", Role():
            await conversations.add_member(caller, group, AddMember(stranger.user_id, role.value))
        case "remove", _:
            await conversations.remove_member(caller, group, target.user_id)
        case "promote", Role():
            await conversations.change_role(caller, group, target.user_id, ChangeRole(NEXT[role].value))
        case "demote", _:
            await conversations.change_role(caller, group, target.user_id, ChangeRole("Member"))
        case "leave", _:
            await conversations.remove_member(caller, group, caller.user_id)
        case _:
            await conversations.list_members(caller, group, 10, None)


def group_of(memory: Memory) -> tuple[UUID, dict[Role | None, Caller]]:
    people = {role: memory.user() for role in (OWNER, ADMIN, MEMBER, None)}
    members = [(caller, role) for role, caller in people.items() if role is not None]
    return memory.group(*members, (memory.user(), OWNER)), people


@pytest.mark.parametrize("who", [OWNER, ADMIN, MEMBER, None])
@pytest.mark.parametrize(("action", "target"), MAY)
async def test_who_may(memory: Memory, action: str, target: Role | None, who: Role | None) -> None:
    """Each action is open to exactly the roles that it needs. A stranger learns nothing but that there is nothing."""
    group, people = group_of(memory)
    if who in MAY[action, target]:
        await act(memory, group, action, target, people[who])
        assert len(memory.publisher.changes) == (action != "read")
        return
    with pytest.raises(ChatError) as caught:
        await act(memory, group, action, target, people[who])
    assert caught.value.code == ("not_found" if who is None else "forbidden")
    assert memory.publisher.published == [] and memory.tables.outbox == ()


@pytest.mark.parametrize(("action", "target"), MAY)
async def test_a_stranger_cannot_see_what_is_there(memory: Memory, action: str, target: Role | None) -> None:
    """The refusal is the same, word for word, for a conversation of others, a deleted one and one that never was."""
    stranger, owner = memory.user(), memory.user()
    deleted = memory.group((owner, OWNER))
    await memory.conversations.delete(owner, deleted)
    said = set()
    for conversation in (memory.group((owner, OWNER)), memory.direct(owner, memory.user()), deleted, new_id()):
        with pytest.raises(ChatError) as caught:
            await act(memory, conversation, action, target, stranger)
        said.add((caught.value.code, caught.value.sentence))
    assert len(said) == 1 and "not_found" in str(said)


@pytest.mark.parametrize(("action", "target"), [key for key in MAY if key[0] not in ("read", "delete")])
async def test_a_direct_conversation_stays_as_it_is(memory: Memory, action: str, target: Role | None) -> None:
    """It has no name, no roles and no members to change, not even oneself: conflict, and nothing is done."""
    one, other = memory.user(), memory.user()
    direct = memory.direct(one, other)
    with pytest.raises(ChatError, match="conflict"):
        await act(memory, direct, action, target, one)
    assert memory.publisher.published == []


async def test_either_deletes_a_direct_conversation(memory: Memory) -> None:
    """Whose idea it was does not matter; both are out of it by one change."""
    for who in (0, 1):
        pair = memory.user(), memory.user()
        direct = memory.direct(*pair)
        await memory.conversations.delete(pair[who], direct)
        [change] = memory.publisher.changes
        assert change.dissolved and set(change.removed) == {person.user_id for person in pair}
        memory.publisher.published.clear()
        assert (await refused(memory, memory.conversations.delete(pair[0], direct))).code == "not_found"


@pytest.mark.parametrize("fails", [False, True])
async def test_a_large_group_is_dissolved(memory: Memory, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Its members are read before it is locked, as messages wait for that, and deleted piece by piece, behind what says
    that it is dissolved; that this fails is logged, and it is dissolved."""
    owner, left = memory.user(), 3
    group = memory.group((owner, OWNER))

    async def forget_members(conn: object, conversation_id: UUID, limit: int = 0) -> int | None:
        nonlocal left
        assert conversation_id == group and [change.dissolved for change in memory.publisher.changes] == [True]
        left -= 1
        if fails:
            raise Unavailable("away")
        return left if left >= 0 else None

    monkeypatch.setattr("store.postgres.conversations.forget_members", forget_members)
    memory.database.steps.clear()
    with structlog.testing.capture_logs() as logged:
        await memory.conversations.delete(owner, group)
    steps = memory.database.steps
    assert steps.index("list_roll") < steps.index("lock_conversation")
    assert group in memory.tables.dissolved and left == (2 if fails else -1)
    assert [entry["event"] for entry in logged] == ["dissolution_unfinished"] * fails


async def test_the_last_owner_stays(memory: Memory) -> None:
    """A group has an owner: the last one neither leaves nor is made less, until there is another."""
    owner, admin = memory.user(), memory.user()
    group = memory.group((owner, OWNER), (admin, ADMIN))
    conversations = memory.conversations
    for role in ("Member", "Admin"):
        error = await refused(memory, conversations.change_role(owner, group, owner.user_id, ChangeRole(role)))
        assert error.code == "last_owner"
    assert (await refused(memory, conversations.remove_member(owner, group, owner.user_id))).code == "last_owner"
    await conversations.change_role(owner, group, admin.user_id, ChangeRole("Owner"))
    await conversations.remove_member(owner, group, owner.user_id)
    assert roles(memory, group) == {admin.user_id: OWNER}


async def test_a_role_that_is_theirs_already(memory: Memory) -> None:
    """Nothing is announced; the last owner may be called an owner."""
    owner = memory.user()
    group = memory.group((owner, OWNER))
    found = await memory.conversations.change_role(owner, group, owner.user_id, ChangeRole("owner"))
    assert found.members[0].role is OWNER and memory.publisher.published == []


@pytest.mark.parametrize("action", ["remove", "role"])
async def test_who_is_no_member(memory: Memory, action: str) -> None:
    """Neither a user of another group nor one who does not exist can be removed or given a role here."""
    owner, other = memory.user(), memory.user()
    group = memory.group((owner, OWNER))
    memory.group((other, OWNER))
    for target in (other.user_id, new_id()):
        if action == "remove":
            call: Awaitable[object] = memory.conversations.remove_member(owner, group, target)
        else:
            call = memory.conversations.change_role(owner, group, target, ChangeRole("Admin"))
        error = await refused(memory, call)
        assert error.code == "not_found" and "member" in error.sentence


# -- making and adding ------------------------------------------------------------------------


@pytest.mark.parametrize("role", [None, "Member", 2])
async def test_added_once(memory: Memory, role: str | int | None) -> None:
    """A member without a word of the role is a Member; added again nothing changes, whatever role is asked for."""
    owner, other = memory.user(), memory.user()
    group = memory.group((owner, OWNER))
    found, added = await memory.conversations.add_member(owner, group, AddMember(other.user_id, role))
    assert added and found.member_count == 2 and roles(memory, group)[other.user_id] is MEMBER
    [change] = memory.publisher.changes
    assert change.added == (other.user_id,)
    again = await memory.conversations.add_member(owner, group, AddMember(other.user_id, "Admin"))
    assert again[1] is False and roles(memory, group)[other.user_id] is MEMBER
    assert memory.publisher.changes == [change]


async def test_a_user_who_does_not_exist(memory: Memory) -> None:
    """The error names them, and a group is not made without them."""
    owner, there, missing = memory.user(), memory.user(), new_id()
    group = memory.group((owner, OWNER))
    both = CreateConversation("Group", (there.user_id, missing))
    for call in (
        memory.conversations.add_member(owner, group, AddMember(missing)),
        memory.conversations.create(owner, both),
        memory.conversations.create(owner, both, ONE),
        memory.conversations.create(owner, CreateConversation("Direct", (missing,))),
    ):
        error = await refused(memory, call)
        assert error.code == "not_found" and error.errors == {"memberIds": str(missing)}


@pytest.mark.parametrize("role", ["Chief", "", "\ud800", -1, 3, 2**63, 2**64])
async def test_no_such_role(memory: Memory, role: str | int) -> None:
    """The error names the roles there are; no user's role changes."""
    owner, other = memory.user(), memory.user()
    group = memory.group((owner, OWNER), (other, MEMBER))
    for call in (
        memory.conversations.add_member(owner, group, AddMember(memory.user().user_id, role)),
        memory.conversations.change_role(owner, group, other.user_id, ChangeRole(role)),
    ):
        error = await refused(memory, call)
        assert error.code == "invalid_request" and error.errors == {"role": "Owner, Admin, Member"}


@pytest.mark.parametrize("kind", ["Channel", "", -1, 2, 2**63])
async def test_no_such_type(memory: Memory, kind: str | int) -> None:
    """The error names the types there are."""
    error = await refused(memory, memory.conversations.create(memory.user(), CreateConversation(kind)))
    assert error.code == "invalid_request" and error.errors == {"type": "Direct, Group"}


@pytest.mark.parametrize("name", ["", " ", "\u200b", "\u200d", "a\nb", "a\u202eb", "nul\0"])
async def test_names_that_cannot_be_shown(memory: Memory, name: str) -> None:
    """Neither at first nor later."""
    owner = memory.user()
    group = memory.group((owner, OWNER))
    for call in (
        memory.conversations.create(owner, CreateConversation("Group", (), name)),
        memory.conversations.update(owner, group, UpdateConversation(name)),
    ):
        error = await refused(memory, call)
        assert error.code == "invalid_request" and "name" in error.errors


async def test_details(memory: Memory) -> None:
    """What is left out stays, null takes away what may be taken away; what is the same already is no change."""
    owner = memory.user()
    group = memory.group((owner, OWNER))
    update, url = memory.conversations.update, "https://example.org/a.png"
    seen = of_conversation(await memory.conversations.get(owner, group))
    found = await update(owner, group, UpdateConversation(description="what\nfor", avatar_url=url))
    assert (found.name, found.description, found.avatar_url) == ("a name", "what\nfor", url)
    assert of_conversation(found) != seen
    found = await update(owner, group, UpdateConversation("new", posting="admins", slow_mode_seconds=60))
    assert (found.name, found.description, found.posting, found.slow_mode_seconds) == (
        "new",
        "what\nfor",
        Posting.ADMINS,
        60,
    )
    assert len(memory.publisher.changes) == 3  # the title is a change of its own, which older clients know
    for same in (UpdateConversation(), UpdateConversation(None, "what\nfor", url, 1, 60)):
        assert await update(owner, group, same) == found
    assert len(memory.publisher.changes) == 3
    found = await update(owner, group, UpdateConversation(None, None, None, "Everyone", 0))
    assert (found.name, found.description, found.avatar_url) == ("new", None, None)
    assert (found.posting, found.slow_mode_seconds) == (Posting.EVERYONE, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", ""),
        ("description", " \n\u200d"),
        ("description", "a\tb"),
        ("description", "a\u202eb"),
        ("description", "nul\0"),
        ("description", "\ud800"),
        ("avatarUrl", ""),
        ("avatarUrl", "http://example.org/a.png"),
        ("avatarUrl", "https://example.org/\ud800"),
        ("posting", "Owners"),
        ("posting", 2),
        ("posting", -1),
    ],
)
async def test_details_that_cannot_be(memory: Memory, field: str, value: str | int) -> None:
    """The error names the field, and nothing is read."""
    owner = memory.user()
    group = memory.group((owner, OWNER))
    name = "avatar_url" if field == "avatarUrl" else field
    request = replace(UpdateConversation("new"), **{name: value})
    error = await refused(memory, memory.conversations.update(owner, group, request))
    assert error.code == "invalid_request" and list(error.errors) == [field]
    assert memory.database.steps == []


async def test_direct_is_with_one_other(memory: Memory) -> None:
    """Not with none, not with oneself alone, not with two; twice the same other, and oneself beside, are one."""
    one, two, three = (memory.user() for _ in range(3))
    for others in ((), None, (one.user_id,), (two.user_id, three.user_id)):
        error = await refused(memory, memory.conversations.create(one, CreateConversation("Direct", others)))
        assert error.code == "invalid_request"
    request = CreateConversation(0, (two.user_id, one.user_id, two.user_id))
    made, is_new = await memory.conversations.create(one, request)
    assert is_new and {member.user_id for member in made.members} == {one.user_id, two.user_id}
    again, is_new = await memory.conversations.create(two, CreateConversation("direct", (one.user_id,)))
    assert again.id == made.id and not is_new and len(memory.publisher.changes) == 1


async def test_a_group_may_be_of_one(memory: Memory) -> None:
    """Its creator owns it, named among the others or not, and the others are Members."""
    owner, other = memory.user(), memory.user()
    for others, expected in (
        (None, {owner.user_id: OWNER}),
        ((owner.user_id, other.user_id, other.user_id), {owner.user_id: OWNER, other.user_id: MEMBER}),
    ):
        made, is_new = await memory.conversations.create(owner, CreateConversation("Group", others))
        assert is_new and roles(memory, made.id) == expected


# -- once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Direct", "Group"])
async def test_made_once(memory: Memory, kind: str) -> None:
    """A repeated request has the same answer and changes nothing; another one with its key is refused; another user's
    key of the same name is another key."""
    one, two = memory.user(), memory.user()
    request = CreateConversation(kind, (two.user_id,))
    first = await memory.conversations.create(one, request, ONE)
    assert await memory.conversations.create(one, request, ONE) == first and len(memory.publisher.changes) == 1
    memory.publisher.published.clear()
    assert (await refused(memory, memory.conversations.create(one, request, OTHER))).code == "idempotency_mismatch"
    third, is_new = await memory.conversations.create(memory.user(), request, OTHER)
    assert is_new and third.id != first[0].id


async def test_a_group_made_once_that_they_left(memory: Memory) -> None:
    """The repeated request makes no second group, and does not show the first."""
    one, two = memory.user(), memory.user()
    request = CreateConversation("Group", (two.user_id,))
    made, _ = await memory.conversations.create(one, request, ONE)
    del memory.tables.members[made.id, one.user_id]
    memory.publisher.published.clear()
    assert (await refused(memory, memory.conversations.create(one, request, ONE))).code == "not_found"


async def test_a_direct_conversation_made_once_that_is_gone(memory: Memory) -> None:
    """The repeated request makes it anew: there is only one at any time."""
    one, two = memory.user(), memory.user()
    request = CreateConversation("Direct", (two.user_id,))
    made, _ = await memory.conversations.create(one, request, ONE)
    await memory.conversations.delete(two, made.id)
    again, is_new = await memory.conversations.create(one, request, ONE)
    assert is_new and memory.tables.view(again.id, two.user_id)


@pytest.mark.parametrize("is_there", [False, True])
async def test_added_once_by_key(memory: Memory, is_there: bool) -> None:
    """The repeated request says what the first one said, also after the member was removed again."""
    owner, other = memory.user(), memory.user()
    group = memory.group((owner, OWNER), *([(other, MEMBER)] if is_there else []))
    add = AddMember(other.user_id)
    for _ in range(2):
        assert (await memory.conversations.add_member(owner, group, add, ONE))[1] is not is_there
    await memory.conversations.remove_member(owner, group, other.user_id)
    assert (await memory.conversations.add_member(owner, group, add, ONE))[1] is not is_there
    assert other.user_id not in roles(memory, group)
    memory.publisher.published.clear()
    assert (await refused(memory, memory.conversations.add_member(owner, group, add, OTHER))).code == (
        "idempotency_mismatch"
    )


async def test_a_refused_addition_binds_no_key(memory: Memory) -> None:
    """Who was not allowed to add may try again with the same key once they are."""
    owner, member, other = memory.user(), memory.user(), memory.user()
    group = memory.group((owner, OWNER), (member, MEMBER))
    add = AddMember(other.user_id)
    assert (await refused(memory, memory.conversations.add_member(member, group, add, ONE))).code == "forbidden"
    await memory.conversations.change_role(owner, group, member.user_id, ChangeRole("Admin"))
    assert (await memory.conversations.add_member(member, group, add, ONE))[1]


# -- preconditions ----------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["rename", "delete"])
async def test_an_outdated_etag(memory: Memory, action: str) -> None:
    """Changed since: nothing is done. As it was seen: done. Who may not is refused all the same, whatever they saw."""
    owner, member, stranger = memory.user(), memory.user(), memory.user()
    group = memory.group((owner, OWNER), (member, MEMBER))

    def call(caller: Caller, etag: str) -> Awaitable[object]:
        if action == "delete":
            return memory.conversations.delete(caller, group, if_match=[etag])
        return memory.conversations.update(caller, group, UpdateConversation("new"), if_match=[etag])

    seen = of_conversation(await memory.conversations.get(owner, group))
    memory.tables.conversations[group] = replace(memory.tables.conversations[group], name="renamed meanwhile")
    assert (await refused(memory, call(owner, seen))).code == "precondition_failed"
    for caller, code in ((member, "forbidden"), (stranger, "not_found")):
        assert (await refused(memory, call(caller, seen))).code == code
    await call(owner, of_conversation(await memory.conversations.get(owner, group)))
    assert len(memory.publisher.changes) == 1


# -- lists ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("members", "limit", "pages"), [(1, 1, 1), (4, 2, 2), (5, 2, 3), (4, 4, 1), (4, 5, 1)])
async def test_members_in_pages(memory: Memory, members: int, limit: int, pages: int) -> None:
    """Each member once, in order; the last page says that it is the last, also when it is full."""
    people = [memory.user() for _ in range(members)]
    group = memory.group(*[(person, OWNER) for person in people])
    found, cursor, count = [], None, 0
    while True:
        items, cursor = await memory.conversations.list_members(people[0], group, limit, cursor)
        found += [item.user_id for item in items]
        count += 1
        if cursor is None:
            break
    assert count == pages and found == sorted((person.user_id for person in people), key=lambda one: one.bytes)


async def test_lists_are_of_ones_own(memory: Memory) -> None:
    """A list shows the conversations of its caller only, each once over all pages."""
    one, other = memory.user(), memory.user()
    mine = [memory.group((one, MEMBER), (other, OWNER)) for _ in range(3)]
    memory.group((other, OWNER))
    first, cursor = await memory.conversations.list(one, 2, None)
    second, end = await memory.conversations.list(one, 2, cursor)
    assert end is None and sorted(item.id for item in [*first, *second]) == sorted(mine)


async def test_views_are_of_members(memory: Memory) -> None:
    """Of those asked for only the members get one."""
    one, stranger = memory.user(), memory.user()
    group = memory.group((one, OWNER))
    assert set(await memory.conversations.views(group, [one.user_id, stranger.user_id])) == {one.user_id}


@pytest.mark.parametrize("cursor", ["", "!", "AAAA", "é" * 22, "\ud800"])
async def test_cursors_of_others(memory: Memory, cursor: str) -> None:
    """What is no cursor of ours is refused before anything is read."""
    owner = memory.user()
    group = memory.group((owner, OWNER))
    for call in (
        memory.conversations.list(owner, 10, cursor),
        memory.conversations.list_members(owner, group, 10, cursor),
    ):
        assert (await refused(memory, call)).code == "invalid_cursor"
    assert memory.database.steps == []


# -- a member's own settings --------------------------------------------------------------------


async def test_settings(memory: Memory) -> None:
    """Each change goes to its user alone, none where nothing is different; others' views stay as they are."""
    one, other, stranger = memory.user(), memory.user(), memory.user()
    group = memory.group((one, OWNER), (other, MEMBER))
    until = NotificationsChoice("2027-01-01T01:00:00+01:00")
    settings = await memory.conversations.update_settings(one, group, UpdateSettings(True, None, until))
    assert (settings.archived, settings.favourite) == (True, False)
    assert settings.notifications.muted_until == "2027-01-01T00:00:00.000Z"
    assert memory.publisher.published == [((), SettingsChange(one.user_id, group, settings.version))]
    for same in (UpdateSettings(), UpdateSettings(archived=True, notifications=until)):
        assert await memory.conversations.update_settings(one, group, same) == settings
    assert len(memory.publisher.published) == len(memory.tables.outbox) == 1
    assert (await memory.conversations.get(one, group)).settings == settings
    assert not (await memory.conversations.get(other, group)).settings.archived
    only = Filter(archived=True)
    assert [found.id for found in (await memory.conversations.list(one, 10, None, only=only))[0]] == [group]
    assert (await memory.conversations.list(other, 10, None, only=only))[0] == []
    off = UpdateSettings(notifications=NotificationsChoice())
    assert (await memory.conversations.update_settings(one, group, off)).notifications.muted_until is None
    memory.publisher.published.clear()
    for caller in (stranger, Caller(new_id(), one.expires_at)):
        call = memory.conversations.update_settings(caller, group, UpdateSettings(archived=True))
        assert (await refused(memory, call)).code == "not_found"


@pytest.mark.parametrize("until", ["", "noon", "2027-01-01", "2027-01-01T00:00:00", "0000-01-01T00:00:00Z", "\ud800"])
async def test_no_time_to_mute_until(memory: Memory, until: str) -> None:
    """What is no time with a time zone is refused before anything is read."""
    one = memory.user()
    group = memory.group((one, OWNER))
    request = UpdateSettings(notifications=NotificationsChoice(until))
    error = await refused(memory, memory.conversations.update_settings(one, group, request))
    assert error.code == "invalid_request" and list(error.errors or ()) == ["notifications.mutedUntil"]
    assert memory.database.steps == []


# -- the database goes away -------------------------------------------------------------------


ACTS: dict[str, Callable[[Conversations, UUID, Caller, UUID, UUID], Awaitable[object]]] = {
    "direct": lambda them, group, owner, other, third: them.create(owner, CreateConversation("Direct", (other,)), ONE),
    "group": lambda them, group, owner, other, third: them.create(owner, CreateConversation("Group", (other,)), ONE),
    "rename": lambda them, group, owner, other, third: them.update(owner, group, UpdateConversation("new")),
    "details": lambda them, group, owner, other, third: them.update(
        owner, group, UpdateConversation("new", description="what for")
    ),
    "delete": lambda them, group, owner, other, third: them.delete(owner, group),
    "add": lambda them, group, owner, other, third: them.add_member(owner, group, AddMember(third), ONE),
    "remove": lambda them, group, owner, other, third: them.remove_member(owner, group, other),
    "settings": lambda them, group, owner, other, third: them.update_settings(owner, group, UpdateSettings(True)),
    "role": lambda them, group, owner, other, third: them.change_role(owner, group, other, ChangeRole("Owner")),
}


@pytest.mark.parametrize("name", ACTS)
async def test_nothing_half_done(memory: Memory, name: str) -> None:
    """Wherever the database goes away: the change is there and published, or neither; never its key alone."""

    async def arrange(world: Memory) -> Act:
        owner, other, third = world.user(), world.user(), world.user()
        group = world.group((owner, OWNER), (other, MEMBER))
        return lambda: ACTS[name](world.conversations, group, owner, other.user_id, third.user_id)

    await nothing_half_done(arrange)


@pytest.mark.parametrize("act", ["leave", "remove", "role"])
async def test_owners_are_not_counted_for_others(memory: Memory, act: str) -> None:
    """While a group is locked, and messages to it wait, its members are looked through for owners only where an owner
    leaves or becomes something else: a large group has very many."""
    owner, other = memory.user(), memory.user()
    group = memory.group((owner, OWNER), (other, MEMBER))
    memory.database.steps.clear()
    if act == "role":
        await memory.conversations.change_role(owner, group, other.user_id, ChangeRole("Admin"))
    else:
        await memory.conversations.remove_member(other if act == "leave" else owner, group, other.user_id)
    assert "commit" in memory.database.steps and "count_owners" not in memory.database.steps


async def test_doubt_is_of_the_conversation(memory: Memory) -> None:
    """When the outcome of a commit is unknown, the heads of the conversation concerned are to be compared."""
    owner = memory.user()
    group = memory.group((owner, OWNER))
    memory.database.fails_at = len(["connection", "lock", "member", "ban", "title", "outbox", "commit"])
    with pytest.raises(Exception, match="away"):
        await memory.conversations.update(owner, group, UpdateConversation("new"))
    assert memory.database.steps[-1] == "commit" and memory.publisher.doubts == [group]


async def test_others_fill_a_part_of_it(memory: Memory) -> None:
    """Others add a user to groups up to nine tenths of what they may be in: they can begin some, and be written to."""
    memory.conversations._most_of_one = 10
    owner, full = memory.user(), memory.user()
    for _ in range(9):
        await memory.conversations.create(owner, CreateConversation("Group", (full.user_id,)))
        owner = memory.user()
    public = memory.group((owner, Role.OWNER))
    memory.publisher.published.clear()
    for call in (
        memory.conversations.create(owner, CreateConversation("Group", (full.user_id,))),
        memory.conversations.add_member(owner, public, AddMember(full.user_id)),
    ):
        assert (await refused(memory, call)).code == "conflict"
    await memory.conversations.create(owner, CreateConversation("Direct", (full.user_id,)))
    memory.publisher.published.clear()
    assert (await refused(memory, memory.conversations.create(full, CreateConversation("Group")))).code == "conflict"


async def test_a_user_is_in_so_many(memory: Memory) -> None:
    """With as many as a user may be in, they begin and join none, and are added to none, until they leave one."""
    memory.conversations._most_of_one = 2
    owner, full, other = memory.user(), memory.user(), memory.user()
    groups = [memory.group((full, Role.OWNER), (other, Role.OWNER)) for _ in range(2)]
    public = memory.group((owner, Role.OWNER))
    await memory.conversations.update(owner, public, UpdateConversation(is_public=True))
    link = await memory.groups.create_link(owner, public, CreateJoinLink(max_uses=1))

    async def acts() -> list[str]:
        codes = []
        for call in (
            memory.conversations.create(full, CreateConversation("Group")),
            memory.conversations.create(owner, CreateConversation("Group", (full.user_id,))),
            memory.conversations.create(owner, CreateConversation("Direct", (full.user_id,))),
            memory.conversations.add_member(owner, public, AddMember(full.user_id)),
            memory.groups.join(full, public),
            memory.groups.join_by_link(full, link.token),
        ):
            codes.append((await refused(memory, call)).code)
        return codes

    memory.publisher.published.clear()
    assert await acts() == ["conflict"] * 6
    made, _ = await memory.conversations.create(owner, CreateConversation("Group"))  # others are not concerned
    assert made.member_count == 1
    await memory.conversations.remove_member(full, groups[0], full.user_id)
    _, joined = await memory.groups.join_by_link(full, link.token)  # it was not used up
    assert joined
