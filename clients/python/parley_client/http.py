"""One HTTP request, and where it goes.

Owns what a URL of a server may look like, the HTTP client, and how whatever goes wrong with a request becomes one
error. When a request is repeated is for others to decide.
"""

import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx

from parley_client.errors import ParleyError, from_response

TIMEOUT = 30.0  # seconds for each step of a request


def server_url(url: str) -> str:
    """Return the URL of a server as it was meant: `localhost:5000` is http://, `chat.example` https://."""
    text = url.strip()
    try:
        if "://" not in text:
            host = urlsplit(f"//{text}").hostname or ""
            is_here = host in ("localhost", "::1") or host.startswith("127.")
            text = f"{'http' if is_here else 'https'}://{text}"
        scheme, _, rest = text.partition("://")
        scheme = {"ws": "http", "wss": "https"}.get(scheme.lower(), scheme.lower())
        found = httpx.URL(f"{scheme}://{rest.rstrip('/').removesuffix('/hubs/chat')}")
        port = 80 if found.port is None else found.port
        is_good = scheme in ("http", "https") and bool(found.host) and "%" not in found.host and 0 < port < 65536
    except (httpx.InvalidURL, ValueError):
        is_good = False
    if not is_good:
        raise ParleyError("invalid_request", f"{url!r} is no URL of a server: it looks like https://chat.example")
    return str(found).rstrip("/")


def open_client(url: str, ssl_context: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    """Return a client of one server."""
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT, verify=ssl_context if ssl_context is not None else True)


async def ask(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
    """Make a request once and return its answer, which is good. Raises ParleyError."""
    try:
        answer = await http.request(method, path, **options)
    except (httpx.InvalidURL, httpx.LocalProtocolError, httpx.UnsupportedProtocol, UnicodeEncodeError) as fault:
        raise ParleyError("invalid_request", f"this cannot be sent: {_reason(fault)}") from None
    except httpx.RequestError as fault:
        where = str(http.base_url).rstrip("/")
        raise ParleyError("network", f"{where} cannot be reached: {_reason(fault)}") from None
    if not answer.is_success:
        raise from_response(answer.status_code, answer.headers, answer.content)
    return answer


def _reason(fault: Exception) -> str:
    if isinstance(fault, UnicodeEncodeError):
        return fault.reason  # and not the text, which is the application's
    return str(fault) or type(fault).__name__
