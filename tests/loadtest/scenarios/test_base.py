"""loadtest.scenarios.base: what a scenario declares."""

import pytest

from loadtest.scenarios import SCENARIOS
from loadtest.scenarios.base import Enters, HasBackground, NoticesArrivals, Prepares, groups_of


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_scenario_does_besides_is_declared(name: str) -> None:
    """A worker calls `prepare` and its like only of a scenario that has the base class: none has the method without."""
    kind = SCENARIOS[name]
    for declared, method in (
        (Enters, "enter"),
        (Prepares, "prepare"),
        (NoticesArrivals, "arrived"),
        (HasBackground, "background"),
    ):
        assert declared.__abstractmethods__ == {method}
        assert hasattr(kind, method) is issubclass(kind, declared)


def test_groups_share_no_user() -> None:
    """Everybody is in one group, all of one size."""
    cast = groups_of(3, 2)
    assert (cast.people, cast.groups, cast.pairs) == (6, [(0, 1, 2), (3, 4, 5)], ())
