"""The tree of tasks and nurseries of this process, read from Trio, with the line of code in which each task waits.

Owns the walk from the root task. What has no task is counted where its owner is: an idle WebSocket. Tasks of one name
under one parent are shown as one branch with a count, so that 15,000 connections are one line. The walk yields to the
event loop, so the tree is not of a single moment.
"""

from collections.abc import Collection, Iterator

import trio

from server.admin.schemas import Branch
from server.hub.connection import HubConnection
from server.metrics.census import CHUNK
from server.transport.websocket import SocketTasks

OWNER = f"{SocketTasks.__module__}.{SocketTasks.run.__qualname__}"  # the task that owns those of all WebSockets
OURS = ("server/", "handlers/", "store/")


async def grow(connections: Collection[HubConnection]) -> Branch:
    """Return the whole tree. `connections` are those of the hub."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    top = Branch(root.name, 1)
    waiting: list[tuple[trio.lowlevel.Task, Branch]] = [(root, top)]
    seen = 0
    while waiting:
        task, branch = waiting.pop()
        names = {child.name: child for child in branch.children}
        for child in _children(task):
            seen += 1
            if seen % CHUNK == 0:
                await trio.lowlevel.checkpoint()
            known = names.get(child.name)
            if known is None:
                known = names[child.name] = Branch(child.name, waits_at=_place(child))
                if child.name == OWNER:
                    known.idle = await _count_idle(connections)
                branch.children.append(known)
            known.tasks += 1
            waiting.append((child, known))
    return top


async def _count_idle(connections: Collection[HubConnection]) -> int:
    idle = 0
    for number, connection in enumerate(list(connections), 1):
        idle += getattr(connection.transport, "is_idle", False)  # only WebSockets can be
        if number % CHUNK == 0:
            await trio.lowlevel.checkpoint()
    return idle


def _children(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    for nursery in list(task.child_nurseries):
        yield from list(nursery.child_tasks)


def _place(task: trio.lowlevel.Task) -> str:
    """Return the innermost line of our own code in which the task waits."""
    found = ""
    for frame, line in task.iter_await_frames():
        file = frame.f_code.co_filename
        for part in OURS:
            if part in file:
                found = f"{file[file.rindex(part) :]}:{line}"
    return found
