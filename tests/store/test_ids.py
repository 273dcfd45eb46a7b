"""Ids: in the order in which a process makes them, of the time at which it does, and not to be guessed."""

import itertools
import os
import time
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest

from store import ids


def test_order() -> None:
    """Each is greater than the one before, also when thousands are of one millisecond; the version is 7."""
    before = time.time_ns() // 1_000_000
    made = [ids.new_id() for _ in range(20_000)]
    assert all(one < next_ for one, next_ in itertools.pairwise(made))
    assert {(one.version, one.variant) for one in made} == {(7, RFC_4122)}
    assert before <= ids.id_ms(made[0]) and ids.id_ms(made[-1]) <= time.time_ns() // 1_000_000 + 10


def test_clock_that_stands_or_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids go on behind the last; 4,096 and more within a millisecond go on in the next."""
    ms = ids.id_ms(ids.new_id()) + 10_000
    monkeypatch.setattr(ids, "_last", ids._last)
    monkeypatch.setattr(time, "time_ns", lambda: ms * 1_000_000)
    made = [ids.new_id() for _ in range(2)]
    assert [ids.id_ms(one) for one in made] == [ms, ms]
    monkeypatch.setattr(time, "time_ns", lambda: (ms - 5000) * 1_000_000)
    made += [ids.new_id() for _ in range(5000)]
    assert made == sorted(made) and ids.id_ms(made[-1]) in (ms + 1, ms + 2)
    monkeypatch.setattr(time, "time_ns", lambda: (ms + 50) * 1_000_000)
    assert ids.id_ms(ids.new_id()) == ms + 50


def test_octets() -> None:
    """The octets of an id have one text, which is that of the id; what is packed comes apart again."""
    some = [ids.new_id() for _ in range(3)]
    packed = b"".join(ids.octets(some))
    assert [UUID(bytes=one) for one in ids.parted(packed)] == some and ids.parted(b"") == []
    assert ids.parted(packed, 24) == [packed[:24], packed[24:]]
    assert [ids.text_of(one).decode() for one in ids.parted(packed)] == [str(one) for one in some]


def test_packed() -> None:
    """Packed ids are written and read as each of them is, in order, and come apart in pieces."""
    some = [ids.new_id() for _ in range(5)]
    packed = ids.PackedIds.of(some)
    assert len(packed) == 5 and packed.texts() == [str(one) for one in some]
    assert ids.PackedIds.of_texts(packed.texts()) == packed != ids.PackedIds() and len({packed, packed}) == 1
    assert [*packed.pieces(2)] == [ids.octets(some[:2]), ids.octets(some[2:4]), ids.octets(some[4:])]
    assert not ids.PackedIds().texts() and not [*ids.PackedIds().pieces(2)]


def test_not_to_be_guessed() -> None:
    """What follows the counter is random in each: 62 bits, all of which take both values."""
    tails = [ids.new_id().int & ((1 << 62) - 1) for _ in range(200)]
    assert len(set(tails)) == 200
    assert all({tail >> bit & 1 for tail in tails} == {0, 1} for bit in range(62))


def test_a_process_that_is_forked() -> None:
    """It makes ids of its own: what its parent has drawn for the next ones is not in them."""
    ids.new_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"".join(ids.new_id().bytes for _ in range(3)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 48)
    os.close(reading)
    os.close(writing)
    ours = [ids.new_id().bytes[8:] for _ in range(3)]
    assert len(theirs) == 48 and not {theirs[at + 8 : at + 16] for at in (0, 16, 32)} & set(ours)


@pytest.mark.parametrize(
    "ms", [-62_135_596_800_000, -1, 0, 999, 1_000, 951_782_399_999, 1_764_443_084_007, 253_402_300_799_999]
)
def test_times(ms: int) -> None:
    """A time is written to the millisecond, whatever else of its second was written before, and read back the same."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    for offset in (0, 1 if ms < 253_402_300_799_999 else -1, 0):
        at = moment + timedelta(milliseconds=offset)
        written = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        assert ids.timestamp(ms + offset) == written and ids.timestamp_ms(written) == ms + offset
        assert ms < 0 or ids.created_at(ids.id_floor(ms + offset)) == written
