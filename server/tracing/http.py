"""The span of a REST request: a child of the client's span if the request has a `traceparent` header.

Owns the ASGI wrapper. Messages that a request sends are traced as children of its span.
"""

from opentelemetry.trace import SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.rest.request_log import CHATTY, TRACE, App, Message, Receive, Scope, Send

_propagator = TraceContextTextMapPropagator()


def spanned(app: App, tracer: Tracer) -> App:
    """Wrap an ASGI app so that each request has a span, except routes that are requested all the time (`CHATTY`)."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or CHATTY.fullmatch(scope["path"]):
            await app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method = str(scope["method"])
        with tracer.start_as_current_span(method, _propagator.extract(headers), kind=SpanKind.SERVER) as span:

            async def send_seen(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            span.set_attribute("http.request.method", method)
            await app(scope, receive, send_seen)
            route = getattr(scope.get(TRACE), "route", None)
            if route is not None:
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)

    return serve
