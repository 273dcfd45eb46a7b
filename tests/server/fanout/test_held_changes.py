"""server.fanout.held_changes: what a room holds has a bound, and what finds no place harms nothing that has one."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.fanout import held_changes
from server.fanout.held_changes import (
    CHANGE_BYTES,
    MAX_BYTES,
    MAX_CHANGES,
    MAX_IN_ALL,
    NAMED_BYTES,
    HeldChanges,
    HeldInAll,
)
from store.model import Change, Reaction
from tests.server.fanout.test_rooms import BOB, USER, change


def of_size(seq: int, size: int) -> Change:
    one = change(seq)
    return msgspec.structs.replace(one, message=msgspec.structs.replace(one.message, content="x" * size))


@pytest.mark.parametrize(("size", "most"), [(10, MAX_CHANGES), (MAX_BYTES // 4, 4), (MAX_BYTES + 1, 1)])
def test_the_bounds(size: int, most: int) -> None:
    """As many changes and bytes find a place as are allowed, and one change however large; those on top do not, and it
    is known that there were any."""
    held = HeldChanges(HeldInAll())
    for seq in range(most):
        assert not held.is_short and held.add(of_size(seq, size))
    for seq in range(most, most + 10):
        assert not held.add(of_size(seq, size)) and held.is_short
    assert list(held) == list(range(most)) and held.size == most * size
    assert held.pop(0) == of_size(0, size) and held.add(of_size(most, size)) and len(held) == most


def test_the_bound_of_all_rooms() -> None:
    """Very many rooms hold no more together than is allowed, but for one change each, and what one lets go is a place
    for others."""
    in_all = HeldInAll()
    rooms = [HeldChanges(in_all) for _ in range(100)]
    for seq in range(100):
        for room in rooms:
            room.add(of_size(seq, MAX_BYTES // 100))
    assert in_all.size <= MAX_IN_ALL + MAX_BYTES and all(rooms) and any(room.is_short for room in rooms)
    assert not rooms[0].add(of_size(100, 10))
    late = HeldChanges(in_all)
    assert late.add(of_size(0, 10)) and not late.add(of_size(1, 10)) and len(late.clear()) == 1
    rooms[1].clear()
    assert rooms[0].add(of_size(100, 10)) and rooms[1].add(of_size(0, 10))


def test_who_is_named_counts() -> None:
    """Users who are mentioned, added, removed, or shown with a reaction take bytes of a change, as its content does."""
    plain, held = change(1), HeldChanges(HeldInAll())
    held.add(plain)
    before = held.size
    shown = Reaction(emoji="x", count=2, user_ids=(USER, BOB))
    message = msgspec.structs.replace(plain.message, mentions=(USER, BOB), reactions=(shown,))
    held.add(msgspec.structs.replace(plain, message=message, added=(USER,), removed=(BOB,)))
    assert len(held) == 1 and held.size == before + 7 * NAMED_BYTES


STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 9), st.integers(0, 40)),
    st.tuples(st.sampled_from(["pop", "below"]), st.integers(1, 9), st.just(0)),
)


@given(st.lists(STEPS, max_size=40))
def test_any_order(steps: list[tuple[str, int, int]]) -> None:
    """Whatever comes and goes, what is held is what had a place, and its size is known; it is above the bounds at no
    time, unless it is one change."""
    in_all, known = HeldInAll(), dict[int, Change]()
    held = HeldChanges(in_all)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_changes, "MAX_CHANGES", 4)
        patch.setattr(held_changes, "MAX_BYTES", 100)
        for step, seq, size in steps:
            if step == "add":
                one = of_size(seq, size)
                if held.add(one):
                    known[seq] = one
            elif step == "pop":
                assert held.pop(seq) == known.pop(seq, None)
            else:
                below = [each for each in known if each < seq]
                assert held.pop_below(seq) == [known.pop(each) for each in below]
            assert list(held) == list(known) and list(held._changes.values()) == list(known.values())
            assert held.size == sum(len(each.message.content) for each in known.values())
            assert in_all.size == held.size + CHANGE_BYTES * len(known)
            assert len(known) <= 4 and (held.size <= 100 or len(known) == 1)
    held.clear()
    assert not held and in_all.size == 0
