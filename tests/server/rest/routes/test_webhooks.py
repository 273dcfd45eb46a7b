"""REST for webhooks: administrators look after endpoints."""

import time

import jwt

from tests.running import JWT_KEY
from tests.site import Site

URL = "https://app.example/in"


async def administrator(site: Site) -> str:
    _, token = await site.user("root")
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode({**claims, "exp": int(time.time()) + 600, "role": "admin"}, JWT_KEY, algorithm="HS256")


async def test_an_endpoint_from_end_to_end(site: Site) -> None:
    """Made with its secret, which nothing shows again; listed, paused, resumed, given another secret, deleted."""
    admin = await administrator(site)
    made = await site.call(
        "POST", "/api/webhooks", {"url": URL, "events": ["message.created"]}, token=admin, status=201
    )
    path = f"/api/webhooks/{made['id']}"
    secret = made.pop("secret")
    assert secret.startswith("whsec_") and made["state"] == "Active" and made["events"] == ["message.created"]
    assert await site.call("GET", path, token=admin) == made
    assert await site.call("GET", "/api/webhooks", token=admin) == {"items": [made], "next": None}
    paused = await site.call("PUT", path, {"state": "Paused"}, token=admin)
    assert paused == made | {"state": "Paused"}
    assert await site.call("PUT", path, {"state": "Active"}, token=admin) == made
    changed = await site.call("POST", f"{path}/secret", token=admin, status=201)
    assert changed["secret"] != secret and changed["oldSecretUntil"]
    assert await site.call("GET", f"{path}/dead-letters", token=admin) == {"items": [], "next": None}
    assert await site.call("POST", f"{path}/replay", {}, token=admin, status=202) == {"count": 0}
    await site.call("DELETE", path, token=admin, status=204)
    for method, body in (("GET", None), ("PUT", {"state": "Paused"}), ("DELETE", None)):
        assert (await site.call(method, path, body, token=admin, status=404))["code"] == "not_found"


async def test_what_is_refused(site: Site) -> None:
    """A URL that is not for webhooks, an event that there is not, a conversation that there is not; and who is none."""
    admin = await administrator(site)
    _, alice = await site.user("alice")
    nowhere = "019ad000-0000-7000-8000-000000000001"
    for body, status, field in (
        ({"url": "http://app.example/"}, 400, "url"),
        ({"url": "https://127.0.0.1/"}, 400, "url"),
        ({"url": "https://169.254.169.254/"}, 400, "url"),
        ({"url": URL, "events": ["nothing"]}, 400, "events"),
        ({}, 400, "url"),
        ({"url": URL, "conversationId": nowhere}, 404, None),
    ):
        problem = await site.call("POST", "/api/webhooks", body, token=admin, status=status)
        assert field is None or field in problem["fields"]
    assert (await site.call("POST", "/api/webhooks", {"url": URL}, token=alice, status=403))["code"] == "forbidden"
    assert (await site.call("GET", "/api/webhooks", token=alice, status=403))["code"] == "forbidden"
