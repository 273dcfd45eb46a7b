"""server.transport.refusal and server.rest.problems: the instructions of a refusal to a client."""

import json
import socket
from typing import cast

import pytest
from quart import Quart

from handlers.errors import ChatError
from server.rest.problems import problem
from server.transport.listener import LINGER, _answer
from server.transport.refusal import refusal
from server.transport.request_stream import AnySocket


@pytest.mark.parametrize(("wait", "shown"), [(0.1, "1"), (1.0, "1"), (1.2, "2"), (59.01, "60")])
async def test_retry_after_is_rounded_up(wait: float, shown: str) -> None:
    """Retry-After is rounded up, so that a client that waits for it is not refused for a fraction of a second; the body
    has the time to the millisecond."""
    answer = refusal(ChatError("rate_limited", "Slow down.", retry_after=wait), 429)
    assert answer.fields["Retry-After"] == shown and json.loads(answer.body)["retryAfterMs"] == wait * 1000
    async with Quart("test").test_request_context("/"):
        response = problem("rate_limited", "Slow down.", retry_after=wait)
        assert response.headers["Retry-After"] == shown
        assert json.loads(await response.get_data())["retryAfterMs"] == wait * 1000


async def test_what_is_away_comes_back() -> None:
    """A service that is out of reach suggests when to come again, wherever it is missed."""
    error = ChatError("unavailable", "Away.")
    answer = refusal(error, 503)
    async with Quart("test").test_request_context("/"):
        response = problem("unavailable", "Away.")
        assert response.headers["Retry-After"] == answer.fields["Retry-After"] == "1"
        for body in (answer.body, await response.get_data(), error.for_hub().split("\n")[1]):
            assert json.loads(body)["retryAfterMs"] == 1000


class Halves:
    """A socket of which the first read finds only a part of a TLS record."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._is_whole = False
        self.read = b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes) -> int:
        return self._sock.send(data)

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def recv(self, size: int) -> bytes:
        if not self._is_whole:
            self._is_whole = True
            raise BlockingIOError
        data = self._sock.recv(size)
        self.read += data
        return data


async def test_what_the_client_still_sends_is_read_to_its_end() -> None:
    """Also where not all of a record has come: a close with unread input would reset the connection, and the client
    could lose the answer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        client = Halves(ours)
        theirs.send(b"a request")
        theirs.shutdown(socket.SHUT_WR)
        await _answer(cast(AnySocket, client), b"an answer", LINGER)
        assert client.read == b"a request" and theirs.recv(100) == b"an answer"
