"""One attempt to deliver an event: a POST over HTTP/1.1, and what came of it.

Owns the bounds of an attempt: its time, and what is read of an answer. Redirects are failures, not followed. Of an
answer only its status counts; a part of its body is read, so that the connection can be used again, and thrown away.
Speaks HTTP through httpcore, on Trio.
"""

import ssl
import time
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, cast

import httpcore
import trio

from server.observability.version import version
from server.webhooks.connections import CONNECT, GuardedBackend, Resolve, resolve
from server.webhooks.signatures import sign
from store.reasons import cut

MAX_ANSWER = 16 * 1024  # octets that are read of one
LEAST = 128  # for which a chunk counts at least
KEPT = 4.0  # seconds for which an idle connection is kept: less than most servers do
MAX_WAIT = 3600.0  # seconds: of a Retry-After no more is believed
GONE = 410

_FAULTS = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    trio.TooSlowError,
    OSError,
    ValueError,  # a URL that was good when it was made
)


class Outcome(NamedTuple):
    """`failure` is empty for what was accepted. `wait`: for how many seconds the endpoint wants to be left alone."""

    failure: str = ""
    is_gone: bool = False
    wait: float = 0.0


class Sender:
    """Delivers to one endpoint. `aclose` closes its connections."""

    def __init__(
        self,
        url: str,
        hosts: Collection[str],
        *,
        tls: ssl.SSLContext,
        timeout: float,
        connections: int,
        resolve: Resolve = resolve,
    ) -> None:
        """`hosts`: those of WEBHOOK_HOSTS. `timeout`: seconds for one attempt. `connections`: at most so many."""
        self.url = url
        self._timeout = timeout
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=connections,
            keepalive_expiry=KEPT,
            http1=True,
            http2=False,
            network_backend=GuardedBackend(hosts, resolve),
        )

    async def post(self, secrets: Sequence[bytes], event_id: str, body: bytes) -> Outcome:
        """Never raises for what the endpoint, or the way to it, does."""
        headers = [
            ("content-type", "application/json"),
            ("user-agent", f"Parley-Webhooks/{version()}"),
            *sign(secrets, event_id, int(time.time()), body),
        ]
        try:
            with trio.fail_after(self._timeout):
                return await self._post(headers, body)
        except _FAULTS as error:
            return Outcome(_reason(error, self._timeout))

    async def _post(self, headers: list[tuple[str, str]], body: bytes) -> Outcome:
        extensions = {"timeout": {"connect": min(CONNECT, self._timeout)}}
        async with self._pool.stream("POST", self.url, headers=headers, content=body, extensions=extensions) as answer:
            if answer.status // 100 == 2:
                outcome = Outcome()
            else:
                why = "; redirects are not followed" if answer.status // 100 == 3 else ""
                outcome = Outcome(f"HTTP {answer.status}{why}", answer.status == GONE, _wait(answer))
            try:
                await _throw_away(answer)
            except _FAULTS:
                pass  # it has answered
        return outcome

    async def aclose(self) -> None:
        await self._pool.aclose()


async def _throw_away(answer: httpcore.Response) -> None:
    """Read a body to its end, or to MAX_ANSWER: then the connection is closed."""
    count = 0
    async with aclosing(cast(AsyncGenerator[bytes, None], answer.aiter_stream())) as chunks:
        async for chunk in chunks:
            count += max(len(chunk), LEAST)
            if count > MAX_ANSWER:
                return


def _wait(answer: httpcore.Response) -> float:
    """Return the seconds of a Retry-After; 0 for none."""
    found = [value for name, value in answer.headers if name.lower() == b"retry-after"]
    try:
        value = found[0].decode("ascii").strip() if found else "0"
        seconds = float(value) if value.isdecimal() else _seconds_until(value)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_WAIT)


def _seconds_until(text: str) -> float:
    when = parsedate_to_datetime(text)
    return (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _reason(error: BaseException, timeout: float) -> str:
    """Why an attempt failed, in words of our own or the system's: nothing that the endpoint has said."""
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {timeout:g} s"
    if isinstance(error, httpcore.TimeoutException):
        return "no connection in time"
    if isinstance(error, httpcore.RemoteProtocolError):
        return "it does not speak HTTP/1.1, or hung up"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"TLS: {cut(cause.verify_message)}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {cut(str(cause.reason))}"
        cause = cause.__cause__ or cause.__context__
    return cut(str(error)) or type(error).__name__
