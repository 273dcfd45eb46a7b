"""Backpressure on uploads: a request's body is read from the network only as fast as its view takes it.

Quart reads a body as fast as it arrives and buffers it until the view asks for it. For requests that are too large for
that (`PACED`), this module owns the gate between the two: the next piece is received once the view has taken the last
one. It also owns the time limit for slow clients, which counts the time spent waiting for the client and not the time
that the store takes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import trio
from quart import request
from quart_trio.wrappers import TrioRequest

from handlers.errors import ChatError

PACED = ("/api/files/upload", "/objects/")  # beginnings of paths
GATE = "parley.gate"  # in the ASGI scope
PATIENCE = 30.0  # seconds that an upload may keep the server waiting before it is given up
LEAST_RATE = 1024  # bytes that restore one second of it: a byte now and then does not keep an upload alive

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Gate:
    """Lets one piece of a body through for each `ask`; after `finish`, everything. What comes when the request is
    decided is not read, and not kept."""

    def __init__(self) -> None:
        self.is_decided = False
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
    """A request without Quart's size limit where the view reads the body in pieces and limits it itself. Any other
    request of such a path has the limit: what is beyond it Quart does not keep."""

    _blueprints: tuple[str | None, list[str]] = (None, [])  # and the endpoint that they are of

    @property
    def blueprints(self) -> list[str]:
        """As Quart's, which splits the name of the endpoint at each of the three times that it asks."""
        endpoint = self.endpoint
        if endpoint != self._blueprints[0]:
            self._blueprints = endpoint, super().blueprints
        return self._blueprints[1]

    def __init__(self, method: str, scheme: str, path: str, *args: Any, **options: Any) -> None:
        if GATE in options["scope"]:
            options["max_content_length"] = None
        super().__init__(method, scheme, path, *args, **options)


def paced(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Wrap an ASGI app so that requests to `PACED` paths have a gate in their scope.

    `receive` waits for the gate before it reads from the network, so at most one piece that the view has not asked for
    is in memory, and TCP's flow control slows the client. The gate opens for good after the last piece, because the
    next thing to receive is the disconnect of the client, and when the view has decided (`let_in`), because the rest of
    the body then only has to be discarded.
    """

    async def serve(scope: dict[str, Any], receive: Receive, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT") or not scope["path"].startswith(PACED):
            await app(scope, receive, send)
            return
        gate = Gate()

        async def receive_paced() -> dict[str, Any]:
            await gate.wait()
            event = await receive()
            if event["type"] != "http.request" or not event.get("more_body"):
                gate.finish()  # only the disconnect of the client is left to receive
            return {**event, "body": b""} if gate.is_decided and event["type"] == "http.request" else event

        try:
            await app({**scope, GATE: gate}, receive_paced, send)
        finally:
            gate.finish()

    return serve


async def pieces() -> AsyncIterator[bytes]:
    """Yield the request's body as it arrives. Raises ChatError if the client is too slow.

    The patience works like a bucket of PATIENCE seconds. Waiting for a piece empties it, each LEAST_RATE bytes return
    one second, and it never holds more than PATIENCE. So a client may pause for up to PATIENCE seconds, but has to send
    LEAST_RATE bytes a second on average; a single timeout per piece would let one byte every 29 seconds keep an upload
    alive. The time that the caller spends between two pieces (writing to the store) does not count.
    """
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
            raise ChatError("invalid_request", f"The upload was too slow: less than {LEAST_RATE} bytes a second.")
        if not piece:
            return
        patience = min(PATIENCE, patience - (trio.current_time() - asked) + len(piece) / LEAST_RATE)
        yield piece


def let_in() -> None:
    """Open the gate for good: the request is decided, and the rest of its body is received and discarded."""
    gate: Gate | None = cast(dict[str, Any], request.scope).get(GATE)
    if gate is not None:
        gate.is_decided = True
        gate.finish()
