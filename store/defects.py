"""Defects: exceptions that no code foresaw, caught where they concern one member of many, counted, and logged once.

Owns the rule for every task that serves many (the flusher, a lane, the writer of receipts, gap repair), and the
counts. The rule: such a task goes on, whatever one member or one party causes in it. Each part of the process has
a `Guard`. The part catches around the work for *one* member and hands the exception to its guard, which counts it
(`parley_defects_total`) and writes one line with a reference, not one for each time. Then the member pays: its
connection is ended, its receipt is answered with an error, its entry is passed over and the room read from PostgreSQL.
What may not cost anything on the way keeps its iterator outside of the `try`, and goes on behind the member at fault;
what is done for many at once is done again in halves (`divided`), until the one at fault is alone.

Errors that are raised on purpose (`StoreError`) are no defects. A part that fails as a whole is started again by
`server.process.supervisor`. Touches nothing but the log.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from store.errors import Damaged, StoreError

QUIET = 60.0  # seconds for which the same defect (type and line) of a part is counted but not logged again

T = TypeVar("T")

log = structlog.get_logger("parley.defects")


class Guard:
    """What one part does with defects in the work for its members."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.count = 0
        self._logged: dict[tuple[type[BaseException], str, int], list[float | int | str]] = {}  # when, since, reference

    def caught(self, error: BaseException, event: str = "defect", **context: object) -> str:
        """Count the defect, and log it unless that was done within QUIET. Return the reference of its log line."""
        self.count += 1
        kind = (type(error), *_where(error))
        now = time.monotonic()
        logged = self._logged.get(kind)
        if logged is not None and now - float(logged[0]) < QUIET:
            logged[1] = int(logged[1]) + 1
            return str(logged[2])
        reference = new_reference()
        more = {} if logged is None or not logged[1] else {"repeated": logged[1]}
        self._logged[kind] = [now, 0, reference]
        log.error(event, part=self.part, reference=reference, **more, **context, exc_info=error)
        return reference


_guards: dict[str, Guard] = {}


def guard(part: str) -> Guard:
    """Return the guard of this part: one for each name, in the whole process."""
    found = _guards.get(part)
    if found is None:
        found = _guards[part] = Guard(part)
    return found


def counts() -> dict[str, int]:
    """Defects so far, by part."""
    return {part: _guards[part].count for part in sorted(_guards)}


def new_reference() -> str:
    """Return a reference, which the client gets in place of the defect and which the log line carries."""
    return secrets.token_hex(6)


async def divided(
    of: Guard,
    items: Sequence[T],
    work: Callable[[Sequence[T]], Awaitable[None]],
    refuse: Callable[[T, str], None],
) -> None:
    """Do `work` on all items at once and, if a defect fails it, on each half, down to single items.

    An item that fails alone, twice, is refused: `refuse` gets it and the reference of the log line. So an item that
    `work` cannot handle costs the others nothing but repetitions. `work` must allow being repeated on the same items.
    Raises StoreError as `work` does, and then leaves the rest undone; but for Damaged, which may concern one item only.
    """
    parts: list[tuple[Sequence[T], bool]] = [(items, False)]
    while parts:
        part, again = parts.pop()
        try:
            await work(part)
        except Exception as error:  # whatever it is, it concerns one of these
            is_known = isinstance(error, Damaged)
            if isinstance(error, StoreError) and not is_known:
                raise
            if is_known and len(part) > 1:
                reference = ""  # PostgreSQL's fault, which is said elsewhere
            else:
                reference = of.caught(error, items=len(part))
            if len(part) > 1:
                middle = len(part) // 2
                parts += [(part[middle:], False), (part[:middle], False)]
            elif not again:
                parts.append((part, True))
            else:
                refuse(part[0], reference)


def _where(error: BaseException) -> tuple[str, int]:
    """Return the place in the code that raised it."""
    trace = error.__traceback__
    if trace is None:
        return "", 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno
