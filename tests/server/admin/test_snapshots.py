"""Snapshots and the task tree yield to the event loop while they walk over many objects."""

from types import SimpleNamespace
from typing import cast

import trio

from server.admin import task_tree
from server.admin.schemas import Branch
from server.admin.snapshots import _First
from server.cli.inspect.tables import _label
from server.hub.connection import HubConnection
from server.metrics.census import CHUNK, walk
from server.transport.epoll import Poller
from server.transport.websocket import SocketTasks


class Others:
    """Counts the turns that other tasks get."""

    def __init__(self) -> None:
        self.turns = 0

    async def run(self) -> None:
        while True:
            self.turns += 1
            await trio.lowlevel.checkpoint()


async def test_walking_all_sessions(nursery: trio.Nursery) -> None:
    """Other tasks get a turn for every CHUNK connections, and each connection is seen once."""
    others = Others()
    nursery.start_soon(others.run)
    connections = range(20 * CHUNK)
    seen = [connection async for connection in walk(connections)]
    assert seen == list(connections) and others.turns >= 19
    nursery.cancel_scope.cancel()


async def test_walking_the_tree(nursery: trio.Nursery) -> None:
    """The same for tasks. Tasks of one name under one parent are one branch, which contains their children."""
    others = Others()
    for _ in range(4 * CHUNK):
        nursery.start_soon(_parent, name="parent")
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(others.run)
    top = await task_tree.grow(())
    [parent] = named(top, "parent")
    [child] = named(parent, "child")
    assert (parent.tasks, child.tasks, len(named(top, "child"))) == (4 * CHUNK, 4 * CHUNK, 1)
    assert others.turns >= 7
    nursery.cancel_scope.cancel()


async def test_what_has_no_task(nursery: trio.Nursery) -> None:
    """Idle WebSockets are counted at the task that owns WebSockets, and nothing else is."""
    others, kinds = Others(), [SimpleNamespace(is_idle=True), SimpleNamespace(is_idle=False), SimpleNamespace()]
    connections = [SimpleNamespace(transport=kind) for kind in kinds for _ in range(4 * CHUNK)]
    await nursery.start(SocketTasks(Poller()).run)
    nursery.start_soon(others.run)
    top = await task_tree.grow(cast(list[HubConnection], connections))
    [owner] = named(top, task_tree.OWNER)
    assert (owner.tasks, owner.idle, top.idle) == (1, 4 * CHUNK, 0) and others.turns >= 7
    assert "idle WebSockets" in _label(owner) and "idle" not in _label(top)
    nursery.cancel_scope.cancel()


def test_the_first_of_many() -> None:
    """The largest come first, equal ones in the order in which they were seen; all are counted."""
    first = _First[str](3)
    for name, size in (("a", 1), ("b", 9), ("c", 5), ("d", 9), ("e", 0)):
        first.offer(size, name)
    assert (first.listing().total, first.listing().items) == (5, ["b", "d", "c"])


async def _parent() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever, name="child")


def named(branch: Branch, name: str) -> list[Branch]:
    found = [branch] if branch.name == name else []
    return found + [one for child in branch.children for one in named(child, name)]
