"""handlers.users: who may register, change and erase an account, and what others see of it."""

from uuid import UUID

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from handlers import page_cursors, users
from handlers.model import Caller, Client, CreateUser, Once, UpdatePrivacy, UpdateStatus, UpdateUser
from handlers.preconditions import of_account
from handlers.users import LEAVE_AT_ONCE, MAX_QUERY, REGISTRATION_KEY, REGISTRATION_WINDOW
from store.errors import Unavailable
from store.ids import new_id
from store.model import Privacy, Role, UserRole, UserStatus
from store.postgres.idempotency import REGISTRATION_SCOPE
from store.postgres.users import By, Position
from store.redis.inbox_entries import Disconnection
from tests.handlers.database import EXPIRES, NOW
from tests.handlers.memory import Act, Memory, at_every_step, refused

LONG_KEY = "k" * REGISTRATION_KEY
ANYBODY = Caller(new_id(), EXPIRES)


# -- registration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "a b\n", " a", "a ", "-a", "a.", "a" * 65, "a\u200bb", "\u3164", "a/b", "\ud800", "a\0"]
)
async def test_usernames_that_are_none(memory: Memory, name: str) -> None:
    """The error says the rule, and no user is made."""
    error = await refused(memory, memory.users.create(CreateUser(name)))
    assert error.code == "invalid_request" and error.errors == {"username": users.USERNAME_RULE}


@pytest.mark.parametrize("name", ["a", "a" * 64, "a.b_c-d@e+f g", "grüße", "名前", "0", "_"])
async def test_usernames(memory: Memory, name: str) -> None:
    """What the rule allows is taken, to its last character, and is the display name of who gives none to see."""
    for shown in (None, "", "   ", "\u200d"):
        memory.tables.users.clear()
        made = await memory.users.create(CreateUser(name, shown))
        assert (made.username, made.display_name) == (name, name)


async def test_a_username_is_of_one(memory: Memory) -> None:
    """A second user is refused, in another case, too; the first stays as they are."""
    await memory.users.create(CreateUser("Maria"))
    for name in ("Maria", "mARIA"):
        assert (await refused(memory, memory.users.create(CreateUser(name)))).code == "username_taken"


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("displayName", CreateUser("a", "two\nlines")),
        ("displayName", CreateUser("a", "a\u202eb")),
        ("email", CreateUser("a", None, "a@b@c")),
        ("email", CreateUser("a", None, "no address")),
        ("email", CreateUser("a", None, "a@ b")),
    ],
)
async def test_what_a_registration_may_not_say(memory: Memory, field: str, request_: CreateUser) -> None:
    """The error names the field, as the client calls it."""
    error = await refused(memory, memory.users.create(request_))
    assert error.code == "invalid_request" and list(error.errors) == [field]


@pytest.mark.parametrize("length", [0, 1, REGISTRATION_KEY - 1])
async def test_a_key_that_could_be_guessed(memory: Memory, length: int) -> None:
    """The answer to a repeated registration has tokens: a short key gets nothing, not even a new user."""
    error = await refused(memory, memory.users.create(CreateUser("a"), Once("k" * length, b"")))
    assert error.code == "invalid_request" and list(error.errors) == ["Idempotency-Key"]


async def test_registered_once(memory: Memory) -> None:
    """The repeated request is answered with the same account; another request with the key is refused."""
    request = CreateUser("a")
    first = await memory.users.create(request, Once(LONG_KEY, b"it"))
    assert await memory.users.create(request, Once(LONG_KEY, b"it")) == first and len(memory.tables.users) == 1
    other = memory.users.create(CreateUser("b"), Once(LONG_KEY, b"another"))
    assert (await refused(memory, other)).code == "idempotency_mismatch"


@pytest.mark.parametrize(("seconds", "is_known"), [(-1.0, True), (1.0, False)])
async def test_registered_long_ago(memory: Memory, seconds: float, is_known: bool) -> None:
    """A key is good for the window: who finds one later gets no tokens for it."""
    request, once = CreateUser("a"), Once(LONG_KEY, b"it")
    made = await memory.users.create(request, once)
    old = msgspec.structs.replace(made, id=type(made.id)(int=made.id.int - (int(60_000 * 10 + seconds * 1000) << 80)))
    assert REGISTRATION_WINDOW == 600.0
    memory.tables.users = {old.id: old}
    memory.tables.creations[REGISTRATION_SCOPE, LONG_KEY] = (b"it", old.id)
    if is_known:
        assert await memory.users.create(request, once) == old
    else:
        assert (await refused(memory, memory.users.create(request, once))).code == "username_taken"


async def test_registered_and_erased(memory: Memory) -> None:
    """The repeated request does not bring back who was erased meanwhile."""
    once = Once(LONG_KEY, b"it")
    made = await memory.users.create(CreateUser("a"), once)
    await memory.users.delete(Caller(made.id, EXPIRES), made.id)
    memory.publisher.published.clear()
    assert (await refused(memory, memory.users.create(CreateUser("a"), once))).code == "unauthenticated"


# -- standing ---------------------------------------------------------------------------------


async def test_whose_token_is_good(memory: Memory) -> None:
    """Not that of a user who is gone, nor one of a session that has ended; of no session is good."""
    caller = memory.user()
    await memory.users.require(caller)
    tokens = await memory.accounts.begin(caller.user_id, Client("a client"))
    signed_in = Caller(caller.user_id, EXPIRES, session_id=tokens.session_id)
    await memory.users.require(signed_in)
    await memory.accounts.logout(signed_in)
    memory.publisher.published.clear()
    for one in (signed_in, Caller(caller.user_id, EXPIRES, session_id=new_id()), Caller(new_id(), EXPIRES)):
        assert (await refused(memory, memory.users.require(one))).code == "unauthenticated"


# -- what is shown ----------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", UserStatus)
@pytest.mark.parametrize("is_there", [False, True])
async def test_the_status_that_others_see(memory: Memory, chosen: UserStatus, is_there: bool) -> None:
    """The one chosen while they are connected, else Offline; the one chosen while that is not known."""
    caller = memory.user()
    memory.tables.users[caller.user_id] = msgspec.structs.replace(memory.tables.users[caller.user_id], status=chosen)
    memory.connected.there = {caller.user_id} if is_there else set()
    expected = chosen if is_there else UserStatus.OFFLINE
    assert (await memory.users.get(caller, caller.user_id)).status is expected
    [found] = (await memory.users.search(ANYBODY, "", 10, None))[0]
    assert found.status is expected
    assert (await memory.users.me(caller)).status is chosen
    memory.connected.is_away = True
    assert (await memory.users.get(caller, caller.user_id)).status is chosen


async def test_others_see_no_email(memory: Memory) -> None:
    """It is in one's own account only."""
    made = await memory.users.create(CreateUser("a", None, "a@example.org"))
    assert b"example.org" not in msgspec.json.encode(await memory.users.get(memory.user(), made.id))
    assert b"example.org" not in msgspec.json.encode((await memory.users.search(ANYBODY, "a", 10, None))[0])
    assert (await memory.users.me(Caller(made.id, EXPIRES))).email == "a@example.org"


async def test_who_does_not_exist(memory: Memory) -> None:
    """A stranger is not found; one's own account gone is a token no longer good."""
    assert (await refused(memory, memory.users.get(memory.user(), new_id()))).code == "not_found"
    gone = Caller(new_id(), EXPIRES)
    for call in (memory.users.me(gone), memory.users.update(gone, UpdateUser("x"))):
        assert (await refused(memory, call)).code == "unauthenticated"
    assert memory.connected.changed == []


# -- search -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "is_good"), [("q" * MAX_QUERY, True), ("q" * (MAX_QUERY + 1), False), ("a\0", False)])
async def test_what_may_be_searched(memory: Memory, q: str, is_good: bool) -> None:
    """To the last character of the bound; the error names the parameter, and nothing is read."""
    if is_good:
        assert await memory.users.search(ANYBODY, q, 10, None) == ([], None)
    else:
        error = await refused(memory, memory.users.search(ANYBODY, q, 10, None))
        assert error.code == "invalid_request" and list(error.errors) == ["q"] and memory.database.steps == []


async def test_a_search_in_pages(memory: Memory) -> None:
    """Each user once over all pages, whatever the size of a page."""
    for number in range(7):
        memory.user(f"name {number}")
    for limit in (1, 2, 7, 8):
        found, cursor = [], None
        while True:
            items, cursor = await memory.users.search(ANYBODY, "NAME", limit, cursor)
            found += [item.username for item in items]
            if cursor is None:
                break
        assert found == [f"name {number}" for number in range(7)]


@given(after=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40), by=st.sampled_from(By))
def test_a_place_in_a_search(after: str, by: By) -> None:
    """It comes back as it was written, whatever the name has in it, newlines too."""
    position = Position(after, new_id(), by)
    assert (
        users._decode_position(page_cursors.decode_text(page_cursors.encode_text(users._encode_position(position))))
        == position
    )


@pytest.mark.parametrize("text", ["x\n" + "0" * 32, "u\nno id", "u\n", "\n" + "0" * 32, "uname\n" + "g" * 32])
async def test_places_that_are_none(memory: Memory, text: str) -> None:
    """A cursor that was not made here is refused, before anything is read."""
    cursor = page_cursors.encode_text(text)
    assert (await refused(memory, memory.users.search(ANYBODY, "", 10, cursor))).code == "invalid_cursor"
    assert memory.database.steps == []


async def test_a_cursor_of_an_older_instance(memory: Memory) -> None:
    """Which has only a name: the search goes on after it, whatever its case."""
    for name in ("a", "B", "c"):
        memory.user(name)
    found, _ = await memory.users.search(ANYBODY, "", 10, page_cursors.encode_text("B"))
    assert [user.username for user in found] == ["c"]


# -- changing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "update"),
    [
        ("displayName", UpdateUser("")),
        ("displayName", UpdateUser("  ")),
        ("displayName", UpdateUser("a\nb")),
        ("avatarUrl", UpdateUser(avatar_url="http://example.org/a.png")),
        ("avatarUrl", UpdateUser(avatar_url="https://user@example.org/a.png")),
        ("avatarUrl", UpdateUser(avatar_url="https://example.org/ü")),
        ("avatarUrl", UpdateUser(avatar_url="javascript:alert(1)")),
        ("avatarUrl", UpdateUser(avatar_url="")),
        ("email", UpdateUser(email="")),
        ("email", UpdateUser(email="x")),
        ("statusText", UpdateUser(status_text="a\nb")),
    ],
)
async def test_what_an_account_may_not_say(memory: Memory, field: str, update: UpdateUser) -> None:
    """The error names the field; no other field of the request is changed either."""
    caller = memory.user()
    update = msgspec.structs.replace(update, **({} if field == "displayName" else {"display_name": "another"}))
    error = await refused(memory, memory.users.update(caller, update))
    assert error.code == "invalid_request" and list(error.errors) == [field]


async def test_what_is_left_out_stays(memory: Memory) -> None:
    """Null takes a field away; the display name, which every user has, stays with null."""
    caller = memory.user()
    full = UpdateUser("name", "https://example.org/a.png", "a@example.org", "here")
    before = await memory.users.update(caller, full)
    assert await memory.users.update(caller, UpdateUser()) == before
    assert await memory.users.update(caller, UpdateUser(None)) == before
    after = await memory.users.update(caller, UpdateUser(avatar_url=None, email=None, status_text=None))
    assert (after.display_name, after.avatar_url, after.email, after.status_text) == ("name", None, None, None)


async def test_a_new_status_is_announced(memory: Memory) -> None:
    """Once, after it was written; a profile without a word of the status is not."""
    caller = memory.user()
    await memory.users.update(caller, UpdateUser("name"))
    assert memory.connected.changed == []
    await memory.users.update(caller, UpdateUser(status_text="here"))
    await memory.users.update(caller, UpdateUser(status_text=None))
    await memory.users.update_status(caller, UpdateStatus("away"))
    assert memory.connected.changed == 3 * [caller.user_id]
    assert (await memory.users.me(caller)).status is UserStatus.AWAY


@pytest.mark.parametrize("status", ["Invisible", "", "\ud800", -1, 4, 2**63])
async def test_no_such_status(memory: Memory, status: str | int) -> None:
    """The error names those there are, and nothing is announced."""
    error = await refused(memory, memory.users.update_status(memory.user(), UpdateStatus(status)))
    assert error.code == "invalid_request" and error.errors == {"status": "Online, Away, Busy, Offline"}
    assert memory.connected.changed == []


async def test_an_outdated_etag(memory: Memory) -> None:
    """Changed since: nothing is done or announced, neither to the profile nor to the status."""
    caller = memory.user()
    seen = of_account(await memory.users.me(caller))
    await memory.users.update(caller, UpdateUser("changed meanwhile"))
    for call in (
        memory.users.update(caller, UpdateUser("x", status_text="here"), if_match=[seen]),
        memory.users.update_status(caller, UpdateStatus("Busy"), if_match=[seen]),
    ):
        assert (await refused(memory, call)).code == "precondition_failed"
    assert memory.connected.changed == []
    seen = of_account(await memory.users.me(caller))
    assert (await memory.users.update(caller, UpdateUser("x"), if_match=[seen])).display_name == "x"


@pytest.mark.parametrize("call", ["update", "status"])
async def test_nothing_is_announced_that_was_not_written(memory: Memory, call: str) -> None:
    """The database goes away at any step: the account is as it was, and no user hears of a new status."""

    async def arrange(world: Memory) -> Act:
        caller = world.user()
        seen = [of_account(world.tables.users[caller.user_id])]
        if call == "update":
            return lambda: world.users.update(caller, UpdateUser(status_text="here"), if_match=seen)
        return lambda: world.users.update_status(caller, UpdateStatus("Busy"), if_match=seen)

    for step, world, before, _ in await at_every_step(arrange):
        assert world.tables.copy() == before and world.connected.changed == [], step


# -- erasure ----------------------------------------------------------------------------------


async def test_who_may_erase(memory: Memory) -> None:
    """Oneself, and anybody for an administrator: others are refused, whether the user exists or not, and who was to be
    erased is where they were."""
    one, other, admin = memory.user(), memory.user(), memory.user()
    group = memory.group((other, Role.OWNER), (one, Role.MEMBER))
    for target in (other.user_id, new_id()):
        assert (await refused(memory, memory.users.delete(one, target))).code == "forbidden"
    await memory.users.delete(one, one.user_id)
    memory.tables.roles[admin.user_id] = UserRole.MODERATOR
    memory.publisher.published.clear()
    assert (await refused(memory, memory.users.delete(admin, other.user_id))).code == "forbidden"
    assert (group, other.user_id) in memory.tables.members
    administrator = msgspec.structs.replace(admin, is_admin=True)
    await memory.users.delete(administrator, other.user_id)
    noted = [(entry.act, entry.actor_id, entry.user_id) for entry in memory.tables.audit.values()]
    assert noted == [("userErased", who.user_id, whom.user_id) for who, whom in ((one, one), (admin, other))]
    assert set(memory.tables.users) == {admin.user_id}
    memory.publisher.published.clear()
    assert (await refused(memory, memory.users.delete(administrator, other.user_id))).code == "not_found"


@pytest.mark.parametrize("groups", [0, 1, LEAVE_AT_ONCE, 2 * LEAVE_AT_ONCE + 1])
async def test_erased_everywhere(memory: Memory, groups: int) -> None:
    """They leave every conversation, few in one transaction, and their connections end with the last of them."""
    user, other = memory.user(), memory.user()
    for _ in range(groups):
        memory.group((other, Role.OWNER), (user, Role.MEMBER))
    await memory.users.delete(user, user.user_id)
    assert not [one for _, one in memory.tables.members if one == user.user_id]
    assert len({change.conversation_id for change in memory.publisher.changes}) == groups
    assert all(len(changes) <= LEAVE_AT_ONCE for changes, _ in memory.publisher.published)
    *earlier, (_, disconnection) = memory.publisher.published
    assert (
        isinstance(disconnection, Disconnection)
        and disconnection.user_id == user.user_id
        and disconnection.session_id is None
    )
    assert all(said is None for _, said in earlier)


async def test_an_erasure_that_breaks_off(memory: Memory) -> None:
    """It may stop between its transactions: what is done is published, and done again it goes on to its end."""

    async def arrange(world: Memory) -> Act:
        user, other = world.user("user"), world.user()
        for _ in range(LEAVE_AT_ONCE + 1):
            world.group((other, Role.OWNER), (user, Role.MEMBER))
        return lambda: world.users.delete(user, user.user_id)

    for step, world, _, act in await at_every_step(arrange):
        assert world.tables.outbox == tuple(world.publisher.published), step
        [user_id] = [one.id for one in world.tables.users.values() if one.username == "user"]
        world.database.fails_at = 0
        await act()
        assert user_id not in world.tables.users and not [one for _, one in world.tables.members if one == user_id]


@pytest.mark.parametrize("fails", [False, True])
async def test_an_erasure_of_much(memory: Memory, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """What is left of who was erased is deleted piece by piece, behind their connections' end; that it fails is logged,
    and they are erased."""
    user, left = memory.user(), 3

    async def forget_some(conn: object, user_id: UUID, limit: int = 0) -> int | None:
        nonlocal left
        assert user_id == user.user_id and len(memory.publisher.published) >= 1
        left -= 1
        if fails:
            raise Unavailable("away")
        return left if left >= 0 else None

    monkeypatch.setattr("store.postgres.users.forget_some", forget_some)
    with structlog.testing.capture_logs() as logged:
        await memory.users.delete(user, user.user_id)
    assert user.user_id not in memory.tables.users and left == (2 if fails else -1)
    assert [entry["event"] for entry in logged] == ["erasure_unfinished"] * fails


async def test_registration_while_the_database_is_away(memory: Memory) -> None:
    """Neither a user nor a key is there afterwards, wherever it breaks off."""

    async def arrange(world: Memory) -> Act:
        return lambda: world.users.create(CreateUser("a"), Once(LONG_KEY, b"it"))

    for step, world, before, _ in await at_every_step(arrange):
        assert world.tables.copy() == before, step


async def test_a_search_while_the_database_is_away(memory: Memory) -> None:
    """It is Unavailable, which means: again."""
    memory.database.fails_at = 1
    with pytest.raises(Unavailable):
        await memory.users.search(ANYBODY, "", 10, None)


def test_left_out_is_not_null() -> None:
    """A client that writes null means it; one that leaves the field out does not."""
    decode = msgspec.json.Decoder(UpdateUser).decode
    assert decode(b"{}").email is UNSET and decode(b'{"email": null}').email is None
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"displayName": ""}')


# -- privacy ----------------------------------------------------------------------------------


async def test_privacy(memory: Memory) -> None:
    """All is shown until one chooses; what is left out stays; every instance hears of each choice, in order."""
    caller = memory.user()
    assert await memory.users.privacy(caller) == Privacy()
    for request, expected in (
        (UpdatePrivacy(typing=False), Privacy(typing=False)),
        (UpdatePrivacy(last_seen=False, typing=None), Privacy(typing=False, last_seen=False)),
        (UpdatePrivacy(typing=True), Privacy(last_seen=False)),
    ):
        assert await memory.users.update_privacy(caller, request) == expected
        assert await memory.users.privacy(caller) == expected
        assert memory.connected.hidden[-1][:2] == (caller.user_id, expected)
    versions = [version for _, _, version in memory.connected.hidden]
    assert versions == sorted(set(versions)) and len(versions) == 3


async def test_privacy_of_users_who_are_gone(memory: Memory) -> None:
    """Is neither read nor chosen, and no instance hears of it."""
    for call in (memory.users.privacy(ANYBODY), memory.users.update_privacy(ANYBODY, UpdatePrivacy(typing=False))):
        assert (await refused(memory, call)).code == "unauthenticated"
    assert memory.connected.hidden == []


async def test_last_seen(memory: Memory) -> None:
    """Of who hides it no other user sees it, and they see none of others; in profiles, searches and presence."""
    hiding, other = memory.user("hiding"), memory.user("other")
    for caller in (hiding, other):
        account = memory.tables.users[caller.user_id]
        memory.tables.users[caller.user_id] = replace(account, last_seen_at=NOW)
    await memory.users.update_privacy(hiding, UpdatePrivacy(last_seen=False))
    ids = [hiding.user_id, other.user_id]
    for viewer, expected in ((hiding, [NOW, None]), (other, [None, NOW]), (memory.user("third"), [None, NOW])):
        got = [(await memory.users.get(viewer, user_id)).last_seen_at for user_id in ids]
        searched = [user.last_seen_at for user in (await memory.users.search(viewer, "", 2, None))[0]]
        present = [one.last_seen_at for one in await memory.presence.get(viewer, memory.connected, ids)]
        noticed = {one.user_id: one.last_seen_at for one in await memory.presence.status_notices(ids, (), {})}
        # What a user sees of themselves is theirs.
        assert got[1] == searched[1] == present[1] == expected[1] and got[0] == searched[0] == present[0]
        assert (got[0] == NOW) is (viewer is hiding)
        assert [noticed[one] for one in ids] == [None, NOW]
