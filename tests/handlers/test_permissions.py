"""handlers.permissions: each role's powers, over each other's, as plain functions."""

from collections.abc import Callable
from uuid import UUID

import pytest

from handlers import permissions
from handlers.errors import ChatError
from handlers.model import Caller
from store.ids import new_id
from store.model import ConversationType, Member, MessageType, Role
from tests.handlers.database import EXPIRES, NOW, message_at

OWNER, ADMIN, MEMBER = Role.OWNER, Role.ADMIN, Role.MEMBER
ROLES = (OWNER, ADMIN, MEMBER)
RANK = {MEMBER: 0, ADMIN: 1, OWNER: 2}


def member(role: Role, user_id: UUID | None = None) -> Member:
    return Member(user_id or new_id(), role, NOW, 0, 0)


def code(rule: Callable[[], None]) -> str:
    try:
        rule()
    except ChatError as error:
        return error.code
    return ""


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("least", ROLES)
def test_at_least(role: Role, least: Role) -> None:
    """A role has the powers of those below it; the refusal names both."""
    if RANK[role] >= RANK[least]:
        permissions.require_role(member(role), least)
        return
    with pytest.raises(ChatError, match="forbidden") as caught:
        permissions.require_role(member(role), least)
    assert least.value in caught.value.sentence and role.value in caught.value.sentence


@pytest.mark.parametrize("who", ROLES)
@pytest.mark.parametrize("given", ROLES)
def test_adding(who: Role, given: Role) -> None:
    """Admins add Members; a higher role is for owners to give."""
    expected = "" if who is OWNER or (who is ADMIN and given is MEMBER) else "forbidden"
    assert code(lambda: permissions.may_add(member(who), given)) == expected


@pytest.mark.parametrize("who", ROLES)
@pytest.mark.parametrize("target", ROLES)
@pytest.mark.parametrize("owners", [1, 2, 3])
def test_removing(who: Role, target: Role, owners: int) -> None:
    """Of others: admins Members, owners all. The last owner stays, whatever the count of the rest."""
    may = who is OWNER or (who is ADMIN and target is MEMBER)
    expected = "forbidden" if not may else "last_owner" if target is OWNER and owners == 1 else ""
    assert code(lambda: permissions.may_remove(member(who), member(target), owners)) == expected


@pytest.mark.parametrize("who", ROLES)
@pytest.mark.parametrize("owners", [1, 2])
def test_leaving(who: Role, owners: int) -> None:
    """Is open to all but the last owner."""
    oneself = member(who)
    expected = "last_owner" if who is OWNER and owners == 1 else ""
    assert code(lambda: permissions.may_remove(oneself, member(who, oneself.user_id), owners)) == expected


@pytest.mark.parametrize("who", ROLES)
@pytest.mark.parametrize("target", ROLES)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("owners", [1, 2])
def test_roles(who: Role, target: Role, role: Role, owners: int) -> None:
    """Owners give them; the last owner keeps theirs."""
    takes_the_last = target is OWNER and role is not OWNER and owners == 1
    expected = "forbidden" if who is not OWNER else "last_owner" if takes_the_last else ""
    assert code(lambda: permissions.may_change_role(member(who), member(target), role, owners)) == expected


@pytest.mark.parametrize("kind", MessageType)
@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("is_deleted", [True, False])
def test_editing(kind: MessageType, is_own: bool, is_deleted: bool) -> None:
    """One's own, of any type but System; a deleted one is gone, for who may know it."""
    caller = Caller(new_id(), EXPIRES)
    message = message_at(1, new_id(), caller.user_id if is_own else new_id(), "x", kind, NOW if is_deleted else None)
    may = is_own and kind is not MessageType.SYSTEM
    assert code(lambda: permissions.may_edit(caller, message)) == (
        "forbidden" if not may else "gone" if is_deleted else ""
    )


@pytest.mark.parametrize("message_kind", MessageType)
@pytest.mark.parametrize("conversation_kind", ConversationType)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("is_deleted", [True, False])
def test_deleting(
    message_kind: MessageType, conversation_kind: ConversationType, role: Role, is_own: bool, is_deleted: bool
) -> None:
    """One's own anywhere; others' as an admin or owner of a group, never in a direct conversation. System messages
    stay."""
    caller = Caller(new_id(), EXPIRES)
    sender = caller.user_id if is_own else new_id()
    message = message_at(1, new_id(), sender, "x", message_kind, NOW if is_deleted else None)
    may = is_own or (conversation_kind is ConversationType.GROUP and role in (ADMIN, OWNER))
    may = may and message_kind is not MessageType.SYSTEM
    rule = member(role, caller.user_id)
    assert code(lambda: permissions.may_delete(caller, message, rule, conversation_kind)) == (
        "forbidden" if not may else "gone" if is_deleted else ""
    )


def test_no_member() -> None:
    """Is the same as not there, and the sentence says what is not."""
    there = member(MEMBER)
    assert permissions.require_member(there) is there
    with pytest.raises(ChatError, match="not_found: There is no such message"):
        permissions.require_member(None, "message")
    assert code(lambda: permissions.require_group(ConversationType.DIRECT)) == "conflict"
    assert code(lambda: permissions.require_group(ConversationType.GROUP)) == ""
