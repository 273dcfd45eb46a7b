"""What Server-Sent Events and long polling have in common: what the client says comes in POSTs.

Owns the order of these POSTs: one is read and worked on at a time, in the connection's own nursery, and answered when
its messages were taken. That is the backpressure on the client; of the POSTs behind it, of which a user may have a few,
only the beginning is in memory.
"""

import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from uuid import UUID

import trio

from server.config.settings import Settings
from server.hub.connection import HubConnection
from server.hub.transports.base import AsgiTransport
from server.transport.timer_wheel import TimerWheel


class Gone(Exception):
    """The connection has ended."""


class HttpTransport(AsgiTransport):
    __slots__ = ("_posts", "connection_id", "over", "user_id")

    def __init__(self, wheel: TimerWheel, settings: Settings, connection_id: str, user_id: UUID) -> None:
        super().__init__(wheel, send_queue_bytes=settings.send_queue_bytes, stall_timeout=settings.stall_timeout)
        self.connection_id = connection_id
        self.user_id = user_id  # whose requests are taken
        self.over = False
        self._posts = trio.Lock()  # fair: POSTs are worked on in the order in which they came

    async def run(self, connection: HubConnection) -> None:
        try:
            await super().run(connection)
        finally:
            self.over = True
            self._wake.set()

    async def post(self, body: AsyncIterator[bytes]) -> None:
        """Take the body of a POST, in pieces that are nearly always all of it.

        Raises Gone, ChatError("rate_limited") if too many of the user's wait already, and whatever `body` raises.

        A body that breaks off behind its first piece may have cut a hub message in two: nothing can follow it, and the
        client begins anew.
        """
        if self._is_ending:
            raise Gone
        share = self.connection.share
        with nullcontext() if share is None else share.posting():
            await self._post(body)

    async def _post(self, body: AsyncIterator[bytes]) -> None:
        async with self._posts:
            if self._is_ending:
                raise Gone
            connection = self.connection  # as long as the body is read
            is_cut = False
            try:
                async for data in body:
                    await self._take(data)
                    is_cut = True
                is_cut = False
            finally:
                if is_cut:
                    connection.end("unavailable: A request broke off in the middle.", allow_reconnect=True)

    async def _take(self, data: bytes) -> None:
        self.bytes_in += len(data)
        if self._is_ending:
            raise Gone
        post = _Post()
        if not self.start_soon(self._work, data, post):
            raise Gone
        await post.done.wait()
        if not post.taken:
            raise Gone

    @property
    def _is_ending(self) -> bool:
        """Nothing is taken any more."""
        return self.over or self._closed or self.gone

    async def _work(self, data: bytes, post: "_Post") -> None:
        share = self.connection.share
        try:
            if share is not None and share.pause(self.wheel.now) > 0:
                await share.turn(self.wheel)  # answering later is the backpressure
            if data and not self._closed:
                began = time.perf_counter()
                waiting = self.connection.receive(data, binary=self.encoding.protocol.binary)
                if share is not None:
                    share.worked(time.perf_counter() - began, self.wheel.now)
                if waiting is not None:
                    await waiting
            post.taken = True
            self.flush()
        finally:
            post.done.set()


class _Post:
    """One POST that is being handled."""

    __slots__ = ("done", "taken")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.taken = False
