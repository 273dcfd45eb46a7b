"""A database in memory: its tables, transactions over them, and the moment at which it goes away.

Owns also how a function stands for one of `store.postgres`. One with `@stands_for` has the parameters of the function
in whose place it is called (looked at when its module is imported), and each call of it is a step at which a test can
let the database fail. They are in `tests.handlers.fakes`.
"""

import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from copy import copy
from typing import Any, TypeVar, cast
from uuid import UUID

import msgspec
import pytest
import trio
from msgspec import Struct
from msgspec.structs import replace

from store.errors import StoreError, Unavailable
from store.ids import new_id, now_timestamp
from store.model import (
    Account,
    AuditEntry,
    Change,
    Conversation,
    ConversationSettings,
    DeadLetter,
    FullReport,
    JoinLink,
    Member,
    MemberBan,
    Message,
    MessageStatus,
    MessageType,
    Notifications,
    Reaction,
    Role,
    Session,
    ThreadState,
    ThreadSummary,
    UserRole,
    UserStanding,
    Webhook,
)
from store.postgres import (
    api_keys,
    conversations,
    external_ids,
    privacy,
)
from store.postgres.connection import Connection
from store.postgres.conversations import Head
from store.postgres.files import File
from store.redis.inbox_entries import Personal

NOTHING_SET = ConversationSettings(False, False, Notifications(None), 0)
NOW = "2026-01-01T00:00:00.000Z"
EXPIRES = 1e12
F = TypeVar("F", bound=Callable[..., object])


class SessionRow(Struct, frozen=True):
    session: Session
    user_id: UUID
    token_hash: bytes
    rotated_ago: float | None = None
    token_number: int = 0
    is_live: bool = True


class ThreadRow(Struct, frozen=True):
    """What one user has to do with a thread."""

    is_following: bool
    read_seq: int
    version: int = 0


class Tables:
    """Rows are immutable, so that a copy of the tables is what they were."""

    def __init__(self) -> None:
        self.users: dict[UUID, Account] = {}
        self.deleted: dict[UUID, None] = {}
        self.identities: dict[tuple[str, str], UUID] = {}
        self.external_ids: dict[str, external_ids.Owner] = {}
        self.api_keys: dict[UUID, tuple[api_keys.Presented, bytes]] = {}  # with the hash of the secret
        self.noted: dict[UUID, int] = {}  # how often, by key
        self.roles: dict[UUID, UserRole] = {}
        self.bans: dict[UUID, str] = {}  # until when; a time in the past is no ban any more
        self.audit: dict[UUID, AuditEntry] = {}
        self.reports: dict[UUID, FullReport] = {}
        self.blocks: dict[tuple[UUID, UUID], int] = {}  # the version, by who has blocked whom
        self.privacy: dict[UUID, privacy.Chosen] = {}
        self.sessions: dict[UUID, SessionRow] = {}
        self.creations: dict[tuple[UUID, str], tuple[bytes, UUID]] = {}
        self.conversations: dict[UUID, Head] = {}  # those dissolved stay, without members
        self.dissolved: dict[UUID, None] = {}
        self.floors: dict[UUID, int] = {}
        self.members: dict[tuple[UUID, UUID], Member] = {}
        self.muted: dict[tuple[UUID, UUID], str | None] = {}  # until when; None: for ever
        self.kept_out: dict[tuple[UUID, UUID], MemberBan] = {}
        self.messages: dict[UUID, Message] = {}
        self.reactions: dict[tuple[UUID, UUID, str], UUID] = {}  # by message, user and emoji
        self.unshown: dict[UUID, None] = {}  # roots that do not show all of their replies
        self.threads: dict[tuple[UUID, UUID], ThreadRow] = {}  # by user and root
        self.searched: dict[UUID, str] = {}  # contents that the search has, where they are others
        self.files: dict[UUID, File] = {}
        self.settings: dict[tuple[UUID, UUID], ConversationSettings] = {}
        self.settings_versions = 0
        self.links: dict[bytes, JoinLink] = {}  # by the hash of their token; those of before 2020 have expired
        self.webhooks: dict[UUID, Webhook] = {}
        self.webhook_secrets: dict[UUID, tuple[bytes, ...]] = {}  # the newest first, as they are kept
        self.letters: dict[UUID, tuple[DeadLetter, ...]] = {}  # by webhook, the oldest first
        self.outbox: tuple[tuple[tuple[Change, ...], Personal | None], ...] = ()

    def copy(self) -> dict[str, Any]:
        return {name: copy(table) for name, table in vars(self).items()}

    def restore(self, before: Mapping[str, Any]) -> None:
        vars(self).update({name: copy(table) for name, table in before.items()})

    def members_of(self, conversation_id: UUID) -> list[Member]:
        found = [member for (its, _), member in self.members.items() if its == conversation_id]
        return sorted(found, key=lambda member: member.user_id.bytes)

    def say(self, conversation_id: UUID, by: UUID, content: str, kind: MessageType = MessageType.TEXT) -> Message:
        head = self.conversations[conversation_id]
        self.conversations[conversation_id] = replace(head, last_seq=head.last_seq + 1)
        said = message_at(head.last_seq + 1, conversation_id, by, content, kind)
        self.messages[said.id] = said
        return said

    def announce(
        self, conversation_id: UUID, by: UUID, added: Collection[UUID] = (), removed: Collection[UUID] = ()
    ) -> Change:
        said = self.say(conversation_id, by, "", MessageType.SYSTEM)
        return Change(conversation_id, said.seq, said, created=True, added=tuple(added), removed=tuple(removed))

    def change(self, message: Message) -> Change:
        head = self.conversations[message.conversation_id]
        self.conversations[head.id] = replace(head, last_seq=head.last_seq + 1)
        self.messages[message.id] = changed = replace(message, changed_seq=head.last_seq + 1)
        return Change(head.id, changed.changed_seq, changed, created=False)

    def show_reactions(self, message_id: UUID) -> Change:
        found: dict[str, list[UUID]] = {}
        for (its, user_id, emoji), _ in sorted(self.reactions.items(), key=lambda item: item[1].bytes):
            if its == message_id:
                found.setdefault(emoji, []).append(user_id)
        shown = tuple(Reaction(emoji, len(users), tuple(users[:10])) for emoji, users in found.items())
        return self.change(replace(self.messages[message_id], reactions=shown, changed_at=NOW))

    def replies(self, root_id: UUID) -> list[Message]:
        found = [one for one in self.messages.values() if one.thread_id == root_id and one.deleted_at is None]
        return sorted(found, key=lambda one: one.seq)

    def summary(self, root_id: UUID) -> ThreadSummary | None:
        found = self.replies(root_id)
        people = tuple(dict.fromkeys(one.sender_id for one in found))
        return ThreadSummary(len(found), found[-1].created_at, people[:10]) if found else None

    def state_of(self, user_id: UUID, root_id: UUID) -> ThreadState | None:
        row, root = self.threads.get((user_id, root_id)), self.messages[root_id]
        if row is None or (root.conversation_id, user_id) not in self.members:
            return None
        found = self.replies(root_id)
        unread = sum(one.seq > row.read_seq for one in found) if row.is_following else 0
        last = found[-1].seq if found else 0
        return ThreadState(root_id, root.conversation_id, row.is_following, row.read_seq, unread, last, row.version)

    def set_thread(self, user_id: UUID, root_id: UUID, is_following: bool, read_seq: int) -> None:
        self.settings_versions += 1
        self.threads[user_id, root_id] = ThreadRow(is_following, read_seq, self.settings_versions)

    def join(self, conversation_id: UUID, user_id: UUID, role: Role) -> None:
        if user_id not in self.users:
            raise conversations.UnknownUser(str(user_id))
        self.members[conversation_id, user_id] = Member(user_id, role, NOW, 0, 0)

    def view(self, conversation_id: UUID, viewer_id: UUID, shown: int = 100) -> Conversation | None:
        head = self.conversations.get(conversation_id)
        if head is None or (conversation_id, viewer_id) not in self.members:
            return None
        found = self.members_of(conversation_id)
        return Conversation(
            head.id,
            head.type,
            head.name,
            head.created_by,
            NOW,
            head.last_seq,
            None,
            0,
            0,
            len(found),
            tuple(found[:shown]),
            self.settings_of(conversation_id, viewer_id),
            **msgspec.structs.asdict(head.details),
        )

    def ban_of(self, user_id: UUID) -> str | None:
        until = self.bans.get(user_id)
        return until if until is not None and until > now_timestamp() else None

    def standing_of(self, user_id: UUID) -> UserStanding | None:
        if user_id not in self.users:
            return None
        return UserStanding(user_id, self.roles.get(user_id, UserRole.USER), self.ban_of(user_id))

    def settings_of(self, conversation_id: UUID, user_id: UUID) -> ConversationSettings:
        return self.settings.get((conversation_id, user_id), NOTHING_SET)


def message_at(
    seq: int,
    conversation_id: UUID,
    by: UUID,
    content: str,
    kind: MessageType = MessageType.TEXT,
    deleted: str | None = None,
) -> Message:
    return Message(
        id=new_id(),
        conversation_id=conversation_id,
        seq=seq,
        changed_seq=seq,
        sender_id=by,
        type=kind,
        content=content,
        file=None,
        reply_to_id=None,
        client_message_id=None,
        created_at=NOW,
        edited_at=None,
        deleted_at=deleted,
        status=MessageStatus.SENT,
    )


class Database:
    """A pool of it. From step number `fails_at` on it is away, or only in that step if it comes back (`blinks`)."""

    is_reachable = True

    def __init__(self) -> None:
        self.tables = Tables()
        self.steps: list[str] = []
        self.fails_at = 0
        self.blinks = False
        self.error: StoreError = Unavailable("away")

    async def step(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self.steps.append(name)
        at = len(self.steps)
        if self.fails_at and (at == self.fails_at if self.blinks else at >= self.fails_at):
            raise self.error

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        await self.step("connection")
        yield cast(Connection, Lent(self))


class Lent:
    """A connection, as far as handlers use it themselves."""

    closed = False

    def __init__(self, database: Database) -> None:
        self.database = database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        before = self.database.tables.copy()
        try:
            yield
            await self.database.step("commit")
        except BaseException:
            self.database.tables.restore(before)
            raise


_fakes: list[tuple[Callable[..., object], Callable[..., Awaitable[object]]]] = []


def stands_for(real: Callable[..., object]) -> Callable[[F], F]:
    """Call this one, with the tables in place of the connection."""

    def register(fake: F) -> F:
        theirs, ours = (list(inspect.signature(one).parameters.values())[1:] for one in (real, fake))
        shapes = [[(one.name, one.kind, one.default) for one in found] for found in (theirs, ours)]
        assert shapes[0] == shapes[1], f"{real.__module__}.{real.__name__} has other parameters: {shapes[0]}"

        async def call(conn: Lent, *args: Any, **options: Any) -> object:
            await conn.database.step(real.__name__)
            return fake(conn.database.tables, *args, **options)

        _fakes.append((real, call))
        return fake

    return register


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the fakes in the place of the functions, wherever handlers have them."""
    handlers = [module for name, module in sys.modules.items() if name.startswith("handlers.")]
    for real, fake in _fakes:
        for module in (sys.modules[real.__module__], *handlers):
            if vars(module).get(real.__name__) is real:
                monkeypatch.setattr(module, real.__name__, fake)
