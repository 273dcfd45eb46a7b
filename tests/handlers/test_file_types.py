"""handlers.file_types: by content, whatever it is called."""

import io
import re
import struct
import zlib
from typing import Any

import imagesize
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers import file_types, media_types
from handlers.file_types import HEAD, MAX_SEGMENTS, canonical, content_type, dimensions, file_name
from server.config.settings import UPLOAD_TYPES

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 640, 480, 8, 6, 0, 0, 0)
PNG += struct.pack(">I", zlib.crc32(PNG[12:29]))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (PNG, "image/png"),
        (b"GIF89a" + bytes(20), "image/gif"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "image/jpeg"),
        (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"%PDF-1.7\n%\xe2\xe3", "application/pdf"),
        (b"PK\x03\x04\x14\x00\x00\x00", "application/zip"),
        (b"\x00\x00\x00\x18ftypmp42", "video/mp4"),
        (b"hello\n", "text/plain"),
        ("grüße".encode(), "text/plain"),
        (("x" * (HEAD - 1) + "é").encode()[:HEAD], "text/plain"),  # the head ends within a character
        (b"", "text/plain"),
        (b"BM is what a bitmap begins with", "text/plain"),
        (b"ID3 is how tags begin", "text/plain"),
        (b"RIFF raff", "text/plain"),
        (b"OggS, fLaC and GIF89a are others", "text/plain"),
        (b"GIF89a and so on", "text/plain"),
        (b"see ftypisom, the first box", "text/plain"),
        (b"%PDF is a format", "text/plain"),
        (b"%PDF-1.4\n1 0 obj\n", "application/pdf"),
        (b"ID3\x04\x00\x00\x00\x00\x0f\x76" + bytes(200), "audio/mpeg"),
        (b"ID3 \x00\x00\x00\x00\x00\x00", None),
        (b"RIFF\x24\x00\x00\x00CDXAfmt ", None),
        (b"RIFF", "text/plain"),
        (b"<html><script>alert(1)</script>", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", None),
        (b"\x7fELF\x02\x01\x01", None),
        (b"MZ\x90\x00" + bytes(60), None),
        (b"nul \x00 inside", None),
        (b"\xff\xfeh\x00", None),
        ("é".encode()[:1], None),
    ],
)
def test_content_type(head: bytes, expected: str | None) -> None:
    """A file's type comes from its first bytes, and what no rule allows has none."""
    assert content_type(head, UPLOAD_TYPES) == expected


def box(brand: bytes, *compatible: bytes, kind: bytes = b"ftyp", size: int | None = None, wide: bool = False) -> bytes:
    body = brand + bytes(4) + b"".join(compatible)
    length = size if size is not None else 8 + 8 * wide + len(body)
    head = (1).to_bytes(4) + kind + length.to_bytes(8) if wide else length.to_bytes(4) + kind
    return head + body + (b"\x00\x00\x00\x08free" + bytes(200))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        *(
            (box(brand), "video/mp4")
            for brand in (b"isom", b"iso5", b"iso6", b"mp41", b"mp42", b"dash", b"M4V ", b"avc1")
        ),
        *((box(brand, b"isom"), "audio/mp4") for brand in (b"M4A ", b"M4B ")),
        *((box(brand, b"isom", b"mp41"), "image/heic") for brand in (b"heic", b"heix")),
        (box(b"mif1", b"mif1", b"heic"), "image/heic"),
        (box(b"mif1", b"avif", b"isom"), "image/avif"),
        (box(b"mif1", b"isom"), "image/heif"),
        (box(b"msf1", b"hevc"), "image/heic-sequence"),
        (box(b"msf1"), "image/heif-sequence"),
        (box(b"avif"), "image/avif"),
        (box(b"avis", b"isom"), "image/avif"),
        (box(b"qt  "), "video/quicktime"),
        (box(b"3gp5", b"isom"), "video/3gpp"),
        (box(b"3g2a"), "video/3gpp2"),
        (box(b"XXXX", b"YYYY", b"mp42"), "video/mp4"),
        (box(b"XXXX", b"YYYY"), None),
        *((box(b"iso5", *[b"isom"] * number), "video/mp4") for number in (0, 1, 7, 63, 1000)),
        (box(b"isom", b"mp41", wide=True), "video/mp4"),
        (box(b"heic", b"mif1", wide=True), "image/heic"),
        (box(b"isom", size=0), "video/mp4"),
        (box(b"isom", size=2**32 - 1), "video/mp4"),
        (box(b"isom", kind=b"styp"), "video/mp4"),
        (b"\x00\x00\x00\x10free" + bytes(8) + box(b"isom"), "video/mp4"),
        (b"\x00\x00\x00\x00free" + bytes(8) + box(b"isom"), None),
        (b"\x00\x00\x00\x08free" * 1000 + box(b"isom"), None),
        (b"\x00\x00\x00\x18ftyp", None),
        (b"\x00\x00\x00\x01ftyp\x00", None),
    ],
)
def test_boxes(head: bytes, expected: str | None) -> None:
    """MP4, QuickTime and HEIF by their brands, whatever the size of the first box, and however it is written."""
    assert media_types.of(head) == expected
    if expected not in (None, *UPLOAD_TYPES):
        assert content_type(head, UPLOAD_TYPES) is None


MPEG_FRAMES = [  # header, size
    (b"\xff\xfb\x90\x64", 417),  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz
    (b"\xff\xfa\x90\x64", 417),  # with a checksum
    (b"\xff\xfb\x92\x64", 418),  # padded
    (b"\xff\xf3\x48\xc4", 144),  # MPEG-2 layer III, 32 kbit/s, 16 kHz
    (b"\xff\xe3\x18\xc4", 72),  # MPEG-2.5 layer III, 8 kbit/s, 8 kHz
    (b"\xff\xfd\xa4\x00", 576),  # MPEG-1 layer II, 192 kbit/s, 48 kHz
    (b"\xff\xff\x10\x00", 32),  # MPEG-1 layer I, 32 kbit/s, 44.1 kHz
]


@pytest.mark.parametrize(("header", "size"), MPEG_FRAMES)
def test_frames(header: bytes, size: int) -> None:
    """MPEG audio without a tag is known by frames that follow each other; one alone is nothing, nor among others."""
    frame = header + b"\x80" * (size - 4)
    for content in (frame * 2, frame * 40, (frame * 40)[: 2 * size + 5]):
        assert content_type(content, UPLOAD_TYPES) == "audio/mpeg"
    for content in (frame, frame + header[:3], frame + b"\x80" * 100, frame[:-1] + frame, b"\x80" + frame * 5):
        assert content_type(content, UPLOAD_TYPES) is None
    other = next(
        each for each, _ in MPEG_FRAMES if (each[1] & 0x1E, each[2] & 0x0C) != (header[1] & 0x1E, header[2] & 0x0C)
    )
    assert content_type(frame + other + b"\x80" * 1000, UPLOAD_TYPES) is None


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"ftyp", b"\x00\x00\x00\x18ftyp", b"\xff\xfb\x90\x64", b"ID3\x04"])
)
def test_any_bytes(content: bytes, start: bytes) -> None:
    """Whatever comes has a type or none."""
    media_types.of(start + content)
    content_type(start + content, UPLOAD_TYPES)


def test_the_list_decides() -> None:
    """What is not on it is refused, what is on it is taken."""
    assert content_type(PNG, ("image/gif",)) is None
    assert content_type(b"text", ("image/gif",)) is None
    assert content_type(b"<html><script>", ("text/html",)) == "text/html"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("audio/x-m4a", "audio/mp4"),
        ("Audio/MP3", "audio/mpeg"),
        ("text/plain; charset=utf-8", "text/plain"),
        ("image/png", "image/png"),
        ("made/up", "made/up"),
        ("", ""),
    ],
)
def test_canonical(said: str, kind: str) -> None:
    """Other names of a type that browsers use are that type."""
    assert canonical(said) == kind


def test_dimensions() -> None:
    """From the header; what has none, or lies, is a file without."""
    assert dimensions(PNG, "image/png") == (640, 480)
    assert dimensions(PNG[:20], "image/png") == (None, None)
    assert dimensions(b"GIF89a" + struct.pack("<HH", 3, 4), "image/gif") == (3, 4)
    assert dimensions(b"GIF89a" + struct.pack("<HH", 0, 4), "image/gif") == (None, None)
    for junk in (b"", b"\xff\xd8\xff\xe0" + b"\xff" * 50, b"RIFF\x00\x00\x00\x00WEBPVP8X"):
        dimensions(junk, "image/jpeg")
    assert dimensions(PNG, "application/pdf") == (None, None)


def segment(marker: int, payload: bytes = b"") -> bytes:
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2) + payload


SIZED = segment(0xC0, struct.pack(">BHHB", 8, 480, 640, 3) + bytes(9))
ON_ITS_SIDE = segment(0xE1, b"Exif\0\0MM\0*" + struct.pack(">LHHHLHHL", 8, 1, 0x0112, 3, 1, 6, 0, 0))
JFIF = segment(0xE0, b"JFIF\0" + bytes(9))


@pytest.mark.parametrize(
    ("segments", "size"),
    [
        ([JFIF, SIZED], (640, 480)),
        ([JFIF, ON_ITS_SIDE, segment(0xE1, b"http://ns.adobe.com/xap/1.0/"), SIZED], (480, 640)),
        ([b"\xff\x01", b"\xff\xff", JFIF, b"\xff\xff\xff", segment(0xC4, bytes(20)), SIZED], (640, 480)),
        ([segment(0xDB, bytes(65))] * 200 + [SIZED], (640, 480)),
        ([segment(0xC1, b"12")], (None, None)),
        ([segment(0xE0)] * 2 + [b"\xff\xda", SIZED], (None, None)),
        ([segment(0xE0)] * 15_000 + [SIZED], (None, None)),
        ([b"\xff\x01"] * 30_000 + [SIZED], (None, None)),
        ([b"\xff\xd0 "] * 20_000 + [SIZED], (None, None)),
        ([b"\xff\xe0\0\0"] * 15_000 + [SIZED], (None, None)),
        ([segment(0xE0, bytes(60_000))] * 2 + [SIZED], (None, None)),  # behind what is looked at
    ],
)
def test_jpegs(monkeypatch: pytest.MonkeyPatch, segments: list[bytes], size: tuple[int | None, int | None]) -> None:
    """A JPEG's size is found behind what usually comes before it; one of endless segments has none, and costs little:
    what walks through them takes few steps, and the library is given only what it is to read."""
    given: list[int] = []
    whole = imagesize.get

    def get(file: io.BytesIO) -> Any:
        given.append(len(file.getvalue()))
        return whole(file)

    monkeypatch.setattr("imagesize.get", get)
    steps = 0

    class Counting:
        def match(self, head: bytes, at: int) -> re.Match[bytes] | None:
            nonlocal steps
            steps += 1
            return marker.match(head, at)

    marker = file_types._MARKER
    monkeypatch.setattr(file_types, "_MARKER", Counting())
    assert dimensions(b"\xff\xd8" + b"".join(segments) + bytes(100_000), "image/jpeg") == size
    assert len(given) == 1 and given[0] < 1000 and steps <= MAX_SEGMENTS


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("cat.png", "cat.png"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("a\x00b\r\nc\u202egnp.exe", "abcgnp.exe"),
        ("", "file"),
        ("...", "file"),
        ("x" * 300, "x" * 255),
        ("x" * 300 + ".jpeg", "x" * 250 + ".jpeg"),
        ("👋" * 300 + ".txt", "👋" * 251 + ".txt"),
        ("x" * 250 + " " * 50 + ".txt", "x" * 250 + ".txt"),
        ("." + "x" * 300, "x" * 255),
        ("x." + "y" * 300, "x." + "y" * 253),
        ("x" * 300 + ".", "x" * 255),
        ("grüße 👋.txt", "grüße 👋.txt"),
    ],
)
def test_file_name(said: str, name: str) -> None:
    """A name keeps no path and no control characters, and at most 255 characters with its extension among them."""
    assert file_name(said) == name


def test_sizes_are_read_in_bounded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only formats whose header is found in bounded steps are given to the parser, and only what begins like them."""
    asked: list[bytes] = []

    def get(file: Any) -> tuple[int, int]:
        asked.append(file.read(4))
        return 1, 1

    monkeypatch.setattr("imagesize.get", get)
    heif = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x01meta\0\0\0\0\0\0\0\0" * 4000
    for kind, head in (
        ("image/heic", heif),
        ("image/png", heif),
        ("image/avif", heif),
        ("image/tiff", b"II*\0\x08\0\0\0" + b"\xff" * 60_000),
        ("image/svg+xml", b"<svg" + b" a" * 30_000),
        ("image/jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 60_000),
    ):
        assert dimensions(head, kind) == (None, None)
    assert not asked
    assert dimensions(b"GIF89a", "image/gif") == (1, 1) and asked
