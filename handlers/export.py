"""Everything one has, as a zip that is made while it is sent.

Owns what is in it: the account, its sessions, each conversation with its messages, and one's own files. Holds a page of
messages or a piece of a file at a time, however much there is.
"""

import io
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import IO, cast
from uuid import UUID

import msgspec
import trio
from typing_extensions import Buffer

from handlers.accounts import Accounts
from handlers.blocks import Blocks
from handlers.conversations import Conversations
from handlers.errors import ChatError
from handlers.files import Files
from handlers.messages import Messages
from handlers.model import Caller
from handlers.reactions import Reactions
from handlers.reports import Reports
from handlers.threads import Threads
from handlers.users import Users
from store.ids import id_ms, timestamp
from store.model import Conversation
from store.postgres.conversation_views import MEMBERS_SHOWN
from store.postgres.files import File
from store.postgres.reactions import Own
from store.postgres.threads import Own as OwnThread

PAGE = 200  # messages or sessions read at once
CONVERSATIONS = 20
AT_ONCE = 2  # exports that are worked on: one connection to PostgreSQL each, apart from everybody else's
RUNNING = 10  # exports of this process: the others' clients read what was made
RETRY_AFTER = 30.0  # seconds
EXPORT_SECONDS = 3600.0  # for a whole export: a client that reads more slowly would keep others waiting
PIECE = 64 * 1024  # bytes of the zip that are sent at once, about

README = """Your account, sessions, conversations and files, as of the time of this export.

account.json, sessions.json       you
privacy.json                      what you show to others
reports.json                      what you have reported
blocks.json                       users whom you have blocked
conversations/ID.json             a conversation; ID.jsonl beside it has its messages, one a line, oldest first
reactions.jsonl                   your reactions to messages, one a line
threads.jsonl                     threads that you follow, or have replied to, one a line
files/ID-name                     what you uploaded
"""


class _Sink(io.RawIOBase):
    """What the zip writer writes, until it is taken. It cannot seek, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self.size = 0  # bytes that wait

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self.size += len(piece)
        return len(piece)

    def take(self) -> bytes:
        pieces, self._pieces, self.size = self._pieces, [], 0
        return b"".join(pieces)


class Export:
    def __init__(
        self,
        users: Users,
        accounts: Accounts,
        conversations: Conversations,
        messages: Messages,
        reactions: Reactions,
        threads: Threads,
        files: Files,
        blocks: Blocks,
        reports: Reports,
    ) -> None:
        self._users = users
        self._accounts = accounts
        self._conversations = conversations
        self._messages = messages
        self._reactions = reactions
        self._threads = threads
        self._files = files
        self._blocks = blocks
        self._reports = reports
        self._running: set[UUID] = set()  # users
        self._at_once = trio.CapacityLimiter(AT_ONCE)

    async def begin(self, caller: Caller) -> tuple[AsyncIterator[bytes], Callable[[], None]]:
        """(the zip, in pieces; what is to be called at the end). Raises ChatError before the first of them, or else
        breaks off: rate_limited while the user's last one runs, overloaded while others' do.
        """
        user_id = caller.user_id
        if user_id in self._running:
            sentence = "Your last export is still being sent; take it, or hang up."
            raise ChatError("rate_limited", sentence, retry_after=RETRY_AFTER)
        if len(self._running) >= RUNNING:
            raise ChatError("overloaded", "Other exports are being made; try again later.", retry_after=RETRY_AFTER)
        self._running.add(user_id)
        try:
            account = await self._users.me(caller)
            privacy = await self._users.privacy(caller)
        except BaseException:
            self._running.discard(user_id)
            raise
        pieces = self._pieces(caller, msgspec.json.encode(account), msgspec.json.encode(privacy))
        return self._in_turn(pieces), partial(self._running.discard, user_id)

    async def _in_turn(self, pieces: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        """Make each piece in its turn. How long its client takes to read it is not a part of that: who reads slowly
        keeps no other export waiting."""
        async with aclosing(pieces):
            while True:
                async with self._at_once:
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                yield piece

    async def _pieces(self, caller: Caller, account: bytes, privacy: bytes) -> AsyncGenerator[bytes, None]:
        sink = _Sink()
        with zipfile.ZipFile(cast(IO[bytes], sink), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("README.txt", README)
            archive.writestr("account.json", account)
            archive.writestr("privacy.json", privacy)
            for name, page in (
                ("sessions", partial(self._accounts.list, caller)),
                ("blocks", partial(self._blocks.list, caller)),
                ("reports", partial(self._reports.list_own, caller)),
            ):
                with archive.open(f"{name}.json", "w", force_zip64=True) as entry:
                    async for part in _listed(page):
                        entry.write(part)
                        if sink.size >= PIECE:
                            yield sink.take()
                        await trio.lowlevel.checkpoint()
            yield sink.take()
            async for conversation in self._all_conversations(caller):
                archive.writestr(f"conversations/{conversation.id}.json", msgspec.json.encode(conversation))
                with archive.open(f"conversations/{conversation.id}.jsonl", "w", force_zip64=True) as entry:
                    async for line in self._lines(caller, conversation):
                        entry.write(line)
                        if sink.size >= PIECE:
                            yield sink.take()
                        await trio.lowlevel.checkpoint()  # compressing a line is the longest we hold the loop
            with archive.open("reactions.jsonl", "w", force_zip64=True) as entry:
                async for line in self._reaction_lines(caller):
                    entry.write(line)
                    if sink.size >= PIECE:
                        yield sink.take()
            with archive.open("threads.jsonl", "w", force_zip64=True) as entry:
                async for line in self._thread_lines(caller):
                    entry.write(line)
                    if sink.size >= PIECE:
                        yield sink.take()
            async for file in self._files.owned(caller.user_id):
                with archive.open(_entry(file), "w", force_zip64=True) as entry:
                    async for piece in self._files.read(file):
                        entry.write(piece)
                        yield sink.take()
        yield sink.take()

    async def _all_conversations(self, caller: Caller) -> AsyncIterator[Conversation]:
        cursor: str | None = None
        while True:
            items, cursor = await self._conversations.list(caller, CONVERSATIONS, cursor, members=MEMBERS_SHOWN)
            for item in items:
                yield item
            if cursor is None:
                return

    async def _lines(self, caller: Caller, conversation: Conversation) -> AsyncIterator[bytes]:
        after = 0
        while True:
            try:
                page = await self._messages.page(
                    caller, conversation.id, before=None, after=after, limit=PAGE, replies=True
                )
            except ChatError:
                return  # the user left the conversation while it was being written
            for message in page.messages:
                yield msgspec.json.encode(message) + b"\n"
            if page.next is None:
                return
            after = page.next

    async def _reaction_lines(self, caller: Caller) -> AsyncIterator[bytes]:
        last: Own | None = None
        while True:
            found = await self._reactions.own(caller.user_id, PAGE, last)
            for one in found:
                yield _reaction_line(one)
            if len(found) < PAGE:
                return
            last = found[-1]
            await trio.lowlevel.checkpoint()

    async def _thread_lines(self, caller: Caller) -> AsyncIterator[bytes]:
        last: OwnThread | None = None
        while True:
            found = await self._threads.own(caller.user_id, PAGE, last)
            for one in found:
                yield _thread_line(one)
            if len(found) < PAGE:
                return
            last = found[-1]
            await trio.lowlevel.checkpoint()


async def _listed(
    page: Callable[[int, str | None], Awaitable[tuple[Sequence[object], str | None]]],
) -> AsyncIterator[bytes]:
    """Yield the items of all pages of a list as a JSON array, in parts: a user may have very many."""
    cursor: str | None = None
    between = b"["
    while True:
        items, cursor = await page(PAGE, cursor)
        for item in items:
            yield between + msgspec.json.encode(item)
            between = b",\n"
        if cursor is None:
            yield b"]" if between != b"[" else b"[]"
            return


def _thread_line(one: OwnThread) -> bytes:
    said = {
        "threadId": one.thread_id,
        "conversationId": one.conversation_id,
        "isFollowing": one.is_following,
        "readSeq": one.read_seq,
    }
    return msgspec.json.encode(said) + b"\n"


def _reaction_line(one: Own) -> bytes:
    said = {
        "conversationId": one.conversation_id,
        "messageId": one.message_id,
        "emoji": one.emoji,
        "at": timestamp(id_ms(one.id)),
    }
    return msgspec.json.encode(said) + b"\n"


def _entry(file: File) -> zipfile.ZipInfo:
    """Stored as it is: most of what people upload is compressed already."""
    made = datetime.fromtimestamp(id_ms(file.id) / 1000, UTC)
    return zipfile.ZipInfo(f"files/{file.id}-{file.name.replace('/', '_')}", made.timetuple()[:6])
