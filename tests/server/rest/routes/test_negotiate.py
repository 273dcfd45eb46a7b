"""Negotiate, health and the API's description."""

import jwt
import pytest
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from handlers.conversations import Conversations
from store.defects import counts
from tests.running import free_port
from tests.site import Site, open_site
from tests.waiting import wait_until

BAD_TEXT = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret inside")


async def test_negotiate(site: Site) -> None:
    """Version 1 separates the public id from the secret token; version 0 has one id; later versions get version 1."""
    _, token = await site.user("alice")
    path = "/hubs/chat/negotiate"
    one = await site.call("POST", path, token=token, params={"negotiateVersion": 1})
    assert one["negotiateVersion"] == 1 and one["connectionId"] != one["connectionToken"]
    offered = {"WebSockets": ["Text", "Binary"], "ServerSentEvents": ["Text"], "LongPolling": ["Text", "Binary"]}
    assert {each["transport"]: each["transferFormats"] for each in one["availableTransports"]} == offered
    assert "useStatefulReconnect" not in one
    asked = {"negotiateVersion": 1, "useStatefulReconnect": "true"}
    assert (await site.call("POST", path, token=token, params=asked))["useStatefulReconnect"] is True
    assert "useStatefulReconnect" not in await site.call(
        "POST", path, token=token, params=asked | {"negotiateVersion": 0}
    )
    zero = await site.call("POST", path, token=token)
    assert zero["negotiateVersion"] == 0 and "connectionToken" not in zero
    assert (await site.call("POST", path, token=token, params={"NEGOTIATEVERSION": 7}))["negotiateVersion"] == 1
    for version in ("-1", "x"):
        refused = await site.call("POST", path, token=token, params={"negotiateVersion": version})
        assert set(refused) == {"error"}
    await site.call("POST", path, status=401)
    await site.call("GET", path, token=token, status=405)
    browser = await site.http.post(path, params={"access_token": token, "negotiateVersion": 1})
    assert browser.status_code == 200


async def test_two_tokens(site: Site) -> None:
    """With a token in the header and another one in the query a request is refused, in every place that takes both."""
    (_, alice), (_, bob) = await site.user("alice"), await site.user("bob")
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }  # fmt: skip
    negotiated = await site.call("POST", "/hubs/chat/negotiate", token=alice, params={"negotiateVersion": 1})
    one = {"id": negotiated["connectionToken"]}
    for method, path, params, headers in (
        ("POST", "/hubs/chat/negotiate", {}, {}),
        ("GET", "/hubs/chat", one, {}),
        ("GET", "/hubs/chat", one, {"Accept": "text/event-stream"}),
        ("GET", "/hubs/chat", {}, upgrade),
        ("GET", "/hubs/chat", one, upgrade),
    ):
        for other in (bob, "expired or not ours"):
            answer = await site.http.request(
                method,
                path,
                params={**params, "access_token": other},
                headers={"Authorization": f"Bearer {alice}", **headers},
            )
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), (path, params, headers)
    twice = {"access_token": alice, "negotiateVersion": 1}
    assert "connectionToken" in await site.call("POST", "/hubs/chat/negotiate", token=alice, params=twice)
    await site.call("GET", "/hubs/chat", token=alice, params=one | {"access_token": alice})
    basic = {"Authorization": "Basic QWxhZGRpbjpvcGVu"}  # for a proxy on the way
    answer = await site.http.post("/hubs/chat/negotiate", params={"access_token": alice}, headers=basic)
    assert answer.status_code == 200


async def test_an_issuer_out_of_reach(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Tokens of the issuer are answered with `unavailable` by REST, negotiate and the hub; our own tokens work."""
    token = jwt.encode({}, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "one"})
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }  # fmt: skip
    url = f"http://127.0.0.1:{free_port()}/jwks"
    async with open_site(database, redis_url, nursery, jwks_url=url) as site:
        _, ours = await site.user("alice")
        await site.call("GET", "/api/users/me", token=ours)
        bearer = {"Authorization": f"Bearer {token}"}
        for method, path, headers in (
            ("GET", "/api/users/me", bearer),
            ("POST", "/hubs/chat/negotiate", bearer),
            ("GET", "/hubs/chat?id=x", bearer),
            ("GET", "/hubs/chat", bearer | upgrade),
        ):
            answer = await site.http.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), path
            assert 1 <= int(answer.headers["Retry-After"]) <= 10, path


async def test_health(site: Site) -> None:
    """Healthy with every service; Degraded and ready without Redis; Unhealthy and not ready without PostgreSQL."""

    async def is_healthy() -> bool:
        return bool((await site.http.get("/health")).json()["status"] == "Healthy")

    await wait_until(is_healthy)  # a machine that stood still for a while may have cost it its registration
    assert (await site.call("GET", "/health/live")) == {"status": "Healthy", "checks": {}}

    async def out() -> str:
        return 'connection to server at "10.1.2.3", port 5432 failed'

    checks = site.process.checks
    checks["redis"] = out
    degraded = await site.call("GET", "/health/ready")
    assert degraded == {"status": "Degraded", "checks": {**dict.fromkeys(checks, "ok"), "redis": "failing"}}
    checks["postgres"] = out
    answer = await site.http.get("/health/ready")
    assert answer.status_code == 503 and answer.json()["status"] == "Unhealthy"
    assert "10.1.2.3" not in answer.text and "5432" not in (await site.http.get("/health")).text
    assert (await site.http.get("/health/live")).status_code == 200


async def test_openapi(site: Site) -> None:
    """Each route is described, and unknown paths are answered with problems, too."""
    described = await site.call("GET", "/openapi.json")
    assert described["openapi"].startswith("3.1")
    paths = described["paths"]
    assert {"/api/users", "/api/conversations", "/api/messages", "/api/messages/{messageId}"} <= set(paths)
    _, token = await site.user("alice")
    await site.call("GET", "/api/nonsense", token=token, status=404)


async def test_defects_are_not_shown(site: Site) -> None:
    """A defect is answered with 500 and a reference, without internal details."""
    _, token = await site.user("alice")

    async def broken() -> str:
        raise ZeroDivisionError("secret inside")

    site.process.checks["broken"] = broken
    answer = await site.http.get("/health", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.json()["code"] == "internal" and "Reference" in answer.json()["detail"]


@pytest.mark.parametrize("error", [RecursionError("secret inside"), MemoryError(), BAD_TEXT], ids=type)
async def test_defects_are_not_the_clients(site: Site, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect is a 500 with one log line, even where a body could have caused the error but was valid."""
    _, token = await site.user("alice")

    async def broken(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Conversations, "create", broken)
    before = counts()["rest"]
    with structlog.testing.capture_logs() as lines:
        answer = await site.http.post(
            "/api/conversations", json={"type": "Group"}, headers={"Authorization": f"Bearer {token}"}
        )
    assert answer.status_code == 500 and "secret" not in answer.text
    [line] = [line for line in lines if line["event"] == "request_failed"]
    assert line["reference"] in answer.json()["detail"] and counts()["rest"] == before + 1


async def test_a_hung_process_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """/health/live reports what hangs, for service managers; /health/ready is for balancers."""
    monkeypatch.setattr(site.process.liveness._parts["inbox reader"], "idle_looks", 1000)
    found = (await site.http.get("/health/live")).json()
    assert found["status"] == "Unhealthy" and "inbox reader" in found["checks"]["progress"]
