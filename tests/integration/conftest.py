"""One server process on a fresh database for each test, or one for all tests of a module that bear with each other."""

import copy
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import suppress

import pytest
import trio

from server.cli.dev.services import Services
from tests.conftest import cloned, flush
from tests.running import Running, User, running
from tests.transports import FORMATS


@pytest.fixture
async def server(database: str, redis_url: str) -> AsyncIterator[Running]:
    async with running(database, redis_url) as found:
        yield found


class Shared(Running):
    """A server that other tests use too: everybody in it has a name of her own."""

    async def register(self, name: str) -> User:
        return await super().register(f"{name}-{secrets.token_hex(4)}")


@pytest.fixture(scope="module")
def shared(services: Services, template_database: str) -> Iterator[Shared]:
    """Run by a Trio loop in a thread, for as long as the module."""
    started: Future[Shared] = Future()
    token: list[trio.lowlevel.TrioToken] = []
    done = trio.Event()

    async def serve(database: str) -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with running(database, services.redis_url) as found:
            started.set_result(Shared(found.process, found.port, found.lines))
            await done.wait()

    failed: list[BaseException] = []

    def run(database: str) -> None:
        try:
            trio.run(serve, database)
        except BaseException as error:  # noqa: BLE001 (told to the tests, in their thread)
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


@pytest.fixture(params=FORMATS, ids="-".join)
def everywhere(shared: Shared, request: pytest.FixtureRequest) -> Shared:
    """The shared server, reached over each carrier in each hub protocol that it takes."""
    found = copy.copy(shared)
    found.carrier, found.protocol = request.param
    return found
