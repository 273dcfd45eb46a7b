"""`parley serve`, with a weakness: it dies by SIGKILL between the commit of a batch and its publication, or when the
root of a thread is about to show its replies.

Run as `python -m tests.chaos.dying serve`; dies at the first batch after the file named by DYING_WHEN has appeared, or
at the first root after one of that name with `-root`.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from handlers.threads import Threads
from server.cli.main import main
from server.fanout.change_publisher import ChangePublisher
from store.model import Change
from store.redis.inbox_entries import Personal

WHEN = Path(os.environ["DYING_WHEN"])


def publish(self: ChangePublisher, changes: Sequence[Change], personal: Personal | None = None) -> None:
    if WHEN.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, changes, personal)


async def show(self: Threads, root_id: UUID) -> None:
    if WHEN.with_name(f"{WHEN.name}-root").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    await original_show(self, root_id)


original = ChangePublisher.publish
ChangePublisher.publish = publish  # type: ignore[method-assign]
original_show = Threads._show
Threads._show = show  # type: ignore[method-assign]
main()
