"""Search for messages over REST and the hub, from the send to what is found."""

from pathlib import Path
from typing import Any

import trio

from loadtest.client import connect
from tests.server.rest.routes.test_messages import talk
from tests.site import Site, open_site
from tests.waiting import wait_until


async def look(site: Site, token: str, q: str, **options: Any) -> list[str]:
    page = await site.call("GET", "/api/search/messages", token=token, params={"q": q, **options})
    return [hit["message"]["content"] for hit in page["items"]]


async def until_found(site: Site, token: str, q: str, wanted: list[str], **options: Any) -> None:
    async def is_so() -> bool:
        return sorted(await look(site, token, q, **options)) == sorted(wanted)

    await wait_until(is_so)


async def test_from_the_send_on(site: Site) -> None:
    """What is sent, edited and deleted is found as it is; the hub answers the same."""
    conversation, a, b = await talk(site)
    body = {"conversationId": conversation, "content": "Über die Brücke, um zwölf"}
    sent = await site.call("POST", "/api/messages", body, token=a, status=201)
    await until_found(site, b, "brucke zwolf", [body["content"]])
    page = await site.call("GET", "/api/search/messages", token=b, params={"q": "BRÜCKE"})
    assert page["next"] is None
    shown = await site.call("GET", f"/api/messages/{sent['id']}", token=b)
    assert {**page["items"][0]["message"], "status": ""} == {**shown, "status": ""}
    assert page["items"][0]["highlights"] == [{"field": "content", "start": 9, "length": 6}]
    async with connect(f"{site.url}/hubs/chat", b) as hub:
        assert await hub.invoke("SearchMessages", {"query": "brücke", "conversationId": conversation}) == page
    await site.call("PUT", f"/api/messages/{sent['id']}", {"content": "about noon"}, token=a)
    assert await look(site, b, "brücke") == []
    await until_found(site, b, "noon", ["about noon"])
    await site.call("DELETE", f"/api/messages/{sent['id']}", token=a)
    assert await look(site, b, "noon") == []


async def test_a_member_who_was_removed(site: Site) -> None:
    """Finds nothing of that conversation from then on, and is refused where they name it."""
    _, a = await site.user("alice")
    bob, b = await site.user("bob")
    made = {"type": "Group", "name": "g", "memberIds": [bob]}
    group = (await site.call("POST", "/api/conversations", made, token=a, status=201))["id"]
    body = {"conversationId": group, "content": "the plan"}
    await site.call("POST", "/api/messages", body, token=a, status=201)
    await until_found(site, b, "plan", ["the plan"])
    await site.call("DELETE", f"/api/conversations/{group}/members/{bob}", token=a, status=204)
    assert await look(site, b, "plan") == []
    await site.call("GET", "/api/search/messages", token=b, params={"q": "plan", "conversationId": group}, status=404)
    assert await look(site, a, "plan") == ["the plan"]


async def test_files_and_links(database: str, redis_url: str, nursery: trio.Nursery, tmp_path: Path) -> None:
    """A file is found by its name until it is deleted; `has` asks for messages with files, or with links."""
    async with open_site(database, redis_url, nursery, objects=f"file://{tmp_path}/files") as site:
        await look_for_files(site)


async def look_for_files(site: Site) -> None:
    conversation, a, b = await talk(site)
    stored = await site.http.post(
        "/api/files/upload", files={"file": ("Plan-7.txt", b"some text")}, headers={"Authorization": f"Bearer {a}"}
    )
    file = stored.json()
    body = {"conversationId": conversation, "content": "", "type": "File", "fileId": file["id"]}
    await site.call("POST", "/api/messages", body, token=a, status=201)
    link = {"conversationId": conversation, "content": "see https://example.org/plan"}
    await site.call("POST", "/api/messages", link, token=a, status=201)
    await until_found(site, b, "plan", ["", link["content"]])
    page = await site.call("GET", "/api/search/messages", token=b, params={"q": "plan-7"})
    assert page["items"][0]["highlights"] == [{"field": "fileName", "start": 0, "length": 6}]
    assert await look(site, b, "", has="file") == [""]
    assert await look(site, b, "", has="link") == [link["content"]]
    await site.call("GET", "/api/search/messages", token=b, params={"has": "wings"}, status=400)
    await site.call("DELETE", f"/api/files?fileUrl={file['url']}", token=a, status=204)
    assert await look(site, b, "plan-7") == []
    await until_found(site, b, "", [], has="file")
