"""server.rest.http: the connection under the requests."""

from typing import Any

import pytest
import trio

from loadtest.client import HubError
from tests import carriers
from tests.server.rest.conftest import Site, open_site

REQUEST = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"


async def test_connection_close(site: Site) -> None:
    """Who asks for the end of the connection gets it after the answer, as proxies that speak HTTP/1.0 rely on."""
    for version in (b"HTTP/1.1", b"HTTP/1.0"):
        async with await trio.open_tcp_stream("127.0.0.1", int(site.url.rpartition(":")[2])) as stream:
            await stream.send_all(REQUEST.replace(b"HTTP/1.1", version) + b"Connection: close\r\n\r\n")
            data = b""
            with trio.fail_after(10):
                async for chunk in stream:
                    data += bytes(chunk)
            assert data.startswith(b"HTTP/1.1 200") and data.endswith(b"}")


async def test_large_messages_on_a_late_upgrade(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """MAX_MESSAGE_BYTES is the limit there too, however large it is."""
    sizes: dict[str, Any] = {"max_message_bytes": 512 * 1024, "outbox_bytes": 2 * 1024 * 1024}
    async with open_site(database, redis_url, nursery, **sizes) as site:
        _, token = await site.user("alice")
        for carrier in ("asgi", "socket"):
            async with carriers.connect(carrier, f"{site.url}/hubs/chat", token) as hub:
                with pytest.raises(HubError, match="argument"):
                    await hub.invoke("Ping", "x" * 400_000)
                assert await hub.invoke("Ping") == {}
