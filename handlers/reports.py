"""Reports: what users say of messages and of each other, for moderators to decide on.

Owns who may report what, and who sees it. Users report what they may see; moderators see all reports but those about
themselves, with the reporter. Who is reported learns nothing of it.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from handlers import page_cursors, permissions, text_rules
from handlers.errors import ChatError
from handlers.member_moderation import delete_message, keep_out, mute_member
from handlers.model import MAX_COMMENT, Caller, CreateReport, ResolveReport
from handlers.moderation import ban_user, end_of
from handlers.ports import Connections
from handlers.rate_limits import Limiter
from handlers.standing import gone, require_not_banned, require_role
from handlers.transactions import Transactions
from store.ids import id_ms, new_id
from store.model import (
    Act,
    Change,
    FullReport,
    Message,
    MessageType,
    OwnReport,
    ReportAct,
    ReportCategory,
    ReportState,
    UserRole,
)
from store.postgres import audit, conversations, messages, users
from store.postgres import reports as store
from store.postgres.connection import Connection
from store.redis.inbox_entries import Personal

MAX_COUNTED = 10_000  # open reports that are counted
MAX_OPEN = 100  # reports of one user that are not resolved


class Backlog(NamedTuple):
    """The reports that wait for a decision, up to MAX_COUNTED, and for how many seconds the oldest of them has."""

    waiting: int
    seconds: float


class Reports:
    def __init__(self, pool: Connections, transactions: Transactions, limiter: Limiter[UUID]) -> None:
        self._pool = pool
        self._transactions = transactions
        self._limiter = limiter

    # -- by users -------------------------------------------------------------------------------

    async def create(self, caller: Caller, request: CreateReport) -> tuple[OwnReport, bool]:
        """(the report, whether it is new): while one of the caller's about the same is open, it is that one. Raises
        ChatError."""
        try:
            category = ReportCategory.parse(request.category)
        except ValueError:
            names = ", ".join(member.value for member in ReportCategory)
            raise ChatError("invalid_request", f"The category is one of {names}.", errors={"category": names}) from None
        if (request.message_id is None) is (request.user_id is None):
            sentence = "one of messageId and userId"
            raise ChatError("invalid_request", f"A report is about {sentence}.", errors={"messageId": sentence})
        _check_text("comment", request.comment)
        self._limiter.require(caller.user_id)

        async def write(conn: Connection) -> tuple[tuple[FullReport, bool], Sequence[Change]]:
            if await users.lock_account(conn, caller.user_id) is None:  # what they have reported is forgotten
                raise gone()
            await require_not_banned(conn, caller)
            message = None if request.message_id is None else await _seen(conn, caller, request.message_id)
            user_id = request.user_id if message is None else message.sender_id
            assert user_id is not None
            if user_id == caller.user_id:
                raise ChatError("conflict", "You cannot report yourself.")
            if message is None and await users.fetch_account(conn, user_id) is None:
                raise permissions.not_found("user")
            made = await store.insert_report(
                conn,
                new_id(),
                caller.user_id,
                user_id,
                message_id=request.message_id,
                conversation_id=None if message is None else message.conversation_id,
                category=category,
                comment=request.comment,
                content=None if message is None else message.content,
            )
            if made is None:
                there = await store.fetch_open_report(conn, caller.user_id, user_id, message_id=request.message_id)
                if there is None:  # it was resolved at this moment
                    raise ChatError("unavailable", "The report was resolved meanwhile; report it again.")
                return (there, False), ()
            if await store.count_open_reports(conn, caller.user_id) > MAX_OPEN:
                raise ChatError("conflict", f"{MAX_OPEN} reports of yours wait for a decision; be patient.")
            return (made, True), ()  # a trigger has noted it for the endpoints of webhooks

        report, is_new = await self._transactions.run(write)
        return store.own(report), is_new

    async def list_own(self, caller: Caller, limit: int, cursor: str | None) -> tuple[Sequence[OwnReport], str | None]:
        """Return what the caller has reported, the oldest first."""
        after = page_cursors.decode_id(cursor)
        async with self._pool.connection() as conn:
            found = await store.list_own_reports(conn, caller.user_id, after=after, limit=limit + 1)
        items = found[:limit]
        return items, page_cursors.encode_id(items[-1].id) if len(found) > limit else None

    # -- by moderators --------------------------------------------------------------------------

    async def list(
        self,
        caller: Caller | None,
        limit: int,
        cursor: str | None,
        *,
        state: ReportState | None = None,
        user_id: UUID | None = None,
    ) -> tuple[Sequence[FullReport], str | None]:
        """Return reports, the oldest first, without those about the caller. A caller of None is an operator."""
        after = page_cursors.decode_id(cursor)
        viewer_id = None if caller is None else caller.user_id
        async with self._pool.connection() as conn:
            await require_role(conn, caller, UserRole.MODERATOR)
            found = await store.list_reports(
                conn, viewer_id, state=state, user_id=user_id, after=after, limit=limit + 1
            )
        items = found[:limit]
        return items, page_cursors.encode_id(items[-1].id) if len(found) > limit else None

    async def backlog(self) -> Backlog:
        """Return how many reports are open, and how old the oldest is. For the process itself. Raises StoreError."""
        async with self._pool.connection() as conn:
            waiting, oldest = await store.fetch_backlog(conn, MAX_COUNTED)
        return Backlog(waiting, 0.0 if oldest is None else max(0.0, time.time() - id_ms(oldest) / 1000))

    async def resolve(self, caller: Caller | None, report_id: UUID, request: ResolveReport) -> FullReport:
        """Decide on it, and do what is to be done, in one transaction. One that is resolved stays as it is, and nothing
        is done. Raises ChatError."""
        _check_text("note", request.note)
        until = end_of(request.until)
        try:
            act = None if request.act is None else ReportAct.parse(request.act)
        except ValueError:
            names = ", ".join(member.value for member in ReportAct)
            raise ChatError("invalid_request", f"The act is one of {names}.", errors={"act": names}) from None

        async def write(conn: Connection) -> tuple[FullReport, Sequence[Change], Personal | None]:
            await require_role(conn, caller, UserRole.MODERATOR)
            found = await store.fetch_report(conn, report_id)
            if found is None or (caller is not None and found.user_id == caller.user_id):
                raise permissions.not_found("report")
            if found.state is ReportState.RESOLVED:
                return found, (), None
            changes: Sequence[Change] = ()
            personal: Personal | None = None
            if act is not None:
                changes, personal = await _act(conn, caller, found, act, until)
            locked = await store.lock_report(conn, report_id)  # last: conversations and users come first
            if locked is None:
                raise permissions.not_found("report")
            if locked.state is ReportState.RESOLVED:
                raise _Resolved(locked)  # by another one, meanwhile: what was done here is taken back
            by = None if caller is None else caller.user_id
            resolved = await store.resolve_report(conn, report_id, by=by, note=request.note)
            await audit.insert_audit(
                conn,
                Act.REPORT_RESOLVED,
                by,
                user_id=found.user_id,
                conversation_id=found.conversation_id,
                object_id=report_id,
                detail=None if act is None else act.value,
            )
            return resolved, changes, personal

        try:
            return await self._transactions.run_both(write)
        except _Resolved as error:
            return error.report


class _Resolved(Exception):
    def __init__(self, report: FullReport) -> None:
        super().__init__(report.id)
        self.report = report


async def _act(
    conn: Connection, caller: Caller | None, report: FullReport, act: ReportAct, until: datetime
) -> tuple[Sequence[Change], Personal | None]:
    """Do it, to whom or what the report is about. Raises ChatError."""
    reason = f"report {report.id}"
    if act is ReportAct.BAN_USER:
        _, personal = await ban_user(conn, caller, report.user_id, until, reason)
        return (), personal
    if report.message_id is None or report.conversation_id is None:
        sentence = "for reports of a message"
        raise ChatError("invalid_request", f"{act.value} is {sentence}.", errors={"act": sentence})
    if act is ReportAct.DELETE_MESSAGE:
        return (await delete_message(conn, caller, report.message_id, reason),), None
    if caller is None:
        raise ChatError("invalid_request", "The members see who does this: it needs a moderator or an administrator.")
    what = (conn, caller, report.conversation_id, report.user_id, until, reason)
    return ((await mute_member(*what),) if act is ReportAct.MUTE_MEMBER else await keep_out(*what)), None


async def _seen(conn: Connection, caller: Caller, message_id: UUID) -> Message:
    """A message that the caller may see, and that somebody has written. Raises ChatError."""
    message = await messages.fetch_message(conn, message_id)
    if message is None:
        raise permissions.not_found("message")
    member = await conversations.fetch_member(conn, message.conversation_id, caller.user_id)
    permissions.require_member(member, "message")
    if message.type is MessageType.SYSTEM:
        raise ChatError("forbidden", "System messages cannot be reported.")
    if message.deleted_at is not None:
        raise ChatError("gone", "The message was deleted.")
    return message


def _check_text(field: str, text: str | None) -> None:
    if text is not None and not (len(text) <= MAX_COMMENT and text_rules.fits(text_rules.DESCRIPTION, text)):
        sentence = f"printable text of at most {MAX_COMMENT} characters, in any number of lines"
        raise ChatError("invalid_request", f"The {field} is {sentence}.", errors={field: sentence})
