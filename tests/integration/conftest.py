"""Server processes on a fresh database: for one test, or for all tests of a module that bear with each other."""

import copy
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any

import pytest
import trio

from server.cli.dev.services import Services
from tests.conftest import cloned, flush
from tests.forkserver import Child
from tests.running import Running, User, running
from tests.transports import FORMATS

# Each transport once and each protocol twice: for what is the same for all transports but for how the bytes travel.
PAIRS = [("socket", "json"), ("late", "messagepack"), ("sse", "json"), ("polling", "messagepack")]


@pytest.fixture
async def server(database: str, redis_url: str) -> AsyncIterator[Running]:
    async with running(database, redis_url) as found:
        yield found


class Shared(Running):
    """A server that other tests use too: all users in it have names of their own."""

    def __init__(self, process: Child | trio.Process, port: int, lines: list[dict[str, Any]], database: str) -> None:
        super().__init__(process, port, lines)
        self.database = database
        self.talks: dict[int, tuple[User, User, str]] = {}

    def over(self, transport: str, protocol: str) -> "Shared":
        found = copy.copy(self)
        found.transport, found.protocol = transport, protocol
        return found

    async def register(self, name: str) -> User:
        return await super().register(f"{name}-{secrets.token_hex(4)}")

    async def talk(self, count: int) -> tuple[User, User, str]:
        """Return two users and their conversation with so many messages, "0", "1" and so on, which others only read."""
        if count not in self.talks:
            alice, bob = await self.register("alice"), await self.register("bob")
            conversation = await self.direct(alice, bob)
            async with self.connect(alice, transport="socket") as client:
                bodies = [{"conversationId": conversation, "content": str(n)} for n in range(count)]
                for call in [await client.start("SendMessage", body) for body in bodies]:
                    await client.result(call)
            self.talks[count] = alice, bob, conversation
        return self.talks[count]


@contextmanager
def kept(services: Services, count: int) -> Iterator[list[Shared]]:
    """Run so many instances, in the Trio loop of another thread."""
    started: Future[list[Shared]] = Future()
    token: list[trio.lowlevel.TrioToken] = []
    done = trio.Event()

    async def serve(database: str) -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with AsyncExitStack() as stack:
            found = [await stack.enter_async_context(running(database, services.redis_url)) for _ in range(count)]
            started.set_result([Shared(one.process, one.port, one.lines, database) for one in found])
            await done.wait()

    failed: list[BaseException] = []

    def run(database: str) -> None:
        try:
            trio.run(serve, database)
        except BaseException as error:  # noqa: BLE001 (passed to the tests, in their thread)
            failed.append(error)
            if not started.done():
                started.set_exception(error)

    flush(services)
    with cloned(services) as database:
        thread = threading.Thread(target=run, args=[database], name="server")
        thread.start()
        try:
            yield started.result()
        finally:
            with suppress(trio.RunFinishedError):  # it has failed, and says so itself
                token[0].run_sync_soon(done.set)
            thread.join()
    if failed:
        raise failed[0]


@pytest.fixture(scope="module")
def shared(services: Services, template_database: str) -> Iterator[Shared]:
    """Run one instance for all tests of the module."""
    with kept(services, 1) as [found]:
        yield found


@pytest.fixture(scope="module")
def shared_pair(services: Services, template_database: str) -> Iterator[tuple[Shared, Shared]]:
    """Run two instances for all tests of the module."""
    with kept(services, 2) as [one, two]:
        yield one, two


@pytest.fixture(params=FORMATS, ids="-".join)
def everywhere(shared: Shared, request: pytest.FixtureRequest) -> Shared:
    """The shared server, reached over each transport in each hub protocol that it takes."""
    return shared.over(*request.param)


@pytest.fixture(params=PAIRS, ids="-".join)
def every_transport(shared: Shared, request: pytest.FixtureRequest) -> Shared:
    """The shared server, reached over each transport."""
    return shared.over(*request.param)
