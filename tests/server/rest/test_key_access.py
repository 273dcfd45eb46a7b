"""What API keys may do: for whom they act, what is counted for them, and what becomes of those that have ended."""

from typing import Any
from uuid import UUID, uuid4

import trio

from handlers.api_keys import PREFIX
from store.postgres import api_keys
from tests.server.rest.routes.test_provisioning import make_key
from tests.site import Site, open_site
from tests.waiting import wait_until


async def test_for_whom_a_key_acts(site: Site) -> None:
    """For the user whom a header names by either id, with users:act; else as the bot that it belongs to; a key of no
    user that names none does only what needs no user. A header with a user's own token changes nothing."""
    (alice, token), (bob, _) = await site.user("alice"), await site.user("bob")
    key = await make_key(site, "users:read", "users:write", "users:act")
    ada = await site.call("PUT", "/api/users/by-external-id/42", {}, token=key, status=201)
    for headers, found in (
        ({"X-Parley-User": alice}, alice),
        ({"x-parley-user": alice.upper()}, alice),
        ({"X-Parley-External-User": "42"}, ada["id"]),
    ):
        assert (await site.call("GET", "/api/users/me", token=key, headers=headers))["id"] == found
    for headers, status, code in (
        ({}, 400, "invalid_request"),
        ({"X-Parley-User": "x"}, 400, "invalid_request"),
        ({"X-Parley-User": alice, "X-Parley-External-User": "42"}, 400, "invalid_request"),
        ({"X-Parley-User": str(uuid4())}, 404, "not_found"),
        ({"X-Parley-User": str(UUID(int=0))}, 404, "not_found"),
        ({"X-Parley-External-User": "43"}, 404, "not_found"),
        ({"X-Parley-External-User": ""}, 404, "not_found"),
        ({"X-Parley-External-User": "a\u00e9"}, 404, "not_found"),
    ):
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        problem = await site.call("GET", "/api/users/me", token=key, headers=raw, status=status)
        assert problem["code"] == code
    bot = await make_key(site, "users:read", user=bob)
    assert (await site.call("GET", "/api/users/me", token=bot))["id"] == bob
    problem = await site.call("GET", "/api/users/me", token=bot, headers={"X-Parley-User": alice}, status=403)
    assert problem["code"] == "scope_required" and "users:act" in problem["detail"]
    mine = await site.call("GET", "/api/users/me", token=token, headers={"X-Parley-User": bob})
    assert mine["id"] == alice
    await site.call("DELETE", f"/api/users/{bob}", token=key, status=204)
    await site.call("GET", "/api/users/me", token=bot, status=404)


async def test_a_bot_writes(site: Site) -> None:
    """What a key sends is the user's, with their membership: it reads and writes what they may, and no more."""
    (alice, token), (bot, _), (_, others) = [await site.user(name) for name in ("alice", "bot", "carol")]
    key = await make_key(site, "conversations:write", "messages:send", "messages:read", user=bot)
    group = {"type": "Group", "name": "g", "memberIds": [alice]}
    chat = await site.call("POST", "/api/conversations", group, token=key, status=201)
    body = {"conversationId": chat["id"], "content": "hello", "clientMessageId": "1"}
    sent = await site.call("POST", "/api/messages", body, token=key, status=201)
    assert sent["senderId"] == bot and (await site.call("POST", "/api/messages", body, token=key, status=201)) == sent
    assert (await site.call("GET", f"/api/messages/{sent['id']}", token=token))["content"] == "hello"
    elsewhere = await site.call("POST", "/api/conversations", {**group, "memberIds": []}, token=others, status=201)
    body = {"conversationId": elsewhere["id"], "content": "hello"}
    await site.call("POST", "/api/messages", body, token=key, status=404)


async def test_revoked_and_rotated_on_every_instance(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A key that is revoked, or whose old secret has ended, is refused by each instance, whichever has seen it last,
    within what a key is remembered; one that is rotated goes on meanwhile with both secrets."""
    async with open_site(database, redis_url, nursery) as one, open_site(database, redis_url, nursery) as two:
        key = await make_key(one, "users:read")
        key_id = UUID(hex=key.removeprefix(PREFIX)[:32])
        for site in (one, two):
            await site.call("GET", "/api/users", token=key)
        async with one.process.pool.connection() as conn:
            assert await api_keys.rotate_key(conn, key_id, bytes(32), keep=3600)
        for site in (one, two):
            await site.call("GET", "/api/users", token=key)
        async with one.process.pool.connection() as conn:
            assert await api_keys.revoke_key(conn, key_id)

        async def is_refused(site: Site) -> bool:
            answer = await site.http.get("/api/users", headers={"Authorization": f"Bearer {key}"})
            return answer.status_code == 401 and "revoked" in answer.text

        for site in (one, two):
            await wait_until(lambda site=site: is_refused(site))  # type: ignore[misc]
            for _ in range(3):
                assert await is_refused(site)


async def test_the_last_use_is_noted(site: Site) -> None:
    """In the list of keys it has a time, some seconds after its first use."""
    key = await make_key(site, "users:read")
    async with site.process.pool.connection() as conn:
        assert [one.last_used_at for one in await api_keys.list_keys(conn)] == [None]
    await site.call("GET", "/api/users", token=key)

    async def is_noted() -> bool:
        async with site.process.pool.connection() as conn:
            return (await api_keys.list_keys(conn))[0].last_used_at is not None

    await wait_until(is_noted)


async def test_limits_of_keys(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A key has a limit of its own, and is not counted for the user whom it acts for; guessing keys is counted for the
    address, and costs no look-up once that is over."""
    limits: Any = {"rate_limits": "on", "rate_key_requests": "5/1h", "rate_requests": "8/1h"}
    async with open_site(database, redis_url, nursery, **limits) as site:
        alice, token = await site.user("alice")  # the first of the address
        key = await make_key(site, "users:read", "users:act")
        for _ in range(5):
            await site.call("GET", "/api/users/me", token=key, headers={"X-Parley-User": alice})
        await site.call("GET", "/api/users/me", token=key, headers={"X-Parley-User": alice}, status=429)
        other = await make_key(site, "users:read")
        await site.call("GET", "/api/users", token=other)
        await site.call("GET", "/api/users/me", token=token)
        statuses = []
        for _ in range(10):
            answer = await site.http.get(
                "/api/users", headers={"Authorization": f"Bearer {PREFIX}{uuid4().hex}_{'x' * 43}"}
            )
            statuses.append(answer.status_code)
        assert statuses[0] == 401 and statuses[-1] == 429 and statuses == sorted(statuses)
        looked_up = site.process.api_keys.refused
        await site.call("GET", "/api/users", token=f"{PREFIX}{uuid4().hex}_{'x' * 43}", status=429)
        assert site.process.api_keys.refused == looked_up
        await site.call("GET", "/api/users/me", token=token)
