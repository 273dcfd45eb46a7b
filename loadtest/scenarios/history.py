"""People who scroll back."""

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from loadtest.scenarios.base import Cast, Common, Prepares, Scenario, Share, Size, pairs_of

if TYPE_CHECKING:
    from loadtest.world import World


class Parameters(Common, frozen=True, kw_only=True):
    pairs: Annotated[int, Meta(ge=1, description="conversations of two")] = 20
    messages: Annotated[int, Meta(ge=0, description="in each of them beforehand")] = 200
    page: Annotated[int, Meta(ge=1, le=10000, description="messages that are read at once")] = 50
    writes: Annotated[float, Share, Meta(description="part of the arrivals that are messages")] = 0.1
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="pages per second, in all")] = 50.0


class History(Scenario, Prepares):
    name = "history"
    stresses = "reading: pages of history streamed over the hub, among messages"
    example = "parley loadtest run history --dev --rate 100 --page 50"
    Parameters = Parameters
    judged = "history"

    def cast(self) -> Cast:
        return pairs_of(2 * self.parameters.pairs)

    async def prepare(self, world: "World") -> None:
        for virtual_user in world.actors:
            for _ in range(self.parameters.messages // 2):
                virtual_user.send(virtual_user.conversations[0], world.now(), self.parameters.size)
        await world.nothing_under_way()

    def act(self, world: "World", due: float) -> None:
        given, virtual_user = self.parameters, world.rng.choice(world.actors)
        if world.rng.random() < given.writes:
            virtual_user.send(virtual_user.conversations[0], due, given.size)
        else:
            virtual_user.read_history(virtual_user.conversations[0], due, given.page)
