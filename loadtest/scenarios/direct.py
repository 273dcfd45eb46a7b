"""Direct messages between pairs."""

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from loadtest.scenarios.base import Cast, Common, Scenario, Share, Size, pairs_of

if TYPE_CHECKING:
    from loadtest.world import World


class Parameters(Common, frozen=True, kw_only=True):
    pairs: Annotated[int, Meta(ge=1, description="conversations of two")] = 50
    size: Size = 100
    edits: Annotated[float, Share, Meta(description="part of the arrivals that change one's last message")] = 0.0


class Direct(Scenario):
    name = "direct"
    stresses = "the durable path: send, commit, completion, two deliveries"
    example = "parley loadtest run direct --dev --rate 1000 --seconds 30"
    Parameters = Parameters

    def cast(self) -> Cast:
        return pairs_of(2 * self.parameters.pairs)

    def act(self, world: "World", due: float) -> None:
        virtual_user = world.rng.choice(world.actors)
        if world.rng.random() < self.parameters.edits:
            virtual_user.edit(due, self.parameters.size)
        else:
            virtual_user.send(virtual_user.conversations[0], due, self.parameters.size)
