"""Slow readers among fast ones."""

from typing import TYPE_CHECKING, Annotated

import trio
from msgspec import Meta

from loadtest.scenarios.base import Cast, Common, Scenario, Share, Size

if TYPE_CHECKING:
    from loadtest.virtual_user import Player
    from loadtest.world import Stage

RECEIVE_BUFFER = 4096  # bytes: little is hidden in the client's kernel
SLOW = "deliver_slow"


class Parameters(Common, frozen=True, kw_only=True):
    members: Annotated[int, Meta(ge=2, description="of the one group")] = 100
    slow: Annotated[float, Share, Meta(description="part of them that read slowly")] = 0.1
    pause: Annotated[float, Meta(ge=0, description="seconds that a slow one reads nothing")] = 4.0
    read: Annotated[float, Meta(gt=0, description="seconds that she then reads")] = 0.5
    size: Size = 2000
    rate: Annotated[float, Meta(ge=0, description="messages per second, in all")] = 40.0


class Slow(Scenario):
    name = "slow"
    stresses = "backpressure: who does not read gets a catch-up, and costs nobody else any time"
    example = "parley loadtest run slow --dev --slow 0.2 --rate 100"
    Parameters = Parameters

    def cast(self) -> Cast:
        everybody = tuple(range(self.parameters.members))
        slow = round(len(everybody) * self.parameters.slow)
        return Cast(people=len(everybody), groups=[everybody], actors=everybody[: len(everybody) - slow] or everybody)

    def enter(self, stage: "Stage") -> None:
        acting = {player.number for player in stage.actors}
        self._slow = [player for player in stage.players.values() if player.number not in acting]
        for player in self._slow:
            player.delivery = SLOW
            player.options = {"receive_buffer": RECEIVE_BUFFER}

    def act(self, stage: "Stage", due: float) -> None:
        player = stage.rng.choice(stage.actors)
        player.send(player.conversations[0], due, self.parameters.size)

    async def background(self, stage: "Stage") -> None:
        async with trio.open_nursery() as nursery:
            for player in self._slow:
                nursery.start_soon(self._dawdle, stage, player)

    async def _dawdle(self, stage: "Stage", player: "Player") -> None:
        await trio.sleep(stage.rng.uniform(0, self.parameters.pause))
        while True:
            wire = player.wire
            if wire is not None:
                wire.pause()
            try:
                await trio.sleep(self.parameters.pause)
            finally:
                if wire is not None:
                    wire.resume()
            await trio.sleep(self.parameters.read)
