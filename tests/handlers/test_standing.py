"""handlers.standing: who may act, and in which role."""

from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from handlers import standing
from handlers.errors import ChatError
from handlers.model import Caller, Client
from store.model import FOR_EVER, UserRole
from store.postgres.connection import Connection
from tests.handlers.memory import Memory

PAST = "2020-01-01T00:00:00.000Z"


async def asked(memory: Memory, question: Callable[[Connection], Awaitable[object]]) -> object:
    async with memory.database.connection() as conn:
        try:
            return await question(conn)
        except ChatError as error:
            return error.code


@pytest.mark.parametrize("role", list(UserRole))
async def test_roles(memory: Memory, role: UserRole) -> None:
    """A role is what is granted now, and nothing for who is banned; a token that claims more counts for more."""
    one = memory.user()
    memory.tables.roles[one.user_id] = role
    claims = replace(one, is_admin=True)
    assert await asked(memory, lambda conn: standing.role_of(conn, one)) is role
    assert await asked(memory, lambda conn: standing.role_of(conn, claims)) is UserRole.ADMINISTRATOR
    for least in UserRole:
        may = standing.RANK[role] >= standing.RANK[least]
        assert await asked(memory, lambda conn, least=least: standing.has_role(conn, one, least)) is may  # type: ignore[misc]
        answer = await asked(memory, lambda conn, least=least: standing.require_role(conn, one, least))  # type: ignore[misc]
        assert answer == (role if may else "forbidden")
        operator = await asked(memory, lambda conn, least=least: standing.require_role(conn, None, least))  # type: ignore[misc]
        assert operator is UserRole.ADMINISTRATOR
    memory.tables.bans[one.user_id] = FOR_EVER
    for caller in (one, claims):
        assert await asked(memory, lambda conn, caller=caller: standing.role_of(conn, caller)) is UserRole.USER  # type: ignore[misc]
    del memory.tables.users[one.user_id]
    assert await asked(memory, lambda conn: standing.role_of(conn, claims)) is UserRole.USER


async def test_who_is_refused(memory: Memory) -> None:
    """Who is gone, who is banned, and a session that has ended; a ban that is over is none."""
    one, gone = memory.user(), Caller(memory.user().user_id, 0.0)
    session = (await memory.accounts.begin(one.user_id, Client())).session_id
    del memory.tables.users[gone.user_id]

    async def good(caller: Caller) -> object:
        return await asked(memory, lambda conn: standing.require_good(conn, caller.user_id, session))

    assert [await good(one), await good(gone)] == [None, "unauthenticated"]
    memory.tables.bans[one.user_id] = PAST
    assert await good(one) is None
    memory.tables.bans[one.user_id] = FOR_EVER
    assert await good(one) == "banned"
    del memory.tables.bans[one.user_id]
    await memory.moderation.end_sessions(None, one.user_id)
    assert await good(one) == "unauthenticated"


@pytest.mark.parametrize(("until", "said"), [(FOR_EVER, "for good"), ("2030-01-01T00:00:00.000Z", "until 2030")])
def test_what_it_says(until: str, said: str) -> None:
    """The time is in the sentence, for people, and by itself, for programs."""
    error = standing.banned(until)
    assert said in error.sentence and error.detail == {"until": until}
