"""Backpressure on uploads: a request's body is read from the network only as fast as its view takes it.

Quart keeps what comes in until the view asks for it. Owns the gate between the two, for requests that are too large for
that (`PACED`): the next piece is received when the last ones were taken. And the patience with clients that are slow to
send: what they may make us wait for, not what the store takes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import trio
from quart import request
from quart_trio.wrappers import TrioRequest

from handlers.errors import ChatError

PACED = ("/api/files/upload", "/objects/")  # beginnings of paths
GATE = "parley.gate"  # in the ASGI scope
PATIENCE = 30.0  # seconds that an upload may make us wait, after which it is given up
LEAST_RATE = 1024  # bytes that win back a second of it: a byte now and then does not hold a place for ever

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Gate:
    """Open for one piece at a time, or, at the end, for all."""

    def __init__(self) -> None:
        self._hungry = trio.Event()
        self._is_over = False

    def ask(self) -> None:
        self._hungry.set()

    def finish(self) -> None:
        self._is_over = True
        self._hungry.set()

    async def wait(self) -> None:
        await self._hungry.wait()
        if not self._is_over:
            self._hungry = trio.Event()


class PacedRequest(TrioRequest):
    """No limit of Quart's own on bodies that the view reads piece by piece, with a limit of its own."""

    def __init__(self, method: str, scheme: str, path: str, *args: Any, **options: Any) -> None:
        if path.startswith(PACED):
            options["max_content_length"] = None
        super().__init__(method, scheme, path, *args, **options)


def paced(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """The ASGI app, with a gate in the scope of such requests."""

    async def serve(scope: dict[str, Any], receive: Receive, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT") or not scope["path"].startswith(PACED):
            await app(scope, receive, send)
            return
        gate = Gate()

        async def receive_paced() -> dict[str, Any]:
            await gate.wait()
            event = await receive()
            if event["type"] != "http.request" or not event.get("more_body"):
                gate.finish()  # what remains to be heard is that the client has gone
            return event

        try:
            await app({**scope, GATE: gate}, receive_paced, send)
        finally:
            gate.finish()

    return serve


async def pieces() -> AsyncIterator[bytes]:
    """The body of the request, as it comes. Raises ChatError when it stops coming."""
    gate: Gate = cast(dict[str, Any], request.scope)[GATE]
    body = aiter(request.body)
    patience = PATIENCE
    while True:
        gate.ask()
        piece = None
        asked = trio.current_time()
        with trio.move_on_after(patience):
            piece = await anext(body, b"")
        if piece is None:
            raise ChatError("invalid_request", f"The upload was given up: less than {LEAST_RATE} bytes a second came.")
        if not piece:
            return
        patience = min(PATIENCE, patience - (trio.current_time() - asked) + len(piece) / LEAST_RATE)
        yield piece


def let_in() -> None:
    """It is decided without the rest of the body: let it come, and go."""
    gate: Gate | None = cast(dict[str, Any], request.scope).get(GATE)
    if gate is not None:
        gate.finish()
