"""Permissions, as plain functions over what was read under the conversation's lock.

Owns the rules. Touches nothing. A user who is not a member learns nothing: for them the conversation does not exist.
"""

from handlers.errors import ChatError
from handlers.model import Caller
from store.model import ConversationType, Member, Message, MessageType, Role

_RANK = {Role.MEMBER: 0, Role.ADMIN: 1, Role.OWNER: 2}


def not_found(what: str = "conversation") -> ChatError:
    return ChatError("not_found", f"There is no such {what}, or it is not yours to see.")


def require_member(member: Member | None, what: str = "conversation") -> Member:
    if member is None:
        raise not_found(what)
    return member


def require_group(kind: ConversationType) -> None:
    if kind is ConversationType.DIRECT:
        raise ChatError("conflict", "A direct conversation has neither a name nor members to change.")


def require_role(member: Member, least: Role) -> None:
    if _RANK[member.role] < _RANK[least]:
        raise ChatError("forbidden", f"This needs the role {least.value}; yours is {member.role.value}.")


def may_add(member: Member, role: Role) -> None:
    """Admins add members; only owners grant more."""
    require_role(member, Role.ADMIN if role is Role.MEMBER else Role.OWNER)


def may_remove(member: Member, target: Member, owners: int) -> None:
    """A member may leave, unless they are the last owner; admins may remove members, owners may remove any user."""
    if member.user_id != target.user_id:
        require_role(member, Role.ADMIN if target.role is Role.MEMBER else Role.OWNER)
    if target.role is Role.OWNER and owners == 1:
        raise ChatError("last_owner", "The last owner cannot leave; make somebody else an owner first.")


def may_change_role(member: Member, target: Member, role: Role, owners: int) -> None:
    require_role(member, Role.OWNER)
    if target.role is Role.OWNER and role is not Role.OWNER and owners == 1:
        raise ChatError("last_owner", "A conversation keeps at least one owner.")


def may_edit(caller: Caller, message: Message) -> None:
    if message.type is MessageType.SYSTEM or message.sender_id != caller.user_id:
        raise ChatError("forbidden", "Only its sender may edit a message.")
    _not_deleted(message)


def may_delete(caller: Caller, message: Message, member: Member, kind: ConversationType) -> None:
    """Senders delete their own; admins and owners of a group others' too."""
    if message.type is MessageType.SYSTEM:
        raise ChatError("forbidden", "System messages cannot be deleted.")
    if message.sender_id != caller.user_id and (kind is ConversationType.DIRECT or member.role is Role.MEMBER):
        raise ChatError("forbidden", "Only its sender, or an admin of the group, may delete a message.")
    _not_deleted(message)


def require_user_message(message: Message) -> None:
    """Require that a user has written the message, and that it is not deleted."""
    if message.type is MessageType.SYSTEM:
        raise ChatError("forbidden", "System messages cannot be deleted.")
    _not_deleted(message)


def may_pin(message: Message, member: Member, kind: ConversationType) -> None:
    """Pins are everybody's: both users of a direct conversation, admins and owners of a group."""
    if kind is ConversationType.GROUP:
        require_role(member, Role.ADMIN)
    if message.type is MessageType.SYSTEM:
        raise ChatError("forbidden", "System messages cannot be pinned.")
    _not_deleted(message)


def may_be_root(message: Message) -> None:
    """Require that the message may be the root of a thread: threads are not nested, and System messages begin none."""
    if message.thread_id is not None:
        raise ChatError("thread_nested", "The message is a reply; its thread is that of its threadId.")
    if message.type is MessageType.SYSTEM:
        raise ChatError("forbidden", "System messages have no replies.")


def may_mention_all(member: Member, members: int, up_to: int) -> None:
    """Any member in a conversation of at most `up_to` members; in a larger one its admins and owners."""
    if member.role is Role.MEMBER and members > up_to:
        sentence = f"In a group of more than {up_to} members only its admins and owners mention all."
        raise ChatError("mention_all_forbidden", sentence)


def _not_deleted(message: Message) -> None:
    if message.deleted_at is not None:
        raise ChatError("gone", "The message was deleted.")
