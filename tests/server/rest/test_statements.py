"""How many statements a read takes: what it costs does not depend on a machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from quart import has_request_context

from loadtest.client import connect
from server.hub import invocations
from store.postgres import queries
from store.postgres.connection import Connection
from tests.server.rest.routes.test_messages import talk
from tests.site import Site


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements of requests and streams, as they are executed."""
    names = {sql: name for name, sql in queries.each()}
    found: list[str] = []
    execute, stream = Connection.execute, invocations._stream
    is_stream = ContextVar("is_stream", default=False)

    async def noted(self: Connection, query: Any, *args: Any, **options: Any) -> Any:
        if has_request_context() or is_stream.get():
            found.append(names.get(query, str(query)))
        return await execute(self, query, *args, **options)

    async def marked(*args: Any) -> None:
        is_stream.set(True)
        await stream(*args)

    monkeypatch.setattr(Connection, "execute", noted)
    monkeypatch.setattr(invocations, "_stream", marked)
    return found


@contextmanager
def counted(statements: list[str], *names: str) -> Iterator[None]:
    """What is done within takes just these."""
    statements.clear()
    yield
    assert statements == list(names)


async def test_a_message(site: Site, statements: list[str]) -> None:
    """One statement for all that decides: who asks, whether it is theirs to see, and the message."""
    conversation, a, b = await talk(site)
    said = {"conversationId": conversation, "content": "hello"}
    path = f"/api/messages/{(await site.call('POST', '/api/messages', said, token=a, status=201))['id']}"
    with counted(statements, "fetch_message_for"):
        message = await site.call("GET", path, token=b)
    assert message["content"] == "hello"
    stranger, c = await site.user("carol")
    with counted(statements, "fetch_message_for"):
        await site.call("GET", path, token=c, status=404)
    await site.call("DELETE", f"/api/users/{stranger}", token=c, status=204)
    for gone in (path, f"{path}?q=%ff"):
        assert (await site.call("GET", gone, token=c, status=401))["code"] == "unauthenticated"


async def test_a_list_of_conversations(site: Site, statements: list[str]) -> None:
    """However many are on a page: what each is, its first members and its last message are a statement for all; and the
    order of several pages is settled before the first is read."""
    _, a, b = await talk(site)
    for number in range(3):
        await site.call("POST", "/api/conversations", {"type": "Group", "name": f"{number}"}, token=a, status=201)
    parts = ("list_conversations", "list_first_members", "list_messages_by_id")
    for token, count in ((a, 4), (b, 1)):
        with counted(statements, "fetch_standing", "count_memberships", *parts):
            assert len((await site.call("GET", "/api/conversations", token=token))["items"]) == count
    with counted(statements, "fetch_standing", "count_memberships", "fetch_last_place", *parts):
        first = await site.call("GET", "/api/conversations?limit=3", token=a)
    with counted(statements, "fetch_standing", *parts):
        rest = await site.call("GET", f"/api/conversations?limit=3&cursor={first['next']}", token=a)
    assert [len(first["items"]), len(rest["items"]), rest["next"]] == [3, 1, None]


async def test_pages_of_history(site: Site, statements: list[str]) -> None:
    """The messages, and whether they are the user's to see: one statement a page, over the hub and REST."""
    conversation, a, _ = await talk(site)
    for content in ("one", "two", "three"):
        await site.call(
            "POST", "/api/messages", {"conversationId": conversation, "content": content}, token=a, status=201
        )
    path = f"/api/messages?conversationId={conversation}"
    with counted(statements, "list_main_before_for_caller"):
        assert len((await site.call("GET", path, token=a))["items"]) == 4
    with counted(statements, "list_messages_after_for_caller"):
        await site.call("GET", f"{path}&after=0&limit=2&replies=true", token=a)
    stranger, c = await site.user("carol")
    with counted(statements, "list_main_before_for_caller"):
        await site.call("GET", path, token=c, status=404)
    await site.call("DELETE", f"/api/users/{stranger}", token=c, status=204)
    for gone in ("", "?q=%ff", "?conversationId=1", f"?conversationId={conversation}&limit=x"):
        refused = await site.call("GET", f"/api/messages{gone}", token=c, status=401)
        assert refused["code"] == "unauthenticated"
    async with connect(f"{site.url}/hubs/chat", a) as client:
        with counted(statements, "list_main_before_for"):
            assert len([item async for item in client.stream("StreamHistory", conversation, None, 50)]) == 4
        with counted(statements, "list_main_before_for"):
            assert len([item async for item in client.stream("StreamHistory", conversation, 3, 100)]) == 2
