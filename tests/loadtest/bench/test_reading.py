"""loadtest.bench.reading: what is counted of a stream of MessagePack, and a request to the reference for REST."""

import pytest

from loadtest.bench import reading
from loadtest.bench.process import BenchError, reference
from loadtest.bench.reading import Lengths, get


def packed(size: int) -> bytes:
    """A message of so many bytes, with its length before it."""
    length, left = bytearray(), size
    while left >= 0x80:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*length, left]) + b"x" * size


@pytest.mark.parametrize("step", [1, 2, 7, 1000, 100_000])
def test_messages_are_counted_however_they_come(step: int) -> None:
    """In one piece, byte by byte, several at once: each when its last byte is there."""
    whole = b"".join(packed(size) for size in (0, 1, 127, 128, 20_000, 3))
    lengths = Lengths()
    counts = [lengths.feed(whole[at : at + step]) for at in range(0, len(whole), step)]
    assert sum(counts) == 6
    assert Lengths().feed(whole[:-1]) == 5


@pytest.mark.services
def test_the_reference_for_rest_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it costs; anything but success ends the measure."""
    monkeypatch.setattr(reading, "WARM_UP", 1)
    with reference("hello") as server:
        assert get(server, "/", 0.05) > 0
        with pytest.raises(BenchError, match="GET /none answered 404"):
            get(server, "/none", 0.05)
