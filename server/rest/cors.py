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

    Credentials are allowed because SignalR's JavaScript client always sends its requests with them.
    """
    return CORSMiddleware(
        app,
        allow_origins=allowed,
        allow_origin_regex=None if allowed else ".*",
        allow_credentials=True,
        allow_methods=METHODS,
        allow_headers=ACCEPTED,
        expose_headers=EXPOSED,
        max_age=MAX_AGE,
    )
