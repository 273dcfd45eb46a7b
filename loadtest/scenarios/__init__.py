"""Scenarios by name. Each is a small file here; this is their list."""

from loadtest.scenarios.base import Scenario
from loadtest.scenarios.connect import Connect, Idle, Reconnect
from loadtest.scenarios.day import Day
from loadtest.scenarios.direct import Direct
from loadtest.scenarios.group import Broadcast, Group
from loadtest.scenarios.history import History
from loadtest.scenarios.mentions import Mentions
from loadtest.scenarios.moderation import Moderation
from loadtest.scenarios.noise import Noise
from loadtest.scenarios.reactions import Reactions
from loadtest.scenarios.rest import Files, RestMix
from loadtest.scenarios.search import Search
from loadtest.scenarios.slow import Slow
from loadtest.scenarios.threads import Threads

_ALL: tuple[type[Scenario], ...] = (
    Connect,
    Idle,
    Direct,
    Group,
    Broadcast,
    Noise,
    Reactions,
    Mentions,
    Threads,
    Moderation,
    History,
    Slow,
    Reconnect,
    RestMix,
    Search,
    Files,
    Day,
)
SCENARIOS: dict[str, type[Scenario]] = {scenario.name: scenario for scenario in _ALL}
