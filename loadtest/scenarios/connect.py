"""Connections that come in a storm, that stay and do nothing, and that all come back at once."""

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from loadtest import results
from loadtest.results import Phase
from loadtest.scenarios.base import Attach, Cast, Common, Enters, NoticesArrivals, Scenario, Size, pairs_of
from loadtest.virtual_user import VirtualUser

if TYPE_CHECKING:
    from loadtest.world import World

KIB = 1024
ENOUGH = 0.99  # of a level


class ConnectParameters(Common, frozen=True, kw_only=True):
    people: Annotated[int, Meta(ge=2, description="users, in pairs; each connects again and again")] = 1000
    stay: Annotated[float, Meta(ge=0, description="seconds that each stays online")] = 2.0
    rate: Annotated[float, Meta(ge=0, description="connects per second, in all")] = 200.0


class Connect(Scenario, Enters, NoticesArrivals):
    name = "connect"
    stresses = "accepting, upgrading, authenticating and attaching, as fast as they come"
    example = "parley loadtest run connect --dev --rate 300 --seconds 20"
    Parameters = ConnectParameters
    judged = "resume"
    gathers = False

    def cast(self) -> Cast:
        return pairs_of(self.parameters.people)

    def enter(self, world: "World") -> None:
        self._offline = list(world.virtual_users.values())
        world.rng.shuffle(self._offline)

    def act(self, world: "World", due: float) -> None:
        if self._offline:
            self._offline.pop().connect(due)
        else:
            world.recorder.error("everybody_online_already")

    def arrived(self, world: "World", virtual_user: VirtualUser) -> None:
        world.later(self.parameters.stay, lambda: self._go(virtual_user))

    def _go(self, virtual_user: VirtualUser) -> None:
        virtual_user.leave()
        self._offline.insert(0, virtual_user)


Level = Annotated[int, Meta(ge=1)]


class IdleParameters(Common, frozen=True, kw_only=True):
    levels: Annotated[tuple[Level, ...], Meta(min_length=1, description="connections at which memory is measured")] = (
        1000,
        5000,
        15000,
    )
    rest: Annotated[float, Meta(gt=0, description="seconds that each level is held")] = 5.0
    rate: Annotated[float, Meta(gt=0, description="connects per second on the way")] = 500.0
    warmup: Annotated[float, Meta(ge=0, description="seconds before the first connection")] = 2.0
    attach: Attach = "auto"


class Idle(Scenario, Enters):
    name = "idle"
    stresses = "what a connection costs that does nothing: memory of the server, at several levels"
    example = "parley loadtest run idle --dev --levels 1000,5000,15000"
    Parameters = IdleParameters
    judged = "connect"
    gathers = False

    def cast(self) -> Cast:
        return pairs_of(max(self.parameters.levels))

    def phases(self) -> list[Phase]:
        """To each level, and a rest there."""
        given = self.parameters
        found = [Phase(name="warm-up", start=0.0, end=given.warmup, measured=False)]
        reached, at = 0, given.warmup
        for level in sorted(given.levels):
            length = (level - reached) / given.rate
            found.append(Phase(name=f"to {level}", start=at, end=at + length, rate=given.rate))
            at += length + given.rest
            found.append(Phase(name=f"{level} idle", start=at - given.rest, end=at))
            reached = level
        return found

    def enter(self, world: "World") -> None:
        self._offline = list(world.virtual_users.values())

    def act(self, world: "World", due: float) -> None:
        if self._offline:
            self._offline.pop().connect(due)

    def figures(self, result: results.Result) -> dict[str, float]:
        """KiB of all server processes for each connection, at the end of each rest; only where all had come by then."""
        servers = [one for one in result.processes if one.role == "server"]
        before = sum(_memory(one, self.parameters.warmup) for one in servers)
        found = {}
        for phase in result.phases:
            level, _, rest = phase.name.partition(" ")
            samples = [one for one in result.samples if one.at <= phase.end]
            online = samples[-1].gauges.get(results.CONNECTIONS, 0.0) if samples else 0.0
            if rest == "idle" and online >= ENOUGH * int(level):
                grown = sum(_memory(one, phase.end) for one in servers) - before
                found[f"kib_per_connection_at_{level}"] = grown / KIB / online
        return found


def _memory(process: results.Process, at: float) -> int:
    """The resident set at a time: that of the last sample before it."""
    return next((sample.rss_bytes for sample in reversed(process.samples) if sample.at <= at), 0)


class ReconnectParameters(Common, frozen=True, kw_only=True):
    people: Annotated[int, Meta(ge=2, description="users, in pairs, all online")] = 1000
    storms: Annotated[int, Meta(ge=1, description="times that everybody is thrown out, evenly spread")] = 2
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="messages per second meanwhile")] = 50.0


class Reconnect(Scenario):
    name = "reconnect"
    stresses = "all users coming back at once, each with their cursors, while messages go on"
    example = "parley loadtest run reconnect --dev --instances 2 --people 2000 --seconds 30"
    Parameters = ReconnectParameters
    judged = "resume"
    faults = "restart server (with --dev), cut 1 (elsewhere), --storms times"

    def cast(self) -> Cast:
        return pairs_of(self.parameters.people)

    def act(self, world: "World", due: float) -> None:
        virtual_user = world.rng.choice(world.actors)
        virtual_user.send(virtual_user.conversations[0], due, self.parameters.size)

    def schedule(self, own: bool) -> str:
        given = self.parameters
        gap = given.seconds / (given.storms + 1)
        fault = "restart server" if own else "cut 1"
        return ";".join(f"{given.warmup + gap * (number + 1):.1f} {fault}" for number in range(given.storms))
