"""store.postgres.clock: a machine's clock that is off is said, and beyond a bound not served with."""

import time
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from server.identity.access_tokens import LEEWAY
from store.errors import Unavailable, Unfit
from store.postgres import clock
from store.postgres.clock import Clock
from store.postgres.connection import Connection, Skew
from store.postgres.sessions import Connector, check
from tests.waiting import wait_until


def test_what_is_refused() -> None:
    """What others tolerate in a token, and no more, as far as that is certain; the text says by how much it is off."""
    assert clock.REFUSED <= LEEWAY
    clock.require(Skew(4.9, 0.0))
    clock.require(Skew(-9.0, 5.0))  # a slow answer is no proof
    with pytest.raises(Unfit, match=r"this machine's clock is 10\.0 minutes ahead of PostgreSQL's, .* more than 5 s"):
        clock.require(Skew(600.0, 0.1))
    with pytest.raises(Unfit, match=r"24\.0 hours behind"):
        clock.require(Skew(-86400.0, 0.1))


async def nothing() -> Connection:
    raise Unavailable("away")


async def test_what_is_said() -> None:
    """Health and one line, while the clock is off."""
    watched = Clock(nothing)
    with capture_logs() as lines:
        for ahead in (1.9, 3.0, 3.1, -2.5, 0.1):
            watched.observe(Skew(ahead, 0.01))
            assert (watched.trouble() is not None) is (abs(ahead) > 2)
    assert [line["event"] for line in lines] == ["clock_differs", "clock_differs_over"]
    assert "3.0 s ahead of PostgreSQL's" in lines[0]["reason"]


async def test_it_is_compared(database: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each new connection, at the start, and now and then."""
    monkeypatch.setattr(clock, "WATCH", 0.01)
    real = time.time

    class Off:
        @staticmethod
        def time() -> float:
            return real() - 600

    monkeypatch.setattr("store.postgres.sessions.time", Off)
    found: list[Connection] = []

    async def admit(connection: Connection) -> None:
        found.append(connection)

    async def observe(connection: Connection) -> None:
        watched.observe(connection.clock_skew)

    connection = await Connector(database, name="test", admit=admit).connect()
    assert found == [connection] and connection.clock_skew is not None
    assert connection.clock_skew.ahead == pytest.approx(-600, abs=60)
    assert (await check(database)).ahead < -500
    connection.finish()
    watched = Clock(Connector(database, name="test", admit=observe).connect)
    await nursery.start(watched.run)
    assert "10.0 minutes behind" in await wait_until(watched.trouble)
    nursery.cancel_scope.cancel()


class Connected:
    def __init__(self) -> None:
        self.is_open = True

    def finish(self) -> None:
        self.is_open = False


async def test_a_new_connection_each_time(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """So a name of PostgreSQL that leads to another server by now is noticed, however long the pools keep theirs; and
    one that is away is asked again."""
    made: list[Connected] = []
    refused: list[Unavailable] = []

    async def connect() -> Any:
        if made and not refused:
            refused.append(Unavailable("away"))
            raise refused[0]
        made.append(Connected())
        return made[-1]

    await nursery.start(Clock(connect).run)
    await trio.sleep(5 * clock.WATCH)
    assert refused and 3 <= len(made) <= 6 and not any(one.is_open for one in made)
    nursery.cancel_scope.cancel()
