"""Page cursors: where a list goes on, as an opaque string.

Owns their form. They name a position by key, never by offset, so pages are stable under inserts. A cursor
is only ever a key that the caller may see, so it needs no signature, only a check of its form.
"""

import base64
import binascii
from uuid import UUID

from handlers.errors import ChatError


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


def encode_text(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode_text(text: str | None) -> str | None:
    """Raises ChatError("invalid_cursor")."""
    if text is None:
        return None
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise ChatError("invalid_cursor", "The cursor is not one of ours.") from None
    if "\0" in decoded:
        raise ChatError("invalid_cursor", "The cursor is not one of ours.")
    return decoded
