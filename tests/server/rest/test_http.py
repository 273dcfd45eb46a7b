"""server.rest.http: the connection under the requests."""

import trio

from tests.server.rest.conftest import Site

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
