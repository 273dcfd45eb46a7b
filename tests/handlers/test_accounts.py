"""handlers.accounts: whose identity it is, and that a refresh token is good once."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from handlers import text_rules
from handlers.accounts import ADDRESS_MAX, CLIENT_MAX, GRACE, printable, username_for
from handlers.errors import ChatError
from handlers.model import Caller, Client, Identity, Once, Tokens
from handlers.refresh_tokens import RefreshTokens
from store.ids import new_id
from store.model import Session
from store.redis.inbox_entries import Disconnection
from store.signing import SigningKeys
from tests.handlers.database import EXPIRES
from tests.handlers.memory import Act, Memory, at_every_step, refused

CLIENT = Client("a browser", "192.0.2.1")
IDENTITY = Identity("idp", "subject", "maria", "Maria")


async def signed_in(memory: Memory) -> tuple[Caller, Tokens]:
    caller = memory.user()
    tokens = await memory.accounts.begin(caller.user_id, CLIENT)
    return Caller(caller.user_id, EXPIRES, session_id=tokens.session_id), tokens


def is_live(memory: Memory, tokens: Tokens) -> bool:
    return memory.tables.sessions[tokens.session_id].is_live


# -- whose it is ------------------------------------------------------------------------------


async def test_known_by_provider_and_subject(memory: Memory) -> None:
    """The same subject of the same provider is the same user, whatever their name and e-mail have become; another one
    with the same e-mail and name is another user."""
    maria = await memory.accounts.sign_in(replace(IDENTITY, email="m@example.org"))
    assert await memory.accounts.sign_in(replace(IDENTITY, username="x", email="x@example.org")) == maria
    for other in (replace(IDENTITY, provider="other"), replace(IDENTITY, subject="other")):
        assert await memory.accounts.sign_in(replace(other, email="m@example.org")) != maria
    assert len(memory.tables.users) == 3 and memory.tables.users[maria].username == "maria"


async def test_registration_closed(memory: Memory) -> None:
    """Who is known signs in; who is not is refused, and no user is made."""
    closed = Memory(admits=False)
    known = closed.user()
    closed.tables.identities["idp", "known"] = known.user_id
    assert await closed.accounts.sign_in(Identity("idp", "known")) == known.user_id
    assert (await refused(closed, closed.accounts.sign_in(IDENTITY))).code == "registration_closed"


async def test_a_username_that_is_taken(memory: Memory) -> None:
    """They get another one that begins like it; the other account is not touched."""
    memory.user("maria")
    found = memory.tables.users[await memory.accounts.sign_in(IDENTITY)]
    assert found.username.startswith("maria-") and found.display_name == "Maria"
    assert text_rules.fits(text_rules.USERNAME, found.username) and len(found.username) <= 64


async def test_no_username_to_be_had(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some attempts they are asked to try again, and neither user nor identity is left."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    long = "m" * 64
    for taken in (long, *(long[:55] + "-" + "0" * zeros for zeros in (2, 4, 6, 8))):
        memory.user(taken)
    error = await refused(memory, memory.accounts.sign_in(replace(IDENTITY, username=long)))
    assert error.code == "unavailable"


async def test_what_a_provider_says_is_not_believed(memory: Memory) -> None:
    """An e-mail, picture or name that breaks our rules is left out; the user is made all the same."""
    odd = Identity("idp", "odd", "\u202e", "\u200b", "x" * 321, "http://example.org/a.png")
    found = memory.tables.users[await memory.accounts.sign_in(odd)]
    assert (found.username, found.display_name, found.email, found.avatar_url) == ("idp-user", "idp-user", None, None)
    good = Identity("idp", "good", "good", None, "x" * 320, "https://example.org/a.png")
    found = memory.tables.users[await memory.accounts.sign_in(good)]
    assert (found.email, found.avatar_url) == (good.email, good.picture)


@pytest.mark.parametrize(
    ("username", "name", "expected"),
    [
        ("maria", "Maria M", "maria"),
        ("maria@example.org", "Maria M", "Maria M"),
        ("maria@example.org", "m@example.org", "idp-user"),
        (None, None, "idp-user"),
        ("", "", "idp-user"),
        ("-- .maria. --", None, "maria"),
        ("m" * 100, None, "m" * 64),
        ("\u3164", "", "idp-user"),
        ("m\ud800", None, "m"),
    ],
)
def test_usernames_of_providers(username: str | None, name: str | None, expected: str) -> None:
    """Never an e-mail address, which is not public, and always one that users could choose themselves."""
    assert username_for(Identity("idp", "s", username, name)) == expected


@given(st.none() | st.text(max_size=80), st.none() | st.text(max_size=80))
def test_any_name_of_a_provider(username: str | None, name: str | None) -> None:
    """Whatever a provider says, the username is one, and has no @."""
    found = username_for(Identity("idp", "s", username, name))
    assert text_rules.fits(text_rules.USERNAME, found) and "@" not in found


async def test_linked(memory: Memory) -> None:
    """Another identity leads to the same user from then on; linked again nothing changes; that of another user is a
    conflict and stays theirs."""
    caller, other = memory.user(), memory.user()
    await memory.accounts.link(caller.user_id, IDENTITY)
    await memory.accounts.link(caller.user_id, IDENTITY)
    assert await memory.accounts.sign_in(IDENTITY) == caller.user_id
    assert (await refused(memory, memory.accounts.link(other.user_id, IDENTITY))).code == "conflict"


async def test_who_may_link(memory: Memory) -> None:
    """Not a user who is gone, nor by the token of a session that was ended meanwhile."""
    caller, tokens = await signed_in(memory)
    assert (await refused(memory, memory.accounts.link(new_id(), IDENTITY))).code == "unauthenticated"
    await memory.accounts.logout(caller)
    memory.publisher.published.clear()
    call = memory.accounts.link(caller.user_id, IDENTITY, session_id=tokens.session_id)
    assert (await refused(memory, call)).code == "unauthenticated"


# -- sessions ---------------------------------------------------------------------------------


async def test_a_session_begun_from_another(memory: Memory) -> None:
    """Only while that one is live: who was signed out does not get in again by it."""
    caller, tokens = await signed_in(memory)
    again = await memory.accounts.begin(caller.user_id, CLIENT, parent=tokens.session_id)
    assert again.session_id != tokens.session_id
    await memory.accounts.logout(caller)
    memory.publisher.published.clear()
    for parent in (tokens.session_id, new_id()):
        call = memory.accounts.begin(caller.user_id, CLIENT, parent=parent)
        assert (await refused(memory, call)).code == "unauthenticated"


async def test_a_code_is_good_once(memory: Memory) -> None:
    """Exchanged a second time, at any later moment, it begins no session."""
    caller, code = memory.user(), new_id()
    await memory.accounts.begin(caller.user_id, CLIENT, code=code)
    assert (await refused(memory, memory.accounts.begin(caller.user_id, CLIENT, code=code))).code == "unauthenticated"
    await memory.accounts.begin(caller.user_id, CLIENT, code=new_id())
    assert len(memory.tables.sessions) == 2


async def test_a_user_who_is_gone_begins_none(memory: Memory) -> None:
    """Deleted since their identity was looked up."""
    assert (await refused(memory, memory.accounts.begin(new_id(), CLIENT))).code == "unauthenticated"


async def test_what_a_client_says_of_itself(memory: Memory) -> None:
    """Is kept without what cannot be seen, and cut."""
    caller = memory.user()
    tokens = await memory.accounts.begin(caller.user_id, Client("a\0b\n" + "c" * 300, "d\ud800" * 100))
    session = memory.tables.sessions[tokens.session_id].session
    assert session.client == "ab" + "c" * (CLIENT_MAX - 2) and session.address == "d" * ADDRESS_MAX
    assert printable(" a ", 2) == "a"


async def test_the_list_is_of_ones_own(memory: Memory) -> None:
    """Live ones, newest first, in pages, and the one that asks is marked."""
    caller, first = await signed_in(memory)
    others = [await memory.accounts.begin(caller.user_id, CLIENT) for _ in range(3)]
    await signed_in(memory)
    await memory.accounts.revoke(caller, others[0].session_id)
    expected = sorted([first.session_id, *(one.session_id for one in others[1:])], reverse=True)
    for limit in (1, 2, 3, 4):
        found: list[Session] = []
        cursor = None
        while True:
            items, cursor = await memory.accounts.list(caller, limit, cursor)
            found += items
            if cursor is None:
                break
        assert [one.id for one in found] == expected
        assert [one.id for one in found if one.current] == [first.session_id]


# -- refreshing -------------------------------------------------------------------------------


async def test_refreshed(memory: Memory) -> None:
    """New tokens of the same session; each is good for the next, and no other instance hears of it."""
    _, tokens = await signed_in(memory)
    seen = {tokens.refresh_token}
    for _ in range(3):
        found = await memory.accounts.refresh(tokens.refresh_token, CLIENT)
        assert found.session_id == tokens.session_id and found.refresh_token not in seen
        tokens = found
        seen.add(tokens.refresh_token)
    assert memory.publisher.published == [] and is_live(memory, tokens)


@pytest.mark.parametrize(("ago", "is_taken"), [(0.0, True), (GRACE, True), (GRACE + 0.1, False)])
async def test_the_answer_was_lost(memory: Memory, ago: float, is_taken: bool) -> None:
    """The token just spent has the same answer again for a moment; after it, it ends the session everywhere."""
    caller, tokens = await signed_in(memory)
    found = await memory.accounts.refresh(tokens.refresh_token, CLIENT)
    row = memory.tables.sessions[tokens.session_id]
    memory.tables.sessions[tokens.session_id] = replace(row, rotated_ago=ago)
    if is_taken:
        assert await memory.accounts.refresh(tokens.refresh_token, CLIENT) == found
        assert is_live(memory, tokens) and memory.publisher.published == []
        return
    with pytest.raises(ChatError, match="unauthenticated"):
        await memory.accounts.refresh(tokens.refresh_token, CLIENT)
    assert not is_live(memory, tokens)
    [(_, disconnection)] = memory.publisher.published
    assert isinstance(disconnection, Disconnection)
    assert (disconnection.user_id, disconnection.session_id) == (caller.user_id, tokens.session_id)


async def test_the_last_but_one_comes_again(memory: Memory) -> None:
    """However soon, a token spent before the last ends its session: two parties have it. Only its own."""
    _, tokens = await signed_in(memory)
    _, other = await signed_in(memory)
    second = await memory.accounts.refresh(tokens.refresh_token, CLIENT)
    third = await memory.accounts.refresh(second.refresh_token, CLIENT)
    with pytest.raises(ChatError, match="unauthenticated"):
        await memory.accounts.refresh(tokens.refresh_token, CLIENT)
    assert not is_live(memory, tokens) and is_live(memory, other)
    for token in (third, second, tokens):
        with pytest.raises(ChatError, match="unauthenticated"):
            await memory.accounts.refresh(token.refresh_token, CLIENT)
    assert len(memory.publisher.published) == 1, "ended once"


async def begun(memory: Memory) -> list[Tokens]:
    """Tokens of a session that was refreshed three times, and PostgreSQL has lost the last two."""
    _, first = await signed_in(memory)
    tokens = [first, await memory.accounts.refresh(first.refresh_token, CLIENT)]
    row = replace(memory.tables.sessions[first.session_id], rotated_ago=1000.0)
    for _ in range(2):
        tokens.append(await memory.accounts.refresh(tokens[-1].refresh_token, CLIENT))
    memory.tables.sessions[first.session_id] = row
    return tokens


async def test_the_database_has_lost_a_refresh(memory: Memory) -> None:
    """The token that was given out goes on as if nothing had happened, and may come twice; one before it ends it."""
    tokens = await begun(memory)
    following = await memory.accounts.refresh(tokens[3].refresh_token, CLIENT)
    assert await memory.accounts.refresh(tokens[3].refresh_token, CLIENT) == following
    last = await memory.accounts.refresh(following.refresh_token, CLIENT)
    assert is_live(memory, last) and not memory.publisher.published
    with pytest.raises(ChatError, match="unauthenticated"):
        await memory.accounts.refresh(tokens[3].refresh_token, CLIENT)
    assert not is_live(memory, last)


@pytest.mark.parametrize("stolen", [1, 2, 3])
@pytest.mark.parametrize("is_first", [False, True])
async def test_a_theft_and_a_lost_refresh(memory: Memory, stolen: int, is_first: bool) -> None:
    """Another party has a stolen token, of what is lost or before it: when both have gone on, the session ends."""
    tokens = await begun(memory)
    users = [tokens[3], tokens[stolen]]
    if is_first:
        users.reverse()
    with pytest.raises(ChatError, match="unauthenticated"):
        for _ in range(4):
            for index in (0, 1):
                users[index] = await memory.accounts.refresh(users[index].refresh_token, CLIENT)
                session = memory.tables.sessions[tokens[0].session_id]
                memory.tables.sessions[tokens[0].session_id] = replace(session, rotated_ago=900.0)
    assert not is_live(memory, tokens[0])


async def test_a_session_that_ended_before_its_refresh_was_lost(memory: Memory) -> None:
    """A token that is ahead revives no session that has ended."""
    tokens = await begun(memory)
    row = memory.tables.sessions[tokens[0].session_id]
    memory.tables.sessions[tokens[0].session_id] = replace(row, is_live=False)
    with pytest.raises(ChatError, match="was ended"):
        await memory.accounts.refresh(tokens[3].refresh_token, CLIENT)


async def test_a_forged_token_ends_nothing(memory: Memory) -> None:
    """It names a session of somebody else's, but has no seal of ours: refused, and the session lives."""
    _, tokens = await signed_in(memory)
    forged, _ = RefreshTokens(SigningKeys("another key")).issue(tokens.session_id)
    for token in (forged, "", "\ud800", "é", "A" * 86, tokens.refresh_token[:-4], tokens.refresh_token + "AAAA"):
        assert (await refused(memory, memory.accounts.refresh(token, CLIENT))).code == "unauthenticated"
    assert is_live(memory, tokens)


async def test_keys_are_exchanged(memory: Memory) -> None:
    """A token sealed with the old key is good while that is accepted, has the same answer again, and is none after."""
    _, tokens = await signed_in(memory)
    memory.keys.replace("a new key", "a key")
    found = await memory.accounts.refresh(tokens.refresh_token, CLIENT)
    assert await memory.accounts.refresh(tokens.refresh_token, CLIENT) == found
    memory.keys.replace("a new key")
    await memory.accounts.refresh(found.refresh_token, CLIENT)
    assert (await refused(memory, memory.accounts.refresh(tokens.refresh_token, CLIENT))).code == "unauthenticated"


async def test_the_key_of_a_refresh(memory: Memory) -> None:
    """An Idempotency-Key that came with another request is refused before the token is spent."""
    _, tokens = await signed_in(memory)
    found = await memory.accounts.refresh(tokens.refresh_token, CLIENT, Once("k", b"one"))
    call = memory.accounts.refresh(found.refresh_token, CLIENT, Once("k", b"other"))
    assert (await refused(memory, call)).code == "idempotency_mismatch"
    await memory.accounts.refresh(found.refresh_token, CLIENT, Once("another", b"other"))


async def test_a_session_that_has_ended(memory: Memory) -> None:
    """Its token refreshes nothing."""
    caller, tokens = await signed_in(memory)
    await memory.accounts.logout(caller)
    memory.publisher.published.clear()
    assert (await refused(memory, memory.accounts.refresh(tokens.refresh_token, CLIENT))).code == "unauthenticated"


# -- ending -----------------------------------------------------------------------------------


async def test_ended_with_its_connections(memory: Memory) -> None:
    """Only one's own sessions: that of another user is not found, and lives. Ended once, and said once."""
    caller, tokens = await signed_in(memory)
    _, theirs = await signed_in(memory)
    for session_id in (theirs.session_id, new_id()):
        assert (await refused(memory, memory.accounts.revoke(caller, session_id))).code == "not_found"
    await memory.accounts.revoke(caller, tokens.session_id)
    [(changes, disconnection)] = memory.publisher.published
    assert changes == () and isinstance(disconnection, Disconnection) and disconnection.session_id == tokens.session_id
    with pytest.raises(ChatError, match="not_found"):
        await memory.accounts.revoke(caller, tokens.session_id)
    await memory.accounts.logout(caller)  # it has ended already, which is what is wanted
    assert len(memory.publisher.published) == 1 and is_live(memory, theirs)


async def test_logout_of_no_session(memory: Memory) -> None:
    """A token that came from elsewhere cannot be ended: conflict says so."""
    assert (await refused(memory, memory.accounts.logout(memory.user()))).code == "conflict"


ACTS: Mapping[str, Callable[[Memory, Caller, Tokens], Awaitable[Any]]] = {
    "begin": lambda memory, caller, tokens: memory.accounts.begin(caller.user_id, CLIENT, code=new_id()),
    "sign in": lambda memory, caller, tokens: memory.accounts.sign_in(IDENTITY),
    "link": lambda memory, caller, tokens: memory.accounts.link(caller.user_id, IDENTITY),
    "refresh": lambda memory, caller, tokens: memory.accounts.refresh(tokens.refresh_token, CLIENT, Once("k", b"")),
    "revoke": lambda memory, caller, tokens: memory.accounts.revoke(caller, tokens.session_id),
    "logout": lambda memory, caller, tokens: memory.accounts.logout(caller),
}


@pytest.mark.parametrize("name", ACTS)
async def test_nothing_half_done(memory: Memory, name: str) -> None:
    """Wherever the database goes away: no user without an identity, no token spent without its answer, no session ended
    without a word to its connections; and the same request works once it is back."""

    async def arrange(world: Memory) -> Act:
        caller, tokens = await signed_in(world)
        return lambda: ACTS[name](world, caller, tokens)

    for step, world, before, act in await at_every_step(arrange):
        assert world.tables.copy() == before and world.publisher.published == [], step
        world.database.fails_at = 0
        await act()


async def test_a_stolen_token_while_the_database_is_away(memory: Memory) -> None:
    """The session is ended, or the token is no better than before: it is never answered with tokens."""

    async def arrange(world: Memory) -> Act:
        _, tokens = await signed_in(world)
        second = await world.accounts.refresh(tokens.refresh_token, CLIENT)
        await world.accounts.refresh(second.refresh_token, CLIENT)

        async def present() -> None:
            try:
                await world.accounts.refresh(tokens.refresh_token, CLIENT)
            except ChatError as error:
                assert error.code == "unauthenticated"

        return present

    for step, world, _, _ in await at_every_step(arrange):
        [row] = world.tables.sessions.values()
        assert row.is_live is (world.publisher.published == []), step
