"""What a whole server writes into its log, and what it must not, at level debug."""

import json
import os
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import trio

from loadtest.client import ClientError, HubError, connect, open_websocket
from server.protocol import websocket
from tests.running import Running, running
from tests.waiting import wait_until

MARKER = "geheimnisvoll"
EMAIL = f"{MARKER}@example.org"
WAIT = 60.0


@pytest.fixture
async def server(database: str, redis_url: str) -> AsyncIterator[Running]:
    """Run a server with defects, which takes the test for its proxy."""
    async with running(
        database,
        redis_url,
        module="tests.integration.faulty",
        may_fail=True,
        log_level="debug",
        forwarded_allow_ips="127.0.0.1",
    ) as found:
        yield found


async def line(server: Running, event: str, **fields: object) -> dict[str, Any]:
    """Wait for a line of this event with these fields, and return it; there must be only one."""
    found = await wait_until(lambda: [one for one in server.events(event) if fields.items() <= one.items()])
    assert len(found) == 1, found
    return found[0]


async def test_requests_and_connections(server: Running) -> None:
    """One line for each, with who, whence, how long and how it ended; a request's id is in its answer, its problem and
    all its lines; what failed for a defect of ours has a reference that leads to the traceback."""
    alice = await server.register("alice")
    proxied = {"X-Request-Id": "from-the-proxy", "X-Forwarded-For": "203.0.113.9"}
    async with server.http(alice) as http:
        answer = await http.get(f"/api/users/{alice.id}?q={MARKER}", headers=proxied)
        assert answer.headers["X-Request-Id"] == "from-the-proxy"
        logged = await line(server, "request", request="from-the-proxy")
        assert logged["route"] == "/api/users/{user_id}" and logged["method"] == "GET" and logged["status"] == 200
        assert logged["user"] == alice.id and logged["address"] == "203.0.113.9" and 0 < logged["seconds"] < WAIT

        answer = await http.post("/hubs/chat/negotiate")
        assert (await line(server, "request", request=answer.headers["X-Request-Id"]))["user"] == alice.id

        answer = await http.get("/api/nothing", headers={"X-Request-Id": "not acceptable"})
        logged = await line(server, "request", request=answer.headers["X-Request-Id"])
        assert (logged["route"], logged["status"]) == (None, 404)
        assert answer.json()["instance"] == f"urn:parley:request:{logged['request']}"

        await http.request("X" * 10_000, "/api/nothing", headers={"X-Request-Id": "made-up"})
        assert (await line(server, "request", request="made-up"))["method"] == "X" * 20

        answer = await http.get("/api/users", params={"q": "somebody"})
        assert answer.status_code == 500
        logged = await line(server, "request_failed", request=answer.headers["X-Request-Id"])
        assert logged["reference"] in answer.json()["detail"]
        assert [entry["exc_type"] for entry in logged["exception"]] == ["ValueError", "KeyError"]
        assert any(frame["name"] == "search" for frame in logged["exception"][0]["frames"])
        assert "locals" not in json.dumps(logged["exception"])

    headers = {"User-Agent": "x" * 500, "X-Forwarded-For": "203.0.113.9"}
    async with connect(server.hub_url, alice.token, headers=headers) as hub:
        opened = await line(server, "connection_opened", user=alice.id)
        assert (opened["transport"], opened["protocol"]) == ("websocket", "json")
        assert opened["address"] == "203.0.113.9" and 0 < len(opened["client"]) <= 256
        with pytest.raises(HubError, match="Reference: ") as failed:
            await hub.invoke("GetPresence", [alice.id])
        logged = await line(server, "invocation_failed", connection=opened["connection"])
        assert logged["reference"] in str(failed.value) and logged["exception"][0]["exc_type"] == "RuntimeError"
        for _ in range(10):
            await hub.invoke("Ping")
        await hub.send_raw(websocket.encode_masked(websocket.CLOSE, websocket.close_payload(4321)))
        closed = await line(server, "connection_closed", connection=opened["connection"])
    assert closed["code"] == 4321 and "closed by client" in closed["reason"] and closed["seconds"] >= 0
    assert 500 < closed["bytes_in"] < 5000 and 300 < closed["bytes_out"] < 5000
    stream = await open_websocket(server.hub_url, alice.token)
    async with stream:
        said = b'{"protocol":"json","version":' + b"9" * 4000 + b"}\x1e"
        await stream.send_all(websocket.encode_masked(websocket.TEXT, said))
        refused = (await line(server, "connection_closed", code=1002))["reason"]
        assert refused.startswith("handshake refused: Version 9999") and len(refused) < 100
    with pytest.raises(ClientError, match="401"):
        await open_websocket(server.hub_url, headers={"X-Request-Id": "refused-one"})
    logged = await line(server, "refused", request="refused-one")
    assert logged["status"] == 401 and logged["address"] == "127.0.0.1"


async def test_no_secrets(server: Running) -> None:
    """Sign-up, messages, tokens in queries, bad input, defects: no token, content or e-mail, no local variable."""
    secrets = {MARKER}
    async with server.http() as http:
        made = await http.post("/api/users", json={"username": "alice", "email": EMAIL, "displayName": MARKER})
        tokens = made.json()
        await http.post("/api/users", json={"username": "alice", "email": EMAIL})
        alice = (await server.register("bob"))._replace(id=tokens["id"], token=tokens["accessToken"])
        secrets |= {alice.token, tokens["refreshToken"]}
        await http.post("/auth/refresh", json={"refreshToken": MARKER})
        refreshed = await http.post("/auth/refresh", json={"refreshToken": tokens["refreshToken"]})
        secrets |= {refreshed.json()["accessToken"], refreshed.json()["refreshToken"]}
        await http.get("/auth/callback/unknown", params={"code": MARKER, "state": MARKER})
        negotiated = await http.post(
            "/hubs/chat/negotiate", params={"negotiateVersion": 1, "access_token": alice.token}
        )
        connection_token = negotiated.json()["connectionToken"]
        secrets.add(connection_token)
    group = await server.group(alice)
    message = {"conversationId": group, "content": MARKER, "clientMessageId": str(uuid4())}
    deep = "[" * 100_000 + MARKER
    async with server.http(alice) as http:
        for content in (MARKER, f"{MARKER}\x00", MARKER * 10_000, 7):
            await http.post("/api/messages", json={**message, "content": content})
        for body in (f'{{"content": "{MARKER}', f'{{"{MARKER}": \ud800}}'.encode("utf-8", "surrogatepass"), deep):
            await http.post("/api/messages", content=body, headers={"Content-Type": "application/json"})
        await http.post("/api/messages", json={**message, "type": MARKER})
        await http.post(
            "/api/messages", json=message, headers={"Idempotency-Key": MARKER, "X-Request-Id": MARKER + "!"}
        )
        await http.put("/api/users/me", json={"displayName": MARKER, "email": EMAIL})
        await http.get(f"/api/users/{MARKER}", params={"cursor": MARKER})
        failed = await http.get("/api/users", params={"q": EMAIL})
        assert failed.status_code == 500
    await (await open_websocket(server.hub_url, query={"id": connection_token})).aclose()
    for query in ({"access_token": alice.token}, {"access_token": MARKER}, {"id": MARKER}):
        try:
            await (await open_websocket(server.hub_url, query=query)).aclose()
        except ClientError:
            pass
    async with server.connect(alice) as hub:
        await hub.invoke("SendMessage", message)
        for target, argument in (
            ("SendMessage", {**message, "type": MARKER}),
            ("SendMessage", {**message, "content": f"{MARKER}\x00"}),
            ("SendMessage", MARKER),
            (MARKER, MARKER),
            ("GetPresence", [str(uuid4())]),
            ("RefreshToken", MARKER),
        ):
            with pytest.raises(HubError):
                await hub.invoke(target, argument)
        await hub.send("SendMessage", MARKER)
        await hub.send_raw(websocket.encode_masked(websocket.TEXT, f'{{"type":1,"target":"{MARKER}'.encode() + b"\x1e"))
        with trio.fail_after(WAIT):
            await hub.closed.wait()
    stream = await open_websocket(server.hub_url, alice.token)
    await stream.send_all(
        websocket.encode_masked(websocket.TEXT, json.dumps({"protocol": MARKER, "version": 1}).encode() + b"\x1e")
    )
    await stream.send_all(websocket.encode_masked(websocket.CLOSE, b"\x03\xe8" + MARKER.encode()))
    await stream.aclose()
    for head in (f"GET /{MARKER} HTTP/1.1\r\n{MARKER}\r\n\r\n", f"{MARKER}\r\n\r\n", os.urandom(8).hex()):
        raw = await trio.open_tcp_stream("127.0.0.1", server.port)
        await raw.send_all(head.encode())
        await raw.aclose()
    server.terminate()
    await server.wait()
    said = "\n".join(map(str, server.lines))
    assert len(server.events("request")) > 15 and server.events("request_failed") and server.events("invocation_failed")
    for secret in secrets:
        assert secret not in said, [one for one in server.lines if secret in str(one)]
