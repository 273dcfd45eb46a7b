"""What is done in a conversation: members are muted until a time, or removed and kept out; messages are deleted; a
group gets another name.

Owns who may: admins and owners of a group, to members of a lower role; moderators of the service in any conversation,
to users of a lower role in the service, to any message, and to the name of any group. Each act is a change of the
conversation, and an entry of the audit log.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from handlers import page_cursors, permissions, preconditions, text_rules
from handlers.errors import ChatError
from handlers.model import Caller, RenameGroup, Restrict
from handlers.moderation import check_reason, end_of
from handlers.ports import Connections
from handlers.standing import RANK, require_not_banned, require_role, role_of
from handlers.transactions import Transactions
from store.ids import timestamp
from store.model import Act, Change, ConversationType, Member, MemberBan, Message, Role, UserRole
from store.postgres import audit, conversations, member_bans, messages, moderation
from store.postgres.connection import Connection


class MemberModeration:
    def __init__(self, pool: Connections, transactions: Transactions) -> None:
        self._pool = pool
        self._transactions = transactions

    async def mute(self, caller: Caller, conversation_id: UUID, user_id: UUID, request: Restrict) -> None:
        """Keep a member from sending, editing and reacting until a time."""
        until = end_of(request.until)
        check_reason(request.reason)

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            return None, (await mute_member(conn, caller, conversation_id, user_id, until, request.reason),)

        await self._transactions.run(write, touches=(conversation_id,))

    async def unmute(self, caller: Caller, conversation_id: UUID, user_id: UUID) -> None:
        """End the mute of a member. Does nothing if they are not muted."""

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            await _lock(conn, caller, conversation_id, user_id)
            if await conversations.fetch_mute(conn, conversation_id, user_id) is None:
                return None, ()
            change = await conversations.update_mute(conn, conversation_id, user_id, None, by=caller.user_id)
            await _note(conn, Act.MEMBER_UNMUTED, caller, conversation_id, user_id)
            return None, (change,)

        await self._transactions.run(write, touches=(conversation_id,))

    async def ban(self, caller: Caller, conversation_id: UUID, user_id: UUID, request: Restrict) -> None:
        """Remove a user from the group, if they are a member, and keep them out until a time."""
        until = end_of(request.until)
        check_reason(request.reason)

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            return None, await keep_out(conn, caller, conversation_id, user_id, until, request.reason)

        await self._transactions.run(write, touches=(conversation_id,))

    async def lift(self, caller: Caller, conversation_id: UUID, user_id: UUID) -> None:
        """Let a user come again. Does nothing if they are not kept out."""

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            await _lock(conn, caller, conversation_id, user_id, is_member=False)
            if await member_bans.delete_ban(conn, conversation_id, user_id):
                await _note(conn, Act.MEMBER_UNBANNED, caller, conversation_id, user_id)
            return None, ()

        await self._transactions.run(write)

    async def list_bans(
        self, caller: Caller | None, conversation_id: UUID, limit: int, cursor: str | None
    ) -> tuple[Sequence[MemberBan], str | None]:
        """Return the users who are kept out, by id, to a caller who may keep users out. A caller of None is an
        operator.
        """
        after = page_cursors.decode_id(cursor)
        async with self._pool.connection() as conn:
            if caller is not None and await role_of(conn, caller) is UserRole.USER:
                member = await conversations.fetch_member(conn, conversation_id, caller.user_id)
                permissions.require_role(permissions.require_member(member), Role.ADMIN)
            found = await member_bans.list_bans(conn, conversation_id, after=after, limit=limit + 1)
        items = found[:limit]
        return items, page_cursors.encode_id(items[-1].user_id) if len(found) > limit else None

    async def rename_group(self, caller: Caller, conversation_id: UUID, request: RenameGroup) -> None:
        """Another name, by a moderator of the service. What it was before is not noted."""
        if not text_rules.fits(text_rules.NAME, request.name):
            raise ChatError("invalid_request", "The name is printable text.", errors={"name": "not printable"})
        check_reason(request.reason)

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            await require_role(conn, caller, UserRole.MODERATOR)
            head = await conversations.lock_conversation(conn, conversation_id)
            if head is None:
                raise permissions.not_found()
            permissions.require_group(head.type)
            await require_role(conn, caller, UserRole.MODERATOR)  # it may have been taken away meanwhile
            change = await conversations.update_title(conn, conversation_id, request.name, by=caller.user_id)
            await audit.insert_audit(
                conn,
                Act.GROUP_RENAMED,
                caller.user_id,
                conversation_id=conversation_id,
                reason=request.reason,
            )
            return None, (change,)

        await self._transactions.run(write, touches=(conversation_id,))

    async def delete_message(self, caller: Caller | None, message_id: UUID, reason: str | None = None) -> Message:
        """Delete a message of any conversation. A caller of None is an operator."""
        check_reason(reason)

        async def write(conn: Connection) -> tuple[Message, Sequence[Change]]:
            change = await delete_message(conn, caller, message_id, reason)
            return change.message, (change,)

        return await self._transactions.run(write)


async def mute_member(
    conn: Connection, caller: Caller, conversation_id: UUID, user_id: UUID, until: datetime, reason: str | None
) -> Change:
    """Mute a member, in the caller's transaction. Raises ChatError."""
    await _lock(conn, caller, conversation_id, user_id)
    change = await conversations.update_mute(conn, conversation_id, user_id, until, by=caller.user_id)
    await _note(conn, Act.MEMBER_MUTED, caller, conversation_id, user_id, until, reason)
    return change


async def keep_out(
    conn: Connection, caller: Caller, conversation_id: UUID, user_id: UUID, until: datetime, reason: str | None
) -> Sequence[Change]:
    target = await _lock(conn, caller, conversation_id, user_id, is_member=False)
    changes: list[Change] = []
    if target is not None:
        if target.role is Role.OWNER and await conversations.count_owners(conn, conversation_id) == 1:
            raise ChatError("last_owner", "The last owner cannot be removed; make somebody else an owner first.")
        changes.append(
            await conversations.delete_member(conn, conversation_id, user_id, by=caller.user_id, until=until)
        )
    await member_bans.put_ban(conn, conversation_id, user_id, until, by=caller.user_id)
    await _note(conn, Act.MEMBER_BANNED, caller, conversation_id, user_id, until, reason)
    return changes


async def delete_message(
    conn: Connection,
    caller: Caller | None,
    message_id: UUID,
    reason: str | None = None,
    *,
    if_match: Collection[str] | None = None,
) -> Change:
    """A message, wherever it is, by a moderator of the service. One's own is not noted."""
    await require_role(conn, caller, UserRole.MODERATOR)
    message = await messages.lock_message(conn, message_id)
    if message is None or await conversations.lock_conversation(conn, message.conversation_id) is None:
        raise permissions.not_found("message")
    await require_role(conn, caller, UserRole.MODERATOR)  # it may have been taken away meanwhile
    preconditions.require(if_match, preconditions.of_message(message), "message", str(message.changed_seq))
    permissions.require_user_message(message)
    actor_id = None if caller is None else caller.user_id
    if caller is None or message.sender_id != actor_id:
        await audit.insert_audit(
            conn,
            Act.MESSAGE_DELETED,
            actor_id,
            user_id=message.sender_id,
            conversation_id=message.conversation_id,
            object_id=message_id,
            reason=reason,
        )
    change = await messages.delete_message(conn, message_id)
    if change is None:
        raise ChatError("gone", "The message was deleted.")
    return change


async def _lock(
    conn: Connection, caller: Caller, conversation_id: UUID, user_id: UUID, *, is_member: bool = True
) -> Member | None:
    """Lock the conversation; return whom it is about, if they are a member. Raises ChatError."""
    head = await conversations.lock_conversation(conn, conversation_id)
    if head is None:
        raise permissions.not_found()
    member = await conversations.fetch_member(conn, conversation_id, caller.user_id)
    target = await conversations.fetch_member(conn, conversation_id, user_id)
    role = await role_of(conn, caller)
    if role is UserRole.USER:
        member = permissions.require_member(member)
        await require_not_banned(conn, caller)
        permissions.require_group(head.type)
        is_low = target is None or target.role is Role.MEMBER
        permissions.require_role(member, Role.ADMIN if is_low else Role.OWNER)
    elif RANK[await moderation.fetch_role(conn, user_id) or UserRole.USER] >= RANK[role]:
        raise ChatError("forbidden", "The user has a role in the service that is not lower than yours.")
    if not is_member and head.type is ConversationType.DIRECT:
        permissions.require_group(head.type)
    if user_id == caller.user_id:
        raise ChatError("conflict", "You cannot do that to yourself.")
    if is_member and target is None:
        raise permissions.not_found("member")
    if target is None and await moderation.fetch_user_standing(conn, user_id) is None:
        raise permissions.not_found("user")
    return target


async def _note(
    conn: Connection,
    act: Act,
    caller: Caller,
    conversation_id: UUID,
    user_id: UUID,
    until: datetime | None = None,
    reason: str | None = None,
) -> None:
    await audit.insert_audit(
        conn, act, caller.user_id, user_id=user_id, conversation_id=conversation_id, until=until, reason=reason
    )


async def require_welcome(conn: Connection, conversation_id: UUID, user_id: UUID) -> None:
    """Require that the user is not kept out of the conversation, which is locked. Raises ChatError("kept_out")."""
    until = await member_bans.fetch_ban(conn, conversation_id, user_id)
    if until is not None:
        raise ChatError(
            "kept_out", f"The user was removed from this group, and may come back after {until}.", until=until
        )


async def keep_muted_out(conn: Connection, conversation_id: UUID, user_id: UUID) -> None:
    """A member who leaves while they are muted comes back when that is over: leaving ends no mute."""
    until = await conversations.fetch_mute(conn, conversation_id, user_id)
    if until is not None:
        await member_bans.put_ban(conn, conversation_id, user_id, end_of(until), by=user_id)


async def require_voice(conn: Connection, conversation_id: UUID, user_id: UUID) -> None:
    """Require that the member is not muted. Raises ChatError("muted")."""
    until = await conversations.fetch_mute(conn, conversation_id, user_id)
    if until is not None:
        raise muted(until)


def muted(until: str) -> ChatError:
    return ChatError("muted", f"You are muted in this conversation until {until}.", until=until)


def muted_until_ms(milliseconds: int | None) -> ChatError:
    """Return the same error, for a time in milliseconds since the epoch as a lane reports it, or for none."""
    if milliseconds is None:
        return ChatError("muted", "You are muted in this conversation.")
    return muted(timestamp(milliseconds))
