"""Receipts and typing: what people cause without saying anything."""

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from loadtest.scenarios.base import Cast, Common, Scenario, Share, Size

if TYPE_CHECKING:
    from loadtest.world import Stage


class Parameters(Common, frozen=True, kw_only=True):
    members: Annotated[int, Meta(ge=2, description="of each group")] = 10
    groups: Annotated[int, Meta(ge=1, description="groups; nobody is in two")] = 20
    typing: Annotated[float, Share, Meta(description="part of the arrivals that are StartTyping")] = 0.5
    receipts: Annotated[float, Share, Meta(description="part that are MarkRead; what is left are messages")] = 0.4
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="arrivals per second, in all")] = 300.0


class Noise(Scenario):
    name = "noise"
    stresses = "receipts (durable, merged, told) and typing (ephemeral), which outnumber messages"
    example = "parley loadtest run noise --dev --rate 500"
    Parameters = Parameters
    judged = "receipt"

    def cast(self) -> Cast:
        size, count = self.parameters.members, self.parameters.groups
        return Cast(
            people=size * count, groups=[tuple(range(size * index, size * (index + 1))) for index in range(count)]
        )

    def act(self, stage: "Stage", due: float) -> None:
        given, player, chance = self.parameters, stage.rng.choice(stage.actors), stage.rng.random()
        conversation = player.conversations[0]
        if chance < given.typing:
            player.type(conversation)
        elif chance < given.typing + given.receipts:
            player.mark_read(conversation, player.seen(conversation), due)
        else:
            player.send(conversation, due, given.size)
