"""People who talk all the time while instances come and go, and what they notice.

Each has one connection, comes back at once when it ends (as SignalR's clients do), and shows its cursors. The oracle
of the load test says whether anything was lost, duplicated or out of order.
"""

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import trio
import trio.lowlevel

from loadtest.client import ClientError, HubClient, HubError, connect
from loadtest.oracle import contents
from tests.oracle_client import OracleClient, judge, make_oracle
from tests.running import Running, User
from tests.waiting import wait_until

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
    def __init__(self, url: str, user: User, oracle_client: OracleClient, seen: Seen) -> None:
        self.user = user
        self.oracle_client = oracle_client
        (self.conversation,) = oracle_client.views
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
                await trio.sleep(BACK)  # a client's pause before it connects again

    async def _connect(self) -> None:
        """Raises ClientError, OSError, alone or in a group, when there is no way in."""
        self.oracle_client.connected()
        query = {"sync": "manual"}
        async with connect(self._url, self.user.token, on_event=self._on_event, query=query) as client:
            try:
                answer = await client.invoke("Sync", self.oracle_client.cursors)
            except ClientError:
                if client.close_message is None or not client.close_message.allow_reconnect:
                    raise
                self._seen.sent_on += 1
                return
            self.oracle_client.synced(answer)
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
        message, due = self.oracle_client.event(target, arguments) or (None, None)
        if message is not None and due is not None and message.sender_id != self.user.id:
            now = self.oracle_client.oracle.now()
            self._seen.deliveries.append((trio.current_time() - now + due, now - due))

    async def talk(self, rate: float) -> None:
        """Say something so many times a second, at random moments, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(random.expovariate(rate))  # how often people write
                nursery.start_soon(self._say, self.oracle_client.oracle.now())

    async def _say(self, due: float) -> None:
        number, key = self.oracle_client.draft()
        content = contents.make_content(key, due, 60)
        body = {"conversationId": self.conversation, "content": content, "clientMessageId": key}
        with trio.CancelScope(shield=True), trio.fail_after(PATIENCE):
            while not self.oracle_client.acknowledged[number]:
                await self._online.wait()
                assert self._client is not None
                try:
                    self.oracle_client.acknowledge(number, (await self._client.invoke("SendMessage", body))["id"])
                except HubError as error:
                    assert error.code in ("unavailable", "overloaded", "draining"), error
                    await trio.sleep(BACK)  # a client's pause before it repeats
                except ClientError:
                    await trio.lowlevel.checkpoint()  # the connection is lost: say it again on the next one


async def populate(server: Running, pairs: int, seen: Seen) -> list[Talker]:
    talking = []
    for number in range(pairs):
        one, other = await server.register(f"a{number}"), await server.register(f"b{number}")
        conversation = await server.direct(one, other)
        talking += [(user, conversation) for user in (one, other)]
    oracle = make_oracle([user.id for user, _ in talking])
    return [
        Talker(server.hub_url, user, OracleClient(oracle, number, user.id, [conversation]), seen)
        for number, (user, conversation) in enumerate(talking)
    ]


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
        await trio.sleep(pause)  # how often it is asked


def have_all(talkers: Sequence[Talker], conversation: str, head: int) -> bool:
    return all(talker.oracle_client.cursors[conversation] >= head for talker in talkers)


async def settle(talkers: list[Talker], server: Running) -> None:
    """Wait until everybody has everything, and check it: nothing lost, nothing duplicated, one order."""
    found = {}
    for one, other in zip(talkers[::2], talkers[1::2], strict=True):
        stored = found[one.conversation] = await server.history(one.user, one.conversation, system=True)
        head = max((message["changedSeq"] for message in stored), default=0)
        await wait_until(partial(have_all, (one, other), one.conversation, head))
    judge(talkers[0].oracle_client.oracle, [talker.oracle_client for talker in talkers], found)
