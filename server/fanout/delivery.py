"""Choose the event of a committed change: `ReceiveMessage` for a new message, `MessageChanged` for a known one."""

from server.protocol.signalr.encoding import Encoding
from store.model import Change

RECEIVE_MESSAGE = "ReceiveMessage"
MESSAGE_CHANGED = "MessageChanged"


def encode_change(encoding: Encoding, change: Change, *, created: bool) -> bytes:
    """Encode the event of `change`. `created`: its message is new to the receiver, even if it was edited since."""
    return encoding.event(RECEIVE_MESSAGE if created else MESSAGE_CHANGED, (change.message,))
