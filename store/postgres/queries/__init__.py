"""Every SQL statement that has a name, loaded once from the .sql files beside this module.

Owns the loader. In a file, ``-- name: fetch_message`` starts a query; it is then
``queries.fetch_message``. ``-- fragment: x`` starts a piece that later queries of the same file embed as
``{x}``; those of ``_shared.sql`` are for all files. Comments stay in the files. Nothing here is ever built
from a user's text.
"""

import re
from collections.abc import Iterator
from importlib import resources
from typing import LiteralString

_SECTION = re.compile(r"^-- (name|fragment): (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_PARAMETER = re.compile(r"%\((\w+)\)s")
_NUMBER = re.compile(r"\$(\d+)")
_FRAGMENT = re.compile(r"\{(\w+)\}")


SHARED = "_shared.sql"


def parse(text: str, fragments: dict[str, str] | None = None) -> dict[str, LiteralString]:
    """The queries of one file by name. Its fragments are added to `fragments`, which it may embed as well.

    Raises ValueError on a name or fragment that is there twice or missing.
    """
    fragments = {} if fragments is None else fragments
    found: dict[str, LiteralString] = {}
    parts = _SECTION.split(text)[1:]
    for kind, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if name in found or name in fragments:
            raise ValueError(f"{name!r} is there twice")
        bare = _COMMENT.sub("", body).strip()
        missing = set(_FRAGMENT.findall(bare)) - set(fragments)
        if missing:
            raise ValueError(f"{name!r} embeds unknown fragments: {sorted(missing)}")
        sql = _FRAGMENT.sub(lambda match: fragments[match[1]], bare)
        if kind == "fragment":
            fragments[name] = sql
        else:
            found[name] = sql
    return found


def _load() -> dict[str, LiteralString]:
    every: dict[str, LiteralString] = {}
    shared: dict[str, str] = {}
    parse(resources.files(__name__).joinpath(SHARED).read_text(encoding="utf-8"), shared)
    for file in sorted(resources.files(__name__).iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".sql") and file.name != SHARED:
            for name, sql in parse(file.read_text(encoding="utf-8"), dict(shared)).items():
                if name in every:
                    raise ValueError(f"{name!r} is in two files, one of them {file.name}")
                every[name] = sql
    return every


_QUERIES = _load()


def __getattr__(name: str) -> LiteralString:
    try:
        return _QUERIES[name]
    except KeyError:
        raise AttributeError(f"there is no query named {name!r}") from None


def each() -> Iterator[tuple[str, LiteralString]]:
    """Every query with its name."""
    yield from _QUERIES.items()


def numbered(sql: str) -> tuple[str, int]:
    """Return the query with $1, $2, ... in place of named parameters, as PREPARE takes it, and how many there are."""
    names = sorted(set(_PARAMETER.findall(sql)))
    for number, name in enumerate(names, 1):
        sql = sql.replace(f"%({name})s", f"${number}")
    return sql, max(map(int, _NUMBER.findall(sql)), default=0)
