"""People who talk all the time while instances come and go, and what they notice.

Each has one connection, comes back at once when it ends (as SignalR's clients do), and shows its cursors. The checker
of the chaos run says whether anything was lost, doubled or out of order.
"""

import random
from collections import Counter
from typing import Any

import trio
import trio.lowlevel

from loadtest.client import ClientError, HubClient, HubError, connect
from tests.chaos.checker import Checker
from tests.running import Running, User

BACK = 0.1  # seconds after a connection that could not be made
PATIENCE = 60.0  # seconds for everything to arrive in the end


class Seen:
    """What all of them saw together. Times are Trio's."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[float, float]] = []  # when somebody wanted to say it, seconds until it was there
        self.reconnects: list[
            tuple[float, float]
        ] = []  # when the old connection ended, seconds until the new one is in
        self.refused: Counter[str] = Counter()  # connections that were not made, and why
        self.sent_on = 0  # that were made, and ended before they were of use
        self.requests: Counter[str] = Counter()  # on connections of their own, and how they ended
        self.online = 0

    def p99(self, *spans: tuple[float, float]) -> float:
        """Seconds; of what was said in those times."""
        times = sorted(
            seconds for begun, seconds in self.deliveries if any(start <= begun < end for start, end in spans)
        )
        return times[int(len(times) * 0.99)] if times else 0.0

    def curve(self, start: float, end: float, width: float) -> list[int]:
        """Connections that came back, in slices of so many seconds."""
        slices = [0] * (int((end - start) / width) + 1)
        for left, took in self.reconnects:
            if start <= left + took < end:
                slices[int((left + took - start) / width)] += 1
        return slices


class Talker:
    def __init__(self, url: str, user: User, conversation: str, seen: Seen) -> None:
        self.user = user
        self.conversation = conversation
        self.checker = Checker(user.name, [conversation])
        self.acknowledged: dict[str, str] = {}
        self._url = url
        self._seen = seen
        self._client: HubClient | None = None
        self._online = trio.Event()
        self._left_at: float | None = None

    async def live(self) -> None:
        """Be connected, always."""
        while True:
            try:
                await self._connect()
            except* (ClientError, OSError) as group:
                error: BaseException = group
                while isinstance(error, BaseExceptionGroup):
                    error = error.exceptions[0]
                self._seen.refused[str(error)] += 1
                await trio.sleep(BACK)

    async def _connect(self) -> None:
        """Raises ClientError, OSError, alone or in a group, when there is no way in."""
        self.checker.connected()
        query = {"sync": "manual"}
        async with connect(self._url, self.user.token, on_event=self._on_event, query=query) as client:
            try:
                answer = await client.invoke("Sync", self.checker.cursors)
            except ClientError:
                if client.close_message is None or not client.close_message.allow_reconnect:
                    raise
                self._seen.sent_on += 1
                return
            self.checker.synced(answer["heads"], answer["resync"])
            if self._left_at is not None:
                self._seen.reconnects.append((self._left_at, trio.current_time() - self._left_at))
            self._client = client
            self._online.set()
            self._seen.online += 1
            await client.closed.wait()
            self._left_at = trio.current_time()
            self._seen.online -= 1
            self._online = trio.Event()

    def _on_event(self, target: str, arguments: list[Any]) -> None:
        self.checker.event(target, arguments)
        if target == "ReceiveMessage" and arguments[0]["type"] == "Text" and arguments[0]["senderId"] != self.user.id:
            begun = float(arguments[0]["content"])
            self._seen.deliveries.append((begun, trio.current_time() - begun))

    async def talk(self, rate: float) -> None:
        """Say something so many times a second, at random moments, until cancelled."""
        count = 0
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(random.expovariate(rate))
                count += 1
                nursery.start_soon(self._say, f"{self.user.name}-{count}", trio.current_time())

    async def _say(self, key: str, begun: float) -> None:
        body = {"conversationId": self.conversation, "content": str(begun), "clientMessageId": key}
        with trio.CancelScope(shield=True), trio.fail_after(PATIENCE):
            while key not in self.acknowledged:
                await self._online.wait()
                assert self._client is not None
                try:
                    self.acknowledged[key] = (await self._client.invoke("SendMessage", body))["id"]
                except HubError as error:
                    assert error.code in ("unavailable", "overloaded", "draining"), error
                    await trio.sleep(BACK)
                except ClientError:
                    await trio.lowlevel.checkpoint()  # the connection is lost: say it again on the next one


async def populate(server: Running, pairs: int, seen: Seen) -> list[Talker]:
    found = []
    for number in range(pairs):
        one, other = await server.register(f"a{number}"), await server.register(f"b{number}")
        conversation = await server.direct(one, other)
        found += [Talker(server.hub_url, user, conversation, seen) for user in (one, other)]
    return found


async def ask(port: int, seen: Seen, pause: float) -> None:
    """A request on a connection of its own, again and again, until cancelled."""
    while True:
        data = b""
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                async for chunk in stream:
                    data += bytes(chunk)
            seen.requests["answered" if data.startswith(b"HTTP/1.1 200") else data[:12].decode() or "nothing"] += 1
        except OSError as error:
            seen.requests[f"{error.strerror or error}"] += 1
        except trio.BrokenResourceError as error:
            seen.requests[f"{error.__cause__ or error}"] += 1
        await trio.sleep(pause)


async def settle(talkers: list[Talker], server: Running) -> None:
    """Wait until everybody has everything, and check it: nothing lost, nothing doubled, one order."""
    for one, other in zip(talkers[::2], talkers[1::2], strict=True):
        stored = await server.history(one.user, one.conversation, system=True)
        head = max((message["changedSeq"] for message in stored), default=0)
        with trio.fail_after(PATIENCE):
            while min(talker.checker.cursors[one.conversation] for talker in (one, other)) < head:
                await trio.sleep(0.05)
        both = {**one.acknowledged, **other.acknowledged}
        for talker in (one, other):
            talker.checker.finish({message["id"]: message for message in stored}, both)
