"""The client of the admin socket: finds the socket of an instance, and sends requests to it.

Owns the HTTP client over the Unix socket. Every fault is an AdminError with one sentence for the operator.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from server.config.admin_address import AUTO, SUFFIX, UnixAddress, find, parse

TIMEOUT = 10.0  # seconds; the instance is on this machine
SETTING = "PARLEY_ADMIN_LISTEN"

T = TypeVar("T")


class AdminError(Exception):
    """An error with one sentence for the operator."""


class Gone(AdminError):
    """No instance listens on the socket, or no longer."""


class AdminClient:
    def __init__(self, http: httpx.AsyncClient, path: Path) -> None:
        self._http = http
        self._path = path

    async def ask(self, question: str, **query: str | int | None) -> bytes:
        """Send a GET request; return the JSON of its answer. Raises AdminError."""
        params = {name: value for name, value in query.items() if value is not None}
        return await self._send("GET", question, params)

    async def order(self, order: str) -> bytes:
        """Send a POST request, which changes something; return the JSON of its answer. Raises AdminError."""
        return await self._send("POST", order, {})

    async def _send(self, method: str, path: str, params: Mapping[str, str | int]) -> bytes:
        try:
            answer = await self._http.request(method, path, params=params)
        except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
            raise Gone(f"no instance answers at {self._path} ({error or type(error).__name__})") from None
        except httpx.HTTPError as error:
            raise AdminError(f"the instance at {self._path} does not answer ({type(error).__name__})") from None
        if answer.is_success and answer.headers.get("Content-Type") == "application/json":
            return answer.content
        raise AdminError(_complaint(answer, self._path))


def _complaint(answer: httpx.Response, path: Path) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"what answers at {path} is no Parley instance (HTTP {answer.status_code})"


def decode(answer: bytes, kind: type[T]) -> T:
    """Decode an answer as `kind`. Raises AdminError."""
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.DecodeError as error:
        raise AdminError(f"the answer is not understood: is the instance of another version? ({error})") from None


@asynccontextmanager
async def connect(path: Path) -> AsyncIterator[AdminClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with httpx.AsyncClient(transport=transport, base_url="http://parley", timeout=TIMEOUT) as http:
        yield AdminClient(http, path)


def choose(given: Path | None, instance: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the given socket, or the one of the named instance, or the only one on this machine.

    Sockets are those in PARLEY_ADMIN_LISTEN if it names any, else those in the runtime directories. Raises AdminError
    if there is none or more than one: an order must not go to an instance that the operator did not choose.
    """
    if given is not None:
        return given
    configured = [parse(text) for text in environ.get(SETTING, AUTO).split(",") if text]
    paths = [address.path for address in configured if isinstance(address, UnixAddress)] or find(environ)
    if instance is not None:
        paths = [path for path in paths if instance in (path.name.removesuffix(SUFFIX), path.parent.name)]
    if len(paths) == 1:
        return paths[0]
    if not paths:
        named = f" by the name of {instance!r}" if instance else ""
        raise AdminError(f"no instance{named} was found on this machine; give --socket PATH")
    listed = "".join(f"\n  {path}" for path in paths)
    raise AdminError(f"several instances run here; give --instance NAME or --socket PATH:{listed}")
