"""The handlers over a database in memory, which need no PostgreSQL to decide who may do what.

Owns what the handlers are given beside the database, and the tests of what is left when it goes away at any step.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import trio
from msgspec.structs import replace

import tests.handlers.fakes  # noqa: F401  # from here on they stand for the functions of the store
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
from store.errors import StoreError, Unavailable
from store.ids import new_id
from store.model import (
    Account,
    Change,
    ConversationType,
    Message,
    Privacy,
    Role,
    UserStatus,
)
from store.objects import UploadUrl, new_trouble
from store.postgres.appends import Append
from store.postgres.conversations import Head
from store.redis.inbox_entries import BlockNotice, Personal, Receipt
from store.signing import SigningKeys
from tests.handlers.database import EXPIRES, NOW, Database, Tables, ThreadRow


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
