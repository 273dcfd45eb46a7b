"""server.rest.routes.reports: from the report to the decision, over REST and the hub."""

import io
import json
import zipfile
from uuid import UUID

import trio

from store.postgres import users
from store.postgres.connection import Connection
from tests import transports
from tests.server.rest.routes.test_moderation import administrator
from tests.site import Site
from tests.store.world import fetch_value, wait_for_lock


async def test_from_report_to_decision(site: Site) -> None:
    """A report is made once, seen by moderators with what was said, and resolved; who is reported sees nothing."""
    admin = await administrator(site)
    (_, a), (bob, b) = await site.user("alice"), await site.user("bob")
    body = {"type": "Direct", "memberIds": [bob]}
    direct = (await site.call("POST", "/api/conversations", body, token=a, status=201))["id"]
    said = await site.call("POST", "/api/messages", {"conversationId": direct, "content": "rude"}, token=b, status=201)
    request = {"category": "Harassment", "messageId": said["id"], "comment": "look"}
    made = await site.call("POST", "/api/reports", request, token=a, status=201)
    assert await site.call("POST", "/api/reports", request, token=a) == made
    async with transports.connect("socket", f"{site.url}/hubs/chat", a) as client:
        assert await client.invoke("Report", request) == made
        other = await client.invoke("Report", {"category": "Spam", "userId": bob})
    await site.call("DELETE", f"/api/messages/{said['id']}", token=b)
    await site.call("GET", "/api/reports", token=b, status=403)
    assert (await site.call("GET", "/api/users/me/reports", token=b))["items"] == []
    page = await site.call("GET", f"/api/reports?state=open&userId={bob}", token=admin)
    assert [(one["id"], one["content"]) for one in page["items"]] == [(made["id"], "rude"), (other["id"], None)]
    path = f"/api/reports/{made['id']}/resolution"
    done = await site.call("PUT", path, {"note": "warned"}, token=admin)
    assert (done["state"], done["note"], done["content"]) == ("Resolved", "warned", None)
    own = (await site.call("GET", "/api/users/me/reports", token=a))["items"]
    assert [(one["state"], "note" in one) for one in own] == [("Resolved", False), ("Open", False)]
    exported = (await site.http.get("/api/users/me/export", headers={"Authorization": f"Bearer {a}"})).content
    assert json.loads(zipfile.ZipFile(io.BytesIO(exported)).read("reports.json")) == own
    [entry] = (await site.call("GET", "/api/audit?act=reportResolved", token=admin))["items"]
    assert (entry["objectId"], entry["userId"]) == (made["id"], bob)
    await site.call("GET", "/api/reports?state=x", token=admin, status=400)


async def test_a_report_of_who_is_being_erased(site: Site, database: str) -> None:
    """It waits for the end of the erasure, which has forgotten all that they have reported, and is refused."""
    (alice, a), (bob, _) = await site.user("alice"), await site.user("bob")

    async def report() -> None:
        await site.call("POST", "/api/reports", {"category": "Spam", "userId": bob}, token=a, status=401)

    async with (
        await Connection.open(database) as other,
        await Connection.open(database) as watcher,
        trio.open_nursery() as nursery,
        other.transaction(),
    ):
        await users.delete_user(other, UUID(alice))
        nursery.start_soon(report)
        await wait_for_lock(watcher)
    async with await Connection.open(database) as conn:
        assert await fetch_value(conn, "SELECT count(*) FROM reports") == 0
