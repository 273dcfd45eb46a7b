"""What every route needs: the caller, ids and page parameters from the request, JSON and ETags in the answer.

Owns the conventions of the REST surface. Touches Quart's request.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from quart import Response, current_app, g, request

from handlers.errors import ChatError
from handlers.model import Caller, Client, Once
from server.addresses import Proxies

MAX_KEY = 128  # characters of an Idempotency-Key
MAX_LIMIT = 200
DEFAULT_LIMIT = 50
MAX_BODY = 256 * 1024  # bytes of a JSON body; uploads have a limit of their own

F = TypeVar("F", bound=Callable[..., Awaitable[Response]])


def open_route(view: F) -> F:
    """Marks a route that needs no access token."""
    view.open_route = True  # type: ignore[attr-defined]
    return view


def sign_in_route(view: F) -> F:
    """Marks an open route that is limited as signing in is."""
    view.sign_in_route = True  # type: ignore[attr-defined]
    return open_route(view)


def upload_route(view: F) -> F:
    """Marks a route that is limited as uploading is."""
    view.upload_route = True  # type: ignore[attr-defined]
    return view


def caller() -> Caller:
    found: Caller = g.caller
    return found


def bearer() -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ChatError("unauthenticated", "Send `Authorization: Bearer <access token>`.")
    return token.strip()


def client() -> Client:
    """Who calls, as the user will see it in the list of her sessions."""
    return Client(name=request.headers.get("User-Agent", ""), address=address())


def address() -> str:
    """Of the client, as far as it can be known."""
    proxies: Proxies = current_app.config["PROXIES"]
    return proxies.client_address(request.remote_addr or "", request.headers.get("X-Forwarded-For", ""))


def base_url() -> str:
    """Where clients reach us, without a slash at the end."""
    configured: str = current_app.config["PUBLIC_URL"]
    proxies: Proxies = current_app.config["PROXIES"]
    said = request.headers.get("X-Forwarded-Proto", "")
    return configured or f"{proxies.scheme(request.remote_addr or '', said, request.scheme)}://{request.host}"


def answer(value: object, status: int = 200, *, etag: str | None = None) -> Response:
    response = Response(msgspec.json.encode(value), status=status, content_type="application/json")
    if etag is not None:
        response.set_etag(etag)
    return response


def nothing() -> Response:
    return Response("", status=204)


def page(items: Sequence[object], following: str | None) -> Response:
    return answer({"items": items, "next": following})


def path_id(text: str) -> UUID:
    """An id from the path: what is no UUID names nothing."""
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
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdecimal()) or not least <= int(text[:20]) <= most:
        sentence = f"a whole number between {least} and {most}"
        raise ChatError("invalid_request", f"The parameter {name} is {sentence}.", errors={name: sentence})
    return int(text)


def limit() -> int:
    return query_number("limit", DEFAULT_LIMIT, least=1, most=MAX_LIMIT) or DEFAULT_LIMIT


def if_match() -> int | None:
    """The version that an edit is based on, from If-Match (RFC 9110, 13.1.1); None for any."""
    if not request.if_match or request.if_match.star_tag:
        return None
    for tag in request.if_match.as_set():
        if tag.isdecimal():
            return int(tag)
    raise ChatError("precondition_failed", "If-Match has none of our ETags.")


def idempotency_key() -> str | None:
    """Raises ChatError("invalid_request")."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isprintable()):
        sentence = f"1 to {MAX_KEY} printable characters"
        raise ChatError("invalid_request", f"An Idempotency-Key is {sentence}.", errors={"Idempotency-Key": sentence})
    return key


async def once() -> Once | None:
    """The Idempotency-Key and what it stands for. Raises ChatError("invalid_request")."""
    key = idempotency_key()
    if key is None:
        return None
    body = bytes(await request.get_data(as_text=False))  # type: ignore[arg-type]  # bytes, as asked for
    return Once(key, hashlib.sha256(f"{request.method} {request.path}\n".encode() + body).digest())


def documented(value: Any) -> Any:
    """Decorators of quart-schema are untyped; this keeps the views typed."""
    return value
