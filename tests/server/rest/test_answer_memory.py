"""Answers that are not read: pages are bounded in bytes, and unread answers by user and in total."""

import socket

import pytest
import trio

from server.transport import listener
from tests.site import Site, open_site
from tests.waiting import wait_until

LONG = 30_000


async def conversation(site: Site, token: str, messages: int) -> str:
    made = await site.call("POST", "/api/conversations", {"type": "Group", "name": "g"}, token=token, status=201)
    for number in range(messages):
        body = {"conversationId": made["id"], "content": f"{number:04d}" + "x" * LONG}
        await site.call("POST", "/api/messages", body, token=token, status=201)
    return str(made["id"])


async def test_pages_are_bounded_in_bytes(site: Site) -> None:
    """Long messages come in more pages, each below the bound, in order and once, in both directions."""
    _, token = await site.user("alice")
    group = await conversation(site, token, 40)
    for query, reverse in (({}, True), ({"after": "0"}, False)):
        found: list[int] = []
        cursor: dict[str, str] = {}
        while True:
            asked = {"conversationId": group, "limit": "200", **query, **cursor}
            page = await site.call("GET", "/api/messages", token=token, params=asked)
            assert 1 <= len(page["items"]) <= 18
            found += [int(one["content"][:4]) for one in page["items"] if one["type"] == "Text"]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert found == sorted(range(40), reverse=reverse)


async def test_lists_of_conversations_are_bounded(site: Site) -> None:
    """With the first 20 members each, long last messages make more pages, each below the bound."""
    _, token = await site.user("alice")
    people = [(await site.user(f"user{number}"))[0] for number in range(30)]
    body = {"type": "Group", "name": "large", "memberIds": people}
    large = await site.call("POST", "/api/conversations", body, token=token, status=201)
    assert len(large["members"]) == 31
    groups = [await conversation(site, token, 1) for _ in range(45)]
    found, cursor = [], ""
    while True:
        page = await site.call("GET", "/api/conversations", token=token, params={"limit": 200, "cursor": cursor})
        assert 1 <= len(page["items"]) <= 8
        found += page["items"]
        if page["next"] is None:
            break
        cursor = page["next"]
    assert [one["id"] for one in found] == [*groups[::-1], large["id"]]
    assert len(found[-1]["members"]) == 20 and found[-1]["memberCount"] == 31


async def test_answers_that_are_not_read(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the user's bound there is 429 with Retry-After, past the total 503; answers that are read are released."""
    monkeypatch.setattr(listener, "SEND_STALL", 600.0)  # no connection is closed here, so that unread answers stay
    one, everybody = 1024 * 1024, (2 * 1024 + 128) * 1024  # two pages of each of two users, and a third one's messages
    async with open_site(database, redis_url, nursery, max_user_answer_bytes=one, max_answer_bytes=everybody) as site:
        answers = site.process.answers
        sockets: list[trio.SocketStream] = []

        async def ask(request: str) -> None:
            before = answers.held, answers.refused, answers.refused_all
            sockets.append(await unread(site, request.encode()))
            await wait_until(lambda: (answers.held, answers.refused, answers.refused_all) != before)

        for name, expected in (("alice", b"429"), ("bob", b"429"), ("carol", b"503")):
            _, token = await site.user(name)
            group = await conversation(site, token, 18)
            query = f"/api/messages?conversationId={group}&limit=200"
            request = f"GET {query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
            for _ in range(6):
                await ask(request)
                assert answers.held <= everybody
            assert answers.refused_all if expected == b"503" else answers.refused
            with trio.fail_after(30):
                head = bytes(await sockets[-1].receive_some(1000))
            assert head.startswith(b"HTTP/1.1 " + expected) and b"retry-after: 2" in head.lower()
            with trio.fail_after(30):
                assert (await site.call("GET", "/health/live"))["status"]
        for stream in sockets:
            await trio.aclose_forcefully(stream)
        await wait_until(lambda: not answers.held)
        await site.call("GET", "/api/messages", token=token, params={"conversationId": group, "limit": 200})
        await wait_until(lambda: not answers.held)


async def unread(site: Site, request: bytes) -> trio.SocketStream:
    """A connection whose client sends a request and reads next to nothing of the answer."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = site.url.removeprefix("http://").split(":")
    await sock.connect((host, int(port)))
    stream = trio.SocketStream(sock)
    await stream.send_all(request)
    return stream
