"""A database in memory for the handlers, which need no PostgreSQL to decide who may do what.

Owns the tables, transactions over them, and the moment at which the database goes away. A function with
`@stands_for` has the parameters of the one of `store.postgres` in whose place it is called (looked at when this module
is imported), and each call of it is a step at which a test can let the database fail.
"""

import inspect
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from datetime import datetime
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

import msgspec
import pytest
import trio
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from handlers.accounts import Accounts
from handlers.api_keys import ApiKeys
from handlers.blocks import Blocks
from handlers.conversations import Conversations
from handlers.errors import ChatError
from handlers.files import Files
from handlers.groups import Groups
from handlers.member_moderation import MemberModeration
from handlers.messages import Messages
from handlers.model import Caller, CreateMessage
from handlers.moderation import Moderation
from handlers.ports import Connections
from handlers.presence import Presence
from handlers.provisioning import Provisioning
from handlers.rate_limits import Limiter, Rate
from handlers.reactions import Reactions
from handlers.receipts import Receipts
from handlers.refresh_tokens import RefreshTokens
from handlers.reports import Reports
from handlers.search import Search
from handlers.sync import Sync
from handlers.threads import Threads
from handlers.transactions import Transactions
from handlers.users import Users
from handlers.webhooks import Rules, Webhooks
from store import model, names
from store import receipts as receipt_store
from store.errors import StoreError, Unavailable
from store.ids import epoch_ms, id_floor, new_id, now_timestamp, octets, timestamp, timestamp_ms
from store.model import (
    Account,
    AuditEntry,
    Block,
    Change,
    Conversation,
    ConversationSettings,
    ConversationType,
    DeadLetter,
    FileInfo,
    FullReport,
    GroupDetails,
    JoinLink,
    Member,
    MemberBan,
    MemberCursor,
    Message,
    MessageStatus,
    MessageType,
    Notifications,
    OwnReport,
    Privacy,
    PublicGroup,
    Reaction,
    ReportCategory,
    ReportState,
    Role,
    Session,
    ThreadState,
    ThreadSummary,
    UnreadTotals,
    User,
    UserRole,
    UserStanding,
    UserStatus,
    Webhook,
    WebhookState,
)
from store.objects import UploadUrl, new_trouble
from store.positions import pack
from store.postgres import (
    accounts,
    api_keys,
    audit,
    blocks,
    conversation_views,
    conversations,
    cursors,
    external_ids,
    files,
    idempotency,
    join_links,
    member_bans,
    mentions,
    messages,
    moderation,
    outbox,
    privacy,
    public_groups,
    reactions,
    reports,
    search,
    threads,
    users,
    webhooks,
)
from store.postgres.appends import Append
from store.postgres.connection import Connection
from store.postgres.conversations import Head
from store.postgres.files import Facts, File, Storage
from store.redis.inbox_entries import BlockNotice, Personal, Receipt
from store.search_text import Query
from store.signing import SigningKeys

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


class Publisher:
    def __init__(self) -> None:
        self.published: list[tuple[tuple[Change, ...], Personal | None]] = []
        self.doubts: list[UUID] = []

    def publish(self, changes: Sequence[Change], personal: Personal | None = None) -> None:
        self.published.append((tuple(changes), personal))

    def doubt(self, conversation_ids: Collection[UUID]) -> None:
        self.doubts += conversation_ids

    @property
    def changes(self) -> list[Change]:
        return [change for changes, _ in self.published for change in changes]


class Connected:
    """Who is connected. Redis may be away."""

    def __init__(self) -> None:
        self.there: set[UUID] = set()
        self.is_away = False
        self.changed: list[UUID] = []
        self.hidden: list[tuple[UUID, Privacy, int]] = []
        self.blocked: list[BlockNotice] = []

    async def online(self, user_ids: Collection[UUID]) -> set[UUID]:
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise Unavailable("away")
        return self.there & set(user_ids)

    def status_changed(self, user_id: UUID) -> None:
        self.changed.append(user_id)

    def block_changed(self, notice: BlockNotice) -> None:
        self.blocked.append(notice)

    def privacy_changed(self, user_id: UUID, privacy: Privacy, version: int) -> None:
        self.hidden.append((user_id, privacy, version))


class DurableReceipts:
    """Receipts are durable at once, or refused with `error`."""

    def __init__(self) -> None:
        self.offered: list[Receipt] = []
        self.error: StoreError | None = None

    def offer(self, receipt: Receipt, done: Callable[[StoreError | None], None] | None = None) -> None:
        self.offered.append(receipt)
        if done is not None:
            done(self.error)


class ObjectStore:
    """Objects by key. Each method is a step of the database's, so that it goes away with it."""

    def __init__(self, database: Database) -> None:
        self.kept: dict[str, bytes] = {}
        self.used_up: list[str] = []
        self.trouble = new_trouble()
        self._database = database

    async def write(self, key: str, chunks: AsyncIterable[bytes], content_type: str) -> None:
        await self._database.step("write")
        self.kept[key] = b"".join([chunk async for chunk in chunks])

    async def size(self, key: str) -> int | None:
        await self._database.step("size")
        return len(self.kept[key]) if key in self.kept else None

    async def read(self, key: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        await self._database.step("read")
        if key not in self.kept:
            raise FileNotFoundError(key)
        yield self.kept[key][start:][:length]

    async def copy(self, source: str, target: str) -> None:
        await self._database.step("copy")
        if source not in self.kept:
            raise FileNotFoundError(source)
        self.kept[target] = self.kept[source]

    async def delete(self, key: str) -> None:
        await self._database.step("delete")
        self.kept.pop(key, None)

    async def use_up(self, key: str) -> None:
        await self._database.step("use_up")
        self.kept.pop(key, None)
        self.used_up.append(key)

    async def list_before(self, when: datetime) -> AsyncIterator[str]:
        await self._database.step("list_before")
        for key in list(self.kept):
            yield key

    async def upload_url(self, key: str, *, content_type: str, size: int, seconds: int) -> UploadUrl:
        await self._database.step("upload_url")
        return UploadUrl(f"/put/{key}", {"Content-Type": content_type, "Content-Length": str(size)})

    async def download_url(self, key: str, *, name: str, content_type: str, seconds: int) -> str:
        await self._database.step("download_url")
        return f"/get/{key}"

    async def check(self) -> None:
        await self._database.step("check")


class Lanes:
    """Writes each message at once; `refusals` are answered instead, one each."""

    def __init__(self, database: Database) -> None:
        self.offered: list[Append] = []
        self.refusals: list[Exception] = []
        self._database = database

    def offer(self, append: Append) -> None:
        self.offered.append(append)
        if self.refusals:
            append.done(self.refusals.pop(0))  # type: ignore[arg-type]  # any outcome, also what no lane gives
            return
        tables = self._database.tables
        for found in tables.messages.values():
            same = append.client_message_id is not None and found.client_message_id == append.client_message_id
            if same and found.sender_id == append.sender_id:
                append.done(found)
                return
        said = tables.say(append.conversation_id, append.sender_id, append.content, append.type)
        kept = replace(
            said,
            client_message_id=append.client_message_id,
            reply_to_id=append.reply_to_id,
            mentions=append.mentions,
            mention_all=append.all_up_to is not None,
            thread_id=append.thread_id,
            also_in_conversation=append.also_in_conversation,
        )
        tables.messages[kept.id] = kept
        if kept.thread_id is not None:
            tables.unshown[kept.thread_id] = None
            tables.threads[kept.sender_id, kept.thread_id] = ThreadRow(True, kept.seq)
        append.done(kept)


class Memory:
    """Handlers over a database of their own, and people in it."""

    def __init__(
        self, *, admits: bool = True, max_bytes: int = 1000, quota: int = 10_000, max_message_bytes: int = 100
    ) -> None:
        self.database = Database()
        self.publisher = Publisher()
        self.connected = Connected()
        self.durable = DurableReceipts()
        self.objects = ObjectStore(self.database)
        self.lanes = Lanes(self.database)
        self.keys = SigningKeys("a key")
        pool: Connections = self.database
        self.transactions = Transactions(pool, self.publisher)
        self.conversations = Conversations(pool, self.transactions)
        self.groups = Groups(pool, self.transactions, self.conversations)
        self.users = Users(pool, self.transactions, self.connected)
        self.refresh_tokens = RefreshTokens(self.keys)
        self.accounts = Accounts(
            pool,
            self.transactions,
            self.refresh_tokens,
            lambda user, session, seconds: (f"{user}.{session}", seconds or 60),
            admits=admits,
        )
        self.provisioning = Provisioning(pool, self.transactions)
        self.api_keys = ApiKeys(pool)
        self.sends: Limiter[UUID] = Limiter(None, "messages")
        self.messages = Messages(
            pool, self.lanes, self.transactions, self.sends, max_message_bytes=max_message_bytes, mention_all_up_to=2
        )
        self.reactions = Reactions(pool, self.transactions, self.sends)
        self.threads = Threads(pool, lambda: self.transactions)
        self.searches: Limiter[UUID] = Limiter(Rate(100, 10.0), "searches")
        self.search = Search(pool, self.searches)
        self.files = Files(
            pool,
            self.transactions,
            self.objects,
            max_bytes=max_bytes,
            quota=quota,
            types=("text/plain", "image/png"),
        )
        self.receipts = Receipts(pool, self.durable)
        self.blocks = Blocks(pool, self.connected)
        self.reporting: Limiter[UUID] = Limiter(None, "reports")
        self.reports = Reports(pool, self.transactions, self.reporting)
        self.member_moderation = MemberModeration(pool, self.transactions)
        self.moderation = Moderation(pool, self.transactions)
        self.presence = Presence(pool)
        self.webhooks = Webhooks(pool, self.keys, Rules(("inner.example",)))
        self.sync = Sync(pool)

    @property
    def tables(self) -> Tables:
        return self.database.tables

    def user(self, name: str = "") -> Caller:
        user_id = new_id()
        name = name or f"user-{len(self.tables.users)}"
        self.tables.users[user_id] = Account(
            user_id, name, name, None, UserStatus.ONLINE, None, None, NOW, None, email=None
        )
        return Caller(user_id, EXPIRES)

    def group(self, *members: tuple[Caller, Role], kind: ConversationType = ConversationType.GROUP) -> UUID:
        conversation_id = new_id()
        self.tables.conversations[conversation_id] = Head(conversation_id, kind, "a name", None, 0, 0)
        for member, role in members:
            self.tables.join(conversation_id, member.user_id, role)
        return conversation_id

    def direct(self, one: Caller, other: Caller) -> UUID:
        return self.group((one, Role.MEMBER), (other, Role.MEMBER), kind=ConversationType.DIRECT)

    def say(self, conversation_id: UUID, by: Caller, content: str = "hello") -> Message:
        return self.tables.say(conversation_id, by.user_id, content)

    async def send(self, caller: Caller, conversation_id: UUID, content: str = "hello", **options: Any) -> Message:
        return await self.messages.send(caller, CreateMessage(conversation_id, content, **options))


async def refused(memory: Memory, act: Awaitable[object]) -> ChatError:
    """It is refused, nothing is written, and no instance hears of anything."""
    before = memory.tables.copy()
    with pytest.raises(ChatError) as caught:
        await act
    assert memory.tables.copy() == before and memory.publisher.published == []
    return caught.value


Act = Callable[[], Awaitable[object]]
Arrange = Callable[["Memory"], Awaitable[Act]]


class Failed(NamedTuple):
    """At which step, what is left, what was there before; and `act` does it again."""

    step: str
    memory: Memory
    before: dict[str, Any]
    act: Act


async def at_every_step(arrange: Arrange) -> list[Failed]:
    """Do it as often as it has steps: the database is away at the first, at the second, and so on; then once more each,
    and it is back at the next step. Return those that failed."""
    found = []
    for blinks in (False, True):
        for number in range(1, 1000):
            memory = Memory()
            act = await arrange(memory)
            before = memory.tables.copy()
            memory.database.steps.clear()
            memory.database.fails_at, memory.database.blinks = number, blinks
            try:
                await act()
            except Exception as error:  # noqa: BLE001  # which one it is, is looked at below
                assert isinstance(error, StoreError) or getattr(error, "code", "") == "unavailable", repr(error)
                found.append(Failed(memory.database.steps[number - 1], memory, before, act))
            else:
                if len(memory.database.steps) < number:
                    break
    assert found
    return found


async def nothing_half_done(arrange: Arrange) -> None:
    """Wherever it fails: all of it is there and published, or nothing."""
    for step, memory, before, _ in await at_every_step(arrange):
        if memory.tables.copy() == before:
            assert memory.publisher.published == [], step
        else:
            assert memory.tables.outbox[len(before["outbox"]) :] == tuple(memory.publisher.published) != (), step


# -- in place of store.postgres.conversations -------------------------------------------------


@stands_for(conversations.lock_conversation)
def _lock_conversation(tables: Tables, conversation_id: UUID) -> Head | None:
    head = None if conversation_id in tables.dissolved else tables.conversations.get(conversation_id)
    return None if head is None else replace(head, member_count=len(tables.members_of(conversation_id)))


@stands_for(conversation_views.fetch_conversation)
def _fetch_conversation(tables: Tables, conversation_id: UUID, viewer_id: UUID) -> Conversation | None:
    return tables.view(conversation_id, viewer_id)


@stands_for(conversation_views.list_views)
def _list_views(tables: Tables, conversation_id: UUID, viewer_ids: Collection[UUID]) -> dict[UUID, Conversation]:
    views = {viewer_id: tables.view(conversation_id, viewer_id) for viewer_id in viewer_ids}
    return {viewer_id: view for viewer_id, view in views.items() if view}


@stands_for(conversation_views.list_conversations)
def _list_conversations(
    tables: Tables,
    viewer_id: UUID,
    *,
    limit: int = 50,
    position: conversation_views.Position | None = None,
    members: int = conversation_views.MEMBERS_LISTED,
    only: conversation_views.Filter = conversation_views.ALL,
) -> tuple[list[Conversation], conversation_views.Position | None]:
    found = [
        view
        for one in reversed(tables.conversations)
        if (view := tables.view(one, viewer_id, members))
        and only.archived in (None, view.settings.archived)
        and only.favourite in (None, view.settings.favourite)
    ]
    start = position.number if position else 0
    end = start + limit
    more = conversation_views.Position(end, found[end - 1].id, 0) if len(found) > end else None
    return found[start:end], more


@stands_for(search.find)
def _find(
    tables: Tables, scope: search.Scope, query: Query, before: UUID | None, limit: int, *, is_first: bool
) -> search.Found:
    """In messages as they were said first, as if no edit or deletion were brought in."""
    ids = [
        one.id
        for one in sorted(tables.messages.values(), key=lambda one: one.id, reverse=True)
        if (before is None or one.id < before)
        and scope.conversation_id in (None, one.conversation_id)
        and query.find(tables.searched.get(one.id, one.content)) is not None
    ]
    return search.Found(ids[:limit], None)


@stands_for(search.list_seen)
def _list_seen(tables: Tables, user_id: UUID, ids: Sequence[UUID]) -> list[Message]:
    found = [tables.messages[one] for one in ids]
    return [one for one in found if not one.deleted_at and (one.conversation_id, user_id) in tables.members]


@stands_for(conversations.fetch_member)
def _fetch_member(tables: Tables, conversation_id: UUID, user_id: UUID) -> Member | None:
    return tables.members.get((conversation_id, user_id))


@stands_for(conversations.fetch_unread_totals)
def _fetch_unread_totals(tables: Tables, user_id: UUID) -> UnreadTotals:
    mine = {its: member for (its, member_id), member in tables.members.items() if member_id == user_id}
    unread = [
        one
        for one in tables.messages.values()
        if one.conversation_id in mine and one.seq > mine[one.conversation_id].read_seq and one.sender_id != user_id
    ]
    mentions = sum(one.mention_all or user_id in one.mentions for one in unread)
    return UnreadTotals(len(unread), len({one.conversation_id for one in unread}), 0, 0, False, mentions)


@stands_for(conversations.list_members)
def _list_members(
    tables: Tables, conversation_id: UUID, viewer_id: UUID, *, after: UUID | None = None, limit: int = 100
) -> list[Member]:
    found = [one for one in tables.members_of(conversation_id) if after is None or one.user_id.bytes > after.bytes]
    return found[:limit]


@stands_for(conversations.list_cursors)
def _list_cursors(tables: Tables, conversation_id: UUID, viewer_id: UUID, limit: int = 100) -> tuple[MemberCursor, ...]:
    found = tables.members_of(conversation_id)[:limit]
    return tuple(MemberCursor(one.user_id, one.delivered_seq, one.read_seq) for one in found)


@stands_for(conversations.list_memberships)
def _list_memberships(tables: Tables, user_ids: Collection[UUID]) -> dict[UUID, list[UUID]]:
    found: dict[UUID, list[UUID]] = {}
    for conversation_id, user_id in tables.members:
        if user_id in user_ids:
            found.setdefault(user_id, []).append(conversation_id)
    return found


@stands_for(cursors.pack_positions)
def _pack_positions(tables: Tables, conversation_ids: Sequence[bytes]) -> bytes:
    heads = _fetch_heads(tables, [UUID(bytes=one) for one in conversation_ids])
    return pack({key: model.Position(model.Cursor(head)) for key, head in heads.items()})


@stands_for(cursors.pack_memberships)
def _pack_memberships(tables: Tables, user_ids: Collection[UUID]) -> dict[UUID, bytes]:
    return {key: _pack_positions(tables, octets(mine)) for key, mine in _list_memberships(tables, user_ids).items()}


@stands_for(conversations.list_audiences)
def _list_audiences(tables: Tables, user_ids: Collection[UUID], most: int) -> dict[UUID, list[UUID]]:
    found = _list_memberships(tables, user_ids)
    return {
        user_id: [one for one in found.get(user_id, []) if len(tables.members_of(one)) <= most] for user_id in user_ids
    }


@stands_for(conversations.fetch_watermark)
def _fetch_floor(tables: Tables, conversation_id: UUID) -> int:
    return tables.floors.get(conversation_id, 0)


@stands_for(conversations.fetch_heads)
def _fetch_heads(tables: Tables, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
    return {one: tables.conversations[one].last_seq for one in conversation_ids if one in tables.conversations}


@stands_for(conversations.count_owners)
def _count_owners(tables: Tables, conversation_id: UUID) -> int:
    return sum(member.role is Role.OWNER for member in tables.members_of(conversation_id))


@stands_for(conversations.insert_direct)
def _insert_direct(
    tables: Tables, creator_id: UUID, other_id: UUID, *, conversation_id: UUID | None = None
) -> tuple[Conversation, Change | None]:
    pair = {creator_id, other_id}
    for head in tables.conversations.values():
        members = {member.user_id for member in tables.members_of(head.id)}
        if head.type is ConversationType.DIRECT and members == pair and (view := tables.view(head.id, creator_id)):
            return view, None
    return _insert_conversation(tables, ConversationType.DIRECT, creator_id, None, [other_id], conversation_id)


@stands_for(conversations.insert_group)
def _insert_group(
    tables: Tables,
    creator_id: UUID,
    name: str | None,
    member_ids: Collection[UUID],
    *,
    conversation_id: UUID | None = None,
) -> tuple[Conversation, Change]:
    return _insert_conversation(tables, ConversationType.GROUP, creator_id, name, member_ids, conversation_id)


def _insert_conversation(
    tables: Tables,
    kind: ConversationType,
    creator_id: UUID,
    name: str | None,
    others: Collection[UUID],
    conversation_id: UUID | None,
) -> tuple[Conversation, Change]:
    before = tables.copy()
    made = conversation_id or new_id()
    tables.conversations[made] = Head(made, kind, name, creator_id, 0, 0)
    try:
        for user_id in others:
            tables.join(made, user_id, Role.MEMBER)
        tables.join(made, creator_id, Role.OWNER if kind is ConversationType.GROUP else Role.MEMBER)
    except conversations.UnknownUser:
        tables.restore(before)
        raise
    change = tables.announce(made, creator_id, added=[creator_id, *others])
    view = tables.view(made, creator_id)
    assert view is not None
    return view, change


@stands_for(conversations.update_title)
def _update_title(tables: Tables, conversation_id: UUID, name: str, *, by: UUID) -> Change:
    tables.conversations[conversation_id] = replace(tables.conversations[conversation_id], name=name)
    return tables.announce(conversation_id, by)


@stands_for(conversations.update_details)
def _update_details(
    tables: Tables, conversation_id: UUID, before: GroupDetails, after: GroupDetails, *, by: UUID
) -> Change:
    head = tables.conversations[conversation_id]
    assert head.details == before
    tables.conversations[conversation_id] = replace(head, details=after)
    return tables.announce(conversation_id, by)


@stands_for(conversations.list_roll)
def _list_roll(tables: Tables, conversation_id: UUID, user_id: UUID) -> conversations.Roll | None:
    return None


@stands_for(conversations.delete_conversation)
def _delete_conversation(
    tables: Tables, conversation_id: UUID, *, by: UUID, roll: conversations.Roll | None = None
) -> Change:
    gone = [member.user_id for member in tables.members_of(conversation_id)]
    for user_id in gone:
        del tables.members[conversation_id, user_id]
    tables.dissolved[conversation_id] = None
    return replace(tables.announce(conversation_id, by, removed=gone), dissolved=True)


@stands_for(conversations.forget_members)
def _forget_members(tables: Tables, conversation_id: UUID | None, limit: int = conversations.FORGOTTEN) -> int | None:
    return None


@stands_for(conversations.insert_member)
def _insert_member(tables: Tables, conversation_id: UUID, user_id: UUID, role: Role, *, by: UUID) -> Change:
    if (conversation_id, user_id) in tables.members:
        raise conversations.AlreadyMember
    tables.join(conversation_id, user_id, role)
    return tables.announce(conversation_id, by, added=[user_id])


@stands_for(conversations.fetch_mute)
def _fetch_mute(tables: Tables, conversation_id: UUID, user_id: UUID) -> str | None:
    if (conversation_id, user_id) not in tables.muted:
        return None
    return tables.muted[conversation_id, user_id] or model.FOR_EVER


@stands_for(conversations.update_mute)
def _update_mute(tables: Tables, conversation_id: UUID, user_id: UUID, until: datetime | None, *, by: UUID) -> Change:
    tables.muted.pop((conversation_id, user_id), None)
    if until is not None:
        tables.muted[conversation_id, user_id] = timestamp(epoch_ms(until))
    return tables.announce(conversation_id, by)


@stands_for(member_bans.put_ban)
def _put_ban(tables: Tables, conversation_id: UUID, user_id: UUID, until: datetime, *, by: UUID) -> None:
    tables.kept_out[conversation_id, user_id] = MemberBan(user_id, timestamp(epoch_ms(until)), by, NOW)


@stands_for(member_bans.delete_ban)
def _delete_ban(tables: Tables, conversation_id: UUID, user_id: UUID) -> bool:
    return tables.kept_out.pop((conversation_id, user_id), None) is not None


@stands_for(member_bans.fetch_ban)
def _fetch_ban(tables: Tables, conversation_id: UUID, user_id: UUID) -> str | None:
    found = tables.kept_out.get((conversation_id, user_id))
    return None if found is None or found.until <= now_timestamp() else found.until


@stands_for(member_bans.list_bans)
def _list_bans(tables: Tables, conversation_id: UUID, *, after: UUID | None = None, limit: int) -> list[MemberBan]:
    found = [one for (its, _), one in tables.kept_out.items() if its == conversation_id]
    return sorted((one for one in found if after is None or one.user_id > after), key=lambda one: one.user_id)[:limit]


@stands_for(conversations.delete_member)
def _delete_member(
    tables: Tables, conversation_id: UUID, user_id: UUID, *, by: UUID, until: datetime | None = None
) -> Change:
    tables.muted.pop((conversation_id, user_id), None)
    del tables.members[conversation_id, user_id]
    tables.settings.pop((conversation_id, user_id), None)
    return tables.announce(conversation_id, by, removed=[user_id])


@stands_for(conversations.update_role)
def _update_role(tables: Tables, conversation_id: UUID, user_id: UUID, role: Role, *, by: UUID) -> Change:
    tables.members[conversation_id, user_id] = replace(tables.members[conversation_id, user_id], role=role)
    return tables.announce(conversation_id, by)


@stands_for(conversations.update_settings)
def _update_settings(
    tables: Tables, conversation_id: UUID, user_id: UUID, update: conversations.SettingsUpdate
) -> tuple[ConversationSettings, bool]:
    if (conversation_id, user_id) not in tables.members:
        raise conversations.NotAMember
    before = tables.settings_of(conversation_id, user_id)
    muted_until = before.notifications.muted_until
    if update.sets_muted:
        muted_until = None if update.muted_until is None else timestamp(epoch_ms(update.muted_until))
    after = replace(
        before,
        archived=before.archived if update.archived is None else update.archived,
        favourite=before.favourite if update.favourite is None else update.favourite,
        notifications=Notifications(muted_until),
    )
    if after == before:
        return before, False
    tables.settings_versions += 1
    after = replace(after, version=tables.settings_versions)
    tables.settings[conversation_id, user_id] = after
    return after, True


@stands_for(conversations.list_standings)
def _list_standings(
    tables: Tables, views: Collection[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], conversations.Standing]:
    return {
        (user_id, conversation_id): conversations.Standing(0, 0, tables.settings_of(conversation_id, user_id).version)
        for user_id, conversation_id in views
        if (conversation_id, user_id) in tables.members
    }


@stands_for(conversations.list_settings_changed)
def _list_settings_changed(tables: Tables, user_ids: Collection[UUID], seconds: float) -> list[tuple[UUID, UUID]]:
    return [(user_id, conversation_id) for conversation_id, user_id in tables.settings if user_id in user_ids]


# -- in place of store.postgres.join_links ----------------------------------------------------


@stands_for(join_links.insert_link)
def _insert_link(
    tables: Tables,
    link_id: UUID,
    conversation_id: UUID,
    token_hash: bytes,
    *,
    by: UUID,
    seconds: int,
    max_uses: int | None,
) -> JoinLink:
    for token, link in list(tables.links.items()):
        if link.conversation_id == conversation_id and not _is_good(link):
            del tables.links[token]
    made = JoinLink(link_id, conversation_id, by, NOW, timestamp(seconds * 1000 + 4 * 10**12), max_uses, 0)
    tables.links[token_hash] = made
    return made


def _is_good(link: JoinLink) -> bool:
    return link.expires_at > "2020" and (link.max_uses is None or link.uses < link.max_uses)


@stands_for(join_links.update_token)
def _update_token(tables: Tables, conversation_id: UUID, link_id: UUID, token_hash: bytes) -> JoinLink | None:
    for token, link in list(tables.links.items()):
        if (link.conversation_id, link.id) == (conversation_id, link_id):
            del tables.links[token]
            tables.links[token_hash] = link
            return link
    return None


@stands_for(join_links.list_links)
def _list_links(tables: Tables, conversation_id: UUID, *, after: UUID | None, limit: int) -> list[JoinLink]:
    found = [one for one in tables.links.values() if one.conversation_id == conversation_id]
    return sorted((one for one in found if after is None or one.id.bytes > after.bytes), key=lambda one: one.id)[:limit]


@stands_for(join_links.count_links)
def _count_links(tables: Tables, conversation_id: UUID) -> int:
    return sum(one.conversation_id == conversation_id for one in tables.links.values())


@stands_for(join_links.find_link)
def _find_link(tables: Tables, token_hash: bytes) -> UUID | None:
    return tables.links[token_hash].conversation_id if token_hash in tables.links else None


@stands_for(join_links.use_link)
def _use_link(tables: Tables, token_hash: bytes) -> bool:
    link = tables.links.get(token_hash)
    if link is None or not _is_good(link):
        return False
    tables.links[token_hash] = replace(link, uses=link.uses + 1)
    return True


@stands_for(join_links.delete_link)
def _delete_link(tables: Tables, conversation_id: UUID, link_id: UUID) -> bool:
    for token, link in list(tables.links.items()):
        if (link.conversation_id, link.id) == (conversation_id, link_id):
            del tables.links[token]
            return True
    return False


# -- in place of store.postgres.webhooks ------------------------------------------------------


@stands_for(webhooks.insert_webhook)
def _insert_webhook(
    tables: Tables, webhook_id: UUID, url: str, events: Sequence[str], conversation_id: UUID | None, secret: bytes
) -> Webhook:
    made = Webhook(webhook_id, url, tuple(events), conversation_id, WebhookState.ACTIVE, NOW, None, None, None)
    tables.webhooks[webhook_id], tables.webhook_secrets[webhook_id] = made, (secret,)
    return made


@stands_for(webhooks.count_webhooks)
def _count_webhooks(tables: Tables) -> int:
    return len(tables.webhooks)


@stands_for(webhooks.list_webhooks)
def _list_webhooks(tables: Tables, *, after: UUID | None, limit: int) -> list[Webhook]:
    found = sorted(tables.webhooks.values(), key=lambda one: one.id)
    return [one for one in found if after is None or one.id > after][:limit]


@stands_for(webhooks.fetch_webhook)
def _fetch_webhook(tables: Tables, webhook_id: UUID) -> Webhook | None:
    return tables.webhooks.get(webhook_id)


@stands_for(webhooks.update_state)
def _update_webhook_state(tables: Tables, webhook_id: UUID, state: WebhookState) -> Webhook | None:
    if webhook_id not in tables.webhooks:
        return None
    tables.webhooks[webhook_id] = changed = replace(tables.webhooks[webhook_id], state=state)
    return changed


@stands_for(webhooks.rotate_secret)
def _rotate_secret(tables: Tables, webhook_id: UUID, secret: bytes, *, seconds: float) -> Webhook | None:
    if webhook_id not in tables.webhooks:
        return None
    tables.webhook_secrets[webhook_id] = (secret, *tables.webhook_secrets[webhook_id][:1])
    until = NOW if seconds else None
    tables.webhooks[webhook_id] = changed = replace(tables.webhooks[webhook_id], old_secret_until=until)
    return changed


@stands_for(webhooks.replace_secret)
def _replace_secret(tables: Tables, webhook_id: UUID, secret: bytes) -> Webhook | None:
    if webhook_id not in tables.webhooks:
        return None
    tables.webhook_secrets[webhook_id] = (secret, *tables.webhook_secrets[webhook_id][1:])
    return tables.webhooks[webhook_id]


@stands_for(webhooks.delete_webhook)
def _delete_webhook(tables: Tables, webhook_id: UUID) -> bool:
    return tables.webhooks.pop(webhook_id, None) is not None


@stands_for(webhooks.list_dead_letters)
def _list_dead_letters(tables: Tables, webhook_id: UUID, *, before: int, limit: int) -> list[tuple[int, DeadLetter]]:
    found = [(number, one) for number, one in enumerate(tables.letters.get(webhook_id, ())) if number < before]
    return found[::-1][:limit]


@stands_for(webhooks.replay_dead_letters)
def _replay_dead_letters(tables: Tables, webhook_id: UUID, ids: Sequence[str] | None) -> int:
    found = tables.letters.get(webhook_id, ())
    tables.letters[webhook_id] = tuple(replace(one, replaying=ids is None or one.id in ids) for one in found)
    return sum(one.replaying for one in tables.letters[webhook_id])


# -- in place of store.postgres.public_groups -------------------------------------------------


@stands_for(public_groups.list_groups)
def _list_groups(
    tables: Tables, query: str, *, limit: int = 50, position: public_groups.Position | None = None
) -> tuple[list[PublicGroup], public_groups.Position | None]:
    """By the beginning of their title alone."""
    heads = sorted(
        (str(one.name), one.id)
        for one in tables.conversations.values()
        if one.details.is_public and str(one.name).startswith(query) and one.id not in tables.dissolved
    )
    page = [public_groups.Position(*one) for one in heads if position is None or one > position][:limit]
    found = [
        PublicGroup(one.conversation_id, one.word, None, None, len(tables.members_of(one.conversation_id)))
        for one in page
    ]
    return found, page[-1] if page and page[-1] != heads[-1] else None


# -- in place of store.postgres.messages ------------------------------------------------------


@stands_for(messages.fetch_message)
def _fetch_message(tables: Tables, message_id: UUID) -> Message | None:
    return tables.messages.get(message_id)


@stands_for(messages.fetch_message_for)
def _fetch_message_for(
    tables: Tables, message_id: UUID, user_id: UUID, session_id: UUID | None
) -> tuple[messages.Standing, Message | None]:
    found = tables.messages.get(message_id)
    is_theirs = found is not None and (found.conversation_id, user_id) in tables.members
    return _fetch_standing(tables, user_id, session_id), found if is_theirs else None


@stands_for(messages.lock_message)
def _lock_message(tables: Tables, message_id: UUID) -> Message | None:
    return tables.messages.get(message_id)


@stands_for(messages.update_message)
def _update_message(tables: Tables, message_id: UUID, content: str) -> Change | None:
    return tables.change(replace(tables.messages[message_id], content=content, edited_at=NOW))


@stands_for(messages.delete_message)
def _delete_message(tables: Tables, message_id: UUID) -> Change | None:
    for key in [key for key in tables.reactions if key[0] == message_id]:
        del tables.reactions[key]
    before = tables.messages[message_id]
    if before.thread_id is not None:
        tables.unshown[before.thread_id] = None
    return tables.change(
        replace(
            before,
            content="",
            deleted_at=NOW,
            reactions=(),
            pinned_at=None,
            pinned_by=None,
            mentions=(),
            mention_all=False,
        )
    )


@stands_for(messages.pin_message)
def _pin_message(tables: Tables, message_id: UUID, user_id: UUID) -> Change | None:
    pinned_at = timestamp(1_700_000_000_000 + len(tables.outbox))
    return tables.change(replace(tables.messages[message_id], pinned_at=pinned_at, pinned_by=user_id))


@stands_for(messages.unpin_message)
def _unpin_message(tables: Tables, message_id: UUID) -> Change | None:
    return tables.change(replace(tables.messages[message_id], pinned_at=None, pinned_by=None))


@stands_for(messages.count_pins)
def _count_pins(tables: Tables, conversation_id: UUID) -> int:
    return len(_list_pins(tables, conversation_id, limit=1000))


@stands_for(messages.list_pins)
def _list_pins(
    tables: Tables,
    conversation_id: UUID,
    *,
    before: tuple[datetime, UUID] | None = None,
    limit: int = 50,
    max_bytes: int = messages.PAGE_BYTES,
) -> list[Message]:
    found = [one for one in tables.messages.values() if one.conversation_id == conversation_id and one.pinned_at]
    found.sort(key=lambda one: (one.pinned_at, one.id.bytes), reverse=True)
    places = [(datetime.fromisoformat(one.pinned_at or ""), one.id) for one in found]
    return [one for one, place in zip(found, places, strict=True) if before is None or place < before][:limit]


@stands_for(messages.list_messages_by_id)
def _list_messages_by_id(tables: Tables, message_ids: Collection[UUID]) -> list[Message]:
    found = [tables.messages[one] for one in message_ids if one in tables.messages]
    return sorted(found, key=lambda one: one.id, reverse=True)


@stands_for(mentions.list_strangers)
def _list_strangers(tables: Tables, conversation_id: UUID, user_ids: Collection[UUID]) -> set[UUID]:
    return {one for one in user_ids if (conversation_id, one) not in tables.members}


@stands_for(mentions.replace_mentions)
def _replace_mentions(tables: Tables, message: Message, mentions: Sequence[UUID], mention_all: bool) -> None:
    tables.messages[message.id] = replace(message, mentions=tuple(mentions), mention_all=mention_all)


@stands_for(mentions.list_mentions)
def _list_mentions(tables: Tables, user_id: UUID, before: UUID, limit: int) -> list[tuple[UUID, int]]:
    found = [
        (one.id, len(one.content))
        for one in tables.messages.values()
        if (user_id in one.mentions or one.mention_all)
        and one.sender_id != user_id
        and (one.conversation_id, user_id) in tables.members
        and one.id < before
    ]
    return sorted(found, reverse=True)[:limit]


@stands_for(messages.list_messages)
def _list_messages(
    tables: Tables,
    conversation_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = messages.PAGE_BYTES,
    replies: bool = True,
) -> messages.Page:
    found = [
        one
        for one in tables.messages.values()
        if one.conversation_id == conversation_id and (replies or one.thread_id is None or one.also_in_conversation)
    ]
    return _page(found, before, after, limit)


@stands_for(messages.list_messages_for)
def _list_messages_for(
    tables: Tables,
    conversation_id: UUID,
    viewer_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = messages.PAGE_BYTES,
    replies: bool = True,
) -> messages.Page | None:
    if (conversation_id, viewer_id) not in tables.members:
        return None
    return _list_messages(tables, conversation_id, before=before, after=after, limit=limit, replies=replies)


@stands_for(messages.list_messages_for_caller)
def _list_messages_for_caller(
    tables: Tables,
    conversation_id: UUID,
    user_id: UUID,
    session_id: UUID | None,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = messages.PAGE_BYTES,
    replies: bool = True,
) -> tuple[messages.Standing, messages.Page | None]:
    page = _list_messages_for(
        tables, conversation_id, user_id, before=before, after=after, limit=limit, replies=replies
    )
    return _fetch_standing(tables, user_id, session_id), page


def _page(found: list[Message], before: int | None, after: int | None, limit: int) -> messages.Page:
    bounds = (0 if after is None else after, messages.END if before is None else before)
    shown = [one for one in found if bounds[0] < one.seq < bounds[1]]
    shown.sort(key=lambda one: one.seq, reverse=after is None)
    return messages.Page(shown[:limit], shown[limit - 1].seq if len(shown) > limit else None)


@stands_for(messages.list_replies)
def _list_replies(
    tables: Tables,
    root_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = messages.PAGE_BYTES,
) -> messages.Page:
    return _page(tables.replies(root_id), before, after, limit)


@stands_for(messages.list_changes)
def _list_changes(
    tables: Tables, conversation_id: UUID, after: int, *, limit: int = 200, max_bytes: int = 256 * 1024
) -> list[Change]:
    found = [
        Change(conversation_id, one.changed_seq, one, created=one.seq > after)
        for one in tables.messages.values()
        if one.conversation_id == conversation_id and one.changed_seq > after
    ]
    return sorted(found, key=lambda change: change.seq)[:limit]


@stands_for(receipt_store.list_receipts)
def _list_receipts(
    tables: Tables, conversation_id: UUID, seq: int, *, sender_id: UUID, viewer_id: UUID, after: UUID, limit: int
) -> list[tuple[UUID, bool]]:
    found = [
        (one.user_id, one.read_seq >= seq)
        for one in tables.members_of(conversation_id)
        if one.user_id not in (sender_id,) and one.user_id.bytes > after.bytes and one.delivered_seq >= seq
    ]
    return found[:limit]


# -- in place of store.postgres.reactions -----------------------------------------------------


@stands_for(reactions.list_reactors)
def _list_reactors(tables: Tables, message: Message, user_ids: Collection[UUID]) -> reactions.Reactors:
    found = {}
    for user_id in user_ids:
        if (message.conversation_id, user_id) in tables.members:
            emojis = frozenset(key[2] for key in tables.reactions if key[:2] == (message.id, user_id))
            until = _fetch_mute(tables, message.conversation_id, user_id)
            muted_until = None if until is None else timestamp_ms(until)
            partner = _fetch_partner(tables, message.conversation_id, user_id)
            is_refused = partner is not None and bool(_list_unavailable(tables, user_id, [partner]))
            ban = tables.ban_of(user_id)
            banned_until = None if ban is None else timestamp_ms(ban)
            found[user_id] = reactions.Reactor(muted_until, emojis, is_refused, banned_until)
    return reactions.Reactors(found, None)


@stands_for(reactions.write_reactions)
def _write_reactions(
    tables: Tables, message: Message, added: Sequence[reactions.Added], removed: Sequence[reactions.Removed]
) -> Change | None:
    for one in removed:
        del tables.reactions[message.id, one.user_id, one.emoji]
    for other in added:
        tables.reactions[message.id, other.user_id, other.emoji] = other.id
    return tables.show_reactions(message.id)


@stands_for(reactions.list_reactions)
def _list_reactions(
    tables: Tables, message_id: UUID, *, emoji: str | None, after: tuple[str, UUID], limit: int
) -> list[reactions.Reacted]:
    found = [
        reactions.Reacted(user_id, its, id_)
        for (its_message, user_id, its), id_ in tables.reactions.items()
        if its_message == message_id and emoji in (None, its)
    ]
    found = [
        one
        for one in found
        if (one.id.bytes > after[1].bytes if emoji else (one.emoji, one.id.bytes) > (after[0], after[1].bytes))
    ]
    return sorted(found, key=lambda one: (one.emoji, one.id.bytes))[:limit]


@stands_for(reactions.list_reactions_by)
def _list_reactions_by(
    tables: Tables, user_id: UUID, *, after: tuple[UUID, str] = (reactions.NOTHING, ""), limit: int
) -> list[reactions.Own]:
    found = [
        reactions.Own(tables.messages[message_id].conversation_id, message_id, emoji, id_)
        for (message_id, its, emoji), id_ in tables.reactions.items()
        if its == user_id
    ]
    found = [one for one in found if (one.message_id.bytes, one.emoji) > (after[0].bytes, after[1])]
    return sorted(found, key=lambda one: (one.message_id.bytes, one.emoji))[:limit]


@stands_for(reactions.remove_some)
def _remove_some(tables: Tables, user_id: UUID, limit: int) -> tuple[list[Change], bool]:
    found = sorted({key[0] for key in tables.reactions if key[1] == user_id}, key=lambda one: one.bytes)[:limit]
    for key in [key for key in tables.reactions if key[0] in found and key[1] == user_id]:
        del tables.reactions[key]
    return [tables.show_reactions(message_id) for message_id in found], bool(found)


# -- in place of store.postgres.threads --------------------------------------------------------


@stands_for(threads.fetch_unshown)
def _fetch_unshown(tables: Tables, root_id: UUID) -> threads.Unshown | None:
    return threads.Unshown(tables.summary(root_id), None) if root_id in tables.unshown else None


@stands_for(threads.show)
def _show(tables: Tables, root: Message, summary: ThreadSummary | None) -> Change | None:
    tables.unshown.pop(root.id, None)
    return None if root.thread == summary else tables.change(replace(root, thread=summary, changed_at=NOW))


@stands_for(threads.mark_shown)
def _mark_shown(tables: Tables, root_id: UUID) -> None:
    tables.unshown.pop(root_id, None)


@stands_for(threads.list_unshown)
def _list_unshown(tables: Tables, *, after: UUID, limit: int) -> list[UUID]:
    return sorted(one for one in tables.unshown if one > after)[:limit]


@stands_for(threads.list_thread_states)
def _list_thread_states(tables: Tables, user_id: UUID, root_ids: Collection[UUID]) -> dict[UUID, ThreadState]:
    return {root_id: state for root_id in root_ids if (state := tables.state_of(user_id, root_id))}


@stands_for(threads.list_threads)
def _list_threads(tables: Tables, user_id: UUID, *, before: UUID, unread: bool, limit: int) -> list[threads.Listed]:
    found = []
    for user, root_id in tables.threads:
        state, replies = tables.state_of(user, root_id), tables.replies(root_id)
        if user != user_id or state is None or not state.is_following or not replies:
            continue
        if replies[-1].id < before and (state.unread_count or not unread):
            found.append(threads.Listed(replies[-1].id, len(tables.messages[root_id].content), state))
    return sorted(found, key=lambda one: one.last_reply_id, reverse=True)[:limit]


@stands_for(threads.list_threads_of)
def _list_threads_of(tables: Tables, user_id: UUID, *, after: UUID = threads.NOTHING, limit: int) -> list[threads.Own]:
    found = [
        threads.Own(root_id, tables.messages[root_id].conversation_id, row.is_following, row.read_seq)
        for (user, root_id), row in tables.threads.items()
        if user == user_id and root_id > after
    ]
    return sorted(found)[:limit]


@stands_for(threads.list_threads_changed)
def _list_threads_changed(tables: Tables, user_ids: Collection[UUID], seconds: float) -> list[tuple[UUID, UUID]]:
    return [key for key, row in tables.threads.items() if key[0] in user_ids and row.version]


@stands_for(threads.follow)
def _follow(tables: Tables, root: Message, user_id: UUID) -> bool:
    row = tables.threads.get((user_id, root.id))
    if row is not None and row.is_following:
        return False
    found = tables.replies(root.id)
    tables.set_thread(user_id, root.id, True, found[-1].seq if found else 0)
    return True


@stands_for(threads.unfollow)
def _unfollow(tables: Tables, root: Message, user_id: UUID) -> bool:
    row = tables.threads.get((user_id, root.id), ThreadRow(True, 0))
    if row.is_following:
        tables.set_thread(user_id, root.id, False, row.read_seq)
    return row.is_following


@stands_for(threads.mark_read)
def _mark_read(tables: Tables, root_id: UUID, user_id: UUID, seq: int) -> bool:
    row = tables.threads.get((user_id, root_id))
    seq = min(seq, tables.conversations[tables.messages[root_id].conversation_id].last_seq)
    if row is None or row.read_seq >= seq:
        return False
    tables.set_thread(user_id, root_id, row.is_following, seq)
    return True


# -- in place of store.postgres.users and accounts --------------------------------------------


@stands_for(users.insert_user)
def _insert_user(
    tables: Tables,
    username: str,
    display_name: str,
    *,
    email: str | None = None,
    avatar_url: str | None = None,
    user_id: UUID | None = None,
) -> Account:
    if any(names.fold(one.username) == names.fold(username) for one in tables.users.values()):
        raise users.UsernameTaken
    made = Account(
        user_id or new_id(),
        username,
        display_name,
        avatar_url,
        UserStatus.ONLINE,
        None,
        None,
        NOW,
        next((one for one, owner in tables.external_ids.items() if owner.user_id == user_id), None),
        email=email,
    )
    tables.users[made.id] = made
    return made


@stands_for(users.fetch_user)
def _fetch_user(tables: Tables, user_id: UUID) -> User | None:
    found = tables.users.get(user_id)
    return None if found is None else User(**{name: getattr(found, name) for name in User.__struct_fields__})


@stands_for(users.fetch_account)
def _fetch_account(tables: Tables, user_id: UUID) -> Account | None:
    return tables.users.get(user_id)


@stands_for(users.lock_account)
def _lock_account(tables: Tables, user_id: UUID) -> Account | None:
    return tables.users.get(user_id)


@stands_for(users.fetch_standing)
def _fetch_standing(tables: Tables, user_id: UUID, session_id: UUID | None) -> tuple[bool, bool, int | None]:
    session = None if session_id is None else tables.sessions.get(session_id)
    until = tables.ban_of(user_id)
    is_live = session_id is None or (session is not None and session.is_live)
    return user_id in tables.users, is_live, None if until is None else timestamp_ms(until)


@stands_for(users.list_users)
def _list_users(
    tables: Tables, prefix: str, *, limit: int = 50, position: users.Position | None = None
) -> tuple[list[User], users.Position | None]:
    found = sorted(names.fold(one.username) for one in tables.users.values())
    by_name = {names.fold(one.username): one for one in tables.users.values()}
    names_left = [
        one for one in found if one.startswith(names.fold(prefix)) and (position is None or one > position.after)
    ]
    page = names_left[:limit]
    more = users.Position(page[-1], by_name[page[-1]].id) if len(names_left) > limit else None
    return [user for one in page if (user := _fetch_user(tables, by_name[one].id))], more


@stands_for(privacy.list_privacy)
def _list_privacy(tables: Tables, user_ids: Collection[UUID]) -> dict[UUID, privacy.Chosen]:
    return {user_id: tables.privacy[user_id] for user_id in user_ids if user_id in tables.privacy}


@stands_for(privacy.update_privacy)
def _update_privacy(
    tables: Tables,
    user_id: UUID,
    *,
    read_receipts: bool | None = None,
    typing: bool | None = None,
    last_seen: bool | None = None,
) -> privacy.Chosen | None:
    if user_id not in tables.users:
        return None
    known, version = tables.privacy.get(user_id, (Privacy(), 0))
    given = {"read_receipts": read_receipts, "typing": typing, "last_seen": last_seen}
    chosen = replace(known, **{name: value for name, value in given.items() if value is not None})
    tables.privacy[user_id] = chosen, version + 1
    return tables.privacy[user_id]


@stands_for(users.list_users_by_id)
def _list_users_by_id(tables: Tables, user_ids: Collection[UUID]) -> list[User]:
    return [user for one in sorted(set(user_ids)) if (user := _fetch_user(tables, one))]


@stands_for(users.list_deleted)
def _list_deleted(tables: Tables, user_ids: Collection[UUID]) -> list[UUID]:
    return [one for one in user_ids if one in tables.deleted]


@stands_for(users.update_user)
def _update_user(
    tables: Tables,
    user_id: UUID,
    *,
    display_name: str | None = None,
    avatar_url: str | UnsetType | None = UNSET,
    email: str | UnsetType | None = UNSET,
    status_text: str | UnsetType | None = UNSET,
) -> Account | None:
    found = tables.users.get(user_id)
    if found is None:
        return None
    given = {"avatar_url": avatar_url, "email": email, "status_text": status_text}
    given = {name: value for name, value in given.items() if value is not UNSET}
    changed = replace(found, display_name=display_name or found.display_name, **given)
    tables.users[user_id] = changed
    return changed


@stands_for(users.rename_user)
def _rename_user(tables: Tables, user_id: UUID, username: str) -> Account | None:
    if any(one.username == username and one.id != user_id for one in tables.users.values()):
        raise users.UsernameTaken
    tables.users[user_id] = replace(tables.users[user_id], username=username)
    return tables.users[user_id]


@stands_for(users.update_status)
def _update_status(tables: Tables, user_id: UUID, status: UserStatus, status_text: str | None) -> Account | None:
    found = tables.users.get(user_id)
    if found is None:
        return None
    tables.users[user_id] = changed = replace(found, status=status, status_text=status_text)
    return changed


@stands_for(users.update_last_seen)
def _update_last_seen(tables: Tables, user_ids: Collection[UUID], at: datetime) -> None:
    for one in user_ids:
        tables.users[one] = replace(tables.users[one], last_seen_at=at.isoformat())


@stands_for(users.leave_some)
def _leave_some(tables: Tables, user_id: UUID, limit: int) -> tuple[list[Change], bool]:
    left = [conversation_id for conversation_id, member in tables.members if member == user_id][:limit]
    return [_delete_member(tables, one, user_id, by=user_id) for one in left], len(left) == limit


@stands_for(users.delete_user)
def _delete_user(tables: Tables, user_id: UUID) -> tuple[Change, ...] | None:
    if user_id not in tables.users:
        return None
    changes, _ = _leave_some(tables, user_id, 10**6)
    del tables.users[user_id]
    tables.deleted[user_id] = None
    for one in [one for one, session in tables.sessions.items() if session.user_id == user_id]:
        del tables.sessions[one]
    for identity in [identity for identity, its in tables.identities.items() if its == user_id]:
        del tables.identities[identity]
    for external_id, owner in tables.external_ids.items():
        if owner.user_id == user_id:
            tables.external_ids[external_id] = external_ids.Owner(user_id, True)
    return tuple(changes)


@stands_for(users.forget_some)
def _forget_some(tables: Tables, user_id: UUID | None, limit: int = users.FORGOTTEN) -> int | None:
    return None


# -- in place of store.postgres.blocks --------------------------------------------------------


@stands_for(blocks.lock_direct)
def _lock_direct(tables: Tables, user_id: UUID, other_id: UUID) -> None: ...


@stands_for(blocks.update_shown_reads)
def _update_shown_reads(tables: Tables, user_id: UUID, other_id: UUID) -> None: ...


@stands_for(blocks.lock_blocker)
def _lock_blocker(tables: Tables, user_id: UUID) -> bool:
    return user_id in tables.users


@stands_for(blocks.insert_block)
def _insert_block(tables: Tables, user_id: UUID, blocked_id: UUID) -> int | None:
    if blocked_id not in tables.users or (user_id, blocked_id) in tables.blocks:
        return None
    tables.settings_versions += 1
    tables.blocks[user_id, blocked_id] = tables.settings_versions
    return tables.settings_versions


@stands_for(blocks.fetch_block)
def _fetch_block(tables: Tables, user_id: UUID, blocked_id: UUID) -> int | None:
    return tables.blocks.get((user_id, blocked_id))


@stands_for(blocks.delete_block)
def _delete_block(tables: Tables, user_id: UUID, blocked_id: UUID) -> int | None:
    if tables.blocks.pop((user_id, blocked_id), None) is None:
        return None
    tables.settings_versions += 1
    return tables.settings_versions


@stands_for(blocks.count_blocks)
def _count_blocks(tables: Tables, user_id: UUID) -> int:
    return sum(one == user_id for one, _ in tables.blocks)


@stands_for(blocks.list_blocks)
def _list_blocks(tables: Tables, user_id: UUID, *, after: UUID | None = None, limit: int) -> list[Block]:
    found = sorted(blocked for one, blocked in tables.blocks if one == user_id and (after is None or blocked > after))
    return [Block(blocked, NOW) for blocked in found[:limit]]


@stands_for(blocks.list_blocks_around)
def _list_blocks_around(tables: Tables, user_ids: Collection[UUID], limit: int) -> dict[UUID, blocks.Concerning]:
    found: dict[UUID, list[blocks.Around]] = {}
    for (one, other), version in tables.blocks.items():
        for user_id, another, is_own in ((one, other, True), (other, one, False)):
            if user_id in user_ids:
                found.setdefault(user_id, []).append(blocks.Around(another, is_own, version))
    return {
        user_id: blocks.Concerning(max((one.version for one in around if one.is_own), default=0), around)
        for user_id, around in found.items()
    }


@stands_for(blocks.list_hidden)
def _list_hidden(tables: Tables, viewer_id: UUID, user_ids: Collection[UUID]) -> set[UUID]:
    return {one for one in user_ids if {(viewer_id, one), (one, viewer_id)} & tables.blocks.keys()}


@stands_for(blocks.list_shared)
def _list_shared(tables: Tables, user_id: UUID, other_id: UUID, most: int) -> list[UUID]:
    mine = [one for one, member_id in tables.members if member_id == user_id]
    return [one for one in mine if (one, other_id) in tables.members and len(tables.members_of(one)) <= most]


@stands_for(conversations.list_crowded)
def _list_crowded(tables: Tables, user_ids: Collection[UUID], most: int) -> list[UUID]:
    return [one for one in user_ids if sum(user_id == one for _, user_id in tables.members) >= most]


@stands_for(blocks.list_unavailable)
def _list_unavailable(tables: Tables, user_id: UUID, others: Collection[UUID]) -> list[UUID]:
    return [one for one in others if one != user_id and ((one, user_id) in tables.blocks or tables.ban_of(one))]


@stands_for(blocks.fetch_partner)
def _fetch_partner(tables: Tables, conversation_id: UUID, user_id: UUID) -> UUID | None:
    if tables.conversations[conversation_id].type is not ConversationType.DIRECT:
        return None
    return next((one.user_id for one in tables.members_of(conversation_id) if one.user_id != user_id), None)


# -- in place of store.postgres.moderation and audit ------------------------------------------


@stands_for(moderation.fetch_role)
def _fetch_role(tables: Tables, user_id: UUID) -> UserRole | None:
    found = tables.standing_of(user_id)
    return None if found is None or found.banned_until is not None else found.role


@stands_for(moderation.fetch_ban)
def _fetch_user_ban(tables: Tables, user_id: UUID) -> str | None:
    return tables.ban_of(user_id)


@stands_for(moderation.fetch_user_standing)
def _fetch_user_standing(tables: Tables, user_id: UUID) -> UserStanding | None:
    return tables.standing_of(user_id)


@stands_for(moderation.lock_user_standing)
def _lock_user_standing(tables: Tables, user_id: UUID) -> UserStanding | None:
    return tables.standing_of(user_id)


@stands_for(moderation.list_bans_of_present)
def _list_bans_of_present(tables: Tables, user_ids: Collection[UUID]) -> dict[UUID, str | None]:
    return {one: tables.ban_of(one) for one in user_ids if one in tables.users}


@stands_for(moderation.list_openings)
def _list_openings(tables: Tables, attaches: Mapping[UUID, bool]) -> dict[UUID, moderation.Opening]:
    mine = _list_memberships(tables, [one for one, is_wanted in attaches.items() if is_wanted])
    return {
        one: moderation.Opening(
            tables.ban_of(one),
            tables.privacy.get(one),
            any(one in pair for pair in tables.blocks),
            b"".join(octets(mine.get(one, []))),
        )
        for one in attaches
        if one in tables.users
    }


@stands_for(moderation.list_banned)
def _list_banned(tables: Tables, user_ids: Collection[UUID]) -> list[UUID]:
    return [one for one in user_ids if tables.ban_of(one) is not None]


@stands_for(moderation.update_user_role)
def _update_user_role(tables: Tables, user_id: UUID, role: UserRole) -> UserStanding:
    tables.roles[user_id] = role
    return UserStanding(user_id, role, tables.ban_of(user_id))


@stands_for(moderation.update_ban)
def _update_ban(tables: Tables, user_id: UUID, until: datetime | None) -> UserStanding:
    tables.bans.pop(user_id, None)
    if until is not None:
        tables.bans[user_id] = timestamp(epoch_ms(until))
    return UserStanding(user_id, tables.roles.get(user_id, UserRole.USER), tables.ban_of(user_id))


@stands_for(moderation.revoke_sessions_of)
def _revoke_sessions_of(tables: Tables, user_id: UUID, limit: int = moderation.REVOKED) -> int:
    live = [one for one, session in tables.sessions.items() if session.user_id == user_id and session.is_live]
    for one in live[:limit]:
        tables.sessions[one] = replace(tables.sessions[one], is_live=False)
    return len(live[:limit])


@stands_for(moderation.has_more_sessions)
def _has_more_sessions(tables: Tables, user_id: UUID, count: int = moderation.REVOKED) -> bool:
    return sum(session.user_id == user_id and session.is_live for session in tables.sessions.values()) > count


@stands_for(audit.insert_audit)
def _insert_audit(
    tables: Tables,
    act: model.Act,
    actor_id: UUID | None,
    *,
    user_id: UUID | None = None,
    conversation_id: UUID | None = None,
    object_id: UUID | None = None,
    until: datetime | None = None,
    detail: str | None = None,
    reason: str | None = None,
) -> UUID:
    ends = None if until is None else timestamp(epoch_ms(until))
    made = new_id()
    tables.audit[made] = AuditEntry(
        made, NOW, act.value, actor_id, user_id, conversation_id, object_id, ends, detail, reason, None
    )
    return made


@stands_for(audit.insert_sign_in)
def _insert_sign_in(tables: Tables, user_id: UUID, session_id: UUID, network: str | None) -> None:
    made = new_id()
    tables.audit[made] = AuditEntry(
        made, NOW, model.Act.SIGN_IN.value, user_id, user_id, None, session_id, None, None, None, network
    )


@stands_for(audit.list_audit)
def _list_audit(tables: Tables, only: audit.Filter, *, before: UUID | None = None, limit: int) -> list[AuditEntry]:
    found = [
        one
        for one in tables.audit.values()
        if (before is None or one.id < before)
        and only.actor_id in (None, one.actor_id)
        and only.user_id in (None, one.user_id)
        and (only.act is None or only.act.value == one.act)
    ]
    return sorted(found, key=lambda one: one.id, reverse=True)[:limit]


# -- in place of store.postgres.reports -------------------------------------------------------


@stands_for(reports.insert_report)
def _insert_report(
    tables: Tables,
    report_id: UUID,
    reporter_id: UUID,
    user_id: UUID,
    *,
    message_id: UUID | None,
    conversation_id: UUID | None,
    category: ReportCategory,
    comment: str | None,
    content: str | None,
) -> FullReport | None:
    if _fetch_open_report(tables, reporter_id, user_id, message_id=message_id) is not None:
        return None
    its = (user_id, message_id, conversation_id, category, comment, ReportState.OPEN)
    tables.reports[report_id] = FullReport(report_id, NOW, *its, reporter_id, content, None, None, None)
    return tables.reports[report_id]


@stands_for(reports.fetch_open_report)
def _fetch_open_report(
    tables: Tables, reporter_id: UUID, user_id: UUID, *, message_id: UUID | None
) -> FullReport | None:
    for one in tables.reports.values():
        same = (one.reporter_id, one.user_id, one.message_id) == (reporter_id, user_id, message_id)
        if same and one.state is ReportState.OPEN:
            return one
    return None


@stands_for(reports.count_open_reports)
def _count_open_reports(tables: Tables, reporter_id: UUID) -> int:
    return sum(one.reporter_id == reporter_id and one.state is ReportState.OPEN for one in tables.reports.values())


@stands_for(reports.list_reports)
def _list_reports(
    tables: Tables,
    viewer_id: UUID | None,
    *,
    state: ReportState | None = None,
    user_id: UUID | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[FullReport]:
    found = [
        one
        for one in tables.reports.values()
        if one.user_id != viewer_id
        and state in (None, one.state)
        and user_id in (None, one.user_id)
        and (after is None or one.id > after)
    ]
    return sorted(found, key=lambda one: one.id)[:limit]


@stands_for(reports.list_own_reports)
def _list_own_reports(tables: Tables, reporter_id: UUID, *, after: UUID | None, limit: int) -> list[OwnReport]:
    found = [
        reports.own(one)
        for one in tables.reports.values()
        if one.reporter_id == reporter_id and (after is None or one.id > after)
    ]
    return sorted(found, key=lambda one: one.id)[:limit]


@stands_for(reports.fetch_backlog)
def _fetch_backlog(tables: Tables, limit: int) -> tuple[int, UUID | None]:
    found = sorted(one.id for one in tables.reports.values() if one.state is ReportState.OPEN)
    return min(len(found), limit), found[0] if found else None


@stands_for(reports.fetch_report)
def _fetch_report(tables: Tables, report_id: UUID) -> FullReport | None:
    return tables.reports.get(report_id)


@stands_for(reports.lock_report)
def _lock_report(tables: Tables, report_id: UUID) -> FullReport | None:
    return tables.reports.get(report_id)


@stands_for(reports.resolve_report)
def _resolve_report(tables: Tables, report_id: UUID, *, by: UUID | None, note: str | None) -> FullReport:
    before = tables.reports[report_id]
    made = replace(before, state=ReportState.RESOLVED, content=None, note=note, resolved_by=by, resolved_at=NOW)
    tables.reports[report_id] = made
    return made


# -- in place of store.postgres.accounts ------------------------------------------------------


@stands_for(accounts.fetch_identity)
def _fetch_identity(tables: Tables, provider: str, subject: str) -> UUID | None:
    return tables.identities.get((provider, subject))


@stands_for(accounts.insert_identity)
def _insert_identity(tables: Tables, provider: str, subject: str, user_id: UUID) -> bool:
    is_new = (provider, subject) not in tables.identities
    tables.identities.setdefault((provider, subject), user_id)
    return is_new


@stands_for(accounts.insert_session)
def _insert_session(
    tables: Tables,
    session_id: UUID,
    user_id: UUID,
    token_hash: bytes,
    *,
    client: str,
    address: str,
    ttl: float,
) -> Session | None:
    if user_id not in tables.users:
        return None
    made = Session(session_id, client, address, NOW, NOW, NOW)
    tables.sessions[session_id] = SessionRow(made, user_id, token_hash)
    return made


@stands_for(accounts.lock_session)
def _lock_session(tables: Tables, session_id: UUID) -> accounts.LockedSession | None:
    found = tables.sessions.get(session_id)
    if found is None:
        return None
    return accounts.LockedSession(
        found.session, found.user_id, found.token_hash, found.rotated_ago, found.is_live, found.token_number
    )


@stands_for(accounts.rotate_session)
def _rotate_session(
    tables: Tables,
    session_id: UUID,
    *,
    token_hash: bytes,
    previous_hash: bytes,
    number: int,
    client: str,
    address: str,
    ttl: float,
) -> Session:
    found = tables.sessions[session_id]
    session = replace(found.session, client=client, address=address)
    tables.sessions[session_id] = replace(
        found, session=session, token_hash=token_hash, rotated_ago=0.0, token_number=number
    )
    return session


@stands_for(external_ids.fetch_owner)
def _fetch_owner(tables: Tables, external_id: str) -> external_ids.Owner | None:
    return tables.external_ids.get(external_id)


@stands_for(external_ids.lock_owners)
def _lock_owners(tables: Tables, user_ids: Collection[UUID]) -> None:
    return None


@stands_for(external_ids.claim_id)
def _claim_id(tables: Tables, external_id: str, user_id: UUID) -> bool:
    is_new = external_id not in tables.external_ids
    tables.external_ids.setdefault(external_id, external_ids.Owner(user_id, False))
    return is_new


@stands_for(external_ids.reclaim_id)
def _reclaim_id(tables: Tables, external_id: str, user_id: UUID) -> bool:
    if not tables.external_ids[external_id].is_erased:
        return False
    tables.external_ids[external_id] = external_ids.Owner(user_id, False)
    return True


@stands_for(api_keys.fetch_key)
def _fetch_key(tables: Tables, key_id: UUID, secret_hash: bytes) -> api_keys.Presented | None:
    found, its_hash = tables.api_keys.get(key_id, (None, b""))
    return found if its_hash == secret_hash else None


@stands_for(api_keys.note_keys)
def _note_keys(tables: Tables, key_ids: Collection[UUID]) -> None:
    for one in key_ids:
        tables.noted[one] = tables.noted.get(one, 0) + 1


@stands_for(accounts.list_sessions)
def _list_sessions(tables: Tables, user_id: UUID, *, limit: int, before: UUID | None = None) -> list[Session]:
    found = [one.session for one in tables.sessions.values() if one.user_id == user_id and one.is_live]
    found = [one for one in found if before is None or one.id.bytes < before.bytes]
    return sorted(found, key=lambda one: one.id.bytes, reverse=True)[:limit]


@stands_for(accounts.revoke_session)
def _revoke_session(tables: Tables, user_id: UUID, session_id: UUID) -> bool:
    found = tables.sessions.get(session_id)
    if found is None or found.user_id != user_id or not found.is_live:
        return False
    tables.sessions[session_id] = replace(found, is_live=False)
    return True


@stands_for(accounts.list_ended)
def _list_ended(tables: Tables, session_ids: Collection[UUID]) -> list[UUID]:
    return [one for one in session_ids if one not in tables.sessions or not tables.sessions[one].is_live]


# -- in place of store.postgres.idempotency and outbox ----------------------------------------


@stands_for(idempotency.claim)
def _claim(tables: Tables, scope: UUID, key: str, fingerprint: bytes, resource_id: UUID) -> UUID | None:
    found = tables.creations.get((scope, key))
    if found is None:
        tables.creations[scope, key] = (fingerprint, resource_id)
        return None
    if found[0] != fingerprint:
        raise idempotency.Mismatch
    return found[1]


@stands_for(idempotency.release)
def _release(tables: Tables, scope: UUID, key: str, fingerprint: bytes) -> None:
    if tables.creations.get((scope, key), (b"",))[0] == fingerprint:
        del tables.creations[scope, key]


@stands_for(outbox.insert_outbox)
def _insert_outbox(
    tables: Tables, changes: Sequence[Change], personal: Personal | None = None, *, is_stale: bool = False
) -> None:
    tables.outbox += ((tuple(changes), personal),)


# -- in place of store.postgres.files ---------------------------------------------------------


@stands_for(files.insert_file)
def _insert_file(
    tables: Tables, file_id: UUID, owner_id: UUID, key: str, name: str, *, content_type: str, size: int
) -> File:
    made = File(file_id, owner_id, key, name, content_type, size, None, "Pending", None, None)
    tables.files[file_id] = made
    return made


@stands_for(files.lock_storage)
def _lock_storage(tables: Tables, owner_id: UUID, since: datetime) -> Storage:
    found = [one for one in tables.files.values() if one.owner_id == owner_id and one.state != "Deleted"]
    return Storage(sum(one.size for one in found), sum(one.state == "Pending" for one in found))


@stands_for(files.fetch_file)
def _fetch_file(tables: Tables, file_id: UUID) -> File | None:
    return tables.files.get(file_id)


@stands_for(files.lock_file)
def _lock_file(tables: Tables, file_id: UUID) -> File | None:
    return tables.files.get(file_id)


@stands_for(files.fetch_by_key)
def _fetch_by_key(tables: Tables, key: str, reader_id: UUID) -> tuple[File, bool] | None:
    found = next((one for one in tables.files.values() if one.key == key and one.state == files.READY), None)
    if found is None:
        return None
    shown = {one.conversation_id for one in tables.messages.values() if one.file and one.file.id == found.id}
    return found, found.owner_id == reader_id or any((one, reader_id) in tables.members for one in shown)


@stands_for(files.finish_file)
def _finish_file(tables: Tables, file_id: UUID, key: str, facts: Facts) -> File | None:
    found = tables.files.get(file_id)
    if found is None or found.state != "Pending":
        return None
    done = replace(found, key=key, state=files.READY, **msgspec.structs.asdict(facts))
    tables.files[file_id] = done
    return done


@stands_for(files.abandon_file)
def _abandon_file(tables: Tables, file_id: UUID) -> bool:
    found = tables.files.get(file_id)
    if found is None or found.state != files.PENDING:
        return False
    tables.files[file_id] = replace(found, state="Deleted")
    return True


def _give_up_file(tables: Tables, file_id: UUID) -> None:
    found = tables.files.get(file_id)
    if found is not None:
        tables.files[file_id] = replace(found, state="Deleted")


@stands_for(files.release_file)
def _release_file(tables: Tables, file_id: UUID, limit: int) -> tuple[list[Change], bool]:
    holders = [one for one in tables.messages.values() if one.file and one.file.id == file_id]
    changes = [tables.change(replace(one, file=None)) for one in holders[:limit]]
    is_free = len(holders) <= limit
    if is_free:
        _give_up_file(tables, file_id)
    return changes, is_free


@stands_for(files.delete_row)
def _delete_row(tables: Tables, file_id: UUID) -> None:
    tables.files.pop(file_id, None)


@stands_for(files.list_files_of)
def _list_files_of(tables: Tables, owner_id: UUID, *, after: UUID, limit: int) -> list[File]:
    found = [one for one in tables.files.values() if one.owner_id == owner_id and one.state == files.READY]
    return sorted((one for one in found if one.id.bytes > after.bytes), key=lambda one: one.id.bytes)[:limit]


@stands_for(files.list_given_up)
def _list_given_up(tables: Tables, before: datetime, limit: int) -> list[File]:
    bound = id_floor(int(before.timestamp() * 1000))
    found = [
        one
        for one in tables.files.values()
        if one.state == "Deleted" or (one.state == "Pending" and one.id.bytes < bound.bytes)
    ]
    return found[:limit]


@stands_for(files.retire_files)
def _retire_files(tables: Tables, after: UUID, before: datetime, limit: int) -> tuple[UUID | None, int]:
    bound = id_floor(int(before.timestamp() * 1000))
    held = {one.file.id for one in tables.messages.values() if one.file}
    old = [
        one for one in tables.files.values() if one.state == files.READY and after.bytes < one.id.bytes < bound.bytes
    ]
    page = sorted(old, key=lambda one: one.id.bytes)[:limit]
    unheld = [one for one in page if one.id not in held]
    for one in unheld:
        _give_up_file(tables, one.id)
    return (page[-1].id if len(page) == limit else None), len(unheld)


@stands_for(files.list_known_keys)
def _list_known_keys(tables: Tables, keys: Collection[str]) -> set[str]:
    return {one.key for one in tables.files.values()} & set(keys)


def info(file: File) -> FileInfo:
    """The file, as a message shows it."""
    return FileInfo(file.id, file.key, f"/api/files/{file.key}", file.name, file.size, file.content_type)
