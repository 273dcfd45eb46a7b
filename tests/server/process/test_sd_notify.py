"""server.process.sd_notify: what the service manager hears, on a real socket, and that nothing ever waits for it."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from server.process.sd_notify import ServiceManager
from tests.service_manager import FakeServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeServiceManager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@parley-test-{secrets.token_hex(8)}"
    found = FakeServiceManager(address)
    yield found
    found.close()


def test_the_order_of_a_life(manager: FakeServiceManager) -> None:
    """The order is ready, reloading, ready, stopping; an unchanged status is sent once."""
    service_manager = ServiceManager.from_environment({"NOTIFY_SOCKET": manager.address})
    service_manager.ready()
    service_manager.say("fine")
    service_manager.say("fine")
    service_manager.reloading()
    service_manager.ready()
    service_manager.stopping(40.0)
    one, two, three, four, five = manager.heard()
    assert (one, two, four) == ("READY=1", "STATUS=fine", "READY=1")
    assert three.startswith("RELOADING=1\nMONOTONIC_USEC=") and five == "STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000"
    service_manager.close()
    service_manager.ready()
    assert manager.heard() == []


async def test_watchdog(
    manager: FakeServiceManager, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """The watchdog is fed twice a period while the verdict is good, and not at all while it is not."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}
    service_manager = ServiceManager.from_environment(environ, status=lambda: "serving")
    verdicts: list[str | None] = [None]
    nursery.start_soon(service_manager.run, lambda: verdicts[0])
    await trio.sleep(19.9)
    assert manager.heard() == ["WATCHDOG=1", "STATUS=serving", *["WATCHDOG=1"] * 3]
    verdicts[0] = "lane 1: no progress"
    await trio.sleep(100)
    assert manager.heard() == ["STATUS=hung: lane 1: no progress"]
    verdicts[0] = None
    await trio.sleep(5)
    assert manager.heard() == ["WATCHDOG=1", "STATUS=serving"]
    service_manager.close()


@pytest.mark.parametrize(
    "environ", [{"WATCHDOG_PID": "1", "WATCHDOG_USEC": "10"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}, {}]
)
def test_no_watchdog(environ: dict[str, str]) -> None:
    """A watchdog for another process, or none, is not fed."""
    assert ServiceManager.from_environment(environ).watchdog_seconds is None


def test_a_manager_that_does_not_listen(tmp_path: Path) -> None:
    """A manager with a full queue, or gone, or absent, neither delays nor fails anything."""
    manager = FakeServiceManager(str(tmp_path / "notify"))
    service_manager = ServiceManager(manager.address)
    for number in range(10_000):
        service_manager.say(f"status {number}")
    assert 0 < len(manager.heard()) < 10_000
    manager.close()
    (tmp_path / "notify").unlink()
    service_manager.ready()
    service_manager.close()
    ServiceManager(None).ready()
