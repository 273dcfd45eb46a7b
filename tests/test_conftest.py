"""tests.conftest: what holds for all tests."""

import pytest
import trio
from trio.testing import MockClock


@pytest.fixture
async def begun(autojump_clock: MockClock) -> float:
    return trio.current_time()


async def test_the_clock_of_a_fixture(begun: float) -> None:
    """A test whose fixtures take a virtual clock runs by it, though it does not name it: no time is spent on sleep."""
    assert isinstance(trio.lowlevel.current_clock(), MockClock) and begun == 0
    await trio.sleep(3600)  # under the clock of its fixture
    assert trio.current_time() == 3600
