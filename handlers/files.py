"""Files: uploading them, through us or directly into the store, who may have them, and clearing up.

Owns the rules and the order of the steps, so that a crash between any two leaves nothing that is shown and nothing that
is lost for good: row (Pending), object, row (Ready); and backwards: row (Deleted), object, row gone. What such a crash
leaves is found by `purge`.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import structlog
import trio

from handlers import file_types, permissions
from handlers.errors import ChatError
from handlers.idempotency import bind, claim
from handlers.model import Caller, Once, PresignFile
from handlers.ports import Connections
from handlers.standing import gone, require_not_banned
from handlers.transactions import Transactions
from store.errors import StoreError, Unavailable
from store.ids import id_floor, new_id
from store.model import Change
from store.objects import Objects, UploadUrl
from store.postgres import files as store
from store.postgres.connection import Connection
from store.postgres.files import Facts, File

URL_SECONDS = 300  # a download link is good for so long
UPLOAD_SECONDS = 900  # and a link to upload to: it must be begun by then
OPEN_UPLOADS = 50  # of one user, begun within UPLOAD_SECONDS: each is a link that may be used
ORPHAN_AGE = timedelta(hours=24)  # what is not finished, or in no message, after so long is thrown away
PURGE_PAGE = 200
ROUNDS = 10_000  # such transactions for one request
HOLDERS = 50  # messages that give up a deleted file in one transaction: what others wait for
CLEAN_UP = 10.0  # seconds for throwing away what a failed upload leaves
BYTES_KEY = 24  # random bytes in a key

log = structlog.get_logger("parley.files")


class Purged(NamedTuple):
    """How many of each were removed."""

    retired: int  # files that no message held
    objects: int  # with their rows
    strays: int  # objects without a row


class Files:
    def __init__(
        self,
        pool: Connections,
        transactions: Transactions,
        objects: Objects | None,
        *,
        max_bytes: int,
        quota: int,
        types: tuple[str, ...],
    ) -> None:
        """`types` are the content types that may be uploaded, `quota` the bytes of all files of one user. Without
        `objects` nothing can be uploaded."""
        self._pool = pool
        self._transactions = transactions
        self._configured = objects
        self._max = max_bytes
        self._quota = quota
        self._types = types

    @property
    def _objects(self) -> Objects:
        if self._configured is None:
            raise ChatError("unavailable", "This server keeps no files: OBJECTS is not configured.")
        return self._configured

    # -- uploading through us -------------------------------------------------------------------

    def check_size(self, size: int) -> None:
        """Raises ChatError("too_large")."""
        if size > self._max:
            raise ChatError("too_large", f"A file has at most {self._max} bytes.")

    async def upload(
        self,
        caller: Caller,
        name: str,
        chunks: AsyncIterator[bytes],
        once: Once | None = None,
        *,
        announced: int | None = None,
    ) -> File:
        """Store what `chunks` give, as it comes. Whatever ends it early leaves nothing.

        Room for it is taken before: for `announced` bytes, or, without, for as many as a file may have.

        Raises ChatError: too_large, unsupported_media_type, rate_limited; and whatever `chunks` raise.
        """
        objects, file_id, key = self._objects, new_id(), _new_key()
        content = _Content(chunks, self)
        kind = self._kind(await content.head())
        room = self._max if announced is None else min(announced, self._max)
        async with self._pool.connection() as conn, conn.transaction():
            await self._require_room(conn, caller, room)
            await store.insert_file(
                conn, file_id, caller.user_id, key, file_types.file_name(name), content_type=kind, size=room
            )
        try:
            await objects.write(key, content.all(), kind)
            done = await self._finish(caller, file_id, key, content.facts(kind), once, name)
        except BaseException:
            await self._give_up(file_id, key)
            raise
        if done.id != file_id:
            await self._give_up(file_id, key)  # the same request had come before
        return done

    async def _finish(
        self, caller: Caller, file_id: UUID, key: str, facts: Facts, once: Once | None, name: str
    ) -> File:
        async def write(conn: Connection) -> tuple[File, Sequence[Change]]:
            earlier = await claim(conn, caller.user_id, once and _of(once, facts, name), file_id)
            if earlier is not None:
                return _there(await store.fetch_file(conn, earlier)), ()
            return _there(await store.finish_file(conn, file_id, key, facts)), ()

        return await self._transactions.run(write)

    async def _require_room(self, conn: Connection, caller: Caller, size: int) -> None:
        """Require that the user may add a file, in the transaction that makes it. Raises ChatError: unauthenticated,
        banned, too_large, rate_limited.
        """
        found = await store.lock_storage(conn, caller.user_id, datetime.now(UTC) - timedelta(seconds=UPLOAD_SECONDS))
        if found is None:
            raise gone()
        await require_not_banned(conn, caller)
        if found.size + size > self._quota:
            sentence = f"Your files have {found.size} of {self._quota} bytes; delete some of them."
            raise ChatError("too_large", sentence)
        if found.open_uploads >= OPEN_UPLOADS:
            sentence = f"At most {OPEN_UPLOADS} uploads may be open; complete them, or wait until their links expire."
            raise ChatError("rate_limited", sentence, retry_after=UPLOAD_SECONDS)

    def _kind(self, head: bytes) -> str:
        found = file_types.content_type(head, self._types)
        if found is None:
            raise ChatError("unsupported_media_type", f"The content is none of {', '.join(self._types)}.")
        return found

    async def _give_up(self, file_id: UUID, key: str, *, has_link: bool = False) -> None:
        """Best effort: what it cannot do is found by the purge. A file that is ready after all stays, also where that
        is being committed at this moment."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_UP):
            try:
                async with self._pool.connection() as conn:
                    if not await store.abandon_file(conn, file_id):
                        return
                await (self._objects.use_up if has_link else self._objects.delete)(key)
                async with self._pool.connection() as conn:
                    await store.delete_row(conn, file_id)
            except StoreError as error:
                log.warning("upload_not_cleared", file=str(file_id), reason=str(error), advice="`parley purge` does it")

    # -- uploading directly ---------------------------------------------------------------------

    async def presign(self, caller: Caller, request: PresignFile, once: Once | None = None) -> tuple[File, UploadUrl]:
        """A pending file, and where its content is to be put."""
        objects, file_id = self._objects, new_id()
        self.check_size(request.size)
        kind = file_types.canonical(request.content_type)
        if kind not in self._types:
            raise ChatError("unsupported_media_type", f"The contentType is none of {', '.join(self._types)}.")

        async def write(conn: Connection) -> tuple[File, Sequence[Change]]:
            earlier = await claim(conn, caller.user_id, once, file_id)
            if earlier is not None:
                return _there(await store.fetch_file(conn, earlier)), ()
            await self._require_room(conn, caller, request.size)
            name = file_types.file_name(request.name)
            made = await store.insert_file(
                conn, file_id, caller.user_id, _new_key(), name, content_type=kind, size=request.size
            )
            return made, ()

        made = await self._transactions.run(write)
        if made.state == store.READY:
            raise ChatError("conflict", "This upload is complete.")
        return made, await objects.upload_url(
            made.key, content_type=made.content_type, size=made.size, seconds=UPLOAD_SECONDS
        )

    async def complete(self, caller: Caller, file_id: UUID, once: Once | None = None) -> File:
        """Check what was put there, and make it a file. Again: the same file, also when the first try was broken off.

        What is looked at, and kept, is a copy under a key of this call's own: no link to upload names it, and no other
        completion writes to it. Of several at once the first that is through makes the file.
        """
        found = await self._fetch(file_id)
        if found is None or found.owner_id != caller.user_id:
            raise permissions.not_found("file")
        await bind(self._pool, caller.user_id, once)
        if found.state == store.READY:
            return found
        key = _new_key()
        try:
            done = await self._complete(caller, found, key)
        except BaseException as error:
            await self._discard(file_id, key)
            again = await self._fetch(file_id) if isinstance(error, ChatError) else None
            if again is not None and again.state == store.READY:
                return again  # another completion was quicker
            raise
        await self._delete_copied(found)
        return done

    async def _complete(self, caller: Caller, file: File, key: str) -> File:
        try:
            await self._objects.copy(file.key, key)
        except FileNotFoundError:
            raise ChatError("conflict", "Nothing was uploaded to the link yet.") from None
        try:
            facts = await self._inspect(file, key)
        except ChatError:
            await self._give_up(file.id, file.key, has_link=True)
            raise
        return await self._finish(caller, file.id, key, facts, None, file.name)

    async def _discard(self, file_id: UUID, key: str) -> None:
        """A copy that became no file. The row's lock waits for a commit whose outcome is not known."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_UP):
            try:
                async with self._pool.connection() as conn, conn.transaction():
                    found = await store.lock_file(conn, file_id)
                if found is None or found.key != key:
                    await self._objects.delete(key)
            except StoreError as error:
                log.warning("copy_not_cleared", file=str(file_id), reason=str(error), advice="`parley purge` does it")

    async def _delete_copied(self, file: File) -> None:
        """Delete the object that was put to the link, once its copy is the file. The file exists, whether or not this
        succeeds.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_UP):
            try:
                await self._objects.use_up(file.key)
            except StoreError as error:
                log.warning("copy_not_cleared", file=str(file.id), reason=str(error), advice="`parley purge` does it")

    async def _fetch(self, file_id: UUID) -> File | None:
        async with self._pool.connection() as conn:
            return await store.fetch_file(conn, file_id)

    async def _inspect(self, file: File, key: str) -> Facts:
        """Read what was really uploaded, to its end. Raises ChatError if it is not what was announced."""
        size = await self._objects.size(key)
        if size != file.size:
            raise ChatError("invalid_request", f"The upload has {size} bytes; {file.size} were announced.")
        content = _Content(self._objects.read(key), self)
        kind = self._kind(await content.head())
        if kind != file.content_type:
            raise ChatError("unsupported_media_type", f"The content is {kind}; {file.content_type} was announced.")
        async for _ in content.all():
            pass
        return content.facts(kind)

    # -- having them ----------------------------------------------------------------------------

    async def download_url(self, caller: Caller, key: str) -> tuple[str, int]:
        """(a link, the seconds it is good for), for the owner and for members of conversations that hold the file."""
        file = await self._visible(caller, key)
        url = await self._objects.download_url(key, name=file.name, content_type=file.content_type, seconds=URL_SECONDS)
        return url, URL_SECONDS

    async def delete(self, caller: Caller, key: str) -> None:
        """By its owner. Messages that hold it are changed to show none, a few in one transaction; then it is gone."""
        file = await self._visible(caller, key)
        if file.owner_id != caller.user_id:
            raise ChatError("forbidden", "Only its owner may delete a file.")

        async def write(conn: Connection) -> tuple[bool, Sequence[Change]]:
            changes, is_given_up = await store.release_file(conn, file.id, HOLDERS)
            await require_not_banned(conn, caller)
            return is_given_up, changes

        for _ in range(ROUNDS):
            if await self._transactions.run(write):
                break
        else:
            raise ChatError("unavailable", "New messages keep taking this file; try to delete it again.")
        await self._clear(file)

    async def _visible(self, caller: Caller, key: str) -> File:
        async with self._pool.connection() as conn:
            found = await store.fetch_by_key(conn, key, caller.user_id)
        if found is None or not found[1]:
            raise permissions.not_found("file")
        return found[0]

    async def _clear(self, file: File) -> bool:
        """Object, then row. False when the store is away: the purge does it."""
        try:
            await self._objects.delete(file.key)
            async with self._pool.connection() as conn:
                await store.delete_row(conn, file.id)
        except StoreError as error:
            log.warning("file_not_cleared", file=str(file.id), reason=str(error), advice="`parley purge` does it")
            return False
        return True

    async def read(self, file: File) -> AsyncIterator[bytes]:
        """Yield the content, for the process itself: no caller is checked. A file whose object is gone is empty."""
        try:
            async for chunk in self._objects.read(file.key):
                yield chunk
        except FileNotFoundError:
            log.error("object_missing", file=str(file.id), advice="restore the object store, or delete the file")

    async def owned(self, user_id: UUID) -> AsyncIterator[File]:
        """Every file of a user."""
        after = id_floor(0)
        while True:
            async with self._pool.connection() as conn:
                page = await store.list_files_of(conn, user_id, after=after, limit=PURGE_PAGE)
            for file in page:
                yield file
            if len(page) < PURGE_PAGE:
                return
            after = page[-1].id

    # -- clearing up ----------------------------------------------------------------------------

    async def purge(self, now: datetime) -> Purged:
        """Delete what no user will ever see: files that no message took, uploads that stopped, stray objects.

        Safe while people upload and send, and in two processes at once. Raises Unavailable.
        """
        if self._configured is None:
            return Purged(0, 0, 0)
        before = now - ORPHAN_AGE
        retired = await self._retire(before)
        return Purged(retired, await self._clear_given_up(now, before), await self._clear_strays(before))

    async def _retire(self, before: datetime) -> int:
        after: UUID | None = id_floor(0)
        total = 0
        while after is not None:
            async with self._pool.connection() as conn:
                after, retired = await store.retire_files(conn, after, before, PURGE_PAGE)
            total += retired
        return total

    async def _clear_given_up(self, now: datetime, before: datetime) -> int:
        total = 0
        while True:
            async with self._pool.connection() as conn:
                page = await store.list_given_up(conn, before, PURGE_PAGE)
                # Without what was completed since it was listed.
                gone = [file for file in page if file.state != store.PENDING or await store.abandon_file(conn, file.id)]
            cleared = sum([await self._clear(file) for file in gone])
            total += cleared
            if len(page) < PURGE_PAGE:
                return total
            if gone and not cleared:
                raise Unavailable("the object store does not delete")

    async def _clear_strays(self, before: datetime) -> int:
        total = 0
        keys: list[str] = []
        async for key in self._objects.list_before(before):
            keys.append(key)
            if len(keys) == PURGE_PAGE:
                total += await self._clear_unknown(keys)
                keys = []
        return total + await self._clear_unknown(keys)

    async def _clear_unknown(self, keys: Sequence[str]) -> int:
        async with self._pool.connection() as conn:
            strays = set(keys) - await store.list_known_keys(conn, keys)
        for key in strays:
            await self._objects.delete(key)
        return len(strays)


class _Content:
    """A file's content on its way: its head is looked at first; hashed and counted as it passes."""

    def __init__(self, chunks: AsyncIterator[bytes], files: Files) -> None:
        self._chunks = chunks
        self._files = files
        self._head = b""
        self._sha256 = hashlib.sha256()
        self._size = 0

    async def head(self) -> bytes:
        async for chunk in self._chunks:
            self._head += chunk
            if len(self._head) >= file_types.HEAD:
                break
        return self._head[: file_types.HEAD]

    async def all(self) -> AsyncIterator[bytes]:
        yield self._count(self._head)
        async for chunk in self._chunks:
            yield self._count(chunk)

    def _count(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        self._files.check_size(self._size)
        self._sha256.update(chunk)
        return chunk

    def facts(self, kind: str) -> Facts:
        width, height = file_types.dimensions(self._head, kind)
        return Facts(kind, self._size, self._sha256.digest(), width, height)


def _new_key() -> str:
    """Return a key that cannot be guessed and has nothing of the user's in it."""
    return secrets.token_urlsafe(BYTES_KEY)


def _of(once: Once, facts: Facts, name: str) -> Once:
    """What an uploaded file is known by again: its content and its name."""
    return Once(once.key, hashlib.sha256(once.fingerprint + facts.sha256 + name.encode()).digest())


def _there(file: File | None) -> File:
    if file is None:
        raise ChatError("gone", "The file was deleted.")
    return file
