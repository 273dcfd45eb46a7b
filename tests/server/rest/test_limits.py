"""Rate limits as clients meet them: REST, hub and connects, on one instance and on two; and browsers' origins."""

import re
from typing import Any

import pytest
import trio

from loadtest.client import ClientError, connect
from tests import plain_http
from tests.site import Site, open_site
from tests.waiting import wait_until

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


async def test_conversations_of_one_user(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Whom others have added to as many as a user may be in, is added to no more; the error names them."""
    async with open_site(database, redis_url, nursery, max_user_conversations=2) as site:
        (_, token), (bob, _) = await site.user("alice"), await site.user("bob")
        group = {"type": "Group", "memberIds": [bob]}
        for _ in range(2):
            made = await site.call("POST", "/api/conversations", group, token=token, status=201)
        carol, other = await site.user("carol")
        problem = await site.call("POST", "/api/conversations", group, token=other, status=409)
        assert problem["code"] == "conflict" and bob in problem["detail"] and carol not in problem["detail"]
        members = f"/api/conversations/{made['id']}/members"
        await site.call("DELETE", f"{members}/{bob}", token=token, status=204)
        await site.call("POST", "/api/conversations", group, token=other, status=201)


async def test_conversations_of_one_user_at_once(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """However many add one user at the same moment, the user is in no more conversations than others may fill: nine
    tenths of the limit. What is refused leaves nothing."""
    async with open_site(database, redis_url, nursery, max_user_conversations=10) as site:
        bob, token = await site.user("bob")
        others = [await site.user(f"user{number}") for number in range(16)]
        statuses: list[int] = []

        async def add(number: int) -> None:
            members = [bob, others[number - 1][0], others[number - 2][0]]
            answer = await site.http.post(
                "/api/conversations",
                json={"type": "Group", "memberIds": members if number % 2 else members[::-1]},
                headers={"Authorization": f"Bearer {others[number][1]}"},
            )
            statuses.append(answer.status_code)

        async with trio.open_nursery() as adding:
            for number in range(len(others)):
                adding.start_soon(add, number)
        assert sorted(statuses) == [201] * 9 + [409] * 7
        assert len((await site.call("GET", "/api/conversations?limit=50", token=token))["items"]) == 9


async def test_additions(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Beginning conversations and adding users have a rate of their own, which others do not share."""
    async with open_site(database, redis_url, nursery, rate_limits="on", rate_additions="3/60s") as site:
        (_, token), (bob, other) = await site.user("alice"), await site.user("bob")
        group = {"type": "Group", "memberIds": []}
        for _ in range(2):
            made = await site.call("POST", "/api/conversations", group, token=token, status=201)
        members = f"/api/conversations/{made['id']}/members"
        await site.call("POST", members, {"userId": bob}, token=token, status=201)
        for path, body in (("/api/conversations", group), (members, {"userId": bob})):
            problem = await site.call("POST", path, body, token=token, status=429)
            assert problem["code"] == "rate_limited"
        await site.call("GET", "/api/conversations", token=token)
        await site.call("POST", "/api/conversations", group, token=other, status=201)


async def test_each_user_added_counts(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A conversation counts as one for each user with whom it begins, however often they are named; one with more than
    the limit is begun when nothing of it is used."""
    async with open_site(database, redis_url, nursery, rate_limits="on", rate_additions="3/600s") as site:
        people = [await site.user(f"user{number}") for number in range(5)]
        ids = [user_id for user_id, _ in people]
        path = "/api/conversations"

        async def begin(who: int, members: list[int], status: int) -> None:
            body = {"type": "Group", "memberIds": [ids[number] for number in members]}
            await site.call("POST", path, body, token=people[who][1], status=status)

        await begin(0, [0, 1, 1, 2], 201)
        await begin(0, [3, 4], 429)
        await begin(0, [3], 201)
        await begin(0, [], 429)
        await begin(1, [0, 2, 3, 4], 201)
        await begin(1, [], 429)
        await site.call("POST", path, {"type": "Direct", "memberIds": [ids[0]]}, token=people[2][1], status=201)
        await begin(2, [3, 4], 201)


async def test_sends_and_requests(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """REST answers 429 with Retry-After, the hub `rate_limited` with the wait. Other users are not affected."""
    async with open_site(
        database, redis_url, nursery, rate_limits="on", rate_sends="3/60s", rate_requests="8/60s"
    ) as site:
        (alice, a), (bob, b) = await site.user("alice"), await site.user("bob")
        made = await site.call(
            "POST", "/api/conversations", {"type": "Direct", "memberIds": [bob]}, token=a, status=201
        )
        body = {"conversationId": made["id"], "content": "x"}
        async with connect(f"{site.url}/hubs/chat", a) as hub, connect(f"{site.url}/hubs/chat", b) as other:
            for _ in range(2):
                await hub.invoke("SendMessage", body)
            sent = await site.call("POST", "/api/messages", body, token=a, status=201)
            with pytest.raises(ClientError, match=r"rate_limited: At most 3 messages in 60 s; wait [\d.]+ s\."):
                await hub.invoke("SendMessage", body)
            for call in (("PUT", {"content": "y"}), ("DELETE", None)):
                problem = await site.call(call[0], f"/api/messages/{sent['id']}", call[1], token=a, status=429)
                assert problem["code"] == "rate_limited"
            await other.invoke("SendMessage", body)
            answers = [await site.http.get("/api/users/me", headers={"Authorization": f"Bearer {a}"}) for _ in range(9)]
            assert [answer.status_code for answer in answers].count(429) >= 3
            assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
            assert (await site.call("GET", "/api/users/me", token=b))["id"] == bob
            assert (await hub.invoke("Ping")) == {} and alice


async def test_who_waits_is_taken(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Each send of a burst past the limit, by hub and REST, is accepted at the time given for its retry.

    Only sends of the burst that are accepted after others were refused, on a slow machine, can delay one of these
    again.
    """
    async with open_site(database, redis_url, nursery, rate_limits="on", rate_sends="10/2s") as site:
        _, a = await site.user("alice")
        group = (await site.call("POST", "/api/conversations", {"type": "Group"}, token=a, status=201))["id"]
        headers = {"Authorization": f"Bearer {a}"}
        async with connect(f"{site.url}/hubs/chat", a) as hub:

            async def send(number: int) -> float | None:
                """Send; return None if it was accepted, else the seconds to wait."""
                body = {"conversationId": group, "content": str(number)}
                if number % 2:
                    answer = await site.http.post("/api/messages", json=body, headers=headers)
                    return None if answer.status_code == 201 else float(answer.headers["Retry-After"])
                try:
                    await hub.invoke("SendMessage", body)
                except ClientError as error:
                    found = re.search(r"rate_limited: .*; wait ([\d.]+) s", str(error))
                    assert found, error
                    return float(found[1])
                return None

            waits: dict[int, float] = {}

            async def burst(number: int) -> None:
                wait = await send(number)
                if wait is not None:
                    waits[number] = trio.current_time() + wait

            async def again(number: int, when: float) -> None:
                await trio.sleep_until(when)  # as long as the answer says
                while (wait := await send(number)) is not None:
                    displaced.append(number)
                    await trio.sleep(wait)  # as long as the answer says

            displaced: list[int] = []
            async with trio.open_nursery() as senders:
                for number in range(30):
                    senders.start_soon(burst, number)
            async with trio.open_nursery() as senders:
                for number, when in waits.items():
                    senders.start_soon(again, number, when)
        assert len(displaced) <= 30 - len(waits) - 10
        said = await site.call("GET", "/api/messages", token=a, params={"conversationId": group, "limit": 200})
        texts = [message["content"] for message in said["items"] if message["type"] != "System"]
        assert sorted(map(int, texts)) == list(range(30))


async def test_one_connection_floods(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Its calls are refused, then it is read more slowly; calls of another connection are answered as before."""
    async with open_site(database, redis_url, nursery, rate_limits="on", rate_invocations="20/2s") as site:
        (_, a), (_, b) = await site.user("alice"), await site.user("bob")
        async with connect(f"{site.url}/hubs/chat", a) as flood, connect(f"{site.url}/hubs/chat", b) as other:
            calls = [await flood.start("Ping") for _ in range(30)]
            outcomes = []
            for call in calls:
                try:
                    outcomes.append(await flood.result(call))
                except ClientError as error:
                    assert "rate_limited" in str(error)
                    outcomes.append(None)
                assert len(outcomes) % 10 or await other.invoke("Ping") == {} or len(outcomes) > 100
            assert outcomes[:20] == [{}] * 20 and None in outcomes


async def test_many_connections_of_one_user(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """One too many is refused with 429, and accepted after another was closed. Other users are not affected."""
    async with open_site(database, redis_url, nursery, max_user_connections=3) as site:
        (_, a), (_, b) = await site.user("alice"), await site.user("bob")
        url = f"{site.url}/hubs/chat"
        async with connect(url, a), connect(url, a):
            async with connect(url, a):
                headers = {**UPGRADE, "Authorization": f"Bearer {a}"}
                refused = await site.http.get("/hubs/chat", headers=headers)
                assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
                assert refused.json()["code"] == "rate_limited"
                async with connect(url, b) as other:
                    assert await other.invoke("Ping") == {}
            await wait_until(lambda: len(site.process.hub.connections) <= 2)
            async with connect(url, a) as hub:
                assert await hub.invoke("Ping") == {}
        assert not site.process.hub.disconnects["defect"]


async def test_calls_over_many_connections(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """The limit of one connection also holds for all connections of a user together."""
    async with open_site(database, redis_url, nursery, rate_limits="on", rate_user_invocations="30/60s") as site:
        (_, a), (_, b) = await site.user("alice"), await site.user("bob")
        url = f"{site.url}/hubs/chat"
        async with connect(url, a) as one, connect(url, a) as two, connect(url, b) as other:
            for _ in range(15):
                assert await one.invoke("Ping") == {} and await two.invoke("Ping") == {}
            with pytest.raises(ClientError, match="rate_limited: At most 30 calls of one user"):
                await two.invoke("Ping")
            assert await other.invoke("Ping") == {}


async def test_connects(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Connects are limited by user and by address: the one from a trusted proxy, or the kernel's."""
    async with open_site(
        database,
        redis_url,
        nursery,
        rate_limits="on",
        rate_user_connects="2/60s",
        rate_connects="4/60s",
        forwarded_allow_ips="127.0.0.1",
    ) as site:
        (_, a), (_, b) = await site.user("alice"), await site.user("bob")

        async def upgrade(token: str, address: str) -> int:
            headers = {**UPGRADE, "Authorization": f"Bearer {token}", "X-Forwarded-For": address}
            async with plain_http.client(timeout=60) as http:
                async with http.stream("GET", f"{site.url}/hubs/chat", headers=headers) as answer:
                    assert answer.status_code != 429 or int(answer.headers["Retry-After"]) > 0
                    return answer.status_code

        assert [await upgrade(a, "203.0.113.1") for _ in range(3)] == [101, 101, 429]  # the user's connections
        assert [await upgrade(b, "203.0.113.1") for _ in range(2)] == [101, 429]  # the address's
        assert await upgrade(b, "203.0.113.2") == 101


async def test_sign_ins_count_for_all_instances(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Registrations and refreshes of one address count on all instances; RATE_LIMITS=off disables limits."""
    options: dict[str, Any] = {"rate_limits": "on", "rate_sign_ins": "4/60s"}
    async with (
        open_site(database, redis_url, nursery, **options) as one,
        open_site(database, redis_url, nursery, **options) as two,
        open_site(database, redis_url, nursery, rate_limits="off", rate_sign_ins="1/60s") as free,
    ):
        await one.user("a1")
        await two.user("a2")
        await one.call("POST", "/auth/refresh", {"refreshToken": "x"}, status=401)
        await two.user("a3")
        await one.call("POST", "/api/users", {"username": "a4"}, status=429)
        await two.call("POST", "/auth/refresh", {"refreshToken": "x"}, status=429)
        await two.call("GET", "/auth/login/unknown", status=429)
        for n in range(3):
            await free.user(f"free{n}")


async def test_browsers_origins(site: Site, database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """REST answers preflights with the allowed origins; upgrades from others are refused; without a list all may."""
    preflight = {
        "Origin": "https://chat.example",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization,baggage,if-match,traceparent,tracestate,x-signalr-user-agent",
    }
    async with open_site(database, redis_url, nursery, allowed_origins="https://chat.example") as strict:
        for server, origin, fine in (
            (strict, "https://chat.example", True),
            (strict, "https://evil.example", False),
            (site, "https://anything.example", True),
        ):
            with trio.fail_after(60):  # there is no body to read
                answer = await server.http.options("/api/users/me", headers={**preflight, "Origin": origin})
            assert (answer.headers.get("Access-Control-Allow-Origin") == origin) == fine
            assert answer.is_success == fine
            answer = await server.http.get("/health", headers={"Origin": origin})
            assert (answer.headers.get("Access-Control-Allow-Origin") == origin) == fine
            assert "ETag" in answer.headers.get("Access-Control-Expose-Headers", "")
            assert "Origin" in answer.headers["Vary"]
        _, token = await strict.user("alice")
        headers = {"Origin": "https://evil.example", "Authorization": f"Bearer {token}"}
        refused = await strict.http.post("/hubs/chat/negotiate?negotiateVersion=1", headers=headers)
        assert refused.status_code == 403
