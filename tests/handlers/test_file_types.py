"""handlers.file_types: by content, whatever it is called."""

import struct
import zlib

import pytest

from handlers.file_types import HEAD, content_type, dimensions, file_name
from server.config import UPLOAD_TYPES

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
    assert content_type(head, UPLOAD_TYPES) == expected


def test_the_list_decides() -> None:
    """What is not on it is refused, what is on it is taken."""
    assert content_type(PNG, ("image/gif",)) is None
    assert content_type(b"text", ("image/gif",)) is None
    assert content_type(b"<html><script>", ("text/html",)) == "text/html"


def test_dimensions() -> None:
    """From the header; what has none, or lies, is a file without."""
    assert dimensions(PNG, "image/png") == (640, 480)
    assert dimensions(PNG[:20], "image/png") == (None, None)
    assert dimensions(b"GIF89a" + struct.pack("<HH", 3, 4), "image/gif") == (3, 4)
    assert dimensions(b"GIF89a" + struct.pack("<HH", 0, 4), "image/gif") == (None, None)
    for junk in (b"", b"\xff\xd8\xff\xe0" + b"\xff" * 50, b"RIFF\x00\x00\x00\x00WEBPVP8X"):
        dimensions(junk, "image/jpeg")
    assert dimensions(PNG, "application/pdf") == (None, None)


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
        ("grüße 👋.txt", "grüße 👋.txt"),
    ],
)
def test_file_name(said: str, name: str) -> None:
    assert file_name(said) == name
