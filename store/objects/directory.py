"""Objects as files in a directory: for development, and for one machine without an S3.

Owns the directory. A file is written beside its place and renamed into it when it is whole and on the disk. URLs are
paths on our own server with an HMAC over everything that they allow (`verify`); `server.rest.routes.signed_urls`
serves them.
"""

import contextlib
import errno
import hmac
import os
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlencode

import trio
from msgspec import Struct

from store.errors import ObjectsFull, ObjectsUnavailable
from store.objects import CHUNK, KEY, PROBE, Objects, UploadUrl, new_key, new_trouble, noted
from store.reasons import reason
from store.signing import SigningKeys

PATH = "/objects/"
THREADS = 8  # file operations at once
BUFFER = 1024 * 1024  # bytes gathered for one write
CLEAN_UP = 5.0  # seconds for throwing away what was begun
UNFINISHED = "unfinished"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


class Grant(Struct, frozen=True):
    """What a signed URL allows. `size` only for uploads, `name` only for downloads; `expires` in epoch seconds."""

    method: str
    key: str
    content_type: str
    expires: int
    size: int = -1
    name: str = ""


def open_store(url: SplitResult, *, endpoint: str, signing: SigningKeys) -> Objects:
    """file:///directory. `endpoint` is for stores that are somewhere else."""
    return DirectoryObjects(Path(unquote(url.path)), signing)


class DirectoryObjects:
    def __init__(self, root: Path, keys: SigningKeys) -> None:
        """URLs are signed with a key derived from `keys`."""
        self._root = root
        self._keys = keys.derive(b"parley object url v1")
        self._limiter = trio.CapacityLimiter(THREADS)
        self.trouble = new_trouble()

    # -- objects --------------------------------------------------------------------------------

    async def write(self, key: str, chunks: AsyncIterable[bytes], content_type: str, *, is_first: bool = False) -> None:
        """`is_first`: Raises FileExistsError, instead of taking its place, when an object is there by the end."""
        with noted(self.trouble):
            await self._write(key, chunks, is_first)

    async def _write(self, key: str, chunks: AsyncIterable[bytes], is_first: bool) -> None:
        path = self._path(key)
        unfinished = self._root / UNFINISHED / secrets.token_hex(16)
        try:
            file = await self._run(_create, unfinished)
            try:
                buffer = bytearray()
                async for chunk in chunks:
                    buffer += chunk
                    if len(buffer) >= BUFFER:
                        await self._run(file.write, buffer)
                        buffer = bytearray()
                await self._run(_finish, file, buffer, unfinished, path, is_first)
            finally:
                file.close()
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_UP):
                await self._run(unfinished.unlink, True)
            raise

    async def size(self, key: str) -> int | None:
        try:
            return (await self._run(self._path(key).stat)).st_size
        except FileNotFoundError:
            return None

    async def read(self, key: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        file = await self._run(lambda: self._path(key).open("rb"))
        try:
            file.seek(start)
            left = length
            while left is None or left > 0:
                wanted = CHUNK if left is None else min(CHUNK, left)
                chunk = await self._run(file.read, wanted)
                if not chunk:
                    return
                if left is not None:
                    left -= len(chunk)
                yield chunk
        finally:
            file.close()

    async def copy(self, source: str, target: str) -> None:
        await self._run(_copy, self._path(source), self._path(target))

    async def delete(self, key: str) -> None:
        await self._run(self._path(key).unlink, True)

    async def use_up(self, key: str) -> None:
        """An empty object takes its place: `server.rest.routes.signed_urls` takes nothing where there is one."""

        async def nothing() -> AsyncIterator[bytes]:
            yield b""

        await self.write(key, nothing(), "")

    async def list_before(self, when: datetime) -> AsyncIterator[str]:
        limit = when.timestamp()
        for path in await self._run(_older, self._root / UNFINISHED, limit):
            await self._run(path.unlink, True)
        for shard in await self._run(lambda: sorted(self._root.glob("??"))):
            for path in await self._run(_older, shard, limit):
                if KEY.fullmatch(path.name):
                    yield path.name

    async def check(self) -> None:
        key = new_key()

        async def pieces() -> AsyncIterator[bytes]:
            yield PROBE

        made = await self._run(_missing, self._path(key).parent, self._root / UNFINISHED)
        try:
            await self.write(key, pieces(), "text/plain")
            try:
                found = b"".join([chunk async for chunk in self.read(key)])
            finally:
                await self.delete(key)
        finally:
            await self._run(_remove_empty, made)
        if found != PROBE:
            raise ObjectsUnavailable("the object store: what was read is not what was written")

    def _path(self, key: str) -> Path:
        """Raises FileNotFoundError for what is no key: nothing outside the directory has a name here."""
        if not KEY.fullmatch(key):
            raise FileNotFoundError(key)
        return self._root / key[:2] / key

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        try:
            return await trio.to_thread.run_sync(call, *arguments, limiter=self._limiter)
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            kind = ObjectsFull if error.errno in NO_ROOM else ObjectsUnavailable
            raise kind(f"the object store: {reason(error)}") from error

    # -- signed URLs ----------------------------------------------------------------------------

    async def upload_url(self, key: str, *, content_type: str, size: int, seconds: int) -> UploadUrl:
        grant = Grant("PUT", key, content_type, int(time.time()) + seconds, size=size)
        return UploadUrl(self._sign(grant), {"Content-Type": content_type})

    async def download_url(self, key: str, *, name: str, content_type: str, seconds: int) -> str:
        return self._sign(Grant("GET", key, content_type, int(time.time()) + seconds, name=name))

    def _sign(self, grant: Grant) -> str:
        query: dict[str, object] = {"expires": grant.expires, "type": grant.content_type}
        query |= {"size": grant.size} if grant.method == "PUT" else {"name": grant.name}
        return f"{PATH}{grant.key}?{urlencode({**query, 'signature': _signature(self._keys.current, grant)})}"

    def verify(self, method: str, key: str, query: Mapping[str, str]) -> Grant | None:
        """Return what this URL allows, or None if it is not ours, or too old."""
        try:
            grant = Grant(
                "GET" if method == "HEAD" else method,
                key,
                query["type"],
                int(query["expires"]),
                size=int(query["size"]) if method == "PUT" else -1,
                name="" if method == "PUT" else query["name"],
            )
            signature = query["signature"].encode()
        except (KeyError, ValueError):
            return None
        is_ours = any(
            hmac.compare_digest(signature, _signature(accepted, grant).encode()) for accepted in self._keys.accepted
        )
        return grant if is_ours and grant.expires > time.time() else None


def _signature(key: bytes, grant: Grant) -> str:
    said = (grant.method, grant.key, grant.content_type, str(grant.expires), str(grant.size), grant.name)
    return hmac.digest(key, "\0".join(said).encode(), "sha256").hex()


def _create(path: Path) -> "_Writer":
    path.parent.mkdir(parents=True, exist_ok=True)
    return _Writer(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


class _Writer:
    """A file descriptor that is written whole buffers."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what matters was synced before; the rest is thrown away
            os.close(self._descriptor)


def _missing(*directories: Path) -> list[Path]:
    """Return those of these directories and their parents that do not exist, the innermost first."""
    wanted = {each for directory in directories for each in (directory, *directory.parents)}
    return sorted((each for each in wanted if not each.exists()), key=lambda each: len(each.parts), reverse=True)


def _remove_empty(directories: list[Path]) -> None:
    for directory in directories:
        with contextlib.suppress(OSError):  # it was not made, or is used by now
            directory.rmdir()


def _finish(file: "_Writer", rest: bytearray, unfinished: Path, path: Path, is_first: bool) -> None:
    """On the disk, then in its place: a crash leaves the whole file or none."""
    file.write(rest)
    os.fsync(file.fileno())
    _make_shard(path.parent)
    if is_first:
        path.hardlink_to(unfinished)  # of two at once, one
        unfinished.unlink()
    else:
        unfinished.rename(path)
    try:
        _sync(path.parent)
    except OSError:
        if is_first:
            path.unlink(missing_ok=True)  # what is refused is not there: the same link takes it again
        raise


def _copy(source: Path, target: Path) -> None:
    """A second name: what is written to the first one is another file (`_finish`). Both are new to `list_before`. On
    the disk as well: the first name goes as soon as this one is the file's."""
    _make_shard(target.parent)
    os.utime(source)
    target.hardlink_to(source)
    _sync(target.parent)


def _make_shard(directory: Path) -> None:
    with contextlib.suppress(FileExistsError):
        directory.mkdir()
        _sync(directory.parent)


def _sync(directory: Path) -> None:
    """Write a directory to the disk, so that names that were made or removed in it stay so."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _older(directory: Path, limit: float) -> list[Path]:
    """Files there that were last written before `limit` (epoch seconds). What goes meanwhile is none of them."""
    found = []
    try:
        for entry in os.scandir(directory):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < limit:
                    found.append(Path(entry.path))
    except FileNotFoundError:
        pass  # nothing was ever written
    return found
