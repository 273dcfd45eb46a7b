"""`parley serve` that waits long for Redis: nothing that needs it fails while the machine stands still.

Run as `python -m tests.interop.patient serve`.
"""

from functools import partialmethod

from server.cli.main import main
from store.redis.client import Redis

Redis.__init__ = partialmethod(Redis.__init__, timeout=60.0)  # type: ignore[assignment,method-assign]
main()
