"""Files: the rows behind the objects of `store.objects`.

Owns `files`. Pending: begun, not to be shown; Ready: whole, checked, never changed again; Deleted: not visible to any
user, and a purge deletes the object and then the row. Writes take part in the caller's transaction.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from store.ids import id_floor
from store.model import Change
from store.postgres import queries
from store.postgres.connection import Connection
from store.postgres.messages import message_of
from store.postgres.system_messages import change_of

PENDING, READY = "Pending", "Ready"


class File(Struct, frozen=True):
    """A row. `size` is in bytes, width and height in pixels; of a pending file they are what the client says."""

    id: UUID
    owner_id: UUID
    key: str
    name: str
    content_type: str
    size: int
    sha256: bytes | None
    state: str
    width: int | None
    height: int | None


class Facts(Struct, frozen=True):
    """What was found out about a file's content."""

    content_type: str
    size: int
    sha256: bytes
    width: int | None = None
    height: int | None = None


async def insert_file(
    conn: Connection, file_id: UUID, owner_id: UUID, key: str, name: str, *, content_type: str, size: int
) -> File:
    """A pending one."""
    parameters = {
        "id": file_id,
        "owner_id": owner_id,
        "key": key,
        "name": name,
        "content_type": content_type,
        "size": size,
    }
    row = await (await conn.execute(queries.insert_file, parameters)).fetchone()
    assert row is not None
    return File(*row)


class Storage(Struct, frozen=True):
    """What a user's files take, in bytes, and how many of their uploads are open."""

    size: int
    open_uploads: int


async def lock_storage(conn: Connection, owner_id: UUID, since: datetime) -> Storage | None:
    """Return what the owner stores, locked against other additions, and against being erased, until the transaction
    ends; None if there is no such user (any more). Uploads begun before `since` do not count as open."""
    if await (await conn.execute(queries.lock_owner, {"owner_id": owner_id})).fetchone() is None:
        return None
    row = await (await conn.execute(queries.fetch_storage, {"owner_id": owner_id, "since": since})).fetchone()
    assert row is not None
    return Storage(row[0], row[1])


async def fetch_file(conn: Connection, file_id: UUID) -> File | None:
    return _file(await (await conn.execute(queries.fetch_file, {"id": file_id})).fetchone())


async def lock_file(conn: Connection, file_id: UUID) -> File | None:
    """The same, until the transaction ends."""
    return _file(await (await conn.execute(queries.lock_file, {"id": file_id})).fetchone())


async def fetch_by_key(conn: Connection, key: str, reader_id: UUID) -> tuple[File, bool] | None:
    """A ready file, and whether this user may have it: as its owner, or as a member of a conversation that holds it."""
    row = await (await conn.execute(queries.fetch_file_by_key, {"key": key, "reader_id": reader_id})).fetchone()
    return (File(*row[:-1]), row[-1]) if row else None


async def finish_file(conn: Connection, file_id: UUID, key: str, facts: Facts) -> File | None:
    """Note that a file is whole, under this key. Return None if it is not pending (any more)."""
    parameters = {
        "id": file_id,
        "key": key,
        "content_type": facts.content_type,
        "size": facts.size,
        "sha256": facts.sha256,
        "width": facts.width,
        "height": facts.height,
    }
    return _file(await (await conn.execute(queries.finish_file, parameters)).fetchone())


async def abandon_file(conn: Connection, file_id: UUID) -> bool:
    """Hide an upload that is not complete. Return False if it is complete after all, or was given up already."""
    return await (await conn.execute(queries.abandon_file, {"id": file_id})).fetchone() is not None


async def release_file(conn: Connection, file_id: UUID, limit: int) -> tuple[list[Change], bool]:
    """Take a file out of the next `limit` messages that hold it, and give it up when there are no more.

    Return (the changes, by conversation and seq; whether the file is given up). Until then it is there for all
    messages that hold it: a caller that stops between two calls leaves nothing half done.
    """
    async with conn.atomic():
        locked = await (await conn.execute(queries.lock_holders, {"file_id": file_id, "limit": limit})).fetchall()
        changes: list[Change] = []
        if locked:
            parameters = {"file_id": file_id, "conversation_ids": [key for (key,) in locked], "limit": limit}
            released = await (await conn.execute(queries.release_file, parameters)).fetchall()
            changed = [message_id for message_id, is_changed in released if is_changed]
            rows = await (await conn.execute(queries.list_messages_by_id, {"ids": changed})).fetchall()
            changes = [change_of(message_of(row), created=False) for row in rows]
            changes.sort(key=lambda change: (change.conversation_id, change.seq))
        return changes, await _give_up_unheld(conn, file_id)


async def _give_up_unheld(conn: Connection, file_id: UUID) -> bool:
    if await _is_held(conn, file_id):
        return False
    try:
        async with conn.transaction():  # a savepoint
            await conn.execute(
                queries.give_up_file, {"id": file_id}
            )  # waits for messages that are taking it (group_commit.sql)
            if await _is_held(conn, file_id):
                raise _Held
    except _Held:
        return False
    return True


class _Held(Exception):
    """A message was quicker."""


async def _is_held(conn: Connection, file_id: UUID) -> bool:
    row = await (await conn.execute(queries.is_held, {"file_id": file_id})).fetchone()
    return bool(row and row[0])


async def delete_row(conn: Connection, file_id: UUID) -> None:
    """Once its object is gone."""
    await conn.execute(queries.delete_file_row, {"id": file_id})


async def list_files_of(conn: Connection, owner_id: UUID, *, after: UUID, limit: int) -> list[File]:
    """Return the owner's ready files, by id."""
    parameters = {"owner_id": owner_id, "after": after, "limit": limit}
    return [File(*row) for row in await (await conn.execute(queries.list_files_of, parameters)).fetchall()]


async def list_given_up(conn: Connection, before: datetime, limit: int) -> list[File]:
    """Return the files that are deleted, and those that were begun before that time and are not completed."""
    cursor = await conn.execute(queries.list_given_up, {"before": before, "limit": limit})
    return [File(*row) for row in await cursor.fetchall()]


async def retire_files(conn: Connection, after: UUID, before: datetime, limit: int) -> tuple[UUID | None, int]:
    """Of the next ready files made before that: give up those that no message holds.

    (where to go on; None at the end, how many were given up). A message that is being written with such a file either
    keeps it or is refused.
    """
    bound = id_floor(int(before.timestamp() * 1000))
    async with conn.transaction():
        cursor = await conn.execute(queries.lock_old_files, {"after": after, "bound": bound, "limit": limit})
        ids = [file_id for (file_id,) in await cursor.fetchall()]
        retired = (await conn.execute(queries.retire_files, {"ids": ids})).rowcount if ids else 0
    return (ids[-1] if len(ids) == limit else None), retired


async def list_known_keys(conn: Connection, keys: Collection[str]) -> set[str]:
    """Return those of these keys that a row has."""
    return {key for (key,) in await (await conn.execute(queries.list_known_keys, {"keys": list(keys)})).fetchall()}


def _file(row: Sequence[Any] | None) -> File | None:
    return File(*row) if row else None
