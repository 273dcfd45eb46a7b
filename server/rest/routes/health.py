"""Health for load balancers and operators. Owns the routes and the verdict; the checks are passed in.

`/health/live` reports whether this process should be restarted; `/health` and `/health/ready` whether it should get
requests. Healthy: everything answers. Degraded: messages are accepted, but something else (Redis) is out of reach.
Unhealthy: no message can be accepted, so the instance is not ready.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import trio
from quart import Blueprint, Response

from server.observability.health_checks import Check
from server.rest.operations import Answer, operation
from server.rest.requests import answer, open_route
from store.model import Wire

CHECK_TIMEOUT = 2.0  # seconds for all checks together

Verdict = Literal["Healthy", "Degraded", "Unhealthy"]


class Note(str):
    """What a check returns to say something that is worth knowing and no failure."""


FINE_WORD, WRONG_WORD = "ok", "failing"
REQUIRED = frozenset({"postgres", "timeline", "lanes", "lifecycle", "core"})


async def run_checks(checks: Mapping[str, Check]) -> tuple[Verdict, dict[str, str]]:
    """Run all checks at once; return the verdict and the result of each check.

    A check that has not answered within CHECK_TIMEOUT counts as failed. This returns in that time if the checks can be
    left at once, as those of `HealthChecks` can.
    """
    results = dict.fromkeys(checks, f"no answer within {CHECK_TIMEOUT:g} s")

    async def run(name: str, check: Check) -> None:
        results[name] = await check() or "ok"

    with trio.move_on_after(CHECK_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for name, check in checks.items():
                nursery.start_soon(run, name, check)
    failed = {name for name, result in results.items() if not _is_fine(result)}
    if failed & REQUIRED:
        return "Unhealthy", results
    return ("Degraded" if failed else "Healthy"), results


def public(results: Mapping[str, str]) -> dict[str, str]:
    """Return which checks fail, without reasons: these may contain addresses, and the route needs no token."""
    return {name: FINE_WORD if _is_fine(result) else WRONG_WORD for name, result in results.items()}


def _is_fine(result: str) -> bool:
    return result == FINE_WORD or isinstance(result, Note)


class Report(Wire, frozen=True):
    """`checks`: "ok" or "failing". `parley inspect health` gives the reasons."""

    status: Verdict
    checks: dict[str, str]


FINE = Answer(200, Report, "Healthy, or Degraded: messages are accepted, but something else is out of reach.")
WRONG = Answer(503, Report, "Unhealthy.")


def blueprint(checks: Mapping[str, Check], hangs: Callable[[], str | None]) -> Blueprint:
    """`hangs` returns a description of what hangs in this process, or None."""
    routes = Blueprint("health", __name__, url_prefix="/health")

    async def report(*, failing: frozenset[str]) -> Response:
        verdict, results = await run_checks(checks)
        return answer(Report(verdict, public(results)), 503 if verdict in failing else 200)

    @routes.get("")
    @operation(FINE, WRONG)
    @open_route
    async def health() -> Response:
        """Get the state of the instance and its services."""
        return await report(failing=frozenset({"Unhealthy"}))

    @routes.get("/live")
    @operation(FINE, WRONG)
    @open_route
    async def live() -> Response:
        """Check whether the process makes progress."""
        verdict = hangs()
        if verdict is None:
            return answer({"status": "Healthy", "checks": {}})
        return answer({"status": "Unhealthy", "checks": {"progress": verdict}}, 503)

    @routes.get("/ready")
    @operation(FINE, WRONG)
    @open_route
    async def ready() -> Response:
        """Check whether the instance should get requests."""
        return await report(failing=frozenset({"Unhealthy"}))

    return routes
