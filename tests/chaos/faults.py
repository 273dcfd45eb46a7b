"""What can break, how, and how it is mended. Each fault leaves the world as it found it."""

import random
from collections.abc import Awaitable, Callable

import trio

from tests.chaos.world import World

LEASE = 10.0  # seconds (server.cluster.membership)
REAPED = LEASE + 4.0  # seconds after which a silent instance has surely been reaped

Fault = Callable[[World], Awaitable[None]]


async def calm(world: World) -> None:
    """Nothing happens."""


async def kill_an_instance(world: World) -> None:
    """kill -9, and a start a second later."""
    instance = random.choice(world.instances[1:])
    await instance.kill()
    await world.write_for(1.0)
    await instance.start()


async def die_between_commit_and_publish(world: World) -> None:
    """The committing process dies before it has published the change to another instance."""
    await _die(world, "die")


async def die_before_a_root_shows(world: World) -> None:
    """A process dies when replies are committed and published, and their root is about to show them."""
    await _die(world, "die-root")


async def _die(world: World, name: str) -> None:
    """What the weak instance dies of is in a file of this name (`tests.chaos.dying`)."""
    weak = world.instances[0]
    die = world.directory / name
    die.touch()
    with trio.fail_after(120):
        while not weak.is_gone:
            with trio.move_on_after(5.0):
                await weak.wait_gone()
            world.shuffle()  # perhaps none of those who write were with this instance
    die.unlink()
    await world.write_for(0.5)
    await weak.start(module="tests.chaos.dying", environment={"DYING_WHEN": str(world.directory / "die")})


async def kill_redis(world: World) -> None:
    """kill -9 of Redis; it comes back with what was in its file."""
    world.redis.kill()
    await world.write_for(1.0)
    await trio.to_thread.run_sync(world.redis.start)


async def kill_redis_and_its_data(world: World) -> None:
    """kill -9 of Redis; it comes back empty."""
    world.redis.kill()
    world.redis.wipe()
    await world.write_for(1.0)
    await trio.to_thread.run_sync(world.redis.start)


async def pause_an_instance(world: World) -> None:
    """Stop the process (SIGSTOP) until others have reaped the instance; then let it go on with what it had."""
    running = random.choice(world.instances).running
    assert running is not None
    running.pause()
    await world.write_for(REAPED)
    running.resume()


async def restart_postgres(world: World) -> None:
    """A fast shutdown in the middle of everything, and a start."""
    await trio.to_thread.run_sync(world.postgres.stop)
    await world.write_for(0.5)
    await trio.to_thread.run_sync(world.postgres.start)


async def cut_redis(world: World) -> None:
    """All connections to Redis are cut, and none is taken for a second."""
    proxy = world.redis_proxy
    assert proxy is not None
    proxy.refusing = True
    proxy.cut()
    await world.write_for(1.0)
    proxy.refusing = False
    await world.write_for(0.5)
    proxy.cut()  # and once more, for a moment only


async def delay_redis(world: World) -> None:
    """Everything from and to Redis takes a quarter of a second; then longer than we wait for an answer."""
    proxy = world.redis_proxy
    assert proxy is not None
    proxy.delay = 0.25
    await world.write_for(2.0)
    proxy.delay = 3.0
    await world.write_for(3.0)
    proxy.delay = 0.0
    proxy.cut()


async def cut_postgres(world: World) -> None:
    """All connections to PostgreSQL are cut, three times, in the middle of commits."""
    proxy = world.postgres_proxy
    assert proxy is not None
    for _ in range(3):
        proxy.cut()
        await world.write_for(0.3)


async def delay_postgres(world: World) -> None:
    """Everything from and to PostgreSQL takes a quarter of a second."""
    proxy = world.postgres_proxy
    assert proxy is not None
    proxy.delay = 0.25
    await world.write_for(2.0)
    proxy.delay = 0.0


ANYWHERE: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        calm,
        kill_an_instance,
        die_between_commit_and_publish,
        die_before_a_root_shows,
        kill_redis,
        kill_redis_and_its_data,
        restart_postgres,
        pause_an_instance,
    )
}
PROXIED: dict[str, Fault] = {fault.__name__: fault for fault in (cut_redis, delay_redis, cut_postgres, delay_postgres)}
