"""handlers.provisioning: one external id is one user, and what an application says of them is what is kept."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from handlers.errors import ChatError
from handlers.model import Caller, Client, CreateUser, ProvisionedUser, ProvisionUser
from handlers.provisioning import own
from store.model import UserRole
from store.postgres import external_ids
from store.postgres.connection import Connection
from tests.handlers.memory import Act, Memory, at_every_step, refused

ADA = ProvisionUser(display_name="Ada Lovelace", email="ada@example.org", avatar_url="https://example.org/a.png")


async def test_made_once_and_changed_after(memory: Memory) -> None:
    """The first time makes a user; the same again changes nothing; what is left out stays, what is null goes."""
    ada, is_new = await memory.provisioning.put("42", ADA)
    assert is_new and (ada.external_id, ada.username, ada.display_name) == ("42", "Ada Lovelace", "Ada Lovelace")
    memory.database.steps.clear()
    assert await memory.provisioning.put("42", ADA) == (ada, False)
    assert "update_user" not in memory.database.steps
    changed, _ = await memory.provisioning.put("42", ProvisionUser(display_name="Ada", avatar_url=None))
    assert changed == replace(ada, display_name="Ada", avatar_url=None)
    assert await memory.provisioning.put("42", ProvisionUser(username="other")) == (changed, False)
    assert len(memory.tables.users) == 1 and await memory.provisioning.get("42") == changed


async def test_usernames(memory: Memory) -> None:
    """One that is asked for and taken is refused; one that is made of the name becomes another one; without a name,
    or with one that is no username, there is one all the same."""
    memory.user("ada")
    problem = await refused(memory, memory.provisioning.put("1", ProvisionUser(username="ada")))
    assert (problem.code, *problem.errors) == ("username_taken", "username")
    for number, request in enumerate((ProvisionUser(display_name="ada"), ProvisionUser(), ProvisionUser(None, "🙂"))):
        made, _ = await memory.provisioning.put(f"x{number}", request)
        assert made.username.startswith("ada-" if request.display_name == "ada" else "app-user")
        assert made.display_name == request.display_name or made.display_name == made.username


@pytest.mark.parametrize(
    "external_id", ["", ".", "..", ".x", "a/b", "a\\b", "a b", "é", "x" * 256, "a\n", "\x7f", "\ud800"]
)
async def test_what_is_no_external_id(memory: Memory, external_id: str) -> None:
    """What cannot stand in a path, or in a header, as it is."""
    problem = await refused(memory, memory.provisioning.put(external_id, ProvisionUser()))
    assert (problem.code, *problem.errors) == ("invalid_request", "externalId")


@pytest.mark.parametrize("external_id", ["0", "auth0|5f7c", "a@example.org", "~!$&'()*+,;=:%23?#", "x" * 255])
async def test_what_is_one(memory: Memory, external_id: str) -> None:
    """What issuers of tokens call their users; a case is another id."""
    made, _ = await memory.provisioning.put(external_id, ProvisionUser())
    assert made.external_id == external_id
    other, is_new = await memory.provisioning.put(external_id.swapcase(), ProvisionUser())
    assert is_new is (external_id.swapcase() != external_id) and (other.id != made.id) is is_new


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ProvisionUser(username="-x-"), "username"),
        (ProvisionUser(display_name="a\nb"), "displayName"),
        (ProvisionUser(email="nonsense"), "email"),
        (ProvisionUser(avatar_url="http://example.org"), "avatarUrl"),
    ],
)
async def test_refused_profiles(memory: Memory, request_: ProvisionUser, field: str) -> None:
    """A wrong field is named, of a new user and of one who is there; in a batch with its place."""
    for _ in range(2):
        assert [*(await refused(memory, memory.provisioning.put("1", request_))).errors] == [field]
        batch = [ProvisionedUser(external_id="0"), ProvisionedUser(*vars_of(request_), external_id="1")]
        assert [*(await refused(memory, memory.provisioning.put_all(batch))).errors] == [f"users[1].{field}"]
        await memory.provisioning.put("1", ProvisionUser())


def vars_of(request: ProvisionUser) -> list[Any]:
    return [getattr(request, name) for name in request.__struct_fields__]


async def test_a_batch(memory: Memory) -> None:
    """All or none, in the order of the request; the same again makes no more; of an id that comes twice, the last."""
    memory.user("taken")
    batch = [ProvisionedUser(f"user-{one}", external_id=str(one)) for one in (3, 1, 2)]
    made = await memory.provisioning.put_all(batch)
    assert [user.external_id for user in made] == ["3", "1", "2"]
    assert await memory.provisioning.put_all(batch[::-1]) == made[::-1]
    fresh = ProvisionedUser(external_id="4")
    problem = await refused(memory, memory.provisioning.put_all([fresh, ProvisionedUser("taken", external_id="5")]))
    assert (problem.code, *problem.errors) == ("username_taken", "users[1].username")
    assert len(memory.tables.users) == 4
    first, last = await memory.provisioning.put_all([fresh, ProvisionedUser(display_name="Last", external_id="4")])
    assert first.id == last.id and memory.tables.users[first.id].display_name == "Last"


async def test_ids_are_claimed_in_one_order(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order of a batch is: two that make the same users in another order would wait in a circle."""
    claimed: list[str] = []

    async def note(conn: Connection, external_id: str, user_id: UUID) -> bool:
        claimed.append(external_id)
        return await claim_id(conn, external_id, user_id)

    claim_id = external_ids.claim_id
    monkeypatch.setattr(external_ids, "claim_id", note)
    await memory.provisioning.put_all([ProvisionedUser(f"user-{one}", external_id=str(one)) for one in (3, 1, 2)])
    assert claimed == ["1", "2", "3"]


async def test_who_was_erased(memory: Memory) -> None:
    """Is found by no id, is not brought back by a token, and by the application as another user without their past."""
    ada, _ = await memory.provisioning.put("42", ADA)
    await memory.users.delete(replace(memory.user(), user_id=ada.id), ada.id)
    for finding in (memory.provisioning.get("42"), memory.provisioning.find(external_id="42")):
        with pytest.raises(ChatError, match="not_found"):
            await finding
    async with memory.database.connection() as conn:
        with pytest.raises(ChatError, match="unauthenticated"):
            await own(conn, "42", revives=False)
    again, is_new = await memory.provisioning.put("42", ProvisionUser(display_name="Ada"))
    assert is_new and again.id != ada.id and again.email is None


BY_ADMINISTRATORS: dict[str, Callable[[Memory, Caller, UUID], Awaitable[object]]] = {
    "put": lambda memory, admin, user: memory.provisioning.put("42", ADA, admin=admin),
    "batch": lambda memory, admin, user: memory.provisioning.put_all(
        [ProvisionedUser("ada", external_id="42")], admin=admin
    ),
    "mint": lambda memory, admin, user: memory.accounts.grant(user, 60, Client(), admin=admin),
    "end sessions": lambda memory, admin, user: memory.accounts.end_all(user, admin=admin, by="an administrator"),
    "create": lambda memory, admin, user: memory.users.create(CreateUser("ada"), admin=admin),
}


@pytest.mark.parametrize("name", list(BY_ADMINISTRATORS))
async def test_administrators(memory: Memory, name: str) -> None:
    """The transaction that writes looks up their role, whatever was found before: one that was revoked meanwhile, or is
    a lower one, does nothing."""
    admin, user = memory.user(), memory.user()
    for role in (UserRole.USER, UserRole.MODERATOR):
        memory.tables.roles[admin.user_id] = role
        error = await refused(memory, BY_ADMINISTRATORS[name](memory, admin, user.user_id))
        assert error.code == ("registration_closed" if name == "create" else "forbidden")
    memory.tables.roles[admin.user_id] = UserRole.ADMINISTRATOR
    await BY_ADMINISTRATORS[name](memory, admin, user.user_id)


async def test_for_whom(memory: Memory) -> None:
    """A user is found by either id, and it says when there is none, or they are banned."""
    ada, _ = await memory.provisioning.put("42", ADA)
    assert await memory.provisioning.find(external_id="42") == await memory.provisioning.find(user_id=ada.id) == ada.id
    assert (await refused(memory, memory.provisioning.find(external_id="43"))).code == "not_found"
    memory.tables.bans[ada.id] = "2999-01-01T00:00:00.000Z"
    for finding in (memory.provisioning.find(external_id="42"), memory.provisioning.find(user_id=ada.id)):
        assert (await refused(memory, finding)).code == "banned"


async def test_an_outage_leaves_nothing_half_done(memory: Memory) -> None:
    """Wherever the database goes away: the user is there with their id, or neither is; the same again makes them."""

    async def arrange(fresh: Memory) -> Act:
        return lambda: fresh.provisioning.put("42", ADA)

    for step, found, _, act in await at_every_step(arrange):
        assert [owner.user_id for owner in found.tables.external_ids.values()] == list(found.tables.users), step
        found.database.fails_at = 0
        await act()
        assert len(found.tables.users) == 1, step
