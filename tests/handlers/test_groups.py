"""handlers.groups: who makes links, who joins by them or by themselves, and that the others learn nothing."""

import hashlib
from uuid import UUID

import pytest
from msgspec.structs import replace

from handlers.errors import ChatError
from handlers.groups import MAX_LINKS
from handlers.model import Caller, CreateJoinLink, NewJoinLink, Once, UpdateConversation
from store.ids import new_id
from store.model import Role
from tests.handlers.memory import Act, Memory, at_every_step, nothing_half_done, refused

OWNER, ADMIN, MEMBER = Role.OWNER, Role.ADMIN, Role.MEMBER
ONE, OTHER = Once("a key", b"one request"), Once("a key", b"another")


def digest(link: NewJoinLink) -> bytes:
    return hashlib.sha256(link.token.encode()).digest()


async def link_of(memory: Memory, owner: Caller, group: UUID, **asked: int) -> NewJoinLink:
    return await memory.groups.create_link(owner, group, CreateJoinLink(**asked))


@pytest.mark.parametrize("action", ["create", "list", "revoke"])
@pytest.mark.parametrize("who", [OWNER, ADMIN, MEMBER, None])
async def test_who_may(memory: Memory, action: str, who: Role | None) -> None:
    """Admins and owners; for a stranger there is no such group."""
    owner, caller = memory.user(), memory.user()
    group = memory.group((owner, OWNER), *([(caller, who)] if who else []))
    link = await link_of(memory, owner, group)

    async def act() -> None:
        if action == "create":
            await memory.groups.create_link(caller, group, CreateJoinLink())
        elif action == "list":
            await memory.groups.list_links(caller, group, 10, None)
        else:
            await memory.groups.revoke_link(caller, group, link.id)

    if who in (OWNER, ADMIN):
        await act()
        assert memory.publisher.published == []  # it is no change of the conversation
    else:
        assert (await refused(memory, act())).code == ("forbidden" if who else "not_found")


async def test_a_direct_conversation_has_none(memory: Memory) -> None:
    """Neither to make nor to revoke."""
    one, other = memory.user(), memory.user()
    direct = memory.direct(one, other)
    for call in (
        memory.groups.create_link(one, direct, CreateJoinLink()),
        memory.groups.revoke_link(one, direct, new_id()),
    ):
        assert (await refused(memory, call)).code == "conflict"


async def test_joined_once(memory: Memory) -> None:
    """A user becomes a Member by a change that says that they have added themselves; again it is the same conversation,
    and no other use. The token is in one answer only."""
    owner, other = memory.user(), memory.user()
    group = memory.group((owner, OWNER))
    link = await link_of(memory, owner, group, max_uses=1)
    assert len(link.token) == 32 and list(memory.tables.links) == [digest(link)]
    found, is_new = await memory.groups.join_by_link(other, link.token)
    assert is_new and found.id == group and found.member_count == 2
    assert memory.tables.members[group, other.user_id].role is MEMBER
    [change] = memory.publisher.changes
    assert change.added == (other.user_id,) and change.message.sender_id == other.user_id
    for member in (owner, other):  # also though it is used up
        found, is_new = await memory.groups.join_by_link(member, link.token)
        assert not is_new and found.id == group
    [listed], following = await memory.groups.list_links(owner, group, 10, None)
    assert (listed.id, listed.uses, listed.max_uses, following) == (link.id, 1, 1, None)
    assert not hasattr(listed, "token") and memory.publisher.changes == [change]


async def test_a_link_that_leads_nowhere(memory: Memory) -> None:
    """Unknown, used up, expired, revoked, of a deleted group, or no text: the same words, and nothing is done."""
    owner, other, third = memory.user(), memory.user(), memory.user()
    group, gone = memory.group((owner, OWNER)), memory.group((owner, OWNER))
    used, expired, revoked = [await link_of(memory, owner, group, max_uses=1) for _ in range(3)]
    dissolved = await link_of(memory, owner, gone)
    await memory.groups.join_by_link(third, used.token)
    memory.tables.links[digest(expired)] = replace(memory.tables.links[digest(expired)], expires_at="2019")
    await memory.groups.revoke_link(owner, group, revoked.id)
    await memory.conversations.delete(owner, gone)
    memory.publisher.published.clear()
    said = set()
    for token in ("of no link", used.token, expired.token, revoked.token, dissolved.token, "\ud800"):
        error = await refused(memory, memory.groups.join_by_link(other, token))
        said.add((error.code, error.sentence))
    assert len(said) == 1 and "not_found" in str(said)


async def test_a_user_who_is_gone(memory: Memory) -> None:
    """Deleted meanwhile: they do not join, and the link is not used."""
    owner = memory.user()
    link = await link_of(memory, owner, memory.group((owner, OWNER)))
    gone = Caller(new_id(), 1e12)
    assert (await refused(memory, memory.groups.join_by_link(gone, link.token))).code == "unauthenticated"


@pytest.mark.parametrize("way", ["link", "public"])
async def test_a_banned_user_does_not_join(memory: Memory, way: str) -> None:
    """From the commit of their ban on, though their connection has not ended yet; the link is not used. They may again
    when it is lifted."""
    owner, other = memory.user(), memory.user()
    group = await public(memory, owner)
    link = await link_of(memory, owner, group, max_uses=1)
    memory.tables.bans[other.user_id] = "2999-01-01T00:00:00.000Z"

    async def join() -> bool:
        if way == "link":
            return (await memory.groups.join_by_link(other, link.token))[1]
        return (await memory.groups.join(other, group))[1]

    assert (await refused(memory, join())).code == "banned"
    del memory.tables.bans[other.user_id]
    assert await join()


async def test_made_once(memory: Memory) -> None:
    """The repeated request has the same link, with another token in place of the first; another request with its key is
    refused; a link that was revoked meanwhile is not made anew."""
    owner, other = memory.user(), memory.user()
    group = memory.group((owner, OWNER))
    first = await memory.groups.create_link(owner, group, CreateJoinLink(), ONE)
    again = await memory.groups.create_link(owner, group, CreateJoinLink(), ONE)
    assert again.id == first.id and again.token != first.token
    assert (await refused(memory, memory.groups.join_by_link(other, first.token))).code == "not_found"
    assert (await refused(memory, memory.groups.create_link(owner, group, CreateJoinLink(), OTHER))).code == (
        "idempotency_mismatch"
    )
    await memory.groups.revoke_link(owner, group, again.id)
    assert (await refused(memory, memory.groups.create_link(owner, group, CreateJoinLink(), ONE))).code == "not_found"


async def test_how_many(memory: Memory) -> None:
    """As many as may be used; what is spent makes room for another, and a group's links are its own."""
    owner, other = memory.user(), memory.user()
    group, elsewhere = memory.group((owner, OWNER)), memory.group((owner, OWNER))
    links = [await link_of(memory, owner, group, max_uses=1) for _ in range(MAX_LINKS)]
    assert (await refused(memory, link_of(memory, owner, group))).code == "conflict"
    await link_of(memory, owner, elsewhere)
    assert (await refused(memory, memory.groups.revoke_link(owner, elsewhere, links[0].id))).code == "not_found"
    await memory.groups.join_by_link(other, links[0].token)
    made = await link_of(memory, owner, group)
    found, cursor = await memory.groups.list_links(owner, group, 30, None)
    more, end = await memory.groups.list_links(owner, group, 30, cursor)
    assert end is None and [one.id for one in (*found, *more)] == [one.id for one in (*links[1:], made)]


async def public(memory: Memory, owner: Caller, name: str = "a name") -> UUID:
    group = memory.group((owner, OWNER))
    await memory.conversations.update(owner, group, UpdateConversation(name, is_public=True))
    memory.publisher.published.clear()
    return group


async def test_a_public_group_is_joined(memory: Memory) -> None:
    """By anybody, once, as a Member; no more when it is not public any more, but who has joined stays."""
    owner, other, late = memory.user(), memory.user(), memory.user()
    group = await public(memory, owner)
    found, is_new = await memory.groups.join(other, group)
    assert is_new and found.member_count == 2 and memory.tables.members[group, other.user_id].role is MEMBER
    [change] = memory.publisher.changes
    assert change.added == (other.user_id,)
    await memory.conversations.update(owner, group, UpdateConversation(is_public=False))
    memory.publisher.published.clear()
    assert (await refused(memory, memory.groups.join(late, group))).code == "not_found"
    for member in (owner, other):
        found, is_new = await memory.groups.join(member, group)
        assert not is_new and found.id == group


async def test_a_stranger_cannot_see_what_is_there(memory: Memory) -> None:
    """A group of others, a direct conversation, a deleted one and one that never was: the same words."""
    owner, stranger = memory.user(), memory.user()
    gone = await public(memory, owner)
    await memory.conversations.delete(owner, gone)
    memory.publisher.published.clear()
    said = set()
    for conversation in (memory.group((owner, OWNER)), memory.direct(owner, memory.user()), gone, new_id()):
        error = await refused(memory, memory.groups.join(stranger, conversation))
        said.add((error.code, error.sentence))
    assert len(said) == 1 and "not_found" in str(said)


async def test_found_in_pages(memory: Memory) -> None:
    """Each public group once, and no other; of a query only those that it fits."""
    owner = memory.user()
    groups = [await public(memory, owner, f"group {number}") for number in range(5)]
    memory.group((owner, OWNER))
    await public(memory, owner, "another")
    found, cursor, pages = [], None, 0
    while True:
        items, cursor = await memory.groups.search(owner, "group", 2, cursor)
        found += [item.id for item in items]
        pages += 1
        if cursor is None:
            break
    assert found == groups and pages == 3
    assert len((await memory.groups.search(owner, "", 10, None))[0]) == 6


@pytest.mark.parametrize("q", ["a\0", "a" * 129])
async def test_what_cannot_be_searched_for(memory: Memory, q: str) -> None:
    """The error names the parameter, and nothing is read."""
    error = await refused(memory, memory.groups.search(memory.user(), q, 10, None))
    assert error.code == "invalid_request" and list(error.errors) == ["q"] and memory.database.steps == []


@pytest.mark.parametrize("name", ["create", "revoke", "join", "join public"])
async def test_nothing_half_done(memory: Memory, name: str) -> None:
    """Wherever the database goes away: a link is made or not, and its use is counted with the member or not at all."""

    async def arrange(world: Memory) -> Act:
        owner, other = world.user(), world.user()
        group = world.group((owner, OWNER))
        link = await link_of(world, owner, group, max_uses=1)
        if name == "join public":
            open_to_all = await public(world, owner)
            return lambda: world.groups.join(other, open_to_all)
        if name == "create":
            return lambda: world.groups.create_link(owner, group, CreateJoinLink(), ONE)
        if name == "revoke":
            return lambda: world.groups.revoke_link(owner, group, link.id)
        return lambda: world.groups.join_by_link(other, link.token)

    if name.startswith("join"):
        await nothing_half_done(arrange)
    else:
        for step, world, before, _ in await at_every_step(arrange):
            assert world.publisher.published == [], step
            assert (world.tables.links == before["links"]) is (world.tables.creations == before["creations"]), step


@pytest.mark.parametrize("way", ["link", "public"])
async def test_doubt_is_of_the_conversation(memory: Memory, way: str) -> None:
    """When it is not known whether somebody has joined, the head of the group is to be compared."""
    owner, other = memory.user(), memory.user()
    group = await public(memory, owner)
    link = await link_of(memory, owner, group)
    memory.publisher.doubts.clear()
    memory.database.steps.clear()
    steps = ["connection", "find", "lock", "member", "welcome", "use", "insert", "ban", "room", "outbox", "commit"]
    memory.database.fails_at = len(steps) - (2 if way == "public" else 0)  # without find and use
    with pytest.raises(Exception, match="away"):
        await (memory.groups.join_by_link(other, link.token) if way == "link" else memory.groups.join(other, group))
    assert memory.database.steps[-1] == "commit" and memory.publisher.doubts == [group]


async def test_cursors_of_others(memory: Memory) -> None:
    """What is no cursor of ours is refused before anything is read."""
    user = memory.user()
    for call in (
        memory.groups.list_links(user, new_id(), 10, "!"),
        memory.groups.search(user, "", 10, "!"),
        memory.groups.search(user, "", 10, "AAAA"),
    ):
        with pytest.raises(ChatError, match="invalid_cursor"):
            await call
    assert memory.database.steps == []
