"""server.identity.subjects: from the subject of a token to a user, who may be seen for the first time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import jwt
import pytest
import trio

from handlers.errors import ChatError
from handlers.model import Caller, ProvisionUser
from handlers.rate_limits import Limiter, Rate
from loadtest.client import connect
from server.config.loading import load
from server.identity import subjects
from server.identity.access_tokens import Verifier, mint_token
from server.identity.subjects import REMEMBERED, Subjects, claims_of, profile
from store.signing import SigningKeys
from tests.handlers.conftest import memory
from tests.handlers.memory import Memory
from tests.running import JWT_KEY
from tests.server.identity.provider import FakeProvider, open_provider
from tests.server.rest.routes.test_provisioning import make_key
from tests.site import Site, open_site

__all__ = ["memory"]  # the fixture

JIT = load({}, None, jwt_key=JWT_KEY, jwks_url="https://x.example", jit_users="on")
ADA: Any = {"sub": "42", "preferred_username": "ada", "name": "Ada", "email": "ada@example.org"}


def finder(memory: Memory, *, makes: bool = True, rate: Rate | None = None) -> Subjects:
    settings = load({}, None, jwt_key=JWT_KEY, jwks_url="https://x.example", jit_users="on" if makes else "off")
    return Subjects(memory.provisioning, settings, Limiter(rate, "new users"))


async def code_of(found: Subjects, **claims: Any) -> str:
    with pytest.raises(ChatError) as caught:
        await found.find({"sub": "42", **claims})
    return caught.value.code


async def test_seen_for_the_first_time(memory: Memory) -> None:
    """The subject is the external id, the claims are the profile; from then on they are that user, whatever the claims
    have become. Who has the name already keeps it."""
    memory.user("ada")
    found = finder(memory)
    user_id = await found.find(ADA)
    made = memory.tables.users[user_id]
    assert (made.external_id, made.display_name, made.email) == ("42", "Ada", "ada@example.org")
    assert made.username.startswith("ada-") and found.made == 1
    assert await finder(memory).find({"sub": "42", "name": 5}) == user_id
    assert (await memory.provisioning.get("42")).id == user_id
    other, _ = await memory.provisioning.put("43", ProvisionUser())
    assert await found.find({"sub": "43"}) == other.id and found.made == 1


async def test_by_our_own_ids(memory: Memory) -> None:
    """A subject that is the id of a user is that user, also without JIT_USERS; an external id comes first."""
    alice = memory.user("alice")
    for makes in (False, True):
        assert await finder(memory, makes=makes).find({"sub": str(alice.user_id)}) == alice.user_id
    other, _ = await memory.provisioning.put(str(alice.user_id), ProvisionUser())
    assert await finder(memory).find({"sub": str(alice.user_id)}) == other.id
    stranger = str(uuid4())
    assert await code_of(finder(memory, makes=False), sub=stranger) == "unauthenticated"
    assert memory.tables.users[await finder(memory).find({"sub": stranger})].external_id == stranger


async def test_who_is_not_made(memory: Memory) -> None:
    """Without JIT_USERS no one is. With it, who was erased is not made again by a token, but by the application."""
    assert await code_of(finder(memory, makes=False)) == "unauthenticated" and not memory.tables.users
    found = finder(memory)
    user_id = await found.find(ADA)
    await memory.users.delete(Caller(user_id, 0.0), user_id)
    assert await code_of(finder(memory)) == "unauthenticated" and not memory.tables.users
    again, _ = await memory.provisioning.put("42", ProvisionUser())
    assert await finder(memory).find(ADA) == again.id != user_id


TEXTS = ("preferred_username", "name", "email", "picture")
NO_TEXT: tuple[object, ...] = (5, True, [], {})
GARBAGE: list[tuple[str, object]] = [
    ("sub", 5),
    ("sub", ["42"]),
    ("sub", ""),
    ("sub", "a/b"),
    ("sub", "é"),
    ("sub", "x" * 256),
    ("sub", "a\0b"),
    *((claim, value) for claim in TEXTS for value in NO_TEXT),
    *((claim, "a\nb") for claim in TEXTS),
    *((claim, "x" * 5000) for claim in TEXTS),
    ("name", "x" * 129),
    ("name", "\ud800"),
    ("name", "a\u202eb"),
    ("email", "nonsense"),
]


@pytest.mark.parametrize(("claim", "value"), GARBAGE)
async def test_garbage_in_claims(memory: Memory, claim: str, value: object) -> None:
    """It makes no user, and the refusal names the claim; the same token is good once the user is there."""
    with pytest.raises(ChatError) as caught:
        await finder(memory).find({**ADA, claim: value})
    assert (caught.value.code, *caught.value.errors) == ("invalid_claims", claim)
    assert not memory.tables.users and memory.tables.external_ids == {}
    if claim != "sub":
        user_id = await finder(memory).find(ADA)
        assert await finder(memory).find({**ADA, claim: value}) == user_id


def test_what_is_read() -> None:
    """The claims that the settings name; what is not there, or null, says nothing; no address that was not verified."""
    named = claims_of(JIT)
    assert named == {"username": "preferred_username", "name": "name", "email": "email", "picture": "picture"}
    found = profile({**ADA, "picture": None, "email_verified": False, "other": 5}, named)
    assert (found.username, found.name, found.email, found.picture) == ("ada", "Ada", None, None)
    settings = load({}, None, jit_username_claim="https://app.example/nick", jit_name_claim="", jit_email_claim="")
    found = profile({**ADA, "https://app.example/nick": " countess "}, claims_of(settings))
    assert (found.username, found.name, found.email) == ("countess", None, None)


async def test_names_that_are_none(memory: Memory) -> None:
    """What is one line of text and yet no username becomes one; an e-mail address never does: usernames are public."""
    for number, (said, expected) in enumerate((("ada@example.org", "Ada"), ("-<Ada>-", "Ada"), ("🙂", "Ada"))):
        user_id = await finder(memory).find({"sub": str(number), "preferred_username": said, "name": "Ada"})
        assert memory.tables.users[user_id].username.startswith(expected)


async def test_a_flood_is_bounded(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the rate no user is made, with the time to wait; who is known is found all the same, and what is remembered
    is bounded."""
    monkeypatch.setattr(subjects, "KNOWN_MAX", 3)
    found = finder(memory, rate=Rate(5, 3600.0))
    for number in range(5):
        await found.find({"sub": str(number)})
    for number in range(5, 9):
        assert await code_of(found, sub=str(number)) == "rate_limited"
    assert len(memory.tables.users) == 5
    await found.find({"sub": "0"})
    assert len(found._known) == 3 and found._asked == {}


async def test_many_requests_of_one_user(memory: Memory, autojump_clock: trio.testing.MockClock) -> None:
    """Those that come together are one look-up, and take one of the rate; a minute later there is another."""
    found = finder(memory, rate=Rate(1, 3600.0))
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(found.find, ADA)
    assert memory.database.steps.count("claim_id") == 1
    await trio.sleep(REMEMBERED)
    before = memory.database.steps.count("fetch_owner")
    for _ in range(3):
        await found.find(ADA)
    assert memory.database.steps.count("fetch_owner") == before + 1


async def test_postgresql_away(memory: Memory) -> None:
    """It is said as such, and not as a token that is not good."""
    memory.database.fails_at = len(memory.database.steps) + 1
    assert await code_of(finder(memory)) == "unavailable"


async def test_tokens_with_our_key(memory: Memory) -> None:
    """An application that signs with JWT_KEY may name its users by ids of its own; an id of ours stays one of ours."""
    settings = load({}, None, jwt_key=JWT_KEY)
    check = Verifier(
        SigningKeys(JWT_KEY), issuer=settings.jwt_issuer, audience=settings.jwt_audience, subjects=finder(memory)
    )
    named = {"iss": settings.jwt_issuer, "aud": settings.jwt_audience, "exp": 9e9, **ADA}
    caller = await check.verify(jwt.encode({**named, "sid": str(uuid4())}, JWT_KEY, "HS256"))
    assert memory.tables.users[caller.user_id].external_id == "42" and caller.session_id is None
    ours = uuid4()
    assert (await check.verify(mint_token(settings, ours))).user_id == ours and len(memory.tables.users) == 1


# -- whole servers -----------------------------------------------------------------------------------------------------


def signed(provider: FakeProvider, **claims: Any) -> str:
    provider.claims = {"aud": "shop", "nonce": None, **claims}
    return provider.id_token()


@asynccontextmanager
async def open_sites(
    database: str, redis_url: str, nursery: trio.Nursery
) -> AsyncIterator[tuple[FakeProvider, Site, Site]]:
    async with open_provider(nursery) as provider:
        settings: Any = {
            "jwks_url": f"{provider.issuer}/jwks",
            "jwt_issuer": provider.issuer,
            "jwt_audience": "shop",
            "registration": "oauth",
            "jit_users": "on",
        }
        async with (
            open_site(database, redis_url, nursery, **settings) as one,
            open_site(database, redis_url, nursery, **settings) as two,
        ):
            yield provider, one, two


async def test_one_user_on_two_instances(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Twenty requests with a new user's tokens at two instances, over REST and the hub: one user is made, and all are
    theirs. The application's PUT of the subject is the same user."""
    async with open_sites(database, redis_url, nursery) as (provider, one, two):
        tokens = [signed(provider, sub="auth0|42", name="Ada", jti=str(number)) for number in range(20)]
        found: set[str] = set()

        async def ask(site: Site, token: str) -> None:
            found.add((await site.call("GET", "/api/users/me", token=token))["id"])

        async def ping(site: Site, token: str) -> None:
            async with connect(f"{site.url}/hubs/chat", token) as hub:
                await hub.invoke("Ping")

        async with trio.open_nursery() as requests:
            for number, token in enumerate(tokens):
                requests.start_soon((ask, ping)[number // 2 % 2], (one, two)[number % 2], token)
        assert len(found) == 1
        me = await one.call("GET", "/api/users/me", token=tokens[0])
        assert (me["externalId"], me["displayName"]) == ("auth0|42", "Ada")
        key = await make_key(one, "users:write", "users:read")
        assert (await two.call("PUT", "/api/users/by-external-id/auth0%7C42", {}, token=key))["id"] == me["id"]
        assert len((await one.call("GET", "/api/users", token=key))["items"]) == 1
        assert (await one.call("POST", "/api/users", {"username": "x"}, status=403))["code"] == "registration_closed"


async def test_who_was_erased_does_not_come_back(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """By an old token or a new one, at either instance; the application's PUT makes another user."""
    async with open_sites(database, redis_url, nursery) as (provider, one, two):
        token = signed(provider, sub="42")
        me = await one.call("GET", "/api/users/me", token=token)
        await two.call("GET", "/api/users/me", token=token)
        await one.call("DELETE", f"/api/users/{me['id']}", token=token, status=204)
        for site in (one, two):
            for old in (token, signed(provider, sub="42", jti="new")):
                await site.call("GET", "/api/users/me", token=old, status=401)
        key = await make_key(one, "users:write")
        again = await one.call("PUT", "/api/users/by-external-id/42", {}, token=key, status=201)
        assert again["id"] != me["id"]


async def test_claims_that_make_no_user(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """403 with the claim, over REST and for the hub; it is listed where any token may be refused."""
    async with open_sites(database, redis_url, nursery) as (provider, site, _):
        token = signed(provider, sub="42", name="x" * 129)
        problem = await site.call("GET", "/api/users/me", token=token, status=403)
        assert (problem["code"], list(problem["fields"])) == ("invalid_claims", ["name"])
        await site.call("POST", "/hubs/chat/negotiate?negotiateVersion=1", token=token, status=403)
        described = await site.call("GET", "/openapi.json")
        for path, method in (("/api/users/me", "get"), ("/hubs/chat/negotiate", "post")):
            assert "`invalid_claims`" in described["paths"][path][method]["responses"]["403"]["description"]
