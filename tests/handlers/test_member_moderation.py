"""handlers.member_moderation: who may mute members and keep users out, and what it keeps them from."""

from collections.abc import Awaitable, Callable

import pytest

from handlers.member_moderation import muted_until_ms
from handlers.model import AddMember, Caller, CreateJoinLink, RenameGroup, Restrict, UpdateConversation
from store.ids import new_id, timestamp_ms
from store.model import FOR_EVER, Role, UserRole
from tests.handlers.memory import Memory, nothing_half_done, refused

SOON = "2999-01-01T00:00:00.000Z"
WHY = Restrict(SOON, "why")
Did = Callable[[Memory, Caller, object, Caller], Awaitable[object]]
ACTS: dict[str, Did] = {
    "mute": lambda memory, by, where, whom: memory.member_moderation.mute(by, where, whom.user_id, WHY),  # type: ignore[arg-type]
    "unmute": lambda memory, by, where, whom: memory.member_moderation.unmute(by, where, whom.user_id),  # type: ignore[arg-type]
    "ban": lambda memory, by, where, whom: memory.member_moderation.ban(by, where, whom.user_id, WHY),  # type: ignore[arg-type]
    "lift": lambda memory, by, where, whom: memory.member_moderation.lift(by, where, whom.user_id),  # type: ignore[arg-type]
}


def moderator(memory: Memory) -> Caller:
    made = memory.user()
    memory.tables.roles[made.user_id] = UserRole.MODERATOR
    return made


@pytest.mark.parametrize("name", list(ACTS))
async def test_who_may(memory: Memory, name: str) -> None:
    """Admins to members, owners to all, moderators of the service without being members; not to oneself, nor to who has
    as high a role in the service."""
    owner, admin, other_admin, member, stranger = (memory.user() for _ in range(5))
    roles = ((owner, Role.OWNER), (admin, Role.ADMIN), (other_admin, Role.ADMIN), (member, Role.MEMBER))
    group = memory.group(*roles)
    mod, other_mod = moderator(memory), moderator(memory)
    memory.tables.join(group, other_mod.user_id, Role.MEMBER)
    act = ACTS[name]
    for who, whom, code in (
        (stranger, member, "not_found"),
        (member, admin, "forbidden"),
        (admin, other_admin, "forbidden"),
        (admin, owner, "forbidden"),
        (admin, admin, "forbidden"),
        (owner, owner, "conflict"),
        (mod, other_mod, "forbidden"),
        (mod, mod, "forbidden"),
    ):
        assert (await refused(memory, act(memory, who, group, whom))).code == code, (who, whom)
    for who, whom in ((admin, member), (owner, admin), (mod, other_admin)):
        await act(memory, who, group, whom)


async def test_muted(memory: Memory) -> None:
    """Edits are refused with the time, until the mute is taken away; each is a change, and in the audit log."""
    owner, member = memory.user(), memory.user()
    group = memory.group((owner, Role.OWNER), (member, Role.MEMBER))
    said = memory.say(group, member)
    await memory.member_moderation.mute(owner, group, member.user_id, WHY)
    memory.publisher.published.clear()
    error = await refused(memory, memory.messages.edit(member, said.id, "another"))
    assert (error.code, error.until) == ("muted", SOON)
    await memory.messages.delete(member, said.id)
    for _ in range(2):
        await memory.member_moderation.unmute(owner, group, member.user_id)
    assert [(one.act, one.until) for one in memory.tables.audit.values()] == [
        ("memberMuted", SOON),
        ("memberUnmuted", None),
    ]
    error = muted_until_ms(timestamp_ms(SOON))
    assert (error.code, error.until) == ("muted", SOON) and muted_until_ms(None).code == "muted"


async def test_leaving_ends_no_mute(memory: Memory) -> None:
    """Who leaves while they are muted comes back when that is over."""
    owner, member = memory.user(), memory.user()
    group = memory.group((owner, Role.OWNER), (member, Role.MEMBER))
    await memory.member_moderation.mute(owner, group, member.user_id, WHY)
    await memory.conversations.remove_member(member, group, member.user_id)
    assert memory.tables.kept_out[group, member.user_id].until == SOON


async def test_kept_out(memory: Memory) -> None:
    """They are removed, and neither an admin nor a link nor a public group lets them in again, until it is lifted."""
    owner, member = memory.user(), memory.user()
    group = memory.group((owner, Role.OWNER), (member, Role.MEMBER))
    await memory.member_moderation.ban(owner, group, member.user_id, Restrict())
    assert (group, member.user_id) not in memory.tables.members
    listed, _ = await memory.member_moderation.list_bans(owner, group, 9, None)
    assert [(one.user_id, one.until) for one in listed] == [(member.user_id, FOR_EVER)]
    await memory.conversations.update(owner, group, UpdateConversation(is_public=True))
    link = await memory.groups.create_link(owner, group, CreateJoinLink())
    memory.publisher.published.clear()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: memory.conversations.add_member(owner, group, AddMember(member.user_id)),
        lambda: memory.groups.join_by_link(member, link.token),
        lambda: memory.groups.join(member, group),
    ]
    for call in calls:
        error = await refused(memory, call())
        assert (error.code, error.until) == ("kept_out", FOR_EVER)
    await memory.member_moderation.lift(owner, group, member.user_id)
    await memory.conversations.add_member(owner, group, AddMember(member.user_id))
    memory.publisher.published.clear()
    assert (await refused(memory, memory.member_moderation.list_bans(member, group, 9, None))).code == "forbidden"
    assert (await refused(memory, memory.member_moderation.ban(owner, new_id(), new_id(), WHY))).code == "not_found"


async def test_direct_conversations(memory: Memory) -> None:
    """In them moderators of the service mute, and no user keeps the other out."""
    one, other, mod = memory.user(), memory.user(), moderator(memory)
    direct = memory.direct(one, other)
    for name in ACTS:
        assert (await refused(memory, ACTS[name](memory, one, direct, other))).code == "conflict"
    assert (await refused(memory, ACTS["ban"](memory, mod, direct, other))).code == "conflict"
    await ACTS["mute"](memory, mod, direct, other)


async def test_moderators_delete_messages(memory: Memory) -> None:
    """Any, wherever it is, which is in the audit log; one's own as any user."""
    one, other, mod = memory.user(), memory.user(), moderator(memory)
    said = memory.say(memory.direct(one, other), one)
    await memory.messages.delete(mod, said.id)
    [entry] = memory.tables.audit.values()
    assert (entry.act, entry.actor_id, entry.user_id, entry.object_id) == (
        "messageDeleted",
        mod.user_id,
        one.user_id,
        said.id,
    )
    memory.publisher.published.clear()
    assert (await refused(memory, memory.messages.delete(mod, said.id))).code == "gone"


@pytest.mark.parametrize("name", ["mute", "ban"])
async def test_nothing_is_half_done(memory: Memory, name: str) -> None:
    """All of an act is written and announced, or nothing."""

    async def arrange(world: Memory) -> Callable[[], Awaitable[object]]:
        owner, member = world.user(), world.user()
        group = world.group((owner, Role.OWNER), (member, Role.MEMBER))
        return lambda: ACTS[name](world, owner, group, member)

    await nothing_half_done(arrange)


async def test_groups_are_renamed(memory: Memory) -> None:
    """By moderators of the service, in any group: a change of it, and in the audit log, without the name."""
    owner, mod = memory.user(), moderator(memory)
    group, direct = memory.group((owner, Role.OWNER)), memory.direct(owner, memory.user())
    for who, where, request, code in (
        (owner, group, RenameGroup("x"), "forbidden"),
        (mod, direct, RenameGroup("x"), "conflict"),
        (mod, new_id(), RenameGroup("x"), "not_found"),
        (mod, group, RenameGroup("\n"), "invalid_request"),
        (mod, group, RenameGroup("x", " "), "invalid_request"),
    ):
        assert (await refused(memory, memory.member_moderation.rename_group(who, where, request))).code == code
    await memory.member_moderation.rename_group(mod, group, RenameGroup("calm", "an insult"))
    assert memory.tables.conversations[group].name == "calm" and len(memory.publisher.changes) == 1
    [entry] = memory.tables.audit.values()
    assert (entry.act, entry.actor_id, entry.conversation_id) == ("groupRenamed", mod.user_id, group)
    assert (entry.reason, entry.detail) == ("an insult", None)


async def test_messages_are_deleted(memory: Memory) -> None:
    """Of any conversation, by a moderator or an operator; once. The reason is noted, also where it is said to REST."""
    owner, mod = memory.user(), moderator(memory)
    group = memory.group((owner, Role.OWNER))
    said = [memory.say(group, owner) for _ in range(3)]
    delete = memory.member_moderation.delete_message
    assert (await refused(memory, delete(owner, said[0].id))).code == "forbidden"
    assert (await refused(memory, delete(mod, new_id()))).code == "not_found"
    assert (await refused(memory, delete(mod, said[0].id, " "))).code == "invalid_request"
    await delete(mod, said[0].id, "one")
    await delete(None, said[1].id, "two")
    await memory.messages.delete(mod, said[2].id, reason="three")
    memory.publisher.published.clear()
    assert (await refused(memory, delete(None, said[0].id))).code == "gone"
    found = [(one.act, one.actor_id, one.object_id, one.reason) for one in memory.tables.audit.values()]
    whose = (mod.user_id, None, mod.user_id)
    expected = zip(whose, said, ("one", "two", "three"), strict=True)
    assert found == [("messageDeleted", by, message.id, why) for by, message, why in expected]
