"""Links between hosts that break in every way, and a host that vanishes. `make test-hosts` for all of it."""

import errno
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from store import tcp
from tests.chaos.world import require_one_history
from tests.hosts import conftest
from tests.hosts.network import PEOPLE, PREFIX, Network, missing, open_network
from tests.hosts.world import SERVICES, A, B, Hosts, open_hosts, open_services
from tests.store.cluster import Cluster as Postgres

PAUSE = 0.25  # seconds between one's messages
SILENCE = tcp.VANISHED_WITHIN + 2.0  # seconds of a fault: whatever has to notice it has noticed it
NOTICED = ("postgres_unreachable", "redis_unreachable", "commits_fail", "membership_lost")

Fault = Callable[[Network], None]


@pytest.fixture(autouse=True)
def _allowed() -> None:
    if why := missing():
        pytest.skip(why)


def cut(one: str, other: str, network: Network) -> None:
    """In one direction: packets vanish without a word."""
    network.link(one, other).is_cut = True


def cut_both(one: str, other: str, network: Network) -> None:
    for link in network.both(one, other):
        link.is_cut = True


def vanish(host: str, network: Network) -> None:
    """A host without its network, and nothing says so."""
    for other in {A, B, SERVICES, PEOPLE} - {host}:
        cut_both(host, other, network)


def slow(network: Network, *, delay: float = 0.0, loss: float = 0.0) -> None:
    """All links between instances and services."""
    for one, other in ((A, B), (A, SERVICES), (B, SERVICES)):
        for link in network.both(one, other):
            link.delay, link.loss = delay, loss


FAULTS: dict[str, Fault] = {
    "a to services": partial(cut, A, SERVICES),
    "services to a": partial(cut, SERVICES, A),
    "a and services": partial(cut_both, A, SERVICES),
    "b to services": partial(cut, B, SERVICES),
    "services to b": partial(cut, SERVICES, B),
    "b and services": partial(cut_both, B, SERVICES),
    "a to b": partial(cut, A, B),
    "a and b": partial(cut_both, A, B),
    "host a vanishes": partial(vanish, A),
    "services vanish": partial(vanish, SERVICES),
    "200 ms": partial(slow, delay=0.2),
    "5 % lost": partial(slow, loss=0.05),
    "200 ms, 5 % lost": partial(slow, delay=0.2, loss=0.05),
}


@pytest.fixture
def network() -> Iterator[Network]:
    with open_network([A, PEOPLE]) as found:
        yield found


ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 7)) as server:
    print(flush=True)
    client = server.accept()[0]
    while data := client.recv(100):
        client.sendall(data)
"""


@pytest.mark.parametrize("sends", [False, True], ids=["quiet", "sending"])
async def test_a_vanished_host_is_noticed(network: Network, nursery: trio.Nursery, sends: bool) -> None:
    """The kernel ends a connection with the options of store.tcp, whether anything is under way on it or not. Without
    them it takes a quarter of an hour, or for ever."""
    await nursery.start(network.run)
    command = [*network.command(A), sys.executable, "-c", ECHO, network.address(A)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as echo:  # noqa: ASYNC220 killed at the end
        assert echo.stdout is not None
        await trio.to_thread.run_sync(echo.stdout.readline)
        stream = await trio.open_tcp_stream(network.address(A), 7)
        for option in tcp.SOCKET_OPTIONS:
            stream.setsockopt(*option)
        await stream.send_all(b"there?")
        assert await stream.receive_some() == b"there?"
        vanish_here = network.both(A, PEOPLE)
        for link in vanish_here:
            link.is_cut = True
        if sends:
            await stream.send_all(b"still there?")
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.ETIMEDOUT
        network.heal()
        await stream.aclose()
        echo.kill()
    nursery.cancel_scope.cancel()


def test_what_a_killed_run_left_is_removed() -> None:
    """Its namespaces, and what runs in them, before new ones are made; and nothing remains after those."""
    subprocess.run(["ip", "netns", "add", f"{PREFIX}old"], check=True)
    command = [*Network.command("old"), "sh", "-c", "echo inside && exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as left:
        assert left.stdout is not None
        assert left.stdout.readline() == "inside\n"  # no process is found in there before it has entered
        with open_network([A, PEOPLE]):
            assert left.wait() == -signal.SIGKILL
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert PREFIX not in listed
    assert not any(PREFIX in name for _, name in socket.if_nameindex())


async def noticed(world: Hosts, before: dict[int, int], start: float) -> None:
    """Record when the first instance said that something is out of reach."""
    while True:
        for number, instance in enumerate(world.instances):
            assert instance.running is not None
            if any(line.get("event") in NOTICED for line in instance.running.lines[before[number] :]):
                conftest.noticed_after = trio.current_time() - start
                return
        await trio.sleep(0.05)  # between looks at what they logged


async def survive(world: Hosts, name: str, seconds: float = SILENCE) -> None:
    """Load, the fault, the link whole again, and then everything is as promised: P1 to P5, then P6 and P7."""
    world.shuffle()
    await world.write_for(1.0)
    before = {number: len(one.running.lines) for number, one in enumerate(world.instances) if one.running}
    since = trio.current_time()
    FAULTS[name](world.network)
    conftest.noticed_after = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(noticed, world, before, since)
        await world.write_for(seconds)
        nursery.cancel_scope.cancel()
    world.network.heal()
    healed = await world.settle()
    refused = max(person.refused_for(since) for person in world.people)
    conftest.survived.append(conftest.Row(name, conftest.noticed_after, refused, healed))
    await world.settle_receipts()
    await world.settle_presence()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    if not request.config.getoption("--hosts-minutes"):
        pytest.skip("`make test-hosts` runs it")
    return int(request.config.getoption("--hosts-seed")) or random.randrange(10**6)


@pytest.fixture
def on_hosts(seed: int) -> Iterator[tuple[Network, Postgres]]:
    with open_services(seed) as found:
        yield found


async def test_long(
    request: pytest.FixtureRequest, short_dir: Path, seed: int, on_hosts: tuple[Network, Postgres]
) -> None:
    """Every fault in turn, then at random until the time is over: each acknowledged message is there, each client has
    everything once and in order, receipts and presence are right after each. The record of the whole run is one
    history, and no defect was logged."""
    minutes = request.config.getoption("--hosts-minutes")
    choice = random.Random(seed)
    async with open_hosts(short_dir, *on_hosts, people=6) as world:
        world.pause = PAUSE
        start = trio.current_time()
        todo = list(FAULTS)
        while todo or trio.current_time() < start + 60 * minutes:
            name = todo.pop(0) if todo else choice.choice(list(FAULTS))
            print(f"{trio.current_time() - start:5.0f} s  {name} (seed {seed})", flush=True)  # noqa: T201
            await survive(world, name)
        await require_one_history(world)
    assert not world.logs, world.logs[0]
