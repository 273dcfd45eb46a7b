"""Exception groups, where one error is meant.

Owns the way out of a task group: what went wrong first reaches the caller as it is, and never in a group of one. What
failed beside it is noted on it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio


@contextmanager
def single() -> Iterator[None]:
    """Around a task group: raise one error of the group that it raises."""
    try:
        yield
    except BaseExceptionGroup as group:
        first, *others = sorted(leaves(group), key=_rank)
        for other in others:
            first.add_note(f"besides: {type(other).__name__}: {other}")
        raise first from first.__cause__


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the errors in a group and the groups in it."""
    found: list[BaseException] = []
    for one in group.exceptions:
        found += leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found


def _rank(error: BaseException) -> int:
    """What ends the program comes first, and that somebody was cancelled last: it is what the others have caused."""
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return 2
    return 1 if isinstance(error, Exception) else 0
