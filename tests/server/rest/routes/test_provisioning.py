"""REST for applications that bring their own users."""

import io
import json
import zipfile
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import jwt
import trio

from handlers.api_keys import issue
from loadtest.client import ClientError, connect
from server.identity.access_tokens import mint_token
from store.ids import new_id
from store.model import UserRole
from store.postgres import api_keys, moderation, queries
from store.postgres.connection import Connection
from tests.site import Site, open_site
from tests.store.world import wait_for_lock

BY_ID = "/api/users/by-external-id/"


async def make_key(site: Site, *scopes: str, user: str | None = None, name: str = "") -> str:
    key_id = new_id()
    key, secret_hash = issue(key_id)
    async with site.process.pool.connection() as conn:
        made = await api_keys.insert_key(
            conn, key_id, name or str(key_id), scopes, secret_hash, user_id=UUID(user) if user else None, seconds=None
        )
    assert made is not None
    return key


async def test_a_user_of_an_application(site: Site) -> None:
    """201 the first time, 200 then; GET has the same; the user is shown with the id to others, too."""
    key = await make_key(site, "users:read", "users:write")
    body = {"username": "ada", "displayName": "Ada", "email": "ada@example.org"}
    made = await site.call("PUT", f"{BY_ID}42", body, token=key, status=201)
    assert (made["externalId"], made["username"], made["email"]) == ("42", "ada", body["email"])
    assert await site.call("PUT", f"{BY_ID}42", body, token=key) == made
    changed = await site.call("PUT", f"{BY_ID}42", {"displayName": "Ada L.", "email": None}, token=key)
    assert changed == {**made, "displayName": "Ada L.", "email": None}
    assert await site.call("GET", f"{BY_ID}42", token=key) == changed
    _, token = await site.user("bob")
    seen = await site.call("GET", f"/api/users/{made['id']}", token=token)
    assert seen["externalId"] == "42" and "email" not in seen
    await site.call("GET", f"{BY_ID}43", token=key, status=404)
    await site.call("PUT", f"{BY_ID}43", {"username": "ADA"}, token=key, status=409)


async def test_ids_stand_in_paths_as_they_are(site: Site) -> None:
    """Percent-encoded or not, in their case, also where they are words of our paths; what none can be is a 404."""
    key = await make_key(site, "users:read", "users:write", "users:act")
    for external_id in ("auth0|1", "a@b.c", "100%", "%41", "a?b#c", "Users", "USERS", "Me", "batch", "~x;y=z", "a+b"):
        path = BY_ID + quote(external_id, safe="")
        made = await site.call("PUT", path, {}, token=key, status=201)
        assert made["externalId"] == external_id
        assert await site.call("GET", path.replace("/api/users", "/API/Users"), token=key) == made
        headers = {"X-Parley-External-User": external_id}
        assert (await site.call("GET", "/api/users/me", token=key, headers=headers))["id"] == made["id"]
    for wrong in ("", ".x", "a%20b", "%C3%A9", "x" * 256):
        await site.call("PUT", BY_ID + wrong, {}, token=key, status=404)


async def test_a_batch(site: Site) -> None:
    """Up to a hundred, in order, all or none; 101 are refused, and one that is wrong is named."""
    key = await make_key(site, "users:write")
    users = [{"externalId": str(number), "displayName": f"User {number}"} for number in range(100)]
    made = (await site.call("POST", "/api/users/batch", {"users": users}, token=key))["items"]
    assert [user["externalId"] for user in made] == [user["externalId"] for user in users]
    assert (await site.call("POST", "/api/users/batch", {"users": users}, token=key))["items"] == made
    more = [{"externalId": "100"}, {"externalId": "101", "email": "nonsense"}]
    problem = await site.call("POST", "/api/users/batch", {"users": more}, token=key, status=400)
    assert list(problem["fields"]) == ["users[1].email"]
    wrong: Any
    for wrong in ([], [*users, {"externalId": "100"}], [{}], [{"externalId": "a b"}]):
        await site.call("POST", "/api/users/batch", {"users": wrong}, token=key, status=400)
    _, token = await site.user("bob")
    assert len((await site.call("GET", "/api/users?limit=200", token=token))["items"]) == 101


async def test_a_token_for_a_client(site: Site) -> None:
    """It is the user's, for as long as was asked; its session is in their list, and ends as any other, everywhere."""
    key = await make_key(site, "users:write", "tokens:mint", name="shop")
    user = await site.call("PUT", f"{BY_ID}42", {}, token=key, status=201)
    path = f"/api/users/{user['id']}/tokens"
    minted = await site.call("POST", path, {"expiresInSeconds": 120}, token=key, status=201)
    other = await site.call("POST", path, {}, token=key, status=201)
    claims = jwt.decode(minted["accessToken"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == minted["expiresIn"] == 120 and other["expiresIn"] == 3600
    assert claims["sub"] == minted["userId"] == user["id"] and "role" not in claims
    assert (await site.call("GET", "/api/users/me", token=minted["accessToken"]))["id"] == user["id"]
    [latest, first] = (await site.call("GET", "/auth/sessions", token=minted["accessToken"]))["items"]
    assert (first["id"], first["client"], latest["id"]) == (minted["sessionId"], "shop", other["sessionId"])
    async with connect(f"{site.url}/hubs/chat", minted["accessToken"]) as hub:
        await hub.invoke("Ping")
        await site.call("DELETE", f"/auth/sessions/{first['id']}", token=other["accessToken"], status=204)
        with trio.fail_after(60):
            await hub.closed.wait()
    await site.call("GET", "/api/users/me", token=minted["accessToken"], status=401)
    await site.call("GET", "/api/users/me", token=other["accessToken"])
    for seconds in (0, 59, 86401, -1, 1.5, "60"):
        await site.call("POST", path, {"expiresInSeconds": seconds}, token=key, status=400)
    await site.call("POST", f"/api/users/{uuid4()}/tokens", {}, token=key, status=404)


async def test_all_sessions_of_a_user_end(site: Site) -> None:
    """DELETE .../tokens: those that were minted and those of sign-ins, with their connections; of others none."""
    key = await make_key(site, "tokens:mint", name="shop")
    alice, token = await site.user("alice")
    _, others = await site.user("bob")
    minted = await site.call("POST", f"/api/users/{alice}/tokens", {}, token=key, status=201)
    async with connect(f"{site.url}/hubs/chat", token) as hub:
        await hub.invoke("Ping")
        for _ in range(2):
            await site.call("DELETE", f"/api/users/{alice}/tokens", token=key, status=204)
        with trio.fail_after(60):
            await hub.closed.wait()
    for ended in (token, minted["accessToken"]):
        await site.call("GET", "/api/users/me", token=ended, status=401)
    await site.call("GET", "/api/users/me", token=others)
    await site.call("DELETE", f"/api/users/{uuid4()}/tokens", token=key, status=404)
    admin = mint_token(site.process.settings, UUID(alice), admin=True)
    noted = (await site.call("GET", "/api/audit?act=sessionsEnded", token=admin))["items"]
    assert [(one["userId"], one["actorId"], one["detail"]) for one in noted] == [(alice, None, "shop")] * 2


async def test_administrators_may_do_it_too(site: Site) -> None:
    """A user who is one, or a token of one, does what an application does; any other user does not."""
    (alice, token), (bob, bobs) = await site.user("alice"), await site.user("bob")
    admin = mint_token(site.process.settings, UUID(alice), admin=True)
    made = await site.call("PUT", f"{BY_ID}42", {}, token=admin, status=201)
    await site.call("PUT", f"/api/users/{bob}/role", {"role": "Administrator"}, token=admin)
    for one in (admin, bobs):
        await site.call("POST", f"/api/users/{made['id']}/tokens", {}, token=one, status=201)
    for method, path, body in (
        ("PUT", f"{BY_ID}42", {}),
        ("GET", f"{BY_ID}42", None),
        ("POST", "/api/users/batch", {"users": [{"externalId": "1"}]}),
        ("POST", f"/api/users/{alice}/tokens", {}),
        ("DELETE", f"/api/users/{alice}/tokens", None),
    ):
        assert (await site.call(method, path, body, token=token, status=403))["code"] == "forbidden"


async def test_a_role_that_is_revoked_meanwhile(site: Site, database: str) -> None:
    """An administrator who waits for the user while their own role is revoked ends no sessions: it counts from the
    commit on."""
    (alice, a), (bob, b) = await site.user("alice"), await site.user("bob")
    refusals: list[str] = []

    async def end_sessions() -> None:
        problem = await site.call("DELETE", f"/api/users/{bob}/tokens", token=a, status=403)
        refusals.append(problem["code"])

    async with await Connection.open(database) as other, await Connection.open(database) as watcher:
        await moderation.update_user_role(other, UUID(alice), UserRole.ADMINISTRATOR)
        async with trio.open_nursery() as nursery, other.transaction():
            await moderation.lock_user_standing(other, UUID(bob))
            nursery.start_soon(end_sessions)
            await wait_for_lock(watcher)
            await moderation.update_user_role(watcher, UUID(alice), UserRole.USER)
    assert refusals == ["forbidden"]
    assert (await site.call("GET", "/api/users/me", token=b))["id"] == bob


async def test_erased_and_exported(site: Site) -> None:
    """A user's export has the id. An application erases a user: the id is free, for another user, and says so once."""
    key = await make_key(site, "users:read", "users:write", "tokens:mint")
    user = await site.call("PUT", f"{BY_ID}42", {"displayName": "Ada"}, token=key, status=201)
    minted = await site.call("POST", f"/api/users/{user['id']}/tokens", {}, token=key, status=201)
    exported = await site.http.get("/api/users/me/export", headers={"Authorization": f"Bearer {minted['accessToken']}"})
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        assert json.loads(archive.read("account.json"))["externalId"] == "42"
    await site.call("DELETE", f"/api/users/{user['id']}", token=key, status=204)
    assert (await site.call("GET", f"/api/users/{user['id']}", token=key))["externalId"] is None
    await site.call("GET", f"{BY_ID}42", token=key, status=404)
    again = await site.call("PUT", f"{BY_ID}42", {}, token=key, status=201)
    assert again["id"] != user["id"] and again["displayName"] != "Ada"


async def test_one_user_on_two_instances(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """However many requests name an id at once, on whichever instances: one of them makes the user, all have them."""
    async with open_site(database, redis_url, nursery) as one, open_site(database, redis_url, nursery) as two:
        key = await make_key(one, "users:write")
        found: list[tuple[int, str]] = []

        async def put(site: Site, number: int) -> None:
            answer = await site.http.put(
                f"{BY_ID}{number % 3}", json={"displayName": "Ada"}, headers={"Authorization": f"Bearer {key}"}
            )
            found.append((answer.status_code, answer.json()["id"]))

        async def put_all(site: Site, *order: int) -> None:
            users = [{"externalId": str(number)} for number in order]
            answer = await site.call("POST", "/api/users/batch", {"users": users}, token=key)
            found.extend((200, user["id"]) for user in answer["items"])

        async with trio.open_nursery() as requests:
            for number in range(12):
                requests.start_soon(put, (one, two)[number % 2], number)
            for order in ((0, 1, 2), (2, 1, 0)):
                requests.start_soon(put_all, one, *order)
                requests.start_soon(put_all, two, *order)
        assert len({user_id for _, user_id in found}) == 3
        assert [status for status, _ in found].count(201) <= 3 and {status for status, _ in found} <= {200, 201}


async def test_users_who_are_added_to_a_group_meanwhile(site: Site, database: str) -> None:
    """A batch and an addition of the same users do not wait in a circle: a batch locks users as additions do, in the
    order of their ids, whatever their external ids are."""
    key = await make_key(site, "users:read", "users:write")
    first, second = [UUID((await site.call("PUT", f"{BY_ID}{name}", {}, token=key, status=201))["id"]) for name in "ba"]
    assert first < second
    body = {"users": [{"externalId": name, "displayName": "Changed"} for name in "ab"]}
    async with (
        await Connection.open(database) as other,
        await Connection.open(database) as watcher,
        trio.open_nursery() as nursery,
        other.transaction(),
    ):
        await other.execute(queries.lock_joining, {"ids": [first]})
        nursery.start_soon(partial(site.call, "POST", "/api/users/batch", body, token=key))
        await wait_for_lock(watcher)
        await other.execute("SET LOCAL lock_timeout = 1000")
        await other.execute(queries.lock_joining, {"ids": [second]})
    for name in "ab":
        assert (await site.call("GET", f"{BY_ID}{name}", token=key))["displayName"] == "Changed"


async def test_a_key_is_no_access_token(site: Site) -> None:
    """The hub, and what is not for keys, say what to do instead."""
    key = await make_key(site, "users:read")
    problem = await site.call("POST", "/hubs/chat/negotiate?negotiateVersion=1", token=key, status=401)
    assert "mint one" in problem["detail"]
    refused = False
    try:
        async with connect(f"{site.url}/hubs/chat", key):
            pass
    except* ClientError:
        refused = True
    assert refused
