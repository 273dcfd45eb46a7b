"""Page cursors: where a list goes on, as an opaque string.

Owns their form. They name a position by key, never by offset, so pages are stable under inserts. They are not
signed: a client can make any. So the form is checked here, a list shows only what the caller may see, whatever the
position, and its query reads a bounded number of rows for every position that there can be.
"""

import base64
import binascii
import struct
from uuid import UUID

from handlers.errors import ChatError
from store.postgres.conversation_views import Position

_POSITION = struct.Struct("!q16sq")

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


def encode_position(position: Position) -> str:
    raw = _POSITION.pack(position.number, position.last_id.bytes, position.as_of)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_position(text: str | None) -> Position | None:
    """Raises ChatError("invalid_cursor")."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        number, last_id, as_of = _POSITION.unpack(raw)
        if min(number, as_of) < 0:
            raise ValueError
    except (binascii.Error, ValueError, struct.error):
        raise ChatError("invalid_cursor", "The cursor is not one of ours.") from None
    return Position(number, UUID(bytes=last_id), as_of)


def encode_text(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode_text(text: str | None) -> str | None:
    """Raises ChatError("invalid_cursor") for what is not base64. Any other text is a position, even one not ours."""
    if text is None:
        return None
    try:
        if len(text) > MAX_TEXT:
            raise ValueError
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ChatError("invalid_cursor", "The cursor is not one of ours.") from None
    return decoded.decode(errors="replace").replace("\0", "")
