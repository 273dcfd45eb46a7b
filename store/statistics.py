"""Statistics of lanes and pools, as plain numbers.

Owns the shapes only, so that a command that shows them needs nothing else of the store.
"""

from msgspec import Struct


class LaneStatistics(Struct, frozen=True):
    """Messages waiting and being written now; totals since the start."""

    queued: int
    writing: int
    batches: int
    accepted: int
    duplicates: int
    refused: int
    failed: int

    @property
    def progress(self) -> int | None:
        """Changes while the lane works, even in vain; None while it has nothing to do."""
        if not self.queued and not self.writing:
            return None
        return self.batches + self.accepted + self.duplicates + self.refused + self.failed


class PoolStatistics(Struct, frozen=True):
    """Connections by state, callers that wait, and totals since the start."""

    size: int
    open: int
    idle: int
    connecting: int
    waiting: int
    acquired: int
    refused: int
    timed_out: int
    discarded: int
    connect_failures: int
