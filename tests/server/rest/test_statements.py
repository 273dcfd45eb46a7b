"""How many statements a read takes: what it costs does not depend on a machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from quart import has_request_context

from loadtest.client import connect
from store.postgres import queries
from store.postgres.connection import Connection
from tests.server.rest.routes.test_messages import talk
from tests.site import Site


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements of requests and streams, as they are executed."""
    names = {sql: name for name, sql in queries.each()}
    found: list[str] = []
    execute = Connection.execute

    async def noted(self: Connection, query: Any, *args: Any, **options: Any) -> Any:
        if has_request_context() or trio.lowlevel.current_task().name.endswith("_stream"):
            found.append(names.get(query, str(query)))
        return await execute(self, query, *args, **options)

    monkeypatch.setattr(Connection, "execute", noted)
    return found


@contextmanager
def counted(statements: list[str], *names: str) -> Iterator[None]:
    """What is done within takes just these."""
    statements.clear()
    yield
    assert statements == list(names)


async def test_pages_of_history(site: Site, statements: list[str]) -> None:
    """The messages, and whether they are the user's to see: one statement a page, over the hub and REST."""
    conversation, a, _ = await talk(site)
    for content in ("one", "two", "three"):
        await site.call(
            "POST", "/api/messages", {"conversationId": conversation, "content": content}, token=a, status=201
        )
    path = f"/api/messages?conversationId={conversation}"
    with counted(statements, "fetch_standing", "list_main_before_for"):
        assert len((await site.call("GET", path, token=a))["items"]) == 4
    with counted(statements, "fetch_standing", "list_messages_after_for"):
        await site.call("GET", f"{path}&after=0&limit=2&replies=true", token=a)
    async with connect(f"{site.url}/hubs/chat", a) as client:
        with counted(statements, "list_main_before_for"):
            assert len([item async for item in client.stream("StreamHistory", conversation, None, 50)]) == 4
        with counted(statements, "list_main_before_for"):
            assert len([item async for item in client.stream("StreamHistory", conversation, 3, 100)]) == 2
