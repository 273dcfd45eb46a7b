"""In place of `store.postgres.files`."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec.structs import replace

from store.ids import id_floor
from store.model import Change, FileInfo
from store.postgres import files
from store.postgres.files import Facts, File, Storage
from tests.handlers.database import Tables, stands_for


@stands_for(files.insert_file)
def _insert_file(
    tables: Tables, file_id: UUID, owner_id: UUID, key: str, name: str, *, content_type: str, size: int
) -> File:
    made = File(file_id, owner_id, key, name, content_type, size, None, "Pending", None, None)
    tables.files[file_id] = made
    return made


@stands_for(files.lock_storage)
def _lock_storage(tables: Tables, owner_id: UUID, since: datetime) -> Storage | None:
    if owner_id not in tables.users:
        return None
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
