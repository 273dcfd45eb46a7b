"""The live nursery tree of this process, from Trio itself: who runs, inside what, and where it waits.

Owns the walk from the root task. Tasks of one name under one parent are shown as one with a count, so 15,000
connections are a line. It takes breaks: what it shows was true while it walked.
"""

from collections.abc import Iterator

import trio

from server.admin.schemas import Branch
from server.metrics.census import CHUNK

OURS = ("server/", "handlers/", "store/")


async def grow() -> Branch:
    """The whole tree."""
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
                branch.children.append(known)
            known.tasks += 1
            waiting.append((child, known))
    return top


def _children(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    for nursery in list(task.child_nurseries):
        yield from list(nursery.child_tasks)


def _place(task: trio.lowlevel.Task) -> str:
    """The innermost line of our own code that the task waits in."""
    found = ""
    for frame, line in task.iter_await_frames():
        file = frame.f_code.co_filename
        for part in OURS:
            if part in file:
                found = f"{file[file.rindex(part) :]}:{line}"
    return found
