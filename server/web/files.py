"""The files of the page, held in memory: read once, compressed once, each under its name.

Owns the folder `static` and the list of what may be in it. A file is found by its name in that list and in no other
way, so that no path of a request reaches the disk. `static/client` is the JavaScript client library: a link to its
sources in the repository, a folder of the same name in a wheel.
"""

import gzip
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from posixpath import dirname, join, normpath

from msgspec import Struct

MAX_FILES = 200
MAX_BYTES = 2 * 1024 * 1024  # of all files together
MAX_DEPTH = 3  # folders
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}

_IMPORT = re.compile(r"""^(?:import|export|\})[^"'()]*["'](\.{1,2}/[^"']+)["'];?$""", re.MULTILINE)


class PageFile(Struct, frozen=True):
    """A file as it is sent: as it is, and compressed. `digest` names this content and no other."""

    name: str
    content_type: str
    content: bytes
    compressed: bytes
    digest: str

    @classmethod
    def of(cls, name: str, content_type: str, content: bytes) -> "PageFile":
        compressed = gzip.compress(content, 9, mtime=0)
        return cls(name, content_type, content, compressed, sha256(content).hexdigest()[:16])


def load(root: Traversable | None = None) -> Mapping[str, PageFile]:
    """Read all files of the page, by name (`app.js`, `client/chat.js`). What is of no known type is left out.

    Raises ValueError when there is more than a page can be made of.
    """
    found: dict[str, PageFile] = {}
    size = 0
    for name, file in _walk(root or resources.files("server.web").joinpath("static")):
        content_type = TYPES.get(PurePosixPath(name).suffix)
        if content_type is None:
            continue
        content = file.read_bytes()
        size += len(content)
        if len(found) == MAX_FILES or size > MAX_BYTES:
            raise ValueError(f"the page has more than {MAX_FILES} files or {MAX_BYTES} bytes")
        found[name] = PageFile.of(name, content_type, content)
    return found


def _walk(folder: Traversable, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Traversable]]:
    if depth > MAX_DEPTH:
        raise ValueError(f"the page has folders more than {MAX_DEPTH} deep")
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if each.is_dir():
            yield from _walk(each, f"{prefix}{each.name}/", depth + 1)
        else:
            yield prefix + each.name, each


def imported(files: Mapping[str, PageFile], start: str) -> list[str]:
    """Return the modules that this one needs, and those that these need, so that all can be fetched at once."""
    waiting, found = [start], dict[str, None]()
    while waiting:
        name = waiting.pop()
        if name in found or name not in files:
            continue
        found[name] = None
        for given in _IMPORT.findall(files[name].content.decode()):
            waiting.append(normpath(join(dirname(name), given)))
    return list(found)


def build_of(files: Mapping[str, PageFile]) -> str:
    """Return a name for all the files as they are: it is in their addresses, so that they may be kept for ever."""
    return sha256("".join(f"{file.name} {file.digest}\n" for file in files.values()).encode()).hexdigest()[:16]
