"""Sign-in with a provider: the requests to it, and every fault that its answers may have."""

import base64
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import httpx
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from trio.testing import MockClock

from handlers.errors import ChatError
from server.config.settings import OAuthProvider
from server.identity.access_tokens import mint_token
from server.identity.providers import OpenIdProvider
from server.identity.sign_in_state import begin
from store.postgres import accounts as store
from store.postgres import users
from tests import plain_http
from tests.server.identity.provider import CLIENT, CODE, SECRET, FakeProvider, open_provider
from tests.site import Site, open_site
from tests.store.world import fetch_value


class World:
    def __init__(self, site: Site, provider: FakeProvider) -> None:
        self.site = site
        self.provider = provider

    def browser(self) -> httpx.AsyncClient:
        return plain_http.client(base_url=self.site.url, timeout=60)

    async def begin(self, browser: httpx.AsyncClient, name: str = "fake", **options: Any) -> dict[str, str]:
        """Begin a sign-in; return the provider's authorization request."""
        answer = await browser.get(f"/auth/login/{name}", **options)
        assert answer.status_code == 302, answer.text
        query = {key: values[0] for key, values in parse_qs(urlsplit(answer.headers["Location"]).query).items()}
        self.provider.verifier_of = query["code_challenge"]
        self.provider.nonce = query.get("nonce", "")
        return query

    async def finish(self, browser: httpx.AsyncClient, name: str = "fake", **query: str) -> httpx.Response:
        return await browser.get(f"/auth/callback/{name}", params={"code": CODE, **query})

    async def sign_in(self, name: str = "fake", **options: Any) -> httpx.Response:
        """Sign in, and return the callback's answer. `claims` override those of the provider."""
        async with self.browser() as browser:
            asked = await self.begin(browser, name, **options)
            return await self.finish(browser, name, state=asked["state"])

    async def me(self, answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = await self.site.call("GET", "/api/users/me", token=answer.json()["accessToken"])
        return found


@pytest.fixture
async def world(database: str, redis_url: str, nursery: trio.Nursery) -> AsyncIterator[World]:
    async with open_provider(nursery) as provider:
        common = {"client_id": CLIENT, "client_secret": SECRET}
        urls = {f"{name}_url": f"{provider.issuer}/{name}" for name in ("authorize", "token", "user")}
        oauth = {"fake": {"issuer": provider.issuer, **common}, "plain": {**urls, **common}}
        async with open_site(
            database, redis_url, nursery, registration="oauth", oauth=oauth, allowed_origins="https://chat.example"
        ) as site:
            yield World(site, provider)


async def test_the_whole_way(world: World) -> None:
    """A new identity makes a new user, and signs in the same one later; users are never matched by e-mail."""
    world.provider.claims = {
        "preferred_username": "Zoë K", "name": "Zoë\x07 King", "email": "zoe@example.org", "email_verified": True,
        "picture": "https://x.example/zoe.png",
    }  # fmt: skip
    me = await world.me(await world.sign_in())
    assert (me["username"], me["displayName"], me["email"]) == ("Zoë K", "Zoë King", "zoe@example.org")
    assert me["avatarUrl"] == "https://x.example/zoe.png"
    assert (await world.me(await world.sign_in()))["id"] == me["id"]
    world.provider.claims |= {"sub": "subject-2"}  # the same name and e-mail, somebody else
    other = await world.me(await world.sign_in())
    assert other["id"] != me["id"] and other["username"].startswith("Zoë K-")
    world.provider.claims = {"sub": "subject-3", "preferred_username": "eve@example.org", "email": "e@example.org"}
    unknown = await world.me(await world.sign_in())
    assert unknown["username"] == "fake-user" and unknown["email"] is None  # not verified, not kept; nor shown


async def test_what_is_asked(world: World) -> None:
    """The request has PKCE with S256, a random state and nonce, and our redirect; the cookie is for this path only."""
    async with world.browser() as browser:
        asked = await world.begin(browser)
        assert asked["response_type"] == "code" and asked["client_id"] == CLIENT and asked["prompt"] == "login"
        assert asked["code_challenge_method"] == "S256" and len(asked["code_challenge"]) == 43
        assert asked["redirect_uri"] == f"{world.site.url}/auth/callback/fake" and "openid" in asked["scope"].split()
        assert len(asked["state"]) >= 32 and len(asked["nonce"]) >= 32
        again = await browser.get("/auth/login/fake", headers={"Accept": "application/json"})
        assert again.json()["authorizationUrl"].startswith(f"{world.provider.issuer}/authorize?")
        cookie = again.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/auth/callback/fake" in cookie
        assert (await browser.get("/auth/login/unknown")).status_code == 404
        assert (await browser.get("/auth/callback/unknown")).status_code == 404


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another nonce": ({"nonce": "another"}, "nonce"),
    "no nonce": ({"nonce": None}, "nonce"),
    "another audience": ({"aud": "somebody else"}, "InvalidAudienceError"),
    "two audiences, none authorised": ({"aud": [CLIENT, "somebody"]}, "another party"),
    "another authorised party": ({"azp": "somebody"}, "another party"),
    "another issuer": ({"iss": "https://evil.example"}, "InvalidIssuerError"),
    "expired": ({"exp": 1_000_000_000}, "ExpiredSignatureError"),
    "no expiry": ({"exp": None}, "MissingRequiredClaimError"),
    "no subject": ({"sub": None}, "MissingRequiredClaimError"),
    "an empty subject": ({"sub": ""}, "does not name the user"),
    "a subject that is no text": ({"sub": "\ud83d"}, "does not name the user"),
    "a subject that is too long": ({"sub": "x" * 256}, "does not name the user"),
    "from the future": ({"iat": 4_000_000_000}, "ImmatureSignatureError"),
}


async def test_a_wrong_id_token(world: World) -> None:
    """After a fault no user is signed in or created, and the answer has the reason."""
    for case, (claims, reason) in WRONG.items():
        world.provider.claims = claims
        answer = await world.sign_in()
        assert answer.status_code == 400 and answer.json()["code"] == "sign_in_failed", case
        assert reason in answer.json()["detail"], case
    world.provider.claims = {}
    token = (await world.sign_in()).json()["accessToken"]
    assert len((await world.site.call("GET", "/api/users", token=token))["items"]) == 1


async def test_wrong_keys_and_algorithms(world: World) -> None:
    """Only a key of the JWKS is accepted, by its own type: not ours, not HMAC with the public key, not `none`."""
    provider = world.provider
    good = provider.key
    provider.key = rsa.generate_private_key(65537, 2048)
    assert "InvalidSignatureError" in (await world.sign_in()).json()["detail"]
    provider.key, provider.kid = good, "unheard-of"
    assert "unknown key" in (await world.sign_in()).json()["detail"]
    provider.kid, provider.algorithm, provider.key = "one", "HS256", "p" * 64
    assert (await world.sign_in()).json()["code"] == "sign_in_failed"
    provider.algorithm, provider.key = "none", None
    assert (await world.sign_in()).json()["code"] == "sign_in_failed"
    provider.algorithm, provider.key = "RS384", good
    assert (await world.sign_in()).json()["code"] == "sign_in_failed"
    provider.algorithm, provider.kind = "RS256", "logout+jwt"
    assert "another kind" in (await world.sign_in()).json()["detail"]
    provider.kind = "JWT"
    assert (await world.sign_in()).status_code == 200


async def test_keys_rotate(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown key causes one refetch; ES256 is accepted like RS256."""
    monkeypatch.setattr("server.identity.jwks.MIN_INTERVAL", 0.0)
    assert (await world.sign_in()).status_code == 200
    world.provider.rotate()
    assert (await world.sign_in()).status_code == 200
    fetches = world.provider.fetches
    assert (await world.sign_in()).status_code == 200 and world.provider.fetches == fetches
    world.provider.elliptic()
    assert (await world.sign_in()).status_code == 200


async def test_sign_in_races_with_erasure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user erased during their sign-in is not signed in, nothing is kept, and the next sign-in makes a new user."""
    token = (await world.sign_in()).json()["accessToken"]
    me = (await world.site.call("GET", "/api/users/me", token=token))["id"]
    fetch = store.fetch_identity

    async def fetch_and_erase(*arguments: Any) -> UUID | None:
        found = await fetch(*arguments)
        await world.site.call("DELETE", f"/api/users/{me}", token=token, status=204)
        return found

    monkeypatch.setattr(store, "fetch_identity", fetch_and_erase)
    refused = await world.sign_in()
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
    async with world.site.process.pool.connection() as conn:
        assert await fetch_value(conn, "SELECT count(*) FROM sessions") == 0
    monkeypatch.undo()
    assert (await world.me(await world.sign_in()))["id"] != me


async def test_wrong_state_and_verifier(world: World) -> None:
    """Only the browser that began a sign-in can finish it, once, with the verifier in its cookie."""
    async with world.browser() as browser, world.browser() as other:
        asked = await world.begin(browser)
        answers = [
            await world.finish(other, state=asked["state"]),  # another browser: login CSRF
            await world.finish(browser, state="x" * 32),
            await world.finish(browser, state=asked["state"][:-1] + "_"),
            await world.finish(browser),
        ]
        assert {answer.status_code for answer in answers} == {400}
        theirs = await world.begin(other)  # now the provider expects the other's verifier
        refused = await world.finish(browser, state=asked["state"])
        assert refused.json()["code"] == "sign_in_failed" and "invalid_grant" in refused.json()["detail"]
        world.provider.nonce = theirs["nonce"]
        cookies = dict(other.cookies)
        assert (await world.finish(other, state=theirs["state"])).status_code == 200
        assert not dict(other.cookies)  # gone with the sign-in
        other.cookies.update(cookies)
        assert "is over" in (await world.finish(other, state=theirs["state"])).json()["detail"]


async def test_the_provider_says_no_or_nothing(world: World) -> None:
    """A declined sign-in is answered as such; a mix-up of providers is detected; an outage can be retried."""
    async with world.browser() as browser:
        asked = await world.begin(browser)
        declined = await browser.get("/auth/callback/fake", params={"error": "access_denied", "state": asked["state"]})
        assert declined.status_code == 400 and "declined" in declined.json()["detail"]
        asked = await world.begin(browser)
        mixed = await world.finish(browser, state=asked["state"], iss="https://evil.example")
        assert "another provider" in mixed.json()["detail"]
        asked = await world.begin(browser)
        right = await world.finish(browser, state=asked["state"], iss=world.provider.issuer)
        assert right.status_code == 200
    async with world.browser() as browser:
        page = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"}
        asked = await world.begin(browser, params={"returnUrl": "https://chat.example/in?x=1"})
        no = {"error": "access_denied", "state": asked["state"]}
        back = await browser.get("/auth/callback/fake", params=no, headers=page)
        assert (
            back.status_code == 303 and back.headers["Location"] == "https://chat.example/in?x=1&error=sign_in_failed"
        )
        assert not dict(browser.cookies)
        lost = await browser.get("/auth/callback/fake", params=no, headers=page)
        assert lost.status_code == 400 and "not begun in this browser" in lost.json()["detail"]
    world.provider.gives_id_token = False
    assert "no id token" in (await world.sign_in()).json()["detail"]
    world.provider.status = 503
    away = await world.sign_in()
    assert away.status_code == 503 and away.headers["Retry-After"]


async def test_a_provider_under_another_name(world: World) -> None:
    """A discovery document must name the configured issuer."""
    world.provider.named = "https://evil.example"
    async with world.browser() as browser:
        answer = await browser.get("/auth/login/fake")
        assert answer.status_code == 400 and answer.json()["code"] == "sign_in_failed"


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://[x/authorize",
        "https://x.example/\u4e2d",
        "https://x.example/\r\nSet-Cookie: x=y",
        "javascript:alert(1)//",
        "//x.example/authorize",
        "",
    ],
)
async def test_a_provider_whose_endpoint_is_not_a_url(world: World, endpoint: str) -> None:
    """A discovery document with an address to which no browser can be sent is the provider's fault: 503."""
    world.provider.authorization_endpoint = endpoint
    async with world.browser() as browser:
        for kind in ("text/html", "application/json"):
            answer = await browser.get("/auth/login/fake", headers={"Accept": kind})
            assert answer.status_code == 503 and answer.json()["code"] == "unavailable"


async def test_a_provider_that_names_no_user(world: World) -> None:
    """An id that is a number or a text is somebody's; anything else is the same for everybody, and signs no user in."""
    for number in (4711, "4711"):
        world.provider.user = {"id": number, "login": "octo"}
        assert (await world.sign_in("plain")).status_code == 200
    values: list[Any] = [None, True, False, 1.5, [], {}, [1], "", "a b", "\u00e9", "x" * 256, 10**255]
    for value in values:
        world.provider.user = {"id": value, "login": "octo"}
        answer = await world.sign_in("plain")
        assert answer.status_code == 400 and "does not name the user" in answer.json()["detail"], value
    world.provider.user = {"login": "octo"}
    assert (await world.sign_in("plain")).status_code == 400


ELSEWHERE = (
    "https://evil.example/",
    "https://chat.example@evil.example/",
    "https://@chat.example/",
    "https://chat.example.evil.example/",
    "https://chat.example:444/",
    "http://chat.example/",
    "javascript:alert(1)",
    "//evil.example",
    "https:evil.example",
    "https:/evil.example",
    "https://[",
    "http://localhost/",
    "http://[::1]/",
    "http://evil.example\\[::1]/",
    "https://evil.example\\x[::1]/cb",
    "https://evil.example\\@chat.example/",
    "https://chat.example\\@evil.example/",
    "https://chat.example%2f@evil.example/",
    "https://chat%2eexample/",
    "https://chat.example/#in",
    "https://chat.example/[x]",
    "https://chat.example/ x",
    "https://chat.example/\tx",
    "https://chat.example/\r\nSet-Cookie: x=y",
    "https://chat.example/\u4e2d",
    "https://chat.example/" + "x" * 2048,
)


def returned(answer: httpx.Response) -> tuple[str, dict[str, list[str]]]:
    """(where the browser is sent, the fields of its query)"""
    assert answer.status_code == 303, answer.text
    place, _, query = answer.headers["Location"].partition("?")
    return place, parse_qs(query)


async def test_back_to_the_application(world: World) -> None:
    """The browser returns with a code and no token, and only to allowed origins; the code is valid once."""
    answer = await world.sign_in(params={"returnUrl": "HTTPS://Chat.Example:443/a/../in?x=1"})
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    place, fields = returned(answer)
    assert (place, fields["x"]) == ("https://chat.example/in", ["1"]) and set(fields) == {"x", "code"}
    body = {"code": fields["code"][0]}
    tokens = await world.site.call("POST", "/auth/exchange", body)
    me = await world.site.call("GET", "/api/users/me", token=tokens["accessToken"])
    again = await world.site.call("POST", "/auth/exchange", body, status=401)
    assert "used before" in again["detail"]
    assert len((await world.site.call("GET", "/auth/sessions", token=tokens["accessToken"]))["items"]) == 1
    assert me["username"] == "fake-user" and tokens["expiresIn"] == 900
    async with world.browser() as browser:
        for url in ELSEWHERE:
            refused = await browser.get("/auth/login/fake", params={"returnUrl": url})
            assert refused.status_code == 400, url
            assert refused.json()["errors"] == {"returnUrl": "origin"}, url


async def test_a_code_is_for_who_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a challenge, only its verifier gets the tokens; an old, changed or foreign code gets none."""
    verifier = "v" * 43
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    goal = {"returnUrl": "https://chat.example/in"}
    code = returned(await world.sign_in(params={**goal, "codeChallenge": challenge}))[1]["code"][0]
    unbound = returned(await world.sign_in(params=goal))[1]["code"][0]
    for body in (
        {"code": code},
        {"code": code, "codeVerifier": "w" * 43},
        {"code": code[:-2] + ("AA" if code[-2:] != "AA" else "BB"), "codeVerifier": verifier},
        {"code": unbound, "codeVerifier": verifier},
        {"code": "nonsense"},
    ):
        assert (await world.site.call("POST", "/auth/exchange", body, status=401))["code"] == "unauthenticated"
    token = (await world.site.call("POST", "/auth/exchange", {"code": code, "codeVerifier": verifier}))["accessToken"]
    await world.site.call("GET", "/api/users/me", token=unbound, status=401)  # a code is no access token
    await world.site.call("POST", "/auth/exchange", {"code": token}, status=401)
    now = time.time()
    monkeypatch.setattr("server.identity.exchange_codes.time.time", lambda: now - 61)
    stale = returned(await world.sign_in(params=goal))[1]["code"][0]
    monkeypatch.undo()
    await world.site.call("POST", "/auth/exchange", {"code": stale}, status=401)
    for wrong in ("x", "x" * 44, "+" * 43):
        async with world.browser() as browser:
            refused = await browser.get("/auth/login/fake", params={**goal, "codeChallenge": wrong})
            assert refused.status_code == 400


async def test_who_was_signed_out_exchanges_nothing(world: World) -> None:
    """A code for adding an identity is invalid once the session that requested it has ended, or the user is erased."""
    mine = (await world.sign_in()).json()
    headers = {"Authorization": f"Bearer {mine['accessToken']}"}
    goal = {"returnUrl": "https://chat.example/in"}
    code = returned(await world.sign_in("plain", headers=headers, params=goal))[1]["code"][0]
    other = (await world.sign_in()).json()
    late = returned(await world.sign_in(params=goal))[1]["code"][0]
    await world.site.call("POST", "/auth/logout", token=mine["accessToken"], status=204)
    await world.site.call("POST", "/auth/exchange", {"code": code}, status=401)
    me = (await world.site.call("GET", "/api/users/me", token=other["accessToken"]))["id"]
    await world.site.call("DELETE", f"/api/users/{me}", token=other["accessToken"], status=204)
    await world.site.call("POST", "/auth/exchange", {"code": late}, status=401)
    async with world.browser() as browser:
        gone = {"Authorization": f"Bearer {other['accessToken']}"}
        assert (await browser.get("/auth/login/plain", headers=gone)).status_code == 401


async def test_where_it_may_return_by_setting(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Loopback only where it is asked for; further origins; a wildcard of callers is no place to return to; tokens in
    the fragment only where the operator wants them."""
    async with open_provider(nursery) as provider:
        oauth = {"fake": {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": SECRET}}
        async with open_site(
            database,
            redis_url,
            nursery,
            registration="oauth",
            oauth=oauth,
            return_origins="loopback,https://app.example",
            return_with="fragment",
        ) as site:
            world = World(site, provider)
            for url in ("http://localhost:3000/in", "http://127.0.0.1:1/", "http://[::1]:8080/in", f"{site.url}/in"):
                place = (await world.sign_in(params={"returnUrl": url})).headers["Location"]
                assert place.startswith(f"{url}#accessToken="), place
            assert (await world.sign_in(params={"returnUrl": "https://app.example"})).status_code == 303
            async with world.browser() as browser:
                for url in ("http://evil.example\\[::1]/", "http://[::2]/", "http://127.0.0.2/", "http://x.localhost/"):
                    assert (await browser.get("/auth/login/fake", params={"returnUrl": url})).status_code == 400, url


async def test_another_identity_for_the_same_user(world: World) -> None:
    """A signed-in user links another identity; never by e-mail, and never one of another user."""
    first = await world.sign_in()
    me = await world.me(first)
    token = {"Authorization": f"Bearer {first.json()['accessToken']}"}
    linked = await world.me(await world.sign_in("plain", headers=token))
    assert linked["id"] == me["id"]
    assert (await world.me(await world.sign_in("plain")))["id"] == me["id"]
    world.provider.claims = {"sub": "subject-2"}
    stranger = await world.sign_in()
    theirs = {"Authorization": f"Bearer {stranger.json()['accessToken']}"}
    taken = await world.sign_in("plain", headers=theirs)
    assert taken.status_code == 409 and taken.json()["code"] == "conflict"
    async with world.browser() as browser:
        assert (await browser.get("/auth/login/fake", headers={"Authorization": "Bearer x"})).status_code == 401


async def test_a_signed_out_user_links_nothing(world: World) -> None:
    """A token of an ended session cannot link an identity, which could sign in again."""
    mine = (await world.sign_in()).json()
    headers = {"Authorization": f"Bearer {mine['accessToken']}"}
    async with world.browser() as browser:
        asked = await world.begin(browser, "plain", headers=headers)
        await world.site.call("POST", "/auth/logout", token=mine["accessToken"], status=204)
        refused = await world.finish(browser, "plain", state=asked["state"])
    assert refused.status_code == 401 and "session was ended" in refused.json()["detail"]
    assert (await world.me(await world.sign_in("plain")))["id"] != (await world.me(await world.sign_in()))["id"]


async def test_a_provider_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """Sign-ins that begin during a discovery share its result, and do not repeat it in turn."""
    provider = OpenIdProvider(OAuthProvider(name="fake", client_id=CLIENT, issuer="https://id.example"))
    asked = 0

    async def never(*arguments: object, **options: object) -> None:
        nonlocal asked
        asked += 1
        await trio.sleep(10)
        raise ChatError("unavailable", "out of reach")

    monkeypatch.setattr(provider._web, "json", never)

    async def sign_in() -> None:
        with pytest.raises(ChatError, match="out of reach"):
            await provider.authorization_url(begin("fake", "https://chat.example/auth/callback/fake"))

    for times in (1, 2):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(sign_in)
        assert (asked, trio.current_time()) == (times, times * 10)


async def test_a_provider_without_openid(world: World) -> None:
    """The provider's API returns the identity, which is checked."""
    me = await world.me(await world.sign_in("plain"))
    assert (me["username"], me["displayName"]) == ("octo", "Octo Cat")
    for user in ({"login": "without-id"}, {"id": "x" * 300}, {"id": ["list"] * 99}):
        world.provider.user = user
        assert (await world.sign_in("plain")).json()["code"] == "sign_in_failed"


async def test_registration_is_by_a_provider(world: World) -> None:
    """With sign-in by providers there is no other registration, not even by an administrator."""
    admin = mint_token(world.site.process.settings, uuid4(), admin=True)
    for token in ("", admin):
        refused = await world.site.call("POST", "/api/users", {"username": "bot"}, token=token, status=403)
        assert refused["code"] == "registration_closed"
    async with world.site.process.pool.connection() as conn:
        assert await fetch_value(conn, "SELECT count(*) FROM users") == 0


async def test_registration_is_closed(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """When registration is closed, only an administrator creates users, and gets no tokens of theirs."""
    async with open_provider(nursery) as provider:
        oauth = {"fake": {"issuer": provider.issuer, "client_id": CLIENT, "client_secret": SECRET}}
        async with open_site(database, redis_url, nursery, registration="closed", oauth=oauth) as site:
            async with site.process.pool.connection() as conn:
                root = (await users.insert_user(conn, "root", "Root")).id
            tokens = {admin: mint_token(site.process.settings, root, admin=admin) for admin in (False, True)}
            for token, status in (("", 403), (tokens[False], 403), ("nonsense", 401)):
                await site.call("POST", "/api/users", {"username": "bot"}, token=token, status=status)
            refused = await World(site, provider).sign_in()
            assert (refused.status_code, refused.json()["code"]) == (403, "registration_closed")
            made = await site.call("POST", "/api/users", {"username": "bot"}, token=tokens[True], status=201)
            assert made["accessToken"] is None and made["refreshToken"] is None
            async with site.process.pool.connection() as conn:
                assert await fetch_value(conn, "SELECT count(*) FROM users") == 2
