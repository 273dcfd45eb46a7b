"""handlers.media_types: containers by their boxes and frames, of which a bounded number is looked at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers import media_types
from handlers.media_types import MAX_BOXES, MAX_BRANDS

FREE = b"\x00\x00\x00\x08free"
FRAME = b"\xff\xfb\x90\x64" + b"\x80" * 413  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz


def ftyp(*brands: bytes) -> bytes:
    body = brands[0] + bytes(4) + b"".join(brands[1:])
    return (8 + len(body)).to_bytes(4) + b"ftyp" + body


@pytest.mark.parametrize(("boxes", "expected"), [(0, "video/mp4"), (MAX_BOXES, "video/mp4"), (MAX_BOXES + 1, None)])
def test_so_many_boxes(boxes: int, expected: str | None) -> None:
    """Padding before the brands is passed over, to a bound."""
    assert media_types.of(FREE * boxes + ftyp(b"isom")) == expected


@pytest.mark.parametrize(("brands", "expected"), [(MAX_BRANDS, "video/mp4"), (MAX_BRANDS + 1, None)])
def test_so_many_brands(brands: int, expected: str | None) -> None:
    """The last of those that are looked at counts, the next does not."""
    assert media_types.of(ftyp(b"XXXX", *[b"YYYY"] * (brands - 1), b"isom")) == expected


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.sampled_from([b"free", b"skip", b"wide"]))
def test_sizes_that_lead_nowhere(size: int, large: int, kind: bytes) -> None:
    """A box may claim any size, of 32 bits or 64: what lies beyond the content is no type, and takes no time."""
    for head in (size.to_bytes(4) + kind + ftyp(b"isom"), (1).to_bytes(4) + kind + large.to_bytes(8) + ftyp(b"isom")):
        assert media_types.of(head) in (None, "video/mp4")


@pytest.mark.parametrize("size", range(1, 8))
def test_a_box_smaller_than_its_head(size: int) -> None:
    """Is none: it would lead back to itself."""
    assert media_types.of(size.to_bytes(4) + b"free" + bytes(7) + ftyp(b"isom")) is None


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"ID3\x02\x00" + bytes(5), "audio/mpeg"),
        (b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f", "audio/mpeg"),
        (b"ID3\x01\x00" + bytes(5), None),
        (b"ID3\x05\x00" + bytes(5), None),
        (b"ID3\x04\xff" + bytes(5), None),
        (b"ID3\x04\x00\x00\x80\x00\x00\x00", None),
        (b"ID3\x04\x00" + bytes(4), None),
    ],
)
def test_tags(head: bytes, expected: str | None) -> None:
    """Of the versions there are, with a size that a tag can have."""
    assert media_types.of(head) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FRAME * 2, "audio/mpeg"),
        (FRAME * 3, "audio/mpeg"),
        (FRAME + FRAME[:4], "audio/mpeg"),
        (FRAME + FRAME[:3], None),
        (FRAME, None),
        (FRAME * 2 + b"no frame", None),
        (FRAME * 3 + b"no frame", "audio/mpeg"),
        (FRAME + b"\xff\xfb\x94\x64" + FRAME[4:], None),
        (b"\xff\xfb\x00\x64" * 500, None),
        (b"\xff\xfb\xf0\x64" * 500, None),
        (b"\xff\xfb\x9c\x64" * 500, None),
        (b"\xff\xeb\x90\x64" * 500, None),
        (b"\xff\xf9\x90\x64" * 500, None),
    ],
)
def test_frames(content: bytes, expected: str | None) -> None:
    """Three in a row, or two at the end of what there is; of one rate; none of what no decoder plays."""
    assert media_types.of(content) == expected
