"""People, conversations and messages for tests, and what to wait for in the server."""

from collections.abc import Callable, Sequence
from uuid import UUID

import psycopg
import trio

from store.errors import StoreError
from store.ids import new_id
from store.model import Change, Message, MessageType
from store.postgres import conversations, users
from store.postgres.appends import Append, AppendError
from store.postgres.connection import Connection
from store.postgres.group_commit import MAX_QUEUE_BYTES, Lanes, Source
from tests.waiting import wait_until

WAIT = 60.0  # seconds before a test that waits in vain fails


async def make_users(conn: Connection, count: int) -> list[UUID]:
    return [(await users.insert_user(conn, f"user-{new_id()}", f"User {i}")).id for i in range(count)]


async def make_group(conn: Connection, members: Sequence[UUID]) -> UUID:
    """A group owned by the first of its members. Its head is 1: the message that announces it."""
    conversation, _ = await conversations.insert_group(conn, members[0], "group", members[1:])
    return conversation.id


class Sent:
    """One offered message, and what became of it."""

    def __init__(self) -> None:
        self.answers: list[Message | AppendError | StoreError] = []
        self.done = trio.Event()

    def __call__(self, answer: Message | AppendError | StoreError) -> None:
        self.answers.append(answer)
        self.done.set()

    async def answer(self) -> Message | AppendError | StoreError:
        with trio.fail_after(WAIT):
            await self.done.wait()
        [answer] = self.answers
        return answer

    async def message(self) -> Message:
        answer = await self.answer()
        assert isinstance(answer, Message), repr(answer)
        return answer

    async def refusal(self) -> str:
        answer = await self.answer()
        assert isinstance(answer, AppendError), repr(answer)
        return answer.code


def make_append(
    conversation_id: UUID,
    sender_id: UUID,
    done: Sent,
    *,
    content: str = "hello",
    key: str | None = None,
    file_id: UUID | None = None,
    reply_to_id: UUID | None = None,
    message_id: UUID | None = None,
    mentions: Sequence[UUID] = (),
    all_up_to: int | None = None,
    thread_id: UUID | None = None,
    also_in_conversation: bool = False,
) -> Append:
    return Append(
        message_id or new_id(),
        conversation_id,
        sender_id,
        MessageType.TEXT,
        content,
        file_id,
        reply_to_id,
        key,
        done,
        tuple(mentions),
        all_up_to,
        thread_id,
        also_in_conversation,
    )


class Writer:
    """Lanes, as one server process has them, with a record of what they published."""

    def __init__(self, lanes: Lanes, changes: list[Change], doubts: list[UUID]) -> None:
        self.lanes = lanes
        self.changes = changes
        self.doubts = doubts

    def send(
        self,
        conversation_id: UUID,
        sender_id: UUID,
        content: str = "hello",
        *,
        key: str | None = None,
        file_id: UUID | None = None,
        reply_to_id: UUID | None = None,
        mentions: Sequence[UUID] = (),
        all_up_to: int | None = None,
        thread_id: UUID | None = None,
        also_in_conversation: bool = False,
    ) -> Sent:
        sent = Sent()
        append = make_append(
            conversation_id,
            sender_id,
            sent,
            content=content,
            key=key,
            file_id=file_id,
            reply_to_id=reply_to_id,
            mentions=mentions,
            all_up_to=all_up_to,
            thread_id=thread_id,
            also_in_conversation=also_in_conversation,
        )
        self.lanes.offer(append)
        return sent


async def wait_for_lock(watcher: Connection, count: int = 1) -> None:
    """Until `count` sessions of this database wait for a lock. The server has no event for it, so this polls."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await wait_for_value(watcher, query, count)


async def wait_for_value(watcher: Connection, query: str, expected: object) -> None:
    async def is_there() -> bool:
        return await fetch_value(watcher, query) == expected

    await wait_until(is_there)


async def fetch_value(conn: Connection, query: str, *parameters: object) -> object:
    [[value]] = await (await conn.execute(query.encode(), parameters)).fetchall()
    return value


def make_writer(
    pool: Source,
    *,
    count: int = 1,
    has_spare: bool = False,
    max_queue: int = 10_000,
    max_queue_bytes: int = MAX_QUEUE_BYTES,
    outbox: bool = False,
    on_fault: Callable[[psycopg.Error], None] = lambda error: None,
) -> Writer:
    changes: list[Change] = []
    doubts: list[UUID] = []
    made = Lanes(
        pool,
        count=count,
        has_spare=has_spare,
        max_queue=max_queue,
        max_queue_bytes=max_queue_bytes,
        on_commit=changes.extend,
        on_doubt=doubts.extend,
        outbox=outbox,
        on_fault=on_fault,
    )
    return Writer(made, changes, doubts)
