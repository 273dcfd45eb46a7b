"""How a request of ASGI becomes one of Quart, and Quart's response an answer.

Owns what happens while a request is handled: whether its client is still there. Touches Quart's request and response.
"""

import math
from typing import Any

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart.utils import encode_headers
from quart.wrappers import Response
from quart.wrappers.response import DataBody
from quart_trio.asgi import TrioASGIHTTPConnection

from server.transport.http import WATCH, has_body


class RequestConnection(TrioASGIHTTPConnection):
    """One request. Quart's own has two tasks and a nursery: one task that waits for the body and for the end of the
    client, beside the one that answers. What has no body is answered in the task that it came in."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        watch = self.scope.get("state", {}).get(WATCH)
        if watch is None or has_body(self.scope):  # type: ignore[arg-type]
            await super().__call__(receive, send)
            return
        request = self._create_request_from_scope(send)
        request.body.set_complete()
        with trio.CancelScope() as scope:
            watch(scope)
            response = await self.app.handle_request(request)
            timeout = getattr(response, "timeout", Ellipsis)
            if timeout is Ellipsis:
                timeout = self.app.config["RESPONSE_TIMEOUT"]
            scope.deadline = math.inf if timeout is None else trio.current_time() + timeout
            await self._send_response(send, response)

    async def _send_response(self, send: ASGISendCallable, response: Any) -> None:
        body = response.response
        if not (isinstance(response, Response) and isinstance(body, DataBody)):
            await super()._send_response(send, response)
            return
        start: Any = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": encode_headers(response.headers),
        }
        end: Any = {"type": "http.response.body", "body": body.data[body.begin : body.end], "more_body": False}
        await send(start)
        await send(end)
