"""What a file is, by its content: its type, a picture's size, a name that is safe to save under.

Owns the rules. Sans-I/O; the libraries are loaded by the first file. What a client or a file name says of the type
counts for nothing.
"""

import io
import re
import unicodedata
from collections.abc import Collection

from handlers import media_types

HEAD = 64 * 1024  # bytes of a file that are looked at
MAX_NAME = 255  # characters
MIN_CONFIDENCE = 0.3  # of puremagic's; below are two-byte signatures that any text may begin with
ACTIVE = frozenset({"text/html", "application/xhtml+xml", "image/svg+xml", "application/xml", "text/xml"})
MAX_PIXELS = 2**31 - 1  # along one side; what the column holds
MAX_SEGMENTS = 256  # of a JPEG that are walked through; what comes before its size are some twenty
# What is measured: formats whose header is in a fixed place, and JPEG, whose segments are counted. Boxes of HEIF,
# directories of TIFF and the texts of SVG are chains that a stranger may make as long as they like.
_MEASURED = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
_MARKER = re.compile(rb"[^\xff]*\xff+([^\xff])")
_JPEG_ENDS = (b"\xd9", b"\xda")  # the end, and the pixels
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1 = 0xE1
_SAME = {
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "audio/x-mp3": "audio/mpeg",
    "audio/x-m4a": "audio/mp4",
    "audio/m4a": "audio/mp4",
    "video/x-m4v": "video/mp4",
    "image/jpg": "image/jpeg",
    "application/x-zip-compressed": "application/zip",
}
_RIFF = {b"WAVE": "audio/wav", b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}
ZIP = b"PK\x03\x04"
MAX_EXTENSION = 16  # characters; what is longer is no extension
PDF = re.compile(rb"%PDF-\d\.\d")
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # controls but tab, line feed, form feed, CR, escape


def content_type(head: bytes, allowed: Collection[str]) -> str | None:
    """Return the allowed type of content that begins with `head`, or None if it has none of them."""
    is_text = _is_text(head)
    found = _text_signatures(head) if is_text else _signatures(head)
    if found and found[0] in ACTIVE and found[0] not in allowed:
        return None  # it is text as well, but browsers would run it
    for name in found:
        if name in allowed:
            return name
    return "text/plain" if "text/plain" in allowed and is_text else None


def canonical(kind: str) -> str:
    """A content type as it is called here: browsers have several names for some."""
    plain = kind.partition(";")[0].strip().lower()
    return _SAME.get(plain, plain)


def dimensions(head: bytes, kind: str) -> tuple[int, int] | tuple[None, None]:
    """Width and height of a picture in pixels, from its header; nothing is decoded."""
    if not (kind in _MEASURED and head.startswith(_MEASURED[kind])):
        return None, None
    import imagesize  # noqa: PLC0415

    looked_at = _jpeg_essentials(head[:HEAD]) if kind == "image/jpeg" else head[:HEAD]
    try:
        width, height = imagesize.get(io.BytesIO(looked_at))
    except Exception:  # noqa: BLE001  # a parser of strangers' bytes: whatever it makes of them, there is no size
        return None, None
    sane = 0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS
    return (int(width), int(height)) if sane else (None, None)


def _jpeg_essentials(head: bytes) -> bytes:
    """A JPEG of only those segments that say how large it is, and which side is up (T.81, B.1.1; Exif in APP1).

    The library reads any number of segments, and what is between them, byte by byte.
    """
    kept = [head[:2]]
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.match(head, at)
        if found is None or found[1] in _JPEG_ENDS:
            break
        marker, at = found[1][0], found.end()
        if marker in _JPEG_ALONE:
            continue
        end = at + max(2, int.from_bytes(head[at : at + 2]))
        if marker == _APP1 or marker in _JPEG_FRAMES:
            kept.append(b"\xff" + found[1] + head[at:end])
        at = end
    return b"".join(kept)


def file_name(said: str) -> str:
    """Return the last part of a path, without what cannot be seen or saved, or "file" if nothing is left. A long name
    is cut before its extension.
    """
    last = said.replace("\\", "/").rpartition("/")[2]
    shown = "".join(c for c in last if c.isprintable() and unicodedata.category(c) not in ("Cf", "Cs", "Co"))
    name = shown.strip().strip(".").strip()
    if len(name) > MAX_NAME:
        stem, dot, extension = name.rpartition(".")
        if not dot or len(extension) > MAX_EXTENSION:
            stem, dot, extension = name, "", ""
        name = stem[: MAX_NAME - len(dot + extension)].strip(" .") + dot + extension
    return name or "file"


def _text_signatures(head: bytes) -> list[str]:
    """The same for what is text: sound, pictures and archives have bytes that no text has, whatever it begins with."""
    names = [name for name in _by_library(head) if name in ACTIVE or name.startswith("text/")]
    return ["application/pdf", *names] if PDF.match(head) else names


def _signatures(head: bytes) -> list[str]:
    """Return the types that content could have by its first bytes, the likeliest first."""
    if head.startswith((b"RIFF", b"RF64")):
        return [_RIFF[head[8:12]]] if head[8:12] in _RIFF else []
    found = media_types.of(head)
    if found is not None:
        return [found]
    return [name for name in _by_library(head) if not (name == "audio/mpeg" and head.startswith(b"ID3"))]


def _by_library(head: bytes) -> list[str]:
    import puremagic  # noqa: PLC0415

    try:
        matches = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return []
    likely = sorted((m for m in matches if m.confidence >= MIN_CONFIDENCE), key=lambda m: -m.confidence)
    names = [_SAME.get(match.mime_type, match.mime_type) for match in likely if match.mime_type]
    return [*names, "application/zip"] if head.startswith(ZIP) else names


def _is_text(head: bytes) -> bool:
    """UTF-8 without most control characters; its last character may be cut."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data" or len(head) < HEAD or error.start < len(head) - 3:
            return False
        text = head[: error.start].decode()
    return _NO_TEXT.search(text) is None
