"""FORWARDED_ALLOW_IPS: a trusted proxy's report of its client counts for addresses, limits, links and log lines."""

from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from loadtest.client import connect, open_websocket
from tests.site import Site, open_site
from tests.transports import TRANSPORTS
from tests.transports import connect as connect_by
from tests.waiting import wait_until

WAIT = 60.0
CLIENT = "203.0.113.9"
SAID = {"X-Forwarded-For": f"6.6.6.6, {CLIENT}", "X-Forwarded-Proto": "https", "X-Request-Id": "theirs"}


async def seen(site: Site, lines: list[Any]) -> dict[str, Any]:
    """Return the client's address and scheme as the server sees them in each place where they matter."""
    made = await site.http.post("/api/users", json={"username": "alice"}, headers=SAID)
    token = made.json()["accessToken"]
    bearer = {**SAID, "Authorization": f"Bearer {token}"}
    [session] = (await site.http.get("/auth/sessions", headers=bearer)).json()["items"]
    file = {"name": "a", "contentType": "text/plain", "size": 1}
    link = (await site.http.post("/api/files/presign", json=file, headers=bearer)).json()["uploadUrl"]
    async with connect(f"{site.url}/hubs/chat", token, headers=SAID) as hub:
        assert await hub.invoke("Ping") == {}
    await wait_until(lambda: any(line["event"] == "connection_closed" for line in lines))
    [opened] = [line for line in lines if line["event"] == "connection_opened"]
    requests = {line["address"] for line in lines if line["event"] == "request"}
    return {
        "session": session["address"],
        "link": link.partition(":")[0],
        "hub": opened["address"],
        "requests": requests,
        "named": made.headers["X-Request-Id"] == "theirs",
    }


@pytest.mark.parametrize(
    ("proxies", "address", "scheme"),
    [
        ("127.0.0.0/8", CLIENT, "https"),
        ("10.0.0.0/8", "127.0.0.1", "http"),
        ("", "127.0.0.1", "http"),
    ],
)
async def test_who_is_believed(
    proxies: str, address: str, scheme: str, tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery
) -> None:
    """The last address and the scheme from a trusted peer are used; those from others are ignored."""
    with capture_logs() as lines:
        async with open_site(
            database, redis_url, nursery, forwarded_allow_ips=proxies, objects=f"file://{tmp_path}/files"
        ) as site:
            assert await seen(site, lines) == {
                "session": address,
                "link": scheme,
                "hub": address,
                "requests": {address},
                "named": proxies.startswith("127"),
            }


async def test_a_line_of_the_proxys_own(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Some proxies add a header line below the client's: the last address of all lines counts."""
    async with open_site(database, redis_url, nursery, forwarded_allow_ips="127.0.0.1") as site:
        for number in range(2):
            said = [("X-Forwarded-For", f"6.6.6.{number}"), ("X-Forwarded-For", CLIENT)]
            made = await site.http.post("/api/users", json={"username": f"user{number}"}, headers=said)
            bearer = {"Authorization": f"Bearer {made.json()['accessToken']}"}
            [session] = (await site.http.get("/auth/sessions", headers=bearer)).json()["items"]
            assert session["address"] == CLIENT


async def test_lines_of_several_proxies(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Each trusted proxy may add a line: REST, its log and all transports read them as one list."""
    said = [("X-Forwarded-For", f"6.6.6.6, {CLIENT}"), ("X-Forwarded-For", "127.0.0.1")]
    with capture_logs() as lines:
        async with open_site(database, redis_url, nursery, forwarded_allow_ips="127.0.0.1") as site:
            made = await site.http.post("/api/users", json={"username": "alice"}, headers=said)
            token = made.json()["accessToken"]
            headers = [*said, ("Authorization", f"Bearer {token}")]
            [session] = (await site.http.get("/auth/sessions", headers=headers)).json()["items"]
            assert session["address"] == CLIENT
            assert {line["address"] for line in lines if line["event"] == "request"} == {CLIENT}
            address = f"{site.url}/hubs/chat"
            for transport in TRANSPORTS:
                async with connect_by(transport, address, token, headers=said):
                    opened = [line["address"] for line in lines if line["event"] == "connection_opened"]
                    assert opened[-1] == CLIENT, transport
            assert len(opened) == len(TRANSPORTS)


async def test_limits_are_the_clients_own(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Behind a trusted proxy each address has its own limits; a forged address shares those of the real one."""
    rates = {"rate_limits": "on", "rate_requests": "4/60s", "rate_sign_ins": "2/60s"}
    for proxies, alike in (("127.0.0.1", False), ("", True)):
        options: dict[str, Any] = {**rates, "forwarded_allow_ips": proxies, "redis_url": redis_url}
        async with open_site(database, nursery=nursery, **options) as site:
            for method, path, most in (("POST", "/auth/refresh", 2), ("GET", "/health/live", 4)):
                statuses = []
                for number in range(most + 1):
                    headers = {"X-Forwarded-For": f"203.0.113.{most}{number}"}
                    answer = await site.http.request(method, path, headers=headers, json={"refreshToken": "x"})
                    statuses.append(answer.status_code)
                assert (429 in statuses) == alike, (path, statuses)


async def test_origins_of_upgrades(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Pages of other origins cannot connect, on fresh or used connections; ours and non-browsers can."""
    async with open_site(database, redis_url, nursery, allowed_origins="https://chat.example") as site:
        _, token = await site.user("alice")
        upgrade = (
            f"GET /hubs/chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Authorization: Bearer {token}\r\n"
        )
        for kept in (False, True):
            for origin, status in (("https://evil.example", 403), ("null", 403), ("https://chat.example", 101)):
                stream = await trio.open_tcp_stream("127.0.0.1", int(site.url.rpartition(":")[2]))
                async with stream:
                    if kept:
                        await stream.send_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                        said = b""
                        while not said.endswith(b"}}"):
                            said += await stream.receive_some(65536)
                    await stream.send_all(f"{upgrade}Origin: {origin}\r\n\r\n".encode())
                    with trio.fail_after(WAIT):
                        said = await stream.receive_some(65536)
                    assert said.startswith(b"HTTP/1.1 %d " % status), (kept, origin, said)
                    assert (b"x-request-id" in said.lower()) == (status == 403)
        await (await open_websocket(f"{site.url}/hubs/chat", token)).aclose()
