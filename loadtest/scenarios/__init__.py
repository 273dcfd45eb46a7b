"""Scenarios by name. Each is a small file here; this is their list."""

from loadtest.scenarios.base import Scenario
from loadtest.scenarios.direct import Direct

SCENARIOS: dict[str, type[Scenario]] = {scenario.name: scenario for scenario in (Direct,)}
