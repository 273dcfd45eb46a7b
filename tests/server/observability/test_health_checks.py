"""server.observability.health_checks: an answer does not wait for the cleaning up of a check."""

import trio
from trio.testing import MockClock

from server.observability.health_checks import HealthChecks
from server.rest.routes.health import CHECK_TIMEOUT, run_checks


async def test_a_check_that_cleans_up(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """PostgreSQL answers neither the query nor its cancellation: the verdict is there after CHECK_TIMEOUT all the same,
    and another run is not begun before the first one has ended."""
    begun = 0

    async def hangs() -> str | None:
        nonlocal begun
        begun += 1
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(30)
        return None

    async def fine() -> str | None:
        return None

    health = HealthChecks(CHECK_TIMEOUT)
    await nursery.start(health.run)
    checks = {"postgres": health.add(hangs), "lanes": health.add(fine)}
    for _ in range(3):
        began = trio.current_time()
        verdict, results = await run_checks(checks)
        assert trio.current_time() - began == CHECK_TIMEOUT
        assert (verdict, results["lanes"]) == ("Unhealthy", "ok") and "no answer" in results["postgres"]
    assert begun == 1
    await trio.sleep(60)
    await run_checks(checks)
    assert begun == 2
    nursery.cancel_scope.cancel()


async def test_shared_and_whole(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Many who ask at once share one run; a defect is a result; without the service checks run all the same."""
    begun = 0

    async def slow() -> str | None:
        nonlocal begun
        begun += 1
        await trio.sleep(1)
        return "out of order"

    async def broken() -> str | None:
        raise ValueError("a defect")

    health = HealthChecks(CHECK_TIMEOUT)
    checks = {"redis": health.add(slow)}
    assert (await run_checks(checks))[1] == {"redis": "out of order"}
    await nursery.start(health.run)
    async with trio.open_nursery() as askers:
        for _ in range(50):
            askers.start_soon(run_checks, checks)
    assert begun == 2
    assert "a defect, reference" in (await run_checks({"redis": health.add(broken)}))[1]["redis"]
    nursery.cancel_scope.cancel()
