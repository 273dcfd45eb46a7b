"""A day of chat, in minutes."""

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from loadtest import arrivals
from loadtest.results import Phase
from loadtest.scenarios.base import Cast, Common, Scenario, Size
from loadtest.scenarios.rest import get_messages, list_conversations

if TYPE_CHECKING:
    from loadtest.world import World

# Parts of the highest rate, from four in the morning on, two hours apart: a slow start, two peaks around lunch, the
# evening, the night.
LEVELS = (0.05, 0.1, 0.45, 0.95, 1.0, 0.75, 0.9, 0.8, 0.7, 0.55, 0.25, 0.1, 0.05)

DIRECT, GROUP, TYPING, READING, SCROLLING, REST, MOVING = "direct", "group", "typing", "read", "scroll", "rest", "move"
EDITING = "edit"
WEIGHTS = {DIRECT: 30, GROUP: 12, TYPING: 28, READING: 20, SCROLLING: 4, REST: 5, EDITING: 3, MOVING: 1}


class Parameters(Common, frozen=True, kw_only=True):
    people: Annotated[int, Meta(ge=4, description="users, all with phones")] = 400
    group: Annotated[int, Meta(ge=2, description="members of each of their groups")] = 20
    active: Annotated[float, Meta(gt=0, le=1, description="share of them who do something; the others are there")] = 1.0
    size: Size = 80
    rate: Annotated[float, Meta(ge=0, description="arrivals per second at the busiest hour")] = 200.0
    seconds: Annotated[float, Meta(gt=0, description="that the day lasts")] = 120.0


class Day(Scenario):
    name = "day"
    stresses = (
        "everything together, shaped like a day: messages, groups, typing, receipts, reading, edits, REST, moving about"
    )
    example = "parley loadtest run day --dev --instances 2 --people 1000 --seconds 240"
    Parameters = Parameters

    def cast(self) -> Cast:
        given = self.parameters
        people = given.people - given.people % 2
        pairs = [(number, number + 1) for number in range(0, people, 2)]
        groups = [tuple(range(start, min(start + given.group, people))) for start in range(0, people, given.group)]
        groups = [group for group in groups if len(group) > 2]
        return Cast(people=people, pairs=pairs, groups=groups, actors=self._actors(people))

    def _actors(self, people: int) -> list[int]:
        """So many, spread evenly over pairs and groups; none named: everybody."""
        share: float = self.parameters.active
        if share == 1:
            return []
        return [number for number in range(people) if int((number + 1) * share) > int(number * share)]

    def phases(self) -> list[Phase]:
        given = self.parameters
        first = arrivals.warmup(given.rate * LEVELS[0], given.warmup)
        return [*first, *arrivals.curve(LEVELS, given.rate, given.seconds, start=given.warmup)]

    def act(self, world: "World", due: float) -> None:
        rng, given = world.rng, self.parameters
        virtual_user = rng.choice(world.actors)
        talk = rng.choice(virtual_user.conversations)
        match rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]:
            case "direct":
                virtual_user.send(virtual_user.conversations[0], due, given.size)
            case "group":
                virtual_user.send(virtual_user.conversations[-1], due, given.size)
            case "edit":
                virtual_user.edit(due, given.size)
            case "typing":
                virtual_user.type(talk)
            case "read":
                virtual_user.mark_read(talk, virtual_user.seen(talk), due)
            case "scroll":
                virtual_user.read_history(talk, due, 50)
            case "rest":
                call = rng.choice((get_messages, list_conversations))
                world.request(lambda: call(world, virtual_user, due))
            case _:
                virtual_user.cut()  # from one network to another: it reconnects by itself
