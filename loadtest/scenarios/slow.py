"""Slow readers among fast ones."""

from typing import TYPE_CHECKING, Annotated

import trio
from msgspec import Meta

from loadtest.scenarios.base import Cast, Common, HasBackground, Scenario, Share, Size
from loadtest.virtual_user import USUAL, Manner, VirtualUser

if TYPE_CHECKING:
    from loadtest.world import World

RECEIVE_BUFFER = 4096  # bytes: little is hidden in the client's kernel
SLOW = Manner("deliver_slow", {"receive_buffer": RECEIVE_BUFFER})


class Parameters(Common, frozen=True, kw_only=True):
    members: Annotated[int, Meta(ge=2, description="of the one group")] = 100
    slow: Annotated[float, Share, Meta(description="part of them that read slowly")] = 0.1
    pause: Annotated[float, Meta(ge=0, description="seconds that a slow one reads nothing")] = 4.0
    read: Annotated[float, Meta(gt=0, description="seconds that they then read")] = 0.5
    size: Size = 2000
    rate: Annotated[float, Meta(ge=0, description="messages per second, in all")] = 40.0


class Slow(Scenario, HasBackground):
    name = "slow"
    stresses = "backpressure: a client that does not read gets a catch-up, and costs the others no time"
    example = "parley loadtest run slow --dev --slow 0.2 --rate 100"
    Parameters = Parameters

    def cast(self) -> Cast:
        everybody = tuple(range(self.parameters.members))
        slow = round(len(everybody) * self.parameters.slow)
        return Cast(people=len(everybody), groups=[everybody], actors=everybody[: len(everybody) - slow] or everybody)

    def manner(self, *, acts: bool) -> Manner:
        return USUAL if acts else SLOW

    def act(self, world: "World", due: float) -> None:
        virtual_user = world.rng.choice(world.actors)
        virtual_user.send(virtual_user.conversations[0], due, self.parameters.size)

    async def background(self, world: "World") -> None:
        async with trio.open_nursery() as nursery:
            for virtual_user in world.virtual_users.values():
                if virtual_user.delivery == SLOW.delivery:
                    nursery.start_soon(self._dawdle, world, virtual_user)

    async def _dawdle(self, world: "World", virtual_user: VirtualUser) -> None:
        await trio.sleep(world.rng.uniform(0, self.parameters.pause))
        while True:
            connection = virtual_user.connection
            if connection is not None:
                connection.pause()
            try:
                await trio.sleep(self.parameters.pause)
            finally:
                if connection is not None:
                    connection.resume()
            await trio.sleep(self.parameters.read)
