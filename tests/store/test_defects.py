"""store.defects: counted each time, logged once; the item at fault is found, and only it is refused."""

from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from store.defects import QUIET, Guard, divided
from store.errors import Damaged, Unavailable


def fail(kind: type[Exception]) -> Exception:
    try:
        raise kind("what somebody wrote")
    except Exception as error:  # noqa: BLE001
        return error


def test_the_same_defect_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a client causes it; the reference is that of the line. Another type of defect has its own line."""
    now = 0.0
    monkeypatch.setattr("store.defects.time.monotonic", lambda: now)
    guard = Guard("test")
    with capture_logs() as lines:
        references = {guard.caught(fail(ValueError), user="u") for _ in range(1000)}
        other = guard.caught(fail(OverflowError))
        now = QUIET
        later = guard.caught(fail(ValueError))
    assert guard.count == 1002 and len(references | {other, later}) == 3
    assert [line["reference"] for line in lines] == [*references, other, later]
    assert lines[0]["user"] == "u" and lines[0]["part"] == "test" and lines[2]["repeated"] == 999


async def test_the_one_at_fault_is_alone_refused() -> None:
    """All others are done, each in some batch that succeeded; one that fails a single time is done as well."""
    done: list[int] = []
    refused: list[int] = []
    once = [17]

    async def work(items: Sequence[int]) -> None:
        for faulty in (7, 30):
            if faulty in items:
                raise OverflowError
        if once and once[0] in items:
            once.pop()
            raise RuntimeError
        done.extend(items)

    with capture_logs():
        await divided(Guard("test"), list(range(40)), work, lambda item, reference: refused.append(item))
    assert sorted(done) == [number for number in range(40) if number not in (7, 30)]
    assert sorted(refused) == [7, 30]


async def test_damage_concerns_one() -> None:
    """What PostgreSQL finds damaged is looked for as a defect is, and only the item alone with it is counted."""
    guard, done, refused = Guard("test"), list[int](), list[int]()

    async def work(items: Sequence[int]) -> None:
        if 7 in items:
            raise Damaged("invalid page")
        done.extend(items)

    with capture_logs() as lines:
        await divided(guard, list(range(40)), work, lambda item, reference: refused.append(item))
    assert sorted(done) == [number for number in range(40) if number != 7] and refused == [7]
    assert guard.count == 2 and len(lines) == 1


async def test_what_is_raised_on_purpose_is_no_defect() -> None:
    """PostgreSQL is away: nothing is divided, nothing counted."""
    guard, asked = Guard("test"), 0

    async def work(items: Sequence[int]) -> None:
        nonlocal asked
        asked += 1
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        await divided(guard, [1, 2, 3], work, lambda item, reference: None)
    assert asked == 1 and guard.count == 0
