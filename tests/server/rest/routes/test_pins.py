"""REST for pins: what is kept at hand for all, by whom, and how much of it."""

import pytest
import trio

from handlers import messages
from loadtest.client import HubError
from tests import transports
from tests.event_recorder import EventRecorder
from tests.site import Site


async def test_pinned_and_unpinned(site: Site) -> None:
    """A pin is a change of the message, for every member, once however often it is asked for; a list has the last one
    first, in pages. Deleting takes it away, and editing does not."""
    alice, a = await site.user("alice")
    bob, b = await site.user("bob")
    body = {"type": "Group", "name": "g", "memberIds": [bob]}
    group = (await site.call("POST", "/api/conversations", body, token=a, status=201))["id"]
    said = []
    for n in range(3):
        message = {"conversationId": group, "content": f"m{n}"}
        said.append((await site.call("POST", "/api/messages", message, token=b, status=201))["id"])
    pins = f"/api/conversations/{group}/pins"
    recorder = EventRecorder()
    async with transports.connect("socket", f"{site.url}/hubs/chat", b, on_event=recorder) as client:
        await client.invoke("Ping")
        first = await site.call("PUT", f"/api/messages/{said[0]}/pin", token=a)
        assert first["pinnedBy"] == alice and first["pinnedAt"] == first["changedAt"] and first["editedAt"] is None
        assert await site.call("PUT", f"/api/messages/{said[0]}/pin", token=a) == first
        [event] = await recorder.until(1, "MessageChanged")
        assert (event["id"], event["pinnedAt"], event["changedSeq"]) == (
            said[0],
            first["pinnedAt"],
            first["changedSeq"],
        )
        await client.invoke("Ping")
        with pytest.raises(HubError, match="forbidden"):
            await client.invoke("Pin", said[1])
    await site.call("PUT", f"/api/messages/{said[2]}/pin", token=a)
    await site.call("PUT", f"/api/messages/{said[1]}/pin", token=a)
    assert [one["content"] for one in (await site.call("GET", pins, token=b))["items"]] == ["m1", "m2", "m0"]
    page = await site.call("GET", pins, token=b, params={"limit": 2})
    rest = await site.call("GET", pins, token=b, params={"limit": 2, "cursor": page["next"]})
    assert [one["id"] for one in page["items"] + rest["items"]] == [said[1], said[2], said[0]] and rest["next"] is None
    edited = await site.call("PUT", f"/api/messages/{said[0]}", {"content": "better"}, token=b)
    assert edited["pinnedAt"] == first["pinnedAt"]
    gone = await site.call("DELETE", f"/api/messages/{said[2]}", token=b)
    assert (gone["pinnedAt"], gone["pinnedBy"]) == (None, None)
    problem = await site.call("PUT", f"/api/messages/{said[2]}/pin", token=a, status=410)
    assert problem["code"] == "gone"
    last = await site.call("DELETE", f"/api/messages/{said[1]}/pin", token=a)
    assert last["pinnedAt"] is None
    assert (await site.call("DELETE", f"/api/messages/{said[1]}/pin", token=a))["changedSeq"] == last["changedSeq"]
    assert [one["content"] for one in (await site.call("GET", pins, token=b))["items"]] == ["better"]
    await site.call("GET", pins, token=b, params={"cursor": "AAAA"}, status=400)


async def test_no_more_than_so_many(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who pin the last one at the same moment: one of them does. What is deleted makes room."""
    monkeypatch.setattr(messages, "MAX_PINS", 3)
    _, a = await site.user("alice")
    bob, b = await site.user("bob")
    talk = await site.call("POST", "/api/conversations", {"type": "Direct", "memberIds": [bob]}, token=a, status=201)
    said = []
    for n in range(6):
        message = {"conversationId": talk["id"], "content": f"m{n}"}
        said.append((await site.call("POST", "/api/messages", message, token=a, status=201))["id"])
    codes = []

    async def pin(message_id: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        codes.append((await site.http.put(f"/api/messages/{message_id}/pin", headers=headers)).status_code)

    async with trio.open_nursery() as nursery:
        for number, message_id in enumerate(said):
            nursery.start_soon(pin, message_id, (a, b)[number % 2])
    assert sorted(codes) == [200] * 3 + [409] * 3
    pins = f"/api/conversations/{talk['id']}/pins"
    found = (await site.call("GET", pins, token=b))["items"]
    assert len(found) == 3
    await site.call("DELETE", f"/api/messages/{found[0]['id']}", token=a)
    free = next(one for one in said if one not in {each["id"] for each in found})
    await site.call("PUT", f"/api/messages/{free}/pin", token=b)
    system = next(
        one
        for one in (await site.call("GET", f"/api/messages?conversationId={talk['id']}", token=a))["items"]
        if one["type"] == "System"
    )
    problem = await site.call("PUT", f"/api/messages/{system['id']}/pin", token=a, status=403)
    assert problem["code"] == "forbidden"
