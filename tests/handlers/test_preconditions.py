"""handlers.preconditions: an edit changes the version, what is no edit does not."""

from typing import Any

import pytest
from msgspec.structs import replace

from handlers import preconditions
from handlers.errors import ChatError
from store.ids import new_id
from store.model import Account, Conversation, ConversationType, Member, MessageStatus, Posting, Role, UserStatus
from tests.handlers.database import NOTHING_SET, NOW, message_at

ONE, OTHER = new_id(), new_id()
MEMBERS = (Member(ONE, Role.OWNER, NOW, 0, 0), Member(OTHER, Role.MEMBER, NOW, 0, 0))
GROUP = Conversation(new_id(), ConversationType.GROUP, "name", ONE, NOW, 3, None, 0, 0, 2, MEMBERS, NOTHING_SET)
ACCOUNT = Account(ONE, "user", "User", None, UserStatus.ONLINE, None, None, NOW, None, email=None)


@pytest.mark.parametrize(
    "edit",
    [
        {"name": "other"},
        {"name": None},
        {"description": "what for"},
        {"avatar_url": "https://example.org/a.png"},
        {"posting": Posting.ADMINS},
        {"slow_mode_seconds": 1},
        {"is_public": True},
        {"member_count": 3},
        {"members": MEMBERS[:1]},
        {"members": (MEMBERS[0], replace(MEMBERS[1], role=Role.ADMIN))},
        {"members": (MEMBERS[0], replace(MEMBERS[1], user_id=new_id()))},
    ],
)
def test_edits_of_a_conversation(edit: dict[str, Any]) -> None:
    """What admins set, its members and their roles: what one client has seen is not what another would change."""
    assert preconditions.of_conversation(replace(GROUP, **edit)) != preconditions.of_conversation(GROUP)


@pytest.mark.parametrize(
    "use",
    [
        {"last_seq": 4, "unread_count": 9},
        {"last_message": message_at(4, GROUP.id, ONE, "hello")},
        {"members": (MEMBERS[0], replace(MEMBERS[1], delivered_seq=3, read_seq=2))},
    ],
)
def test_what_is_said_and_read(use: dict[str, Any]) -> None:
    """Is no edit: a busy group can be renamed."""
    assert preconditions.of_conversation(replace(GROUP, **use)) == preconditions.of_conversation(GROUP)


@pytest.mark.parametrize("field", ["display_name", "avatar_url", "email", "status_text"])
def test_edits_of_an_account(field: str) -> None:
    """Each field that its user can change, and the same text in another field is another version."""
    versions = [preconditions.of_account(replace(ACCOUNT, **{name: "x"})) for name in (field, "display_name")]
    assert preconditions.of_account(ACCOUNT) not in versions
    assert field == "display_name" or versions[0] != versions[1]
    assert preconditions.of_account(replace(ACCOUNT, status=UserStatus.AWAY)) != preconditions.of_account(ACCOUNT)


def test_being_seen_is_no_edit() -> None:
    """Of an account."""
    seen = replace(ACCOUNT, last_seen_at=NOW)
    assert preconditions.of_account(seen) == preconditions.of_account(ACCOUNT)


MESSAGE = message_at(4, GROUP.id, ONE, "hello")


@pytest.mark.parametrize("edit", [{"content": "other"}, {"edited_at": NOW}, {"content": "", "deleted_at": NOW}])
def test_edits_of_a_message(edit: dict[str, Any]) -> None:
    """What its sender has written, and that they have written it anew: also to what it was once."""
    assert preconditions.of_message(replace(MESSAGE, **edit)) != preconditions.of_message(MESSAGE)


def test_what_others_make_of_a_message() -> None:
    """Another change of the message, which its sender has not made, costs their edit nothing; nor does a receipt."""
    touched = replace(MESSAGE, changed_seq=9, changed_at=NOW, status=MessageStatus.READ)
    assert preconditions.of_message(touched) == preconditions.of_message(MESSAGE)


def test_required() -> None:
    """One of those expected is enough; none of an empty list is; without any, nothing is asked."""
    preconditions.require(None, "1", "message")
    preconditions.require(["0", "1"], "1", "message")
    preconditions.require(["7"], "1", "message", "7")
    for expected in ([], [""], ["11"], ["1 "]):
        with pytest.raises(ChatError, match="precondition_failed: The message was changed"):
            preconditions.require(expected, "1", "message")
