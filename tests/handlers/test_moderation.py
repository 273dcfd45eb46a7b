"""handlers.moderation: what moderators and administrators may do to whom, and what is noted of it."""

from collections.abc import Awaitable, Callable
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from msgspec.structs import replace

from handlers.errors import ChatError
from handlers.model import (
    MAX_REASON,
    BanUser,
    Caller,
    ChangeUserRole,
    Client,
    CreateConversation,
    CreateReport,
    Identity,
    PresignFile,
    RenameUser,
    Restrict,
    UpdateConversation,
    UpdateStatus,
    UpdateUser,
)
from handlers.standing import banned_until_ms
from store import model
from store.ids import new_id, timestamp_ms
from store.model import FOR_EVER, Role, UserRole
from store.postgres.audit import Filter
from store.postgres.files import File
from store.redis.inbox_entries import Disconnection
from tests.handlers.memory import Memory, nothing_half_done, refused

SOON = "2999-01-01T00:00:00.000Z"
U, M, A = UserRole
Did = Callable[[Memory, Caller | None, UUID], Awaitable[object]]
ACTS: dict[str, Did] = {
    "ban": lambda memory, by, whom: memory.moderation.ban(by, whom, BanUser(SOON, "why")),
    "unban": lambda memory, by, whom: memory.moderation.unban(by, whom, "why"),
    "end_sessions": lambda memory, by, whom: memory.moderation.end_sessions(by, whom, "why"),
    "rename": lambda memory, by, whom: memory.moderation.rename(by, whom, RenameUser("another", "Another", "why")),
}


def person(memory: Memory, role: UserRole) -> Caller:
    made = memory.user()
    memory.tables.roles[made.user_id] = role
    return made


def entries(memory: Memory) -> list[tuple[str, UUID | None, UUID | None]]:
    return [(one.act, one.actor_id, one.user_id) for one in memory.tables.audit.values()]


@pytest.mark.parametrize("name", list(ACTS))
@pytest.mark.parametrize("role", list(UserRole))
@pytest.mark.parametrize("target", list(UserRole))
async def test_who_acts_on_whom(memory: Memory, name: str, role: UserRole, target: UserRole) -> None:
    """One acts on users of a lower role; who may not is refused, and nothing is written or noted."""
    one, other = person(memory, role), person(memory, target)
    memory.tables.bans[other.user_id] = SOON
    act = ACTS[name](memory, one, other.user_id)
    if role is U or list(UserRole).index(target) >= list(UserRole).index(role):
        assert (await refused(memory, act)).code == "forbidden"
        return
    await act
    [(_, by, whom)] = entries(memory)
    assert (by, whom) == (one.user_id, other.user_id)


@pytest.mark.parametrize("name", list(ACTS))
async def test_an_operator(memory: Memory, name: str) -> None:
    """An operator acts on anybody, and is noted as none of the users; who does not exist is not found."""
    other = person(memory, A)
    memory.tables.bans[other.user_id] = SOON
    await ACTS[name](memory, None, other.user_id)
    [(_, by, whom)] = entries(memory)
    assert (by, whom) == (None, other.user_id)
    memory.publisher.published.clear()
    assert (await refused(memory, ACTS[name](memory, None, new_id()))).code == "not_found"


async def test_banned(memory: Memory) -> None:
    """Their connections end, whatever they sign in with is refused, and it is over when it is lifted."""
    one, other = person(memory, M), memory.user()
    identity = Identity("p", "s", "x")
    memory.tables.identities["p", "s"] = other.user_id
    tokens = await memory.accounts.begin(other.user_id, Client())
    standing = await memory.moderation.ban(one, other.user_id, BanUser(SOON))
    assert (standing.banned_until, standing.role) == (SOON, U)
    disconnection = memory.publisher.published[-1][1]
    assert isinstance(disconnection, Disconnection)
    assert (disconnection.user_id, disconnection.session_id, disconnection.code) == (other.user_id, None, "banned")
    memory.publisher.published.clear()
    calls: list[Awaitable[object]] = [
        memory.users.require(other),
        memory.accounts.begin(other.user_id, Client()),
        memory.accounts.grant(other.user_id, 60, Client()),
        memory.accounts.refresh(tokens.refresh_token, Client()),
        memory.accounts.link(other.user_id, identity),
    ]
    for call in calls:
        error = await refused(memory, call)
        assert (error.code, error.until) == ("banned", SOON)
    await memory.moderation.unban(one, other.user_id)
    await memory.users.require(other)
    await memory.accounts.refresh(tokens.refresh_token, Client())
    await memory.moderation.unban(one, other.user_id)
    acts = [act for act, _, _ in entries(memory)]
    assert acts.count("userBanned") == acts.count("userUnbanned") == 1  # what was over before is not noted


BY_OWNERS: dict[str, Callable[[Memory, Caller, UUID, UUID, UUID], Awaitable[object]]] = {
    "edit": lambda memory, who, group, said, other: memory.messages.edit(who, said, "another"),
    "delete": lambda memory, who, group, said, other: memory.messages.delete(who, said),
    "pin": lambda memory, who, group, said, other: memory.messages.pin(who, said),
    "react": lambda memory, who, group, said, other: memory.reactions.react(who, said, ":name:"),
    "create": lambda memory, who, group, said, other: memory.conversations.create(
        who, CreateConversation("Group", (other,), "another")
    ),
    "change": lambda memory, who, group, said, other: memory.conversations.update(
        who, group, UpdateConversation(name="another")
    ),
    "remove": lambda memory, who, group, said, other: memory.conversations.remove_member(who, group, other),
    "mute": lambda memory, who, group, said, other: memory.member_moderation.mute(who, group, other, Restrict()),
    "profile": lambda memory, who, group, said, other: memory.users.update(who, UpdateUser("another")),
    "status": lambda memory, who, group, said, other: memory.users.update_status(who, UpdateStatus("Busy", "text")),
    "report": lambda memory, who, group, said, other: memory.reports.create(who, CreateReport("Spam", None, other)),
    "upload": lambda memory, who, group, said, other: memory.files.presign(who, PresignFile("a.txt", "text/plain", 1)),
    "delete_file": lambda memory, who, group, said, other: _delete_file(memory, who),
}


def _delete_file(memory: Memory, who: Caller) -> Awaitable[object]:
    file = File(new_id(), who.user_id, str(new_id()), "a.txt", "text/plain", 1, None, "Ready", None, None)
    memory.tables.files[file.id] = file
    return memory.files.delete(who, file.key)


@pytest.mark.parametrize("name", list(BY_OWNERS))
async def test_a_connection_that_is_still_open(memory: Memory, nursery: trio.Nursery, name: str) -> None:
    """From the commit of a ban on nothing is written for its user, though their connection has not ended yet."""
    owner, other = memory.user(), memory.user()
    group = memory.group((owner, Role.OWNER), (other, Role.MEMBER))
    said = memory.say(group, owner)
    await nursery.start(memory.reactions.run)
    memory.tables.bans[owner.user_id] = SOON
    assert (await refused(memory, BY_OWNERS[name](memory, owner, group, said.id, other.user_id))).code == "banned"
    del memory.tables.bans[owner.user_id]
    await BY_OWNERS[name](memory, owner, group, said.id, other.user_id)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("name", "lock"), [("profile", "update_user"), ("status", "update_status"), ("upload", "lock_storage")]
)
async def test_a_ban_is_asked_for_behind_the_lock(memory: Memory, name: str, lock: str) -> None:
    """What the user does first takes the lock of their row, as a ban does: the ban is seen, or waits for them."""
    one, other = memory.user(), memory.user()
    memory.database.steps.clear()
    await BY_OWNERS[name](memory, one, UUID(int=0), UUID(int=0), other.user_id)
    steps = memory.database.steps
    assert steps.index(lock) < steps.index("fetch_ban") < steps.index("commit")


def test_a_banned_sender() -> None:
    """What a lane says of one is answered with the time, as everything else is."""
    error = banned_until_ms(timestamp_ms(SOON))
    assert (error.code, error.until) == ("banned", SOON) and banned_until_ms(None).code == "banned"


async def test_two_bans_are_announced(memory: Memory) -> None:
    """Each act on one user has a name of its own in the outbox: the second does not take the first one's place."""
    other = memory.user()
    for _ in range(2):
        await memory.moderation.ban(None, other.user_id, BanUser())
        await memory.moderation.end_sessions(None, other.user_id)
    named = [cast(Disconnection, personal).act_id for _, personal in memory.publisher.published]
    assert len(set(named)) == 4 and set(named) == set(memory.tables.audit)
    assert memory.tables.bans[other.user_id] == FOR_EVER


@pytest.mark.parametrize("until", ["tomorrow", "2020-01-01T00:00:00Z"])
async def test_a_ban_until_no_time(memory: Memory, until: str) -> None:
    """What is no time, or past, is refused, and names the field."""
    error = await refused(memory, memory.moderation.ban(None, memory.user().user_id, BanUser(until)))
    assert error.code == "invalid_request" and list(error.errors) == ["until"]


@pytest.mark.parametrize("reason", ["", " ", "x" * (MAX_REASON + 1), "\ud800", "a\0b"])
@pytest.mark.parametrize("name", ["ban", "role", "rename", "unban", "end_sessions"])
async def test_reasons_that_are_none(memory: Memory, name: str, reason: str) -> None:
    """A reason is text of bounded length, with something to see in it."""
    user_id, its = memory.user().user_id, memory.moderation
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "ban": lambda: its.ban(None, user_id, BanUser(None, reason)),
        "role": lambda: its.change_role(None, user_id, ChangeUserRole("Moderator", reason)),
        "rename": lambda: its.rename(None, user_id, RenameUser("b", None, reason)),
        "unban": lambda: its.unban(None, user_id, reason),
        "end_sessions": lambda: its.end_sessions(None, user_id, reason),
    }
    assert list((await refused(memory, calls[name]())).errors) == ["reason"]


async def test_roles_are_changed_by_administrators(memory: Memory) -> None:
    """Those of anybody, their own included; the same role again is not noted; it counts in the next act."""
    admin, moderator, other = person(memory, A), person(memory, M), memory.user()
    for who in (moderator, other):
        request = ChangeUserRole("Administrator")
        assert (await refused(memory, memory.moderation.change_role(who, who.user_id, request))).code == "forbidden"
    await memory.moderation.ban(moderator, other.user_id, BanUser())
    for _ in range(2):
        changed = await memory.moderation.change_role(admin, moderator.user_id, ChangeUserRole("user"))
        assert changed.role is U
    memory.publisher.published.clear()
    assert (await refused(memory, memory.moderation.unban(moderator, other.user_id))).code == "forbidden"
    assert [act for act, _, _ in entries(memory)] == ["userBanned", "roleChanged"]
    error = await refused(memory, memory.moderation.change_role(admin, other.user_id, ChangeUserRole("king")))
    assert error.code == "invalid_request" and list(error.errors) == ["role"]


async def test_the_last_administrator(memory: Memory) -> None:
    """May go, by themselves or by an operator, who makes another one; a moderator acts on none."""
    admin, moderator = person(memory, A), person(memory, M)
    assert (await refused(memory, memory.moderation.ban(moderator, admin.user_id, BanUser()))).code == "forbidden"
    await memory.moderation.change_role(admin, admin.user_id, ChangeUserRole("User"))
    assert A not in memory.tables.roles.values()
    request = ChangeUserRole("Administrator")
    assert (await refused(memory, memory.moderation.change_role(admin, admin.user_id, request))).code == "forbidden"
    assert (await memory.moderation.change_role(None, moderator.user_id, request)).role is A
    await memory.moderation.ban(None, moderator.user_id, BanUser())
    assert (await memory.moderation.standing(None, moderator.user_id)).role is A


async def test_standing(memory: Memory) -> None:
    """One's own is shown to oneself, others' to moderators."""
    moderator, one, other = person(memory, M), memory.user(), memory.user()
    assert (await memory.moderation.standing(one, one.user_id)).role is U
    assert (await memory.moderation.standing(moderator, one.user_id)).role is U
    assert (await refused(memory, memory.moderation.standing(one, other.user_id))).code == "forbidden"
    assert (await refused(memory, memory.moderation.standing(moderator, new_id()))).code == "not_found"


async def test_renamed(memory: Memory) -> None:
    """What is given is changed; a name that another has, or that is none, is refused."""
    one, other = memory.user("one"), memory.user("other")
    assert (await memory.moderation.rename(None, one.user_id, RenameUser("first"))).username == "first"
    shown = await memory.moderation.rename(None, one.user_id, RenameUser(None, "The First"))
    assert (shown.username, shown.display_name) == ("first", "The First")
    memory.publisher.published.clear()
    for name, code in (("other", "username_taken"), ("no name\n", "invalid_request")):
        assert (await refused(memory, memory.moderation.rename(None, one.user_id, RenameUser(name)))).code == code
    assert memory.tables.users[other.user_id].username == "other"


async def test_sessions_end(memory: Memory) -> None:
    """All of the user's, and no others; they may sign in again."""
    one, other = memory.user(), memory.user()
    tokens = [await memory.accounts.begin(who.user_id, Client()) for who in (one, one, other)]
    await memory.moderation.end_sessions(None, one.user_id)
    for ended in tokens[:2]:
        with pytest.raises(ChatError, match="unauthenticated"):
            await memory.accounts.refresh(ended.refresh_token, Client())
    await memory.accounts.refresh(tokens[2].refresh_token, Client())
    await memory.accounts.begin(one.user_id, Client())


MEANWHILE: dict[str, Callable[[Memory, Caller, UUID], Awaitable[object]]] = {
    "store.postgres.users.leave_some": lambda memory, by, whom: memory.users.delete(by, whom),
    "store.postgres.moderation.has_more_sessions": lambda memory, by, whom: memory.accounts.end_all(
        whom, admin=by, by="an administrator"
    ),
}


@pytest.mark.parametrize("step", list(MEANWHILE))
async def test_a_role_that_is_revoked_between_two_transactions(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What takes several of them looks it up in each, the last one as well."""
    admin, user = person(memory, A), memory.user()
    await memory.accounts.begin(user.user_id, Client())

    async def revoke(*_: object) -> object:
        memory.tables.roles[admin.user_id] = U
        return ([], False) if "leave" in step else False

    monkeypatch.setattr(step, revoke)
    with pytest.raises(ChatError, match="forbidden"):
        await MEANWHILE[step](memory, admin, user.user_id)
    assert user.user_id in memory.tables.users and all(one.is_live for one in memory.tables.sessions.values())


@pytest.mark.parametrize("act", ["moderator", "application"])
@pytest.mark.parametrize("are_known", [True, False], ids=["there before", "meanwhile"])
async def test_very_many_sessions_end(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, act: str, *, are_known: bool
) -> None:
    """No transaction ends more sessions than a piece has, but the last one says so and ends the connections. That one
    ends all that are left, however many have come meanwhile. Who may not end them ends none."""
    user, moderator = memory.user(), person(memory, M)
    tokens = [await memory.accounts.begin(user.user_id, Client()) for _ in range(11)]
    sizes: list[int] = []

    async def revoke(conn: Any, user_id: UUID) -> int:
        assert user_id == user.user_id and memory.publisher.published == []
        live = [one for one, session in memory.tables.sessions.items() if session.is_live]
        for one in live[:3]:
            memory.tables.sessions[one] = replace(memory.tables.sessions[one], is_live=False)
        sizes.append(len(live[:3]))
        return sizes[-1]

    async def has_more(conn: Any, user_id: UUID) -> bool:
        return are_known and sum(session.is_live for session in memory.tables.sessions.values()) > 3

    monkeypatch.setattr("store.postgres.moderation.REVOKED", 3)
    monkeypatch.setattr("store.postgres.moderation.revoke_sessions_of", revoke)
    monkeypatch.setattr("store.postgres.moderation.has_more_sessions", has_more)
    refusal = await refused(memory, memory.moderation.end_sessions(memory.user(), user.user_id, "why"))
    assert refusal.code == "forbidden" and sizes == []
    memory.database.steps.clear()
    if act == "moderator":
        await memory.moderation.end_sessions(moderator, user.user_id, "why")
    else:
        await memory.accounts.end_all(user.user_id, admin=None, by="an application")
    assert sizes == [3, 3, 3, 2] and memory.database.steps.count("commit") == (5 if are_known else 2)
    assert len(memory.publisher.published) == 1
    for ended in tokens:
        with pytest.raises(ChatError, match="unauthenticated"):
            await memory.accounts.refresh(ended.refresh_token, Client())


@pytest.mark.parametrize("name", list(ACTS))
async def test_nothing_is_half_done(memory: Memory, name: str) -> None:
    """An act is written and noted, or neither; and what ends connections is announced, or was not committed."""

    async def arrange(memory: Memory) -> Any:
        other = memory.user()
        memory.tables.bans[other.user_id] = SOON
        return lambda: ACTS[name](memory, None, other.user_id)

    if name in ("ban", "end_sessions"):
        await nothing_half_done(arrange)
    await (await arrange(memory))()
    at = memory.database.steps.index("commit") + 1
    memory = Memory()
    act = await arrange(memory)
    before = memory.tables.copy()
    memory.database.steps.clear()
    memory.database.fails_at = at
    with pytest.raises(Exception, match="away"):
        await act()
    assert memory.tables.copy() == before


async def test_the_audit_log(memory: Memory) -> None:
    """Administrators page through it, the newest entry first, filtered; others do not see it."""
    admin, moderator, other = person(memory, A), person(memory, M), memory.user()
    await memory.accounts.begin(other.user_id, Client("browser", "203.0.113.77"))
    for _ in range(3):
        await memory.moderation.end_sessions(moderator, other.user_id, "why")
    memory.publisher.published.clear()
    for who in (moderator, other):
        call = memory.moderation.list_audit(who, Filter(), 9, None)
        assert (await refused(memory, call)).code == "forbidden"
    found: list[model.AuditEntry] = []
    cursor: str | None = None
    while True:
        page, cursor = await memory.moderation.list_audit(admin, Filter(), 2, cursor)
        found += page
        if cursor is None:
            break
    assert [one.act for one in found] == ["sessionsEnded"] * 3 + ["signIn"]
    assert (found[-1].address, found[-1].actor_id, found[0].reason) == ("203.0.113.0/24", other.user_id, "why")
    only = Filter(model.Act.SIGN_IN, other.user_id, other.user_id)
    assert [one.act for one in (await memory.moderation.list_audit(None, only, 9, None))[0]] == ["signIn"]
