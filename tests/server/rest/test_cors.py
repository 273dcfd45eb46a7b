"""server.rest.cors: what is said of origins, with and without one."""

from typing import Any

import pytest
from starlette.middleware.cors import CORSMiddleware

from server.rest.cors import allow_origins


async def headers_of(app: Any, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError

    await app({"type": "http", "method": "GET", "path": "/", "headers": given}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sorted(sent[0]["headers"])


@pytest.mark.parametrize("vary", [[], [b"Accept"], [b"Accept", b"Accept-Encoding"]])
@pytest.mark.parametrize("allowed", [(), ("https://chat.example",)])
async def test_without_an_origin(vary: list[bytes], allowed: tuple[str, ...]) -> None:
    """It is answered as the middleware answers, which it does not pass."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"etag", b"1"), *((b"vary", v) for v in vary)]}
        )
        await send({"type": "http.response.body", "body": b""})

    given = [(b"host", b"chat.example")]
    middleware = CORSMiddleware(app, allow_origins=allowed, allow_origin_regex=None if allowed else ".*")
    found = await headers_of(allow_origins(app, allowed), given)
    assert found == await headers_of(middleware, given)
    assert found == [(b"etag", b"1"), (b"vary", b", ".join([*vary, b"Origin"]))]
    with_origin = await headers_of(allow_origins(app, allowed), [*given, (b"origin", b"https://chat.example")])
    assert (b"access-control-allow-origin", b"https://chat.example") in with_origin
