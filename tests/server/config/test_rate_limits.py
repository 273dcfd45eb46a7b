"""The limiters that are made of the settings."""

import dataclasses

import pytest

from handlers.rate_limits import Rate
from server.config.rate_limits import RateLimits
from server.config.settings import Settings

RATES = [field.name for field in dataclasses.fields(Settings) if isinstance(field.default, Rate)]


class Nothing:
    """A counter of all instances that is not asked."""

    async def spend(self, key: str, count: int, seconds: float, cost: int = 1) -> float:
        raise AssertionError(key)


def values(limits: RateLimits) -> list[Rate | None]:
    by_string = [limits.connects, limits.requests, limits.hub_requests, limits.new_users]
    by_id = [limits.user_connects, limits.sends, limits.searches, limits.reports, limits.key_requests]
    shared = [one._local for one in (limits.uploads, limits.additions, limits.joins, limits.sign_ins)]
    return [
        limits.invocations,
        limits.user_invocations,
        *(limiter.rate for limiter in (*by_string, *shared)),
        *(limiter.rate for limiter in by_id),
    ]


@pytest.mark.parametrize("name", RATES)
def test_each_setting_limits_something(name: str) -> None:
    """Its value is that of a limiter, from the start and after a reload; with RATE_LIMITS off nothing is limited."""
    assert len(RATES) == 14
    first, second = Rate(1234567, 1.0), Rate(7654321, 2.0)
    limits = RateLimits(Settings(**{name: first}), Nothing())  # type: ignore[arg-type]
    assert first in values(limits)
    limits.configure(Settings(**{name: second}))  # type: ignore[arg-type]
    assert second in values(limits) and first not in values(limits)
    limits.configure(Settings(rate_limits="off"))
    assert set(values(limits)) == {None}


def test_refusals() -> None:
    """Each limiter has a name of its own in the metric."""
    limits = RateLimits(Settings(), Nothing())
    assert sorted(limits.refusals()) == [
        "additions", "connects", "hub_requests", "joins", "key_requests", "new_users", "reports", "requests",
        "searches", "sends", "sign_ins", "uploads", "user_connects",
    ]  # fmt: skip
