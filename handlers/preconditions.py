"""Versions of what can be edited, for edits that are made only if no other was made meanwhile (If-Match, RFC 9110).

Owns what counts as an edit. Touches nothing.
"""

import hashlib
from collections.abc import Collection
from typing import Any

import msgspec

from handlers.errors import ChatError
from store.model import Account, Conversation, GroupDetails, Message


def of_conversation(conversation: Conversation) -> str:
    """Return the version of what admins set, and of the members and their roles. Messages and receipts are no edits."""
    members = [(member.user_id, member.role) for member in conversation.members]
    details = [getattr(conversation, field) for field in GroupDetails.__struct_fields__]
    return _digest([conversation.name, conversation.member_count, members, details])


def of_account(account: Account) -> str:
    """Return the version of what the user can change in their account."""
    return _digest([account.display_name, account.avatar_url, account.email, account.status, account.status_text])


def of_message(message: Message) -> str:
    """Return the version of what the sender can change in a message. What others add to it is no edit."""
    file_id = None if message.file is None else message.file.id
    return _digest([message.content, message.edited_at, message.deleted_at, file_id])


def require(expected: Collection[str] | None, version: str, what: str, other: str | None = None) -> None:
    """Raises ChatError("precondition_failed") unless the version is an expected one, or its other name is; None: any
    is. A message's other name is its seq: clients that have it from an event know no ETag."""
    if expected is not None and version not in expected and other not in expected:
        raise ChatError("precondition_failed", f"The {what} was changed since you read it.")


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:16]
