"""Receipts and typing: what people cause without saying anything."""

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from loadtest.scenarios.base import Cast, Common, Scenario, Share, Size, groups_of

if TYPE_CHECKING:
    from loadtest.world import World


class Parameters(Common, frozen=True, kw_only=True):
    PARTS = ("typing", "receipts")
    members: Annotated[int, Meta(ge=2, description="of each group")] = 10
    groups: Annotated[int, Meta(ge=1, description="groups; no user is in two")] = 20
    typing: Annotated[float, Share, Meta(description="part of the arrivals that are StartTyping")] = 0.5
    receipts: Annotated[float, Share, Meta(description="part that are MarkRead; what is left are messages")] = 0.4
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="arrivals per second, in all")] = 300.0


class Noise(Scenario):
    name = "noise"
    stresses = "receipts (durable, merged, announced) and typing (ephemeral), which outnumber messages"
    example = "parley loadtest run noise --dev --rate 500"
    Parameters = Parameters
    judged = "receipt"

    def cast(self) -> Cast:
        return groups_of(self.parameters.members, self.parameters.groups)

    def act(self, world: "World", due: float) -> None:
        given, virtual_user, chance = self.parameters, world.rng.choice(world.actors), world.rng.random()
        conversation = virtual_user.conversations[0]
        if chance < given.typing:
            virtual_user.type(conversation)
        elif chance < given.typing + given.receipts:
            virtual_user.mark_read(conversation, virtual_user.seen(conversation), due)
        else:
            virtual_user.send(conversation, due, given.size)
