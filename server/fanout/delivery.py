"""How a committed change appears to clients: as a new message or as a change of one they have. Owns the choice."""

from server.protocol.signalr.encoding import Encoding
from store.model import Change

RECEIVE_MESSAGE = "ReceiveMessage"
MESSAGE_CHANGED = "MessageChanged"


def encode_change(encoding: Encoding, change: Change, *, created: bool) -> bytes:
    """Encode the event of `change`; `created` says whether its message is new to the receiver, whatever it is now."""
    return encoding.event(RECEIVE_MESSAGE if created else MESSAGE_CHANGED, (change.message,))
