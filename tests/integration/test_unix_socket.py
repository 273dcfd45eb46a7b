"""A server on a Unix socket that it was handed, behind a proxy: CORS, limits and addresses as on any other."""

import socket
from pathlib import Path
from typing import Any

import pytest

from tests import plain_http
from tests.running import running

ORIGIN = "https://chat.example"


@pytest.mark.parametrize("trusted", ["unix", ""])
async def test_behind_a_proxy_on_a_unix_socket(trusted: str, tmp_path: Path, database: str, redis_url: str) -> None:
    """Its proxy is believed where FORWARDED_ALLOW_IPS says so: each client has its own limits, and its address is in
    the log. Else the server says at its start what follows from that. The ready line says where it listens."""
    path = str(tmp_path / "parley.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        settings: dict[str, Any] = {
            "listen": f"fd://{sock.fileno()}",
            "forwarded_allow_ips": trusted,
            "allowed_origins": f"{ORIGIN}/",
            "rate_limits": "on",
            "rate_requests": "2/600s",
        }
        async with running(database, redis_url, pass_fds=[sock.fileno()], **settings) as server:
            assert [line["url"] for line in server.events("ready")] == [f"unix:{path}"]
            assert bool(server.events("addresses_unknown")) == (not trusted)
            transport = plain_http.over(path)
            async with plain_http.client(base_url="http://x", transport=transport, timeout=30) as http:
                preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT"}
                answer = await http.options("/api/users/me", headers=preflight)
                assert answer.status_code == 200 and answer.headers["Access-Control-Allow-Origin"] == ORIGIN
                statuses = []
                for number in range(4):
                    headers = {"X-Forwarded-For": f"203.0.113.{number}", "Origin": ORIGIN}
                    answer = await http.get("/openapi.json", headers=headers)
                    statuses.append(answer.status_code)
                    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert statuses == ([200] * 4 if trusted else [200, 200, 429, 429])
            addresses = {line["address"] for line in server.events("request") if line["route"] == "/openapi.json"}
            assert addresses <= ({f"203.0.113.{number}" for number in range(4)} if trusted else {""})
