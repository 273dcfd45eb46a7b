"""Messages to groups, and to one group that is a whole company."""

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from loadtest.scenarios.base import Cast, Common, Scenario, Size, groups_of

if TYPE_CHECKING:
    from loadtest.world import World


class Parameters(Common, frozen=True, kw_only=True):
    members: Annotated[int, Meta(ge=2, description="of each group; try 10, 100, 1000")] = 100
    groups: Annotated[int, Meta(ge=1, description="groups; no user is in two")] = 5
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="messages per second, in all")] = 20.0


class Group(Scenario):
    name = "group"
    stresses = "fan-out: one commit, a delivery to every member"
    example = "parley loadtest run group --dev --members 1000 --groups 1 --rate 5"
    Parameters = Parameters

    def cast(self) -> Cast:
        return groups_of(self.parameters.members, self.parameters.groups)

    def act(self, world: "World", due: float) -> None:
        virtual_user = world.rng.choice(world.actors)
        virtual_user.send(virtual_user.conversations[0], due, self.parameters.size)


class BroadcastParameters(Common, frozen=True, kw_only=True):
    members: Annotated[int, Meta(ge=2, description="who hear it")] = 5000
    size: Size = 200
    rate: Annotated[float, Meta(ge=0, description="announcements per second")] = 1.0


class Broadcast(Scenario):
    name = "broadcast"
    stresses = "one sender and thousands who hear: the longest single burst of deliveries"
    example = "parley loadtest run broadcast --dev --members 5000 --rate 1"
    Parameters = BroadcastParameters

    def cast(self) -> Cast:
        everybody = tuple(range(self.parameters.members))
        return Cast(people=len(everybody), groups=[everybody], actors=(0,))

    def act(self, world: "World", due: float) -> None:
        sender = world.actors[0]
        sender.send(sender.conversations[0], due, self.parameters.size)
