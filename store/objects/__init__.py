"""Where files are: one port, and the stores behind it (`s3`, `directory`), by the scheme of the URL that names them.

Owns the interface and the list of stores. What a file means, and who may have it, is `handlers.files`' business; rows
are in `store.postgres.files`. An object is written once, whole or not at all, under a key that we choose, and never
changed.
"""

import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol
from urllib.parse import SplitResult, quote, urlsplit

from msgspec import Struct

from store.errors import ObjectsUnavailable
from store.extras import how_to_install
from store.outage import Outage
from store.reasons import reason
from store.signing import SigningKeys

KEY = re.compile(r"[A-Za-z0-9_-]{32}")  # nothing of a user's is in it
CHUNK = 256 * 1024  # bytes read at once
PROBE = b"parley check"  # what `check` writes
ROOM = 1024 * 1024  # bytes that `find_trouble` writes to find out whether there is room again


class UploadUrl(Struct, frozen=True):
    """Where a client puts an object itself: with this method, exactly these headers, and the size it announced."""

    url: str
    headers: Mapping[str, str]
    method: str = "PUT"


class Objects(Protocol):
    """Every method may raise ObjectsUnavailable; those that write, ObjectsFull. URLs that begin with "/" are paths on
    this server."""

    @property
    def trouble(self) -> Outage:
        """Whether the last `write` failed, and why."""

    async def write(self, key: str, chunks: AsyncIterable[bytes], content_type: str) -> None:
        """Store what `chunks` give. Whatever ends it early (an error of theirs, a cancellation) leaves nothing."""

    async def size(self, key: str) -> int | None:
        """Return the size in bytes, or None if there is no such object."""

    def read(self, key: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the content, or `length` bytes from `start`, in chunks of bounded size. Raises FileNotFoundError."""

    async def copy(self, source: str, target: str) -> None:
        """Copy what is there now to another key: nothing that is written to the first key changes it. Raises
        FileNotFoundError.
        """

    async def delete(self, key: str) -> None:
        """Delete an object. Does nothing if there is none."""

    async def use_up(self, key: str) -> None:
        """Delete what was put there by an upload link, before the link expires. Where the store can, nothing is put
        there again; an empty object may stay, which the purge removes."""

    def list_before(self, when: datetime) -> AsyncIterator[str]:
        """Yield the keys of our objects written before `when`. Uploads that were begun before it and never ended are
        thrown away.
        """

    async def upload_url(self, key: str, *, content_type: str, size: int, seconds: int) -> UploadUrl:
        """Good for so many seconds, for an object of exactly this size and type."""

    async def download_url(self, key: str, *, name: str, content_type: str, seconds: int) -> str:
        """Good for so many seconds; a browser saves it as `name`."""

    async def check(self) -> None:
        """Write an object, read it, by a link where links lead elsewhere, and delete it. Raises ObjectsUnavailable."""


class Scheme(Struct, frozen=True):
    """How the URLs of one kind of store look, and where it is: a module with a function `open_store` (see Opener).
    What that needs besides is a package, in an extra of ours."""

    example: str
    pattern: str
    module: str
    package: str = ""
    extra: str = ""


class Opener(Protocol):
    def __call__(self, url: SplitResult, *, endpoint: str, signing: SigningKeys) -> Objects: ...


# A store is its module and its line here. Modules are imported when they are needed: boto3 takes a third of a second.
SCHEMES = {
    "s3": Scheme("s3://bucket", r"s3://[^/]+(/.*)?", "store.objects.s3", "boto3", "s3"),
    "file": Scheme("file:///directory", r"file:///.+", "store.objects.directory"),
}
EXAMPLES = " or ".join(f"`{scheme.example}`" for scheme in SCHEMES.values())


def scheme_of(url: str) -> Scheme:
    """Raises ValueError when no store has such URLs, or what it needs is not installed."""
    scheme = SCHEMES.get(url.partition(":")[0])
    if scheme is None or not re.fullmatch(scheme.pattern, url):
        raise ValueError(f"expected {EXAMPLES.replace('`', '')}")
    if scheme.package and find_spec(scheme.package) is None:
        raise ValueError(f"{scheme.package} is not installed: {how_to_install(scheme.extra)}")
    return scheme


def open_objects(url: str, *, endpoint: str = "", signing: SigningKeys) -> Objects:
    """Return the store that `url` names, by its scheme. Raises ValueError."""
    opener: Opener = import_module(scheme_of(url).module).open_store
    return opener(urlsplit(url), endpoint=endpoint, signing=signing)


def new_trouble() -> Outage:
    """Return what a store has as its `trouble`."""
    return Outage("parley.objects", "files_fail", advice="uploads are refused meanwhile")


@contextmanager
def noted(trouble: Outage) -> Iterator[None]:
    """Around each write: take note of whether it failed, and not of what its source raises."""
    try:
        yield
    except ObjectsUnavailable as error:
        trouble.failed(reason(error))
        raise
    trouble.over()


async def find_trouble(objects: Objects) -> str | None:
    """Return why no file can be stored, as far as is known; None when all is well. If the last write failed, another
    one is tried, of ROOM bytes, so that the trouble ends without an upload."""
    if not objects.trouble:
        return None

    async def room() -> AsyncIterator[bytes]:
        yield bytes(ROOM)

    key = new_key()
    try:
        await objects.write(key, room(), "text/plain")
        await objects.delete(key)
    except ObjectsUnavailable as error:
        return reason(error)
    return None


def new_key() -> str:
    """Return a key that cannot be guessed."""
    return secrets.token_urlsafe(24)


def attachment(name: str) -> str:
    """A Content-Disposition that saves under `name` (RFC 6266; RFC 8187 for what is not ASCII)."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
