"""Another device of a user: a connection that keeps nothing but what its user has set, and what it missed of that."""

import math
import random
from typing import TYPE_CHECKING

import httpx
import msgspec
import trio

from loadtest.client import ClientError
from loadtest.oracle.standing import OwnSettings
from loadtest.oracle.threads import OwnThreads
from loadtest.payloads import THREAD, VIEWED, Synced, ThreadState, Viewed
from tests import plain_http
from tests.running import User

if TYPE_CHECKING:
    from tests.chaos.world import World

PATIENCE = 15.0  # seconds for one call: an instance that is paused does not answer


async def take_missed(url: str, user: User, settings: OwnSettings, synced: Synced, *, everything: bool) -> None:
    """Ask REST for the conversations whose settings are others than this client has, by the answer to its Sync; for all
    where it has none yet. Raises httpx.HTTPError."""
    async with plain_http.client(base_url=url, headers={"Authorization": f"Bearer {user.token}"}) as http:
        for one in synced.conversations:
            if settings.synced(one.conversation_id, one.settings_version) or everything:
                answer = await http.get(f"/api/conversations/{one.conversation_id}")
                answer.raise_for_status()
                viewed = msgspec.json.decode(answer.content, type=Viewed)
                settings.see(viewed.id, viewed.settings)


class Device:
    def __init__(self, world: "World", user: User, settings: OwnSettings) -> None:
        self.settings = settings
        self.threads = OwnThreads()
        self._world = world
        self._user = user
        self._has_all = False

    async def live(self) -> None:
        """Keep a connection open, to any living instance."""
        while True:
            instance = random.choice([one for one in self._world.instances if one.alive] or self._world.instances)
            try:
                await self._connect(instance.url)
            except* (ClientError, OSError, httpx.HTTPError, trio.TooSlowError):
                pass
            self.threads.unsure()
            await trio.sleep(random.uniform(0.05, 0.3))  # a client's pause before it connects again

    async def _connect(self, url: str) -> None:
        with trio.move_on_after(PATIENCE) as patience:
            async with self._world.connect(
                f"{url}/hubs/chat", self._user, self._on_event, query={"sync": "manual"}
            ) as client:
                synced = msgspec.convert(await client.invoke("Sync", {}, {"others": "ignore"}), Synced)
                await take_missed(url, self._user, self.settings, synced, everything=not self._has_all)
                self._has_all = True
                patience.deadline = math.inf
                await client.closed.wait()

    def _on_event(self, target: str, arguments: list[object]) -> None:
        if target == VIEWED:
            viewed = msgspec.convert(arguments[0], Viewed)
            self.settings.see(viewed.id, viewed.settings)
            self.threads.unsure(viewed.id)
        elif target == THREAD:
            self.threads.see(msgspec.convert(arguments[0], ThreadState))
