"""server.process.garbage_collector: what is put aside, and what is collected before."""

import ctypes
import gc
import weakref
from pathlib import Path

import pytest
import trio

from server.process.garbage_collector import MANY, GarbageCollector, give_back_free_memory
from tests.waiting import wait_until


class Circle:
    def __init__(self) -> None:
        self.itself = self


def test_what_lives_long_is_put_aside_without_its_garbage() -> None:
    """Many objects that survive a collection are walked over once; circles among them are freed first, few stay."""
    collector = GarbageCollector()
    gc.collect()
    gc.freeze()
    before = gc.get_freeze_count()
    few: list[list[object]] = [[] for _ in range(MANY // 2)]
    collector.collect()
    assert gc.get_freeze_count() <= before
    many: list[list[object]] = [[] for _ in range(MANY)]
    circle = weakref.ref(Circle())
    collector.collect()
    assert gc.get_freeze_count() >= before + len(many) + len(few) and circle() is None


def test_what_is_under_way_is_put_aside_seldom() -> None:
    """Where what was put aside ends soon, what comes next is not, so that circles in it are found. Else it is."""
    collector = GarbageCollector()
    gc.collect()
    gc.freeze()
    under_way: list[list[object]] = [[] for _ in range(2 * MANY)]
    collector.collect()
    del under_way
    before = gc.get_freeze_count()
    more: list[object] = [[] for _ in range(2 * MANY)]
    circle = Circle()
    collector.collect()
    assert gc.get_freeze_count() <= before
    found = weakref.ref(circle)
    del circle
    collector.collect()
    assert found() is None and len(more) == 2 * MANY
    lasting = GarbageCollector()
    lasting.collect()
    again: list[object] = [[] for _ in range(2 * MANY)]
    before = gc.get_freeze_count()
    lasting.collect()
    assert gc.get_freeze_count() >= before + len(again)


def test_what_is_put_aside_is_not_walked_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is it counted, which is as long a pause as to collect it."""
    monkeypatch.delattr(gc, "get_freeze_count")
    collector = GarbageCollector()
    kept: list[list[object]] = []
    for _ in range(3):
        kept += [[] for _ in range(2 * MANY)]
        collector.collect()
        assert len(gc.get_objects(generation=2)) < MANY
    assert len(kept) == 6 * MANY


def test_what_was_put_aside_is_freed_by_its_last_reference() -> None:
    """No collection is needed for what is in no circle."""
    kept = Circle()
    kept.itself = None  # type: ignore[assignment]
    GarbageCollector().begin()
    found = weakref.ref(kept)
    del kept
    assert found() is None


async def test_collections_are_short_while_it_runs() -> None:
    """Objects are put aside as they become many, and the interpreter never walks over the oldest by itself; when the
    part ends, all is as it was."""
    usual = gc.get_threshold()
    collector = GarbageCollector()
    async with trio.open_nursery() as nursery:
        await nursery.start(collector.run)
        assert gc.get_threshold() == usual  # not before everything has started
        collector.begin()
        await wait_until(lambda: gc.get_threshold() != usual)
        before = gc.get_freeze_count()
        kept: list[list[list[object]]] = []

        def grow() -> bool:
            kept.append([[] for _ in range(MANY)])
            return gc.get_freeze_count() > before + MANY

        await wait_until(grow)
        nursery.cancel_scope.cancel()
    assert gc.get_threshold() == usual


def resident() -> int:
    """Pages of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_free_memory_is_given_back() -> None:
    """What was needed for a moment only, as by imports, does not stay with the process."""
    give_back_free_memory()
    begun = resident()
    blocks = [bytearray(b"x" * 100_000) for _ in range(500)]  # 50 MB, each too small for a mapping of its own
    last = blocks[-1:]  # above all others: by itself the C library gives nothing back
    grown = resident() - begun
    del blocks
    give_back_free_memory()
    assert resident() - begun < grown / 2 and len(last) == 1
