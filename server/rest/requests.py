"""Helpers for every route: read the caller, ids, page parameters and bodies; write JSON and ETags.

Owns the conventions of the REST API. Touches Quart's request.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TypeVar
from urllib.parse import unquote_to_bytes
from uuid import UUID

import msgspec
from quart import Response, current_app, g, request

from handlers import text_rules
from handlers.errors import ChatError
from handlers.model import Caller, Client, Once
from handlers.text_rules import NO_TEXT, is_text
from server.config.trusted_proxies import Proxies
from server.protocol.http1.head import joined

MAX_KEY = 128  # characters of an Idempotency-Key
KEY = "[!-~](?:[ -~]*[!-~])?"
MAX_LIMIT = 200
DEFAULT_LIMIT = 50
MAX_BODY = 256 * 1024  # bytes of a JSON body; uploads have a limit of their own
ESCAPED = 8  # times MAX_MESSAGE_BYTES, if that is more: a content within its limit fits, however it is escaped
READ_TWICE = 4096  # strings, lists and other values of a body that is read a second time to say what is wrong with it

F = TypeVar("F", bound=Callable[..., Awaitable[Response]])
T = TypeVar("T")
_Place = tuple["_Place | None", str | int]  # where a value is: in what, and under which name or number

_key = re.compile(KEY)
_field = re.compile(r"field `(\w+)`")
_token = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,:\[{]', re.DOTALL)  # a string, also one that does not end


def open_route(view: F) -> F:
    """Mark a route that needs no access token."""
    view.open_route = True  # type: ignore[attr-defined]
    return view


def sign_in_route(view: F) -> F:
    """Mark an open route that is subject to the rate limit of sign-ins."""
    view.sign_in_route = True  # type: ignore[attr-defined]
    return open_route(view)


def parting_route(view: F) -> F:
    """Mark a route that accepts a valid access token even if its session has ended."""
    view.parting_route = True  # type: ignore[attr-defined]
    return view


def standing_route(view: F) -> F:
    """Mark a route whose own statement asks whether the caller may act at all, where it `owes_standing`."""
    view.standing_route = True  # type: ignore[attr-defined]
    return view


def upload_route(view: F) -> F:
    """Mark a route that is subject to the rate limit of uploads, and takes no turn."""
    view.upload_route = True  # type: ignore[attr-defined]
    return view


async def count_additions(number: int) -> None:
    """Count so many users whom the caller adds to a conversation, or one that they begin; not where it is an API key's
    request. Raises ChatError("rate_limited")."""
    count = g.get("count_additions")
    if count is not None:
        await count(max(1, number))


def join_route(view: F) -> F:
    """Mark a route that is subject to the rate limit of joins."""
    view.join_route = True  # type: ignore[attr-defined]
    return view


def caller() -> Caller:
    found: Caller = g.caller
    return found


def defers_standing(view: object) -> bool:
    """Whether the view is to ask for the caller's standing, before it refuses anything."""
    g.owes_standing = getattr(view, "standing_route", False)
    return owes_standing()


def owes_standing() -> bool:
    """Whether nothing was asked yet about the caller but their token."""
    return bool(g.get("owes_standing"))


def bearer() -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ChatError("unauthenticated", "Send `Authorization: Bearer <access token>`.")
    return token.strip()


def client() -> Client:
    """Return the client of this request, as users see it in the list of their sessions."""
    return Client(name=request.headers.get("User-Agent", ""), address=address())


def address() -> str:
    """Return the client's address: that of the peer, or what a trusted proxy reports."""
    proxies: Proxies = current_app.config["PROXIES"]
    return proxies.client_address(_peer(), _whole("X-Forwarded-For"))


def base_url() -> str:
    """Return the URL at which clients reach this server, without a slash at the end."""
    configured: str = current_app.config["PUBLIC_URL"]
    proxies: Proxies = current_app.config["PROXIES"]
    scheme = proxies.scheme(_peer(), _whole("X-Forwarded-Proto"), request.scheme)
    return configured or f"{scheme}://{request.host}"


def _peer() -> str:
    """Return the address of the TCP peer; empty on a Unix socket, for which Quart invents one."""
    found: str = (request.scope.get("client") or ("",))[0]
    return found


def _whole(header: str) -> str:
    """Return all lines of a header as one: some proxies append a line of their own to the client's."""
    return joined(request.scope["headers"]).get(header.lower().encode(), b"").decode("latin-1")


async def body(kind: type[T]) -> T:
    """Return the JSON body as a `kind`. Raises ChatError: unsupported_media_type, invalid_request.

    msgspec decodes and validates in one pass. Only if that fails is the body parsed a second time with the standard
    library, for two reasons: JSON Schema regards 5.0 as an integer and msgspec does not; and a lone surrogate in a
    text should be reported by the name of its field. Errors name the innermost field that is known, else "body". The
    second time is for bodies of up to `READ_TWICE` values: it is Python's, and the event loop waits for it.
    """
    if not request.is_json:
        raise ChatError("unsupported_media_type", "Send application/json.")
    raw = await request.get_data(as_text=False)
    try:
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.ValidationError:
            if not _is_read_twice(raw):
                raise
            loose = json.loads(raw, parse_float=_number, parse_constant=_refuse)
            _require_text(loose)
            return msgspec.convert(loose, kind)
    except msgspec.ValidationError as error:
        sentence, _, place = str(error).partition(" - at ")
        missing = _field.search(sentence) if sentence.startswith("Object missing") else None
        path = place.strip("`").removeprefix("$").removeprefix(".")
        field = ".".join(name for name in (path, missing[1] if missing else "") if name) or "body"
        raise ChatError("invalid_request", f"{sentence} (at {field}).", errors={field: sentence}) from None
    except UnicodeDecodeError:
        raise ChatError("invalid_request", "The body is not UTF-8.", errors={"body": "not UTF-8"}) from None
    except (msgspec.DecodeError, ValueError) as error:
        if _is_read_twice(raw):
            _require_text(_loosely(raw))
        sentence = f"The body is not valid JSON: {error}."
        raise ChatError("invalid_request", sentence, errors={"body": str(error)}) from None
    except RecursionError:
        raise ChatError("invalid_request", "The body is nested too deep.", errors={"body": "too deep"}) from None


def _is_read_twice(raw: str | bytes) -> bool:
    """Return whether a body has few enough values. Looks at no more of it than that needs."""
    data = raw.encode() if isinstance(raw, str) else raw
    return next(islice(_token.finditer(data), READ_TWICE, None), None) is None


def _loosely(raw: str | bytes) -> object:
    """Parse JSON as Python does, which accepts lone surrogates. Return None if it is not JSON."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _require_text(value: object) -> None:
    """Raise ChatError if any string contains a lone surrogate. The error names the innermost field.

    How deep a body is nested, and how long its names are, is up to the client: this does not recurse, and spells out
    the place of a string only for the error.
    """
    waiting: list[tuple[object, _Place | None]] = [(value, None)]
    while waiting:
        item, place = waiting.pop()
        if isinstance(item, str):
            if not is_text(item):
                where = _spelled(place) or "body"
                raise ChatError("invalid_request", f"{NO_TEXT} (at {where}).", errors={where: NO_TEXT})
        elif isinstance(item, list):
            waiting += [(one, (place, index)) for index, one in enumerate(item)][::-1]
        elif isinstance(item, dict):
            for name, one in reversed(item.items()):
                waiting += ((one, (place, name)), (name, place))


def _spelled(place: _Place | None) -> str:
    parts = []
    while place is not None:
        place, part = place
        parts.append(f"[{part}]" if isinstance(part, int) else f".{part}")
    return "".join(reversed(parts)).removeprefix(".")


def check_query() -> None:
    """Raise ChatError if the query is not UTF-8."""
    raw = request.query_string
    if not raw.isascii() or b"%" in raw:
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise ChatError("invalid_request", f"The query is not UTF-8: {NO_TEXT}.") from None


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


def _refuse(text: str) -> None:
    raise msgspec.DecodeError(f"{text} is no JSON")


def answer(value: object, status: int = 200, *, version: str | None = None, resource: object | None = None) -> Response:
    """Return `value` as JSON. With `version` it gets an ETag, and 304 if If-None-Match contains that ETag.

    The ETag is the version, which is what If-Match of an edit is compared with (`if_match`), and a digest of the
    content, so that a cached answer is renewed whenever anything in it differs. An answer that says more than the
    `resource` has its ETag, the one that GET answers with.
    """
    encoded = msgspec.json.encode(value)
    response = Response(encoded, status=status, content_type="application/json")
    if version is not None:
        content = encoded if resource is None else msgspec.json.encode(resource)
        response.set_etag(f"{version}-{hashlib.sha256(content).hexdigest()[:16]}")
        if request.method in ("GET", "HEAD") and "If-None-Match" in request.headers and _has(response):
            return Response("", status=304, headers={"ETag": response.headers["ETag"]})
    return response


def _has(response: Response) -> bool:
    """Return True if If-None-Match contains the response's ETag (RFC 9110, 13.1.2: weak comparison)."""
    tag, _ = response.get_etag()
    return bool(request.if_none_match) and request.if_none_match.contains_weak(tag or "")


def nothing() -> Response:
    return Response("", status=204)


def page(items: Sequence[object], following: str | None) -> Response:
    return answer({"items": items, "next": following})


def path_id(text: str) -> UUID:
    """Parse an id from the path. Raises ChatError("not_found") if it is not a UUID."""
    try:
        return UUID(text)
    except ValueError:
        raise ChatError("not_found", "There is no such thing.") from None


def query_id(name: str) -> UUID:
    try:
        return UUID(request.args[name])
    except KeyError:
        raise ChatError("invalid_request", f"The parameter {name} is required.", errors={name: "required"}) from None
    except ValueError:
        raise ChatError(
            "invalid_request", f"The parameter {name} is not a UUID.", errors={name: "not a UUID"}
        ) from None


def query_number(name: str, default: int | None, *, least: int = 0, most: int = 2**62) -> int | None:
    text = request.args.get(name)
    if text is None:
        return default
    number = text_rules.whole_number(text, least, most)
    if number is None:
        sentence = f"a whole number between {least} and {most}"
        raise ChatError("invalid_request", f"The parameter {name} is {sentence}.", errors={name: sentence})
    return number


def query_choice(name: str) -> bool | None:
    """Return whether the parameter is "true", or None if it is left out."""
    text = request.args.get(name)
    if text not in ("true", "false", None):
        raise ChatError("invalid_request", f"The parameter {name} is true or false.", errors={name: "true or false"})
    return None if text is None else text == "true"


def limit() -> int:
    return query_number("limit", DEFAULT_LIMIT, least=1, most=MAX_LIMIT) or DEFAULT_LIMIT


def cursor() -> str | None:
    """Return the cursor at which the page begins, or None for the first page."""
    return request.args.get("cursor") or None


def seq_cursor() -> int | None:
    """Return the cursor of a list whose cursors are seqs, or None for the first page."""
    try:
        return query_number("cursor", None)
    except ChatError as error:
        raise ChatError("invalid_cursor", error.sentence, errors=error.errors) from None


def if_match() -> frozenset[str] | None:
    """Return the versions that an edit may be based on, from If-Match (RFC 9110, 13.1.1); None for any.

    An ETag is the version of the editable part, a dash, and a digest of the whole answer. Only the version is compared,
    so that an edit is not refused because, for example, somebody has read a message meanwhile. Weak ETags never match
    here.
    """
    if "If-Match" not in request.headers or request.if_match.star_tag:
        return None
    tags = request.if_match.as_set()
    return frozenset((tag or "").partition("-")[0] for tag in tags)  # Werkzeug returns None for an empty tag


def idempotency_key() -> str | None:
    """Raises ChatError("invalid_request")."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (len(key) <= MAX_KEY and _key.fullmatch(key)):
        sentence = f"1 to {MAX_KEY} visible ASCII characters"
        raise ChatError("invalid_request", f"An Idempotency-Key is {sentence}.", errors={"Idempotency-Key": sentence})
    return key


async def once() -> Once | None:
    """Return the Idempotency-Key with a digest of its request, or None. Raises ChatError("invalid_request").

    The digest covers method, path and body, so that a key that is used again for another request is recognised.
    """
    key = idempotency_key()
    if key is None:
        return None
    body = bytes(await request.get_data(as_text=False))  # type: ignore[arg-type]  # bytes, because of `as_text`
    return Once(key, hashlib.sha256(f"{request.method} {request.path}\n".encode() + body).digest())
