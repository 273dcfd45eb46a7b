"""`parley serve`, with a weakness: it dies by SIGKILL between the commit of a batch and its publication.

Run as `python -m tests.chaos.dying serve`; dies at the first batch after the file named by DYING_WHEN has appeared.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from server.cli.main import main
from server.fanout.change_publisher import ChangePublisher
from store.model import Change
from store.redis.inbox_entries import Personal

WHEN = Path(os.environ["DYING_WHEN"])


def publish(self: ChangePublisher, changes: Sequence[Change], personal: Personal | None = None) -> None:
    if WHEN.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, changes, personal)


original = ChangePublisher.publish
ChangePublisher.publish = publish  # type: ignore[method-assign]
main()
