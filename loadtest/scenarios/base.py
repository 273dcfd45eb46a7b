"""What a scenario is: who takes part, what is due when, and what an arrival does.

Owns the parameters that every scenario has. A scenario is a small file: its parameters, its cast, its `act`.
What only some of them do they declare with a further base class, so the worker knows what there is to call.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from loadtest import arrivals, results
from loadtest.results import Phase
from loadtest.virtual_user import USUAL, Manner, VirtualUser

if TYPE_CHECKING:
    from loadtest.world import World

Attach = Annotated[
    Literal["sync", "auto"], Meta(description="clients begin with Sync from 0, or where the server attaches them")
]
Share = Meta(ge=0, le=1)
Size = Annotated[int, Meta(ge=1, le=30000, description="characters of a message")]


class Common(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rate: Annotated[float, Meta(ge=0, description="arrivals per second, in all")] = 100.0
    seconds: Annotated[float, Meta(gt=0, description="length of the measured part")] = 30.0
    warmup: Annotated[float, Meta(ge=0, description="seconds before it that are played and not measured")] = 3.0
    arrivals: Annotated[Literal["poisson", "fixed"], Meta(description="when they come: at random, or evenly")] = (
        "poisson"
    )
    shape: Annotated[
        Literal["hold", "ramp", "spike", "step"], Meta(description="of the rate; step looks for the highest that holds")
    ] = "hold"
    spike_factor: Annotated[float, Meta(gt=1, description="shape spike: times the rate, for a fifth of the time")] = 5.0
    step_factor: Annotated[float, Meta(gt=1, description="shape step: each step's rate over the last one's")] = 1.3
    step_seconds: Annotated[float, Meta(gt=0, description="shape step: length of a step")] = 8.0
    step_limit_ms: Annotated[float, Meta(gt=0, description="shape step: a step holds while its p99 is below")] = 50.0
    attach: Attach = "sync"
    protocol: Annotated[Literal["json", "messagepack"], Meta(description="of the hub")] = "json"
    MIX: ClassVar[tuple[str, ...]] = ()  # which of the parameters are weights of what arrivals do
    PARTS: ClassVar[tuple[str, ...]] = ()  # which of them are parts of one whole
    ping: Annotated[float, Meta(gt=0, description="seconds between a client's keep-alive pings")] = 15.0


class Cast(msgspec.Struct, frozen=True, kw_only=True):
    """`groups` and `pairs` are members by number, the owner first. `actors` are those who act; empty: everybody."""

    people: int
    pairs: Sequence[tuple[int, int]] = ()
    groups: Sequence[tuple[int, ...]] = ()
    actors: Sequence[int] = ()


class Scenario(ABC):
    """A scenario with its parameters. The coordinator asks for cast and phases; each worker enters and acts."""

    name: ClassVar[str]
    stresses: ClassVar[str]
    example: ClassVar[str]
    Parameters: ClassVar[type[Common]] = Common
    judged: ClassVar[str] = "deliver"  # the operation whose p99 decides whether a step holds
    gathers: ClassVar[bool] = True  # everybody is online before the run starts
    faults: ClassVar[str] = ""  # what belongs to it, in words

    def __init__(self, parameters: Any) -> None:
        self.parameters = parameters

    @abstractmethod
    def cast(self) -> Cast:
        """Who takes part, in which conversations."""

    def phases(self) -> list[Phase]:
        """Return all phases; with shape `step` only the warm-up, from which the coordinator goes on."""
        given: Common = self.parameters
        first = arrivals.warmup(given.rate, given.warmup)
        if given.shape == "ramp":
            return [*first, *arrivals.ramp(given.rate, given.seconds, start=given.warmup)]
        if given.shape == "spike":
            return [*first, *arrivals.spike(given.rate, given.seconds, start=given.warmup, factor=given.spike_factor)]
        if given.shape == "step":
            return first
        return [*first, *arrivals.hold(given.rate, given.seconds, start=given.warmup)]

    def schedule(self, own: bool) -> str:
        """The faults that belong to it (`loadtest.chaos`), when no others are asked for. `own`: the server is ours."""
        return ""

    # -- in a worker -----------------------------------------------------------------------------

    def manner(self, *, acts: bool) -> Manner:
        """How a user connects that `acts`, and how one that does not."""
        return USUAL

    @abstractmethod
    def act(self, world: "World", due: float) -> None:
        """One arrival. Never waits."""

    # -- afterwards ------------------------------------------------------------------------------

    def figures(self, result: results.Result) -> dict[str, float]:
        """Single numbers that only this scenario finds; the name says the unit."""
        return {}


# -- what some scenarios do besides: declared as a further base class, else it is not called -------------------------


class Enters(ABC):
    @abstractmethod
    def enter(self, world: "World") -> None:
        """Choose users: all are made, and none is connected yet."""


class Prepares(ABC):
    @abstractmethod
    async def prepare(self, world: "World") -> None:
        """Everybody is online, the run has not started."""


class NoticesArrivals(ABC):
    @abstractmethod
    def arrived(self, world: "World", virtual_user: VirtualUser) -> None:
        """A virtual user has come online, or is online again."""


class HasBackground(ABC):
    @abstractmethod
    async def background(self, world: "World") -> None:
        """What goes on besides the arrivals, until cancelled."""


def pairs_of(people: int) -> Cast:
    """Everybody in one direct conversation."""
    people += people % 2
    return Cast(people=people, pairs=[(number, number + 1) for number in range(0, people, 2)])


def groups_of(size: int, count: int) -> Cast:
    """Everybody in one group; no user is in two."""
    groups = [tuple(range(size * index, size * (index + 1))) for index in range(count)]
    return Cast(people=size * count, groups=groups)
