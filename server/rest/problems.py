"""Errors of the REST side as RFC 9457 problem+json, one form for all of them.

Owns the mapping from exceptions to answers. A defect is logged with a reference that the client also sees;
no traceback ever leaves the process. A browser that opens an address that means nothing is shown where to go.
"""

import math
from functools import cache
from importlib import resources
from typing import Any

import msgspec
from quart import Response, request
from quart_schema import RequestSchemaValidationError
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from handlers.errors import CODES, ChatError, detail, from_store
from server.rest.request_log import current_trace
from store.defects import guard
from store.errors import Overloaded, StoreError, Unavailable
from store.model import Timestamp

_BY_STATUS = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
}

_NO_ROUTE = "No route is at this path: /docs lists them. Ids in a path are UUIDs."
_FOR_PROGRAMS = ("/api", "/auth", "/hubs")
_POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_guard = guard("rest")


def problem(
    code: str,
    sentence: str,
    *,
    status: int | None = None,
    errors: dict[str, str] | None = None,
    retry_after: float | None = None,
    until: Timestamp | None = None,
) -> Response:
    row = CODES[code]
    status = status or row.status
    retry_after = row.retry_after if retry_after is None else retry_after
    body: dict[str, Any] = {
        "type": f"urn:parley:error:{code}",
        "title": row.title,
        "status": status,
        "detail": sentence,
        "code": code,
    }
    trace = current_trace()
    if trace is not None:
        body["instance"] = f"urn:parley:request:{trace.request_id}"
    body |= detail(retry_after, errors, until)
    if errors:
        body["errors"] = errors  # for clients of before `fields`
    response = Response(msgspec.json.encode(body), status=status, content_type="application/problem+json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def on_chat_error(error: ChatError) -> Response:
    return problem(error.code, error.sentence, errors=error.errors, retry_after=error.retry_after, until=error.until)


async def on_store_error(error: StoreError) -> Response:
    if isinstance(error, (Unavailable, Overloaded)):
        return await on_chat_error(from_store(error))
    return await on_defect(error)


async def on_invalid(error: RequestSchemaValidationError) -> Response:
    """Split msgspec's message, `SENTENCE - at `$.memberIds[0]``, into the sentence and the field."""
    sentence, _, place = str(error.validation_error).partition(" - at ")
    field = place.strip("`").removeprefix("$").removeprefix(".") or "body"
    return problem("invalid_request", f"{sentence} (at {field}).", errors={field: sentence})


async def on_http_error(error: HTTPException) -> Response:
    """Answer what Quart and Werkzeug refuse: unknown paths and methods, bodies that are too large or malformed."""
    status = error.code or 500
    if status < 400:
        return Response("", status=status, headers=dict(error.get_headers()))
    if status == 405 and request.method == "OPTIONS":  # it asks which methods there are (RFC 9110, 9.3.7)
        return Response("", status=204, headers={"Allow": dict(error.get_headers())["Allow"]})
    if status == 404 and _is_astray():
        return _lost()
    code = _BY_STATUS.get(status, "invalid_request")
    sentence = _NO_ROUTE if status == 404 and request.url_rule is None else error.description
    response = problem(code, sentence or CODES["invalid_request"].title, status=status)
    for name, value in error.get_headers():
        if name.lower() == "allow":
            response.headers[name] = value
    return response


def _is_astray() -> bool:
    """Whether a person has opened an address of which no program asks anything."""
    first = "/" + request.path.lower().lstrip("/").partition("/")[0]
    is_for_people = request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", "")
    return request.url_rule is None and is_for_people and first not in _FOR_PROGRAMS


def _lost() -> Response:
    response = Response(_lost_page(), status=404, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Vary"] = "Accept"
    return response


@cache
def _lost_page() -> bytes:
    return resources.files("server.rest").joinpath("pages/lost.html").read_bytes()


async def on_defect(error: Exception) -> Response:
    reference = _guard.caught(error, "request_failed")
    return problem("internal", f"An unexpected error occurred. Reference: {reference}.")


def install(app: QuartTrio) -> None:
    app.register_error_handler(ChatError, on_chat_error)
    app.register_error_handler(StoreError, on_store_error)
    app.register_error_handler(RequestSchemaValidationError, on_invalid)
    app.register_error_handler(HTTPException, on_http_error)
    app.register_error_handler(Exception, on_defect)
