"""Page cursors: where a list goes on, as an opaque string.

Owns their form. They name a position by key, never by offset, so pages are stable under inserts. A cursor
is only ever a key that the caller may see, so it needs no signature, only a check of its form.
"""

import base64
import binascii
from uuid import UUID

from handlers.errors import ChatError

MAX_TEXT = 1024  # characters of a cursor; the longest names are far below


def encode_id(value: UUID) -> str:
    return base64.urlsafe_b64encode(value.bytes).rstrip(b"=").decode()


def decode_id(text: str | None) -> UUID | None:
    """Raises ChatError("invalid_cursor")."""
    if text is None:
        return None
    try:
        return UUID(bytes=base64.b64decode(text + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise ChatError("invalid_cursor", "The cursor is not one of ours.") from None


def encode_pair(one: UUID, other: UUID) -> str:
    return base64.urlsafe_b64encode(one.bytes + other.bytes).rstrip(b"=").decode()


def decode_pair(text: str | None) -> tuple[UUID, UUID] | None:
    """Raises ChatError("invalid_cursor")."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
        return UUID(bytes=raw[:16]), UUID(bytes=raw[16:])
    except (binascii.Error, ValueError):
        raise ChatError("invalid_cursor", "The cursor is not one of ours.") from None


def encode_text(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode_text(text: str | None) -> str | None:
    """Raises ChatError("invalid_cursor") for what is no base64. What is no text of ours is a position all the same."""
    if text is None:
        return None
    try:
        if len(text) > MAX_TEXT:
            raise ValueError
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ChatError("invalid_cursor", "The cursor is not one of ours.") from None
    return decoded.decode(errors="replace").replace("\0", "")
