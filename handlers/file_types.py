"""What a file is, by its content: its type, a picture's size, a name that is safe to save under.

Owns the rules. Sans-I/O. What a client or a file name says of the type counts for nothing.
"""

import io
import unicodedata
from collections.abc import Collection

import imagesize
import puremagic

HEAD = 64 * 1024  # bytes of a file that are looked at
MAX_NAME = 255  # characters
MIN_CONFIDENCE = 0.3  # of puremagic's; below are two-byte signatures that any text may begin with
ACTIVE = frozenset({"text/html", "application/xhtml+xml", "image/svg+xml", "application/xml", "text/xml"})
MAX_PIXELS = 2**31 - 1  # along one side; what the column holds
_SAME = {
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/mp3": "audio/mpeg",
    "image/jpg": "image/jpeg",
    "application/x-zip-compressed": "application/zip",
}
ZIP = b"PK\x03\x04"
TEXT_CONTROLS = frozenset("\t\n\r\f\x1b")


def content_type(head: bytes, allowed: Collection[str]) -> str | None:
    """The allowed type that content beginning with `head` has; None when it is none of them."""
    found = _signatures(head)
    if found and found[0] in ACTIVE and found[0] not in allowed:
        return None  # it is text as well, but browsers would run it
    for name in found:
        if name in allowed:
            return name
    return "text/plain" if "text/plain" in allowed and _is_text(head) else None


def dimensions(head: bytes, kind: str) -> tuple[int, int] | tuple[None, None]:
    """Width and height of a picture in pixels, from its header; nothing is decoded."""
    if not kind.startswith("image/"):
        return None, None
    try:
        width, height = imagesize.get(io.BytesIO(head))
    except Exception:  # noqa: BLE001  # a parser of strangers' bytes: whatever it makes of them, there is no size
        return None, None
    sane = 0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS
    return (int(width), int(height)) if sane else (None, None)


def file_name(said: str) -> str:
    """The last part of a path, without what cannot be seen or saved; "file" when nothing is left."""
    last = said.replace("\\", "/").rpartition("/")[2]
    shown = "".join(c for c in last if c.isprintable() and unicodedata.category(c) not in ("Cf", "Cs", "Co"))
    name = shown.strip().strip(".")[:MAX_NAME].strip()
    return name or "file"


def _signatures(head: bytes) -> list[str]:
    """What it could be by its first bytes, the likeliest first."""
    try:
        matches = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return []
    likely = sorted((m for m in matches if m.confidence >= MIN_CONFIDENCE), key=lambda m: -m.confidence)
    names = [_SAME.get(match.mime_type, match.mime_type) for match in likely if match.mime_type]
    return [*names, "application/zip"] if head.startswith(ZIP) else names


def _is_text(head: bytes) -> bool:
    """UTF-8 without control characters; its last character may be cut."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data" or len(head) < HEAD or error.start < len(head) - 3:
            return False
        text = head[: error.start].decode()
    return not any(c < " " and c not in TEXT_CONTROLS for c in text)
