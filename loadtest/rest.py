"""A lean HTTP/1.1 client on Trio: kept-alive connections to one origin, for making people and for REST scenarios.

Owns the connections. A general client takes as much processor time for a request as the server for its answer; this
one takes little. It knows what our API answers: lengths or chunks, no redirects, no cookies.
"""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
import trio

from loadtest.lean_client import Origin

T = TypeVar("T")

READ_SIZE = 65536  # bytes
TIMEOUT = 30.0  # seconds for one request


class RestError(Exception):
    """A request failed: `status` is 0 when there was no answer. `code` is the slug of the answer, or of the failure."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}" if status else detail)
        self.status = status
        self.code = code


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]  # names in lower case
    body: bytes


class _Problem(msgspec.Struct):
    code: str = "http"
    detail: str = ""


class Rest:
    """Take `connections` at most at once; a request waits for a free one."""

    def __init__(self, origin: Origin, *, connections: int = 16) -> None:
        self._origin = origin
        self._tls = ssl.create_default_context() if origin.scheme == "https" else None
        self._free: list[_Connection] = []
        self._limit = trio.CapacityLimiter(connections)

    async def get(self, path: str, token: str, kind: type[T], **query: object) -> T:
        """Raises RestError."""
        target = path + ("?" + urlencode(query) if query else "")
        return _typed(await self.request("GET", target, token), kind)

    async def post(self, path: str, token: str, body: object, kind: type[T]) -> T:
        """As JSON. Raises RestError."""
        headers = [("Content-Type", "application/json")]
        return _typed(await self.request("POST", path, token, msgspec.json.encode(body), headers), kind)

    async def request(
        self, method: str, target: str, token: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
    ) -> Answer:
        """Any answer below 400. Raises RestError."""
        head = f"{method} {self._origin.path}{target} HTTP/1.1\r\nHost: {self._origin.authority}\r\n"
        if token:
            head += f"Authorization: Bearer {token}\r\n"
        if body or method in ("POST", "PUT"):
            head += f"Content-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers)
        async with self._limit:
            with trio.move_on_after(TIMEOUT):
                answer = await self._exchange(f"{head}\r\n".encode() + body)
                if answer.status >= 400:
                    raise _refusal(answer)
                return answer
        raise RestError(0, "timeout", f"{method} {target} took more than {TIMEOUT:g} s")

    async def _exchange(self, data: bytes) -> Answer:
        """A connection that was kept may be dead: then once more, on a new one."""
        while self._free:
            async with self._used(self._free.pop()) as connection:
                answer = await connection.exchange(data)
                if answer is not None:
                    return answer
        async with self._used(await self._open()) as connection:
            answer = await connection.exchange(data)
        if answer is None:
            raise RestError(0, "closed", "the server closed the connection")
        return answer

    @asynccontextmanager
    async def _used(self, connection: "_Connection") -> AsyncIterator["_Connection"]:
        try:
            yield connection
        finally:
            if connection.reusable:
                self._free.append(connection)
            else:
                await trio.aclose_forcefully(connection.stream)

    async def _open(self) -> "_Connection":
        try:
            stream: trio.abc.Stream = await trio.open_tcp_stream(self._origin.host, self._origin.port)
        except OSError as error:
            raise RestError(0, "unreachable", str(error.strerror or error)) from None
        if self._tls is not None:
            stream = trio.SSLStream(stream, self._tls, server_hostname=self._origin.host, https_compatible=True)
        return _Connection(stream)

    async def aclose(self) -> None:
        while self._free:
            await trio.aclose_forcefully(self._free.pop().stream)


class _Connection:
    """`reusable` after a whole answer, unless the server said that it will close."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.reusable = False
        self._pending = b""

    async def exchange(self, data: bytes) -> Answer | None:
        """None when the connection ended before any of the answer came."""
        self.reusable = False
        try:
            await self.stream.send_all(data)
            head = await self._until(b"\r\n\r\n")
            status_line, *lines = head.split(b"\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
            status = int(status_line[9:12])
            body = await self._body(status, headers)
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError, ssl.SSLError):
            return None
        self.reusable = headers.get(b"connection", b"").lower() != b"close"
        return Answer(status, headers, body)

    async def _body(self, status: int, headers: dict[bytes, bytes]) -> bytes:
        if status in (204, 304):
            return b""
        if b"content-length" in headers:
            return await self._exactly(int(headers[b"content-length"]))
        if headers.get(b"transfer-encoding", b"").lower() != b"chunked":
            raise EOFError  # ended by closing: our API does not do that
        parts = []
        while size := int((await self._until(b"\r\n")).partition(b";")[0], 16):
            parts.append(await self._exactly(size))
            await self._until(b"\r\n")
        await self._until(b"\r\n")
        return b"".join(parts)

    async def _until(self, end: bytes) -> bytes:
        while end not in self._pending:
            await self._more()
        found, _, self._pending = self._pending.partition(end)
        return found

    async def _exactly(self, size: int) -> bytes:
        while len(self._pending) < size:
            await self._more()
        found, self._pending = self._pending[:size], self._pending[size:]
        return found

    async def _more(self) -> None:
        data = await self.stream.receive_some(READ_SIZE)
        if not data:
            raise EOFError
        self._pending += bytes(data)


def _typed(answer: Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.DecodeError as error:
        raise RestError(answer.status, "undecodable", str(error)) from None


def _refusal(answer: Answer) -> RestError:
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem(detail=answer.body[:200].decode("utf-8", "replace"))
    return RestError(answer.status, problem.code, problem.detail)
