"""Reactions: many who put emojis under one message at the same time, and take them back."""

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from loadtest.scenarios.base import Cast, Common, Scenario, Share, Size, groups_of

if TYPE_CHECKING:
    from loadtest.world import World

EMOJIS = ("\U0001f44d", "\u2764\ufe0f", "\U0001f602", ":party:")


class Parameters(Common, frozen=True, kw_only=True):
    members: Annotated[int, Meta(ge=2, description="of each group, who react to what its first member says")] = 200
    groups: Annotated[int, Meta(ge=1, description="groups; no user is in two")] = 2
    messages: Annotated[float, Share, Meta(description="part of the arrivals that are a message")] = 0.01
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="arrivals per second, in all")] = 200.0


class Reactions(Scenario):
    name = "reactions"
    stresses = "many acts on one message: written together, counted exactly, ten changes of it a second at most"
    example = "parley loadtest run reactions --dev --members 2000 --groups 1 --rate 2000"
    Parameters = Parameters
    judged = "react"

    def cast(self) -> Cast:
        return groups_of(self.parameters.members, self.parameters.groups)

    def act(self, world: "World", due: float) -> None:
        virtual_user = world.rng.choice(world.actors)
        conversation = virtual_user.conversations[0]
        author = world.virtual_users.get(world.conversations[conversation].members[0], virtual_user)
        if author.last is None or world.rng.random() < self.parameters.messages:
            author.send(conversation, due, self.parameters.size)
        else:
            virtual_user.react(author.last, world.rng.choice(EMOJIS), due)
