"""An id for every request, and one line in the log about each.

Owns the request id (taken from a trusted proxy or generated here; in every log line of the request, and in the answer)
and the line, which names the route and not the path: paths and queries contain ids, file names and tokens.
"""

import re
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, cast

import structlog
from quart import has_request_context, request
from structlog.contextvars import bound_contextvars

from server.config.trusted_proxies import Proxies
from server.protocol.http1.head import joined

TRACE = "parley.trace"  # in the ASGI scope
CHATTY = re.compile(r"/health(/.*)?|/hubs/chat/?", re.IGNORECASE)  # requested all the time: logged at debug level
METHOD_MAX = 20  # characters of a method, of which clients may make up any
_VARIABLE = re.compile(r"<(?:[^<>]*:)?([^<>]+)>")

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = structlog.get_logger("parley.rest")


class Trace:
    """What is logged about a request. `route`, `user` and `key` are filled in while it is handled."""

    __slots__ = ("address", "key", "request_id", "route", "status", "user")

    def __init__(self, request_id: str, address: str) -> None:
        self.request_id = request_id
        self.address = address
        self.route: str | None = None
        self.user: str | None = None
        self.key: str | None = None  # the id of the API key, where there is one
        self.status: int | None = None


@cache
def template(rule: str) -> str:
    """Return a Werkzeug rule in OpenAPI's form: `/api/users/{user_id}`."""
    return _VARIABLE.sub(r"{\1}", rule)


def current_trace() -> Trace | None:
    """Return the trace of the current request, or None outside of one."""
    found: Trace | None = cast(Scope, request.scope).get(TRACE) if has_request_context() else None
    return found


def traced(app: App, proxies: Proxies) -> App:
    """Wrap an ASGI app so that each request has a trace in its scope, and is logged when it has ended."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        trace = _begin(scope, proxies)
        began = time.perf_counter()

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                name = (b"x-request-id", trace.request_id.encode())
                message = {**message, "headers": [*message.get("headers", ()), name]}
            await send(message)

        with bound_contextvars(request=trace.request_id):
            try:
                await app({**scope, TRACE: trace}, receive, send_named)
            finally:
                _log_request(scope, trace, time.perf_counter() - began)

    return serve


def _begin(scope: Scope, proxies: Proxies) -> Trace:
    headers = joined(scope["headers"])
    peer = (scope.get("client") or ("",))[0]
    given, forwarded = (headers.get(name, b"").decode("latin-1") for name in (b"x-request-id", b"x-forwarded-for"))
    return Trace(proxies.request_id(peer, given), proxies.client_address(peer, forwarded))


def _log_request(scope: Scope, trace: Trace, seconds: float) -> None:
    """Log one line. `status` is null when the client disconnected before it was answered."""
    chatty = CHATTY.fullmatch(scope["path"]) and (trace.status or 0) < 500
    write = log.debug if chatty else log.info
    write(
        "request",
        method=scope["method"][:METHOD_MAX],
        route=trace.route,
        status=trace.status,
        seconds=round(seconds, 4),
        user=trace.user,
        address=trace.address,
        **({"key": trace.key} if trace.key else {}),
    )
