"""Conversations, their members and roles: what may be done, by which role, and who is notified.

Owns the rules' order: lock, read, decide (`handlers.permissions`), write, all in one transaction. The System
message of each change goes to all members in order; all other events about it follow from that message, on each
instance for its own connections (`server.fanout.rooms`, `server.fanout.conversation_updates`).
"""

import math
from collections.abc import Collection, Sequence
from typing import TypeVar
from uuid import UUID

import structlog
from msgspec import UnsetType

from handlers import page_cursors, permissions, preconditions, text_rules
from handlers.blocks import require_available
from handlers.errors import ChatError
from handlers.idempotency import claim
from handlers.member_moderation import keep_muted_out, require_welcome
from handlers.model import (
    AddMember,
    Caller,
    ChangeRole,
    CreateConversation,
    Once,
    UpdateConversation,
    UpdateSettings,
)
from handlers.ports import Connections
from handlers.standing import require_not_banned
from handlers.transactions import Transactions, delete_in_pieces
from handlers.users import check_picture
from store.ids import distinct, new_id
from store.model import (
    Change,
    Conversation,
    ConversationSettings,
    ConversationType,
    GroupDetails,
    Member,
    Posting,
    Role,
    UnreadTotals,
    WireEnum,
)
from store.postgres import conversation_views
from store.postgres import conversations as store
from store.postgres.connection import Connection
from store.redis.inbox_entries import SettingsChange

MAX_CONVERSATIONS = 10_000  # of one user, where nothing is said
OF_OTHERS = 0.9  # of these others may fill, by adding the user to groups
NAMED = 10  # users in an error

Choice = TypeVar("Choice", bound=WireEnum)

log = structlog.get_logger("parley.conversations")


class Conversations:
    def __init__(self, pool: Connections, transactions: Transactions, *, most_of_one: int = MAX_CONVERSATIONS) -> None:
        """`most_of_one`: conversations of one user."""
        self._most_of_one = most_of_one
        self._pool = pool
        self._transactions = transactions

    # -- reading --------------------------------------------------------------------------------

    async def get(self, caller: Caller, conversation_id: UUID) -> Conversation:
        async with self._pool.connection() as conn:
            found = await conversation_views.fetch_conversation(conn, conversation_id, caller.user_id)
        if found is None:
            raise permissions.not_found()
        return found

    async def views(self, conversation_id: UUID, user_ids: Collection[UUID]) -> dict[UUID, Conversation]:
        """Return the conversation as each of these users sees it, without those who are not members. For the process
        itself: no caller is checked.
        """
        async with self._pool.connection() as conn:
            return await conversation_views.list_views(conn, conversation_id, user_ids)

    async def list(
        self,
        caller: Caller,
        limit: int,
        cursor: str | None,
        *,
        members: int = conversation_views.MEMBERS_LISTED,
        only: conversation_views.Filter = conversation_views.ALL,
    ) -> tuple[Sequence[Conversation], str | None]:
        """Mine, the most recently active first, as they were at the first page; of each the first members."""
        position = page_cursors.decode_position(cursor)
        async with self._pool.connection() as conn:
            items, following = await conversation_views.list_conversations(
                conn, caller.user_id, limit=limit, position=position, members=members, only=only
            )
        return items, page_cursors.encode_position(following) if following else None

    async def unread_totals(self, caller: Caller) -> UnreadTotals:
        """Return how much the caller has not read, in all conversations together."""
        async with self._pool.connection() as conn:
            return await store.fetch_unread_totals(conn, caller.user_id)

    async def list_members(
        self, caller: Caller, conversation_id: UUID, limit: int, cursor: str | None
    ) -> tuple[Sequence[Member], str | None]:
        after = page_cursors.decode_id(cursor)
        async with self._pool.connection() as conn:
            permissions.require_member(await store.fetch_member(conn, conversation_id, caller.user_id))
            found = await store.list_members(conn, conversation_id, caller.user_id, after=after, limit=limit + 1)
        items = found[:limit]
        return items, page_cursors.encode_id(items[-1].user_id) if len(found) > limit else None

    # -- changing -------------------------------------------------------------------------------

    async def create(
        self, caller: Caller, request: CreateConversation, once: Once | None = None
    ) -> tuple[Conversation, bool]:
        """(the conversation, whether it is new): a direct one may exist already."""
        kind = _parse(ConversationType, request.type, "type")
        others = [user_id for user_id in distinct(request.member_ids or ()) if user_id != caller.user_id]

        conversation_id = new_id()

        async def write(conn: Connection) -> tuple[tuple[Conversation, bool], Sequence[Change]]:
            earlier = await claim(conn, caller.user_id, once, conversation_id)
            if earlier is not None:
                found = await conversation_views.fetch_conversation(conn, earlier, caller.user_id)
                if found is not None:
                    return (found, True), ()  # answered as the first time
                if kind is ConversationType.GROUP:
                    raise permissions.not_found()
                # The direct one had been there before, or is gone by now: the same once more, without the key.
            change: Change | None
            try:
                if kind is ConversationType.DIRECT:
                    conversation, change = await store.insert_direct(
                        conn, caller.user_id, others[0], conversation_id=conversation_id
                    )
                else:
                    conversation, change = await store.insert_group(
                        conn, caller.user_id, request.name, others, conversation_id=conversation_id
                    )
            except store.UnknownUser as error:
                raise _unknown_user(error) from None
            if change is not None:
                await require_not_banned(conn, caller)  # their row is locked now: a ban has ended before, or waits
                await require_available(conn, caller.user_id, others)
                await self.require_room(conn, [caller.user_id])
                await self.require_room(conn, others, by_others=kind is ConversationType.GROUP)
            return (conversation, change is not None), (change,) if change else ()

        if kind is ConversationType.DIRECT and len(others) != 1:
            raise ChatError("invalid_request", "A direct conversation is with exactly one other user.")
        _check_name(request.name)
        conversation, created = await self._transactions.run(write)
        return conversation, created

    async def update(
        self,
        caller: Caller,
        conversation_id: UUID,
        request: UpdateConversation,
        *,
        if_match: Collection[str] | None = None,
    ) -> Conversation:
        """Change the title of a group, and what else its admins set. What is left out stays."""
        _check_name(request.name)
        _check_description(request.description)
        check_picture(request.avatar_url if isinstance(request.avatar_url, str) else None)
        posting = None if request.posting is None else _parse(Posting, request.posting, "posting")

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            head, member = await locked(conn, caller, conversation_id)
            permissions.require_group(head.type)
            permissions.require_role(member, Role.ADMIN)
            await self._require(conn, caller, conversation_id, if_match)
            before = head.details
            seconds = request.slow_mode_seconds
            is_public = before.is_public if request.is_public is None else request.is_public
            if is_public != before.is_public:
                permissions.require_role(member, Role.OWNER)
            after = GroupDetails(
                description=before.description if isinstance(request.description, UnsetType) else request.description,
                avatar_url=before.avatar_url if isinstance(request.avatar_url, UnsetType) else request.avatar_url,
                posting=before.posting if posting is None else posting,
                slow_mode_seconds=before.slow_mode_seconds if seconds is None else seconds,
                is_public=is_public,
            )
            changes: list[Change] = []
            if request.name is not None:
                changes.append(await store.update_title(conn, conversation_id, request.name, by=caller.user_id))
            if after != before:
                changes.append(await store.update_details(conn, conversation_id, before, after, by=caller.user_id))
            return None, changes

        await self._transactions.run(write, touches=(conversation_id,))
        return await self.get(caller, conversation_id)

    async def delete(self, caller: Caller, conversation_id: UUID, *, if_match: Collection[str] | None = None) -> None:
        """Delete the conversation for all members. Either of its two users may delete a direct one.

        For everybody it is gone with the one transaction; the rows of a large group's members go behind it, piece by
        piece.
        """

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            roll = await store.list_roll(conn, conversation_id, caller.user_id)
            head, member = await locked(conn, caller, conversation_id)
            if head.type is ConversationType.GROUP:
                permissions.require_role(member, Role.OWNER)
            await self._require(conn, caller, conversation_id, if_match)
            return None, (await store.delete_conversation(conn, conversation_id, by=caller.user_id, roll=roll),)

        await self._transactions.run(write, touches=(conversation_id,))
        await self._forget_members(conversation_id)

    async def add_member(
        self, caller: Caller, conversation_id: UUID, request: AddMember, once: Once | None = None
    ) -> tuple[Conversation, bool]:
        """Return (the conversation, whether a member was added). Adding a member again changes nothing."""
        role = Role.MEMBER if request.role is None else _parse(Role, request.role, "role")

        async def write(conn: Connection) -> tuple[bool, Sequence[Change]]:
            head, member = await locked(conn, caller, conversation_id)
            is_there = await store.fetch_member(conn, conversation_id, request.user_id) is not None
            # What the key has made: a member, or nothing new in the conversation.
            made = await claim(conn, caller.user_id, once, conversation_id if is_there else request.user_id)
            if made is not None:
                return made == request.user_id, ()
            permissions.require_group(head.type)
            permissions.may_add(member, role)
            try:
                change = await store.insert_member(conn, conversation_id, request.user_id, role, by=caller.user_id)
            except store.AlreadyMember:
                return False, ()
            except store.UnknownUser as error:
                raise _unknown_user(error) from None
            await require_available(conn, caller.user_id, [request.user_id])
            await self.require_room(conn, [request.user_id], by_others=True)
            await require_welcome(conn, conversation_id, request.user_id)
            return True, (change,)

        added = await self._transactions.run(write, touches=(conversation_id,))
        return await self.get(caller, conversation_id), added

    async def remove_member(self, caller: Caller, conversation_id: UUID, user_id: UUID) -> None:
        """Leaving is removing oneself."""

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            head, member = await locked(conn, caller, conversation_id)
            permissions.require_group(head.type)
            target = await store.fetch_member(conn, conversation_id, user_id)
            if target is None:
                raise permissions.not_found("member")
            permissions.may_remove(member, target, await _count_owners(conn, conversation_id, target))
            if user_id == caller.user_id:
                await keep_muted_out(conn, conversation_id, user_id)
            return None, (await store.delete_member(conn, conversation_id, user_id, by=caller.user_id),)

        await self._transactions.run(write, touches=(conversation_id,))

    async def change_role(
        self, caller: Caller, conversation_id: UUID, user_id: UUID, request: ChangeRole
    ) -> Conversation:
        role = _parse(Role, request.role, "role")

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            head, member = await locked(conn, caller, conversation_id)
            permissions.require_group(head.type)
            target = await store.fetch_member(conn, conversation_id, user_id)
            if target is None:
                raise permissions.not_found("member")
            owners = await _count_owners(conn, conversation_id, target)
            permissions.may_change_role(member, target, role, owners)
            if target.role is role:
                return None, ()
            return None, (await store.update_role(conn, conversation_id, user_id, role, by=caller.user_id),)

        await self._transactions.run(write, touches=(conversation_id,))
        return await self.get(caller, conversation_id)

    async def update_settings(
        self, caller: Caller, conversation_id: UUID, request: UpdateSettings
    ) -> ConversationSettings:
        """Set what the caller has for themselves in a conversation: only their own connections hear of it."""
        muted_until = None
        if request.notifications is not None and request.notifications.muted_until is not None:
            muted_until = text_rules.time_of(request.notifications.muted_until)
            if muted_until is None:
                sentence = "a time as in RFC 3339, with its time zone"
                raise ChatError(
                    "invalid_request",
                    f"notifications.mutedUntil is {sentence}.",
                    errors={"notifications.mutedUntil": sentence},
                )
        update = store.SettingsUpdate(
            request.archived, request.favourite, request.notifications is not None, muted_until
        )

        async def write(conn: Connection) -> tuple[ConversationSettings, SettingsChange | None]:
            try:
                settings, changed = await store.update_settings(conn, conversation_id, caller.user_id, update)
            except store.NotAMember:
                raise permissions.not_found() from None
            news = SettingsChange(caller.user_id, conversation_id, settings.version) if changed else None
            return settings, news

        return await self._transactions.run_personal(write)

    async def require_room(self, conn: Connection, user_ids: Collection[UUID], *, by_others: bool = False) -> None:
        """These users, who were made members of one more in this transaction, may be in so many: what each of their
        connections begins with grows with them. `by_others`: others have added them to a group; they do so up to a part
        of it, so that there is room for what the users begin and join, and for who writes to them. Raises
        ChatError("conflict")."""
        most = math.ceil(self._most_of_one * OF_OTHERS) if by_others else self._most_of_one
        crowded = await store.list_crowded(conn, user_ids, most + 1)
        if crowded:
            named = ", ".join(sorted(map(str, crowded))[:NAMED])
            raise ChatError("conflict", f"These users cannot be added: they are in {most} conversations: {named}.")

    # -- inside -----------------------------------------------------------------------------------

    async def _forget_members(self, conversation_id: UUID) -> None:
        """Delete the members who are left of a conversation that was dissolved. They are not shown any more."""
        reason = await delete_in_pieces(self._pool, lambda conn: store.forget_members(conn, conversation_id))
        if reason is not None:
            advice = "`parley purge` deletes the rest of its members"
            log.warning("dissolution_unfinished", conversation=str(conversation_id), reason=reason, advice=advice)

    @staticmethod
    async def _require(
        conn: Connection, caller: Caller, conversation_id: UUID, if_match: Collection[str] | None
    ) -> None:
        """Require that the conversation, which is locked, is still as the caller has seen it. Raises
        ChatError("precondition_failed").
        """
        if if_match is not None:
            found = await conversation_views.fetch_conversation(conn, conversation_id, caller.user_id)
            if found is None:
                raise permissions.not_found()
            preconditions.require(if_match, preconditions.of_conversation(found), "conversation")


async def locked(conn: Connection, caller: Caller, conversation_id: UUID) -> tuple[store.Head, Member]:
    """Lock the conversation. Return it, and the caller as its member. Raises ChatError: not_found, banned."""
    head = await store.lock_conversation(conn, conversation_id)
    if head is None:
        raise permissions.not_found()
    member = permissions.require_member(await store.fetch_member(conn, conversation_id, caller.user_id))
    await require_not_banned(conn, caller)
    return head, member


async def _count_owners(conn: Connection, conversation_id: UUID, target: Member) -> int:
    """Return how many owners the conversation has, if the target is one of them; else 0. To count them, all members are
    read, while messages wait for the lock.
    """
    return await store.count_owners(conn, conversation_id) if target.role is Role.OWNER else 0


def _parse(kind: type[Choice], value: str | int, field: str) -> Choice:
    try:
        return kind.parse(value)
    except ValueError:
        names = ", ".join(member.value for member in kind)
        raise ChatError("invalid_request", f"The {field} is one of {names}.", errors={field: names}) from None


def _check_name(name: str | None) -> None:
    if name is not None and not text_rules.fits(text_rules.NAME, name):
        raise ChatError("invalid_request", "The name is printable text.", errors={"name": "not printable"})


def _check_description(text: str | UnsetType | None) -> None:
    if isinstance(text, str) and not text_rules.fits(text_rules.DESCRIPTION, text):
        sentence = "printable text, in any number of lines"
        raise ChatError("invalid_request", f"The description is {sentence}.", errors={"description": sentence})


def _unknown_user(error: store.UnknownUser) -> ChatError:
    return ChatError("not_found", f"There is no such user: {error}.", errors={"memberIds": str(error)})
