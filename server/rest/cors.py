"""What browsers may do from other origins (the Fetch standard's CORS protocol). Owns the list of headers.

Tokens travel in a header and not in a cookie, so the origin of a request proves nothing. But a browser lets a page
read an answer only if the answer allows the page's origin, and operators may restrict the origins.
"""

from typing import Any

from starlette.middleware.cors import CORSMiddleware

METHODS = ("GET", "POST", "PUT", "DELETE")
ACCEPTED = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "X-Requested-With",
    "X-Request-Id",
    "X-SignalR-User-Agent",
    "Accept",
    "Cache-Control",
    "Last-Event-ID",
    "Pragma",
    # Of a trace (W3C Trace Context and Baggage), and as the libraries of others write it.
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "X-B3-TraceId",
    "X-B3-SpanId",
    "X-B3-ParentSpanId",
    "X-B3-Sampled",
    "X-B3-Flags",
    "sentry-trace",
    "elastic-apm-traceparent",
    "newrelic",
    "uber-trace-id",
    "X-Amzn-Trace-Id",
    "X-Cloud-Trace-Context",
    "X-Correlation-Id",
    "X-Datadog-Origin",
    "X-Datadog-Parent-Id",
    "X-Datadog-Sampling-Priority",
    "X-Datadog-Tags",
    "X-Datadog-Trace-Id",
)
EXPOSED = ("ETag", "Location", "Retry-After", "X-Request-Id")
MAX_AGE = 600  # seconds for which a browser caches the answer to a preflight request


def allow_origins(app: Any, allowed: tuple[str, ...]) -> Any:
    """Wrap an ASGI app with CORS for pages of the given origins, or of any origin if there are none.

    Credentials are allowed because SignalR's JavaScript client always sends its requests with them. Requests without an
    origin, which are those of all clients but browsers, are answered without it, as it would: only that another
    origin would be answered otherwise is said.
    """
    middleware = CORSMiddleware(
        app,
        allow_origins=allowed,
        allow_origin_regex=None if allowed else ".*",
        allow_credentials=True,
        allow_methods=METHODS,
        allow_headers=ACCEPTED,
        expose_headers=EXPOSED,
        max_age=MAX_AGE,
    )

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or any(name == b"origin" for name, _ in scope["headers"]):
            await middleware(scope, receive, send)
            return

        async def send_varied(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                said = [value.decode("latin-1") for name, value in headers if name.lower() == b"vary"]
                others = [pair for pair in headers if pair[0].lower() != b"vary"] if said else headers
                message = {**message, "headers": [*others, (b"vary", ", ".join([*said, "Origin"]).encode("latin-1"))]}
            await send(message)

        await app(scope, receive, send_varied)

    return serve
