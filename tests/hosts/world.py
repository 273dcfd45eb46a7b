"""Two instances and the services on three hosts, and people who chat with both (`tests.chaos.world`)."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from server.cli.dev.binaries import find_valkey
from tests.chaos.services import Node, Single
from tests.chaos.world import Instance, World
from tests.hosts.network import PEOPLE, Network, open_network
from tests.store.cluster import Cluster as Postgres
from tests.store.cluster import migrated_cluster

A, B, SERVICES = "a", "b", "s"
POSTGRES_PORT, VALKEY_PORT, HUB_PORT, PEER_PORT = 5432, 6379, 5000, 5001


class Host(Instance):
    """An instance on a host of its own."""

    def __init__(self, world: "Hosts", number: int, name: str) -> None:
        super().__init__(world, number)
        self.name = name
        self.address = world.network.address(name)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{HUB_PORT}"

    async def start_there(self) -> None:
        await self.start(
            module="tests.hosts.inside",
            environment={"HOSTS_NAME": self.name},
            listen=f"{self.address}:{HUB_PORT}",
            peer_listen=f"{self.address}:{PEER_PORT}",
        )
        assert self.running is not None
        self.running.url, self.running.hub_url = self.url, f"{self.url}/hubs/chat"


class Hosts(World):
    """Made by `open_hosts`."""

    network: Network

    @property
    def database_direct(self) -> str:
        """Not by the wire: what the tests compare with is always in reach."""
        return self.postgres.dsn(self.name)

    name: str


@contextmanager
def open_services(seed: int) -> Iterator[tuple[Network, Postgres]]:
    """The hosts, and PostgreSQL on its own."""
    with open_network([A, B, SERVICES, PEOPLE], seed) as network:
        with migrated_cluster(network.address(SERVICES), network.command(SERVICES)) as postgres:
            yield network, postgres


@asynccontextmanager
async def open_hosts(directory: Path, network: Network, postgres: Postgres, *, people: int) -> AsyncIterator[Hosts]:
    address, within = network.address(SERVICES), network.command(SERVICES)
    redis = Single(directory)
    redis.nodes = [Node(find_valkey(), directory / "redis", port=VALKEY_PORT, address=address, within=within)]
    redis.start()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            world = Hosts(nursery, directory, redis, postgres)
            world.network = network
            world.name = postgres.create_database()
            world.database = f"host={address} port={POSTGRES_PORT} user=postgres dbname={world.name}"
            world.redis_url = f"redis://{address}:{VALKEY_PORT}"
            for number, name in enumerate([A, B]):
                host = Host(world, number, name)
                world.instances.append(host)
                await host.start_there()
            await world.populate(people)
            yield world
            network.heal()
            nursery.cancel_scope.cancel()
    finally:
        redis.stop()
