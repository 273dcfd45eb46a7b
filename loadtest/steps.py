"""The steps of a run of shape `step`, and the knee that they find: the highest rate that held.

Owns what is kept of a step, the verdict on it, and the merge of what several shards saw of the same one.
"""

from collections.abc import Sequence

import msgspec

from loadtest.histogram import Histogram

MS = 1000.0
ENDED_SHARE = 0.95  # of what was due must have ended for a step to hold


class Step(msgspec.Struct, frozen=True, rename="camel"):
    """`rate` is of this part of the run: the parts of all shards add up."""

    name: str
    rate: float  # arrivals per second
    seconds: float
    limit_ms: float  # for the p99 of the operation that is judged
    left: int  # calls that had not ended a moment after the step
    histogram: str

    @property
    def p99(self) -> float:
        """In ms."""
        return Histogram.decode(self.histogram).percentile(99) * MS

    @property
    def holds(self) -> bool:
        return self.p99 <= self.limit_ms and self.left <= self.rate * self.seconds * (1 - ENDED_SHARE)


def knee(steps: Sequence[Step]) -> float:
    """Arrivals per second of the last step that held before one that did not; 0 when the first did not."""
    found = 0.0
    for step in steps:
        if not step.holds:
            break
        found = step.rate
    return found


def merge(parts: Sequence[Sequence[Step]]) -> list[Step]:
    """The steps that every part has played. Past them only some were still at it, at less than the step's rate."""
    return [_merged(same) for same in zip(*parts, strict=False)]


def may_be_higher(parts: Sequence[Sequence[Step]]) -> bool:
    """Return True if every step that all shards played held, and some shard played further."""
    whole = merge(parts)
    return bool(whole) and all(step.holds for step in whole) and any(len(part) > len(whole) for part in parts)


def _merged(same: Sequence[Step]) -> Step:
    return msgspec.structs.replace(
        same[0],
        rate=sum(step.rate for step in same),
        left=sum(step.left for step in same),
        histogram=Histogram.merged(Histogram.decode(step.histogram) for step in same).encode(),
    )
