"""Where a chat keeps what must outlive its process: cursors, newest messages, what is unsent and what was sent lately.

Owns the interface of stores, and two of them. A store keeps records by name, and all records of one `save` or none.
"""

import logging
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.to_thread

from parley_client.errors import ParleyError

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_log = logging.getLogger("parley_client")

FORMAT = 1  # of the records: others are discarded


class Store(Protocol):
    """Records by name. `ParleyError` with the code `store` where it cannot be used."""

    async def load(self) -> dict[str, bytes]:
        """Open it and return all records."""

    async def save(self, records: Mapping[str, bytes | None]) -> None:
        """Keep all of these, or none. None takes a record away."""

    async def clear(self) -> None:
        """Take all records away."""

    async def aclose(self) -> None: ...


class MemoryStore:
    """For as long as the object lives: given to the next `connect`, it goes on where the last one ended."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}

    async def load(self) -> dict[str, bytes]:
        return dict(self._records)

    async def save(self, records: Mapping[str, bytes | None]) -> None:
        for name, record in records.items():
            if record is None:
                self._records.pop(name, None)
            else:
                self._records[name] = record

    async def clear(self) -> None:
        self._records.clear()

    async def aclose(self) -> None:
        pass


class FileStore:
    """One file, of one process at a time. SQLite makes each `save` atomic, and writes only what has changed.

    Whatever takes time is done in a thread, one call at a time. A file that is damaged, or of another format, is
    discarded with one warning.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._limiter: anyio.CapacityLimiter | None = None

    async def load(self) -> dict[str, bytes]:
        return await self._in_thread(self._load)

    async def save(self, records: Mapping[str, bytes | None]) -> None:
        await self._in_thread(self._save, dict(records))

    async def clear(self) -> None:
        await self._in_thread(self._clear)

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await anyio.to_thread.run_sync(connection.close)

    async def _in_thread(self, work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(1)
        try:
            return await anyio.to_thread.run_sync(work, *arguments, limiter=self._limiter)
        except (sqlite3.Error, OSError) as error:
            raise ParleyError("store", f"{self._path}: {error}") from error

    # -- in a thread ---------------------------------------------------------------------------------------------------

    def _load(self) -> dict[str, bytes]:
        try:
            return self._open()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ParleyError("store", f"{self._path} is in use by another process") from error
            raise
        except (sqlite3.DatabaseError, _OtherFormat) as error:
            _log.warning("the store %s is discarded: %s", self._path, error)
            self._discard()
            return self._open()

    def _open(self) -> dict[str, bytes]:
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, timeout=1, isolation_level=None, check_same_thread=False)
        connection = self._connection
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        try:
            [found] = connection.execute("PRAGMA user_version").fetchone()
            [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if found != FORMAT and (found or tables):
                raise _OtherFormat(f"its format is {found}, and not {FORMAT}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("CREATE TABLE IF NOT EXISTS records (name TEXT PRIMARY KEY, value BLOB NOT NULL)")
            records = {str(name): bytes(value) for name, value in connection.execute("SELECT name, value FROM records")}
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return records

    def _discard(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for suffix in ("", "-journal", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def _save(self, records: dict[str, bytes | None]) -> None:
        connection = self._opened()
        connection.execute("BEGIN")
        try:
            for name, record in records.items():
                if record is None:
                    connection.execute("DELETE FROM records WHERE name = ?", [name])
                else:
                    connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", [name, record])
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _clear(self) -> None:
        self._opened().execute("DELETE FROM records")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ParleyError("store", f"{self._path} is not open")
        return self._connection


class _OtherFormat(Exception):
    pass
