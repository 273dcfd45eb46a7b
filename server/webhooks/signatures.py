"""Signatures of what webhooks carry, as Standard Webhooks specifies them (`standardwebhooks`).

Owns the three headers. Sans-I/O.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook


def sign(secrets: Sequence[bytes], event_id: str, timestamp: int, body: bytes) -> list[tuple[str, str]]:
    """Return the headers of one attempt, at `timestamp` in seconds since 1970. Several secrets sign while one is
    replaced.
    """
    when, text = datetime.fromtimestamp(timestamp, UTC), body.decode()
    return [
        ("webhook-id", event_id),
        ("webhook-timestamp", str(timestamp)),
        ("webhook-signature", " ".join(Webhook(secret).sign(event_id, when, text) for secret in secrets)),
    ]
