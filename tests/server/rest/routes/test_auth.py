"""REST of sessions: refresh, reuse, listing, and revocation that reaches open sockets (docs/rest.md, P9)."""

import base64
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from loadtest.client import ClientError, connect
from server.config.loading import load
from server.identity.access_tokens import mint_token
from store.ids import new_id
from tests.running import JWT_KEY
from tests.site import Site, open_site


async def registered(site: Site, name: str) -> dict[str, Any]:
    made: dict[str, Any] = await site.call("POST", "/api/users", {"username": name}, status=201)
    return made


async def refresh(site: Site, token: str, status: int = 200) -> Any:
    return await site.call("POST", "/auth/refresh", {"refreshToken": token}, status=status)


async def test_refresh_rotates(site: Site) -> None:
    """Each refresh returns another pair; the new access token works, and the session stays the same."""
    alice = await registered(site, "alice")
    assert alice["expiresIn"] == 900
    token, seen = alice["refreshToken"], set()
    for _ in range(3):
        tokens = await refresh(site, token)
        assert tokens["tokenType"] == "Bearer" and tokens["sessionId"] == alice["sessionId"]
        assert (await site.call("GET", "/api/users/me", token=tokens["accessToken"]))["id"] == alice["id"]
        token = tokens["refreshToken"]
        seen.add(token)
    assert len(seen) == 3 and alice["refreshToken"] not in seen


async def test_a_lost_answer_is_given_again(site: Site) -> None:
    """For a short time the previous token may be repeated: it gets the same refresh token, not another one."""
    alice = await registered(site, "alice")
    results: list[Any] = []

    async def ask() -> None:
        results.append(await refresh(site, alice["refreshToken"]))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert len({result["refreshToken"] for result in results}) == 1
    await refresh(site, results[0]["refreshToken"])


async def test_reuse_ends_the_session(site: Site) -> None:
    """An earlier token that is used again counts as stolen: its session ends, with its sockets and all its tokens."""
    alice = await registered(site, "alice")
    first = await refresh(site, alice["refreshToken"])
    second = await refresh(site, first["refreshToken"])
    async with connect(f"{site.url}/hubs/chat", second["accessToken"]) as hub:
        problem = await refresh(site, alice["refreshToken"], 401)
        assert "used before" in problem["detail"]
        with trio.fail_after(60):
            await hub.closed.wait()
        assert "session was ended" in str(hub.close_message)
    assert "was ended" in (await refresh(site, second["refreshToken"], 401))["detail"]
    assert "was ended" in (await site.call("GET", "/api/users/me", token=second["accessToken"], status=401))["detail"]


async def test_made_up_tokens_end_nothing(site: Site) -> None:
    """A client that knows a session's id, but never had a token of it, is refused and ends nothing."""
    alice = await registered(site, "alice")
    raw = bytearray(base64.urlsafe_b64decode(alice["refreshToken"]))
    for place in (20, 63):  # the secret, the seal
        forged = bytearray(raw)
        forged[place] ^= 1
        assert "not one of ours" in (await refresh(site, base64.urlsafe_b64encode(forged).decode(), 401))["detail"]
    for text in ("x", "é" * 10, base64.urlsafe_b64encode(bytes(64)).decode()):
        await refresh(site, text, 401)
    await refresh(site, "", 400)
    await refresh(site, alice["refreshToken"])


async def test_sessions_are_listed_and_revoked(site: Site) -> None:
    """Users list their own sessions, in pages, and end one of them; those of others do not exist for them."""
    alice, bob = await registered(site, "alice"), await registered(site, "bob")
    headers = {"User-Agent": "a phone"}
    for _ in range(2):
        await site.call("POST", "/auth/refresh", {"refreshToken": alice["refreshToken"]}, headers=headers)
    page = await site.call("GET", "/auth/sessions", token=alice["accessToken"])
    [session] = page["items"]
    assert session["client"] == "a phone" and session["address"] == "127.0.0.1" and session["current"] is True
    assert session["createdAt"] <= session["lastUsedAt"] < session["expiresAt"] and page["next"] is None
    path = f"/auth/sessions/{alice['sessionId']}"
    await site.call("DELETE", path, token=bob["accessToken"], status=404)
    await site.call("DELETE", path, token=alice["accessToken"], status=204)
    await site.call("GET", "/auth/sessions", token=alice["accessToken"], status=401)
    await site.call("DELETE", f"/auth/sessions/{new_id()}", token=bob["accessToken"], status=404)
    await site.call("DELETE", "/auth/sessions/nonsense", token=bob["accessToken"], status=404)


async def test_logout(site: Site) -> None:
    """Logout ends the session of the token, and may be repeated; a token without a session cannot log out."""
    alice = await registered(site, "alice")
    minted = mint_token(site.process.settings, UUID(alice["id"]))
    await site.call("POST", "/auth/logout", token=minted, status=409)
    await site.call("POST", "/auth/logout", token=alice["accessToken"], status=204)
    await site.call("GET", "/api/users/me", token=alice["accessToken"], status=401)
    await site.call("POST", "/auth/logout", token=alice["accessToken"], status=204)
    await site.call("POST", "/auth/logout", status=401)
    await refresh(site, alice["refreshToken"], 401)
    assert (await site.call("GET", "/api/users/me", token=minted))["id"] == alice["id"]


async def test_a_revoked_token_opens_no_socket(site: Site) -> None:
    """A revoked token that has not expired cannot connect, nor refresh another connection of the user."""
    alice = await registered(site, "alice")
    minted = mint_token(site.process.settings, UUID(alice["id"]))
    await site.call("DELETE", f"/auth/sessions/{alice['sessionId']}", token=minted, status=204)
    for query in ("", "?sync=manual"):
        async with connect(f"{site.url}/hubs/chat{query}", alice["accessToken"]) as hub:
            with trio.fail_after(60):
                await hub.closed.wait()
    async with connect(f"{site.url}/hubs/chat", minted) as hub:
        with pytest.raises(ClientError, match="unauthenticated"):
            await hub.invoke("RefreshToken", alice["accessToken"])
        assert await hub.invoke("Ping") == {}


async def test_revocation_reaches_every_instance(
    site: Site, database: str, redis_url: str, nursery: trio.Nursery
) -> None:
    """Sockets on another instance close within a second; other sessions of the user continue."""
    alice = await registered(site, "alice")
    other = mint_token(load({}, None, jwt_key=JWT_KEY), UUID(alice["id"]))
    async with (
        open_site(database, redis_url, nursery) as elsewhere,
        connect(f"{elsewhere.url}/hubs/chat", alice["accessToken"]) as doomed,
        connect(f"{elsewhere.url}/hubs/chat", other) as living,
    ):
        await doomed.invoke("Ping")
        await living.invoke("Ping")
        began = trio.current_time()
        await site.call("POST", "/auth/logout", token=alice["accessToken"], status=204)
        with trio.fail_after(60):
            await doomed.closed.wait()
        print(f"closed elsewhere after {trio.current_time() - began:.3f} s")  # noqa: T201
        assert await living.invoke("Ping") == {}


async def test_registration_is_repeated_with_a_key(site: Site) -> None:
    """Requests with the same Idempotency-Key create one user; the key is refused for another request."""
    headers = {"Idempotency-Key": str(uuid4())}
    first = await site.call("POST", "/api/users", {"username": "alice"}, status=201, headers=headers)
    again = await site.call("POST", "/api/users", {"username": "alice"}, status=201, headers=headers)
    assert again["id"] == first["id"]
    problem = await site.call("POST", "/api/users", {"username": "bob"}, status=422, headers=headers)
    assert problem["code"] == "idempotency_mismatch"
    for key in ("", "x" * 129, "guessable"):
        await site.call("POST", "/api/users", {"username": "eve"}, status=400, headers={"Idempotency-Key": key})
