"""The schema's history: one SQL file for each revision, versions/NNNN_name.sql. Owns the tables.

The number is the revision's id, and the number before it is the revision that it follows; the comment at the top says
what it is for. `store.postgres.migrate` runs what a database lacks, all in one transaction, through Alembic. What SQL
cannot do, such as folding names, is a function in `store.postgres.migrate.FILL_INS`: it works in short transactions
after the schema is there, beside running instances.

Expand, then contract: old and new servers run side by side during a deploy, so a revision only adds
what the old code can ignore, and a later one removes what no running code uses. The later one says `-- Contract: NNNN`
at its top: NNNN is the oldest revision whose code works with it. The database keeps the highest of these as a comment
on Alembic's table, so that older code sees whether a newer schema is one that it works with. A revision that was
released is not changed any more, and its number stays: databases are at it.

Alembic itself is imported by `store.postgres.migrate` alone: an instance looks at the schema, too, when it starts.
"""

import re
from collections import Counter
from importlib import resources
from importlib.resources.abc import Traversable

from msgspec import Struct

from store.errors import StoreError, WrongSchema

CONTRACT = re.compile(r"^-- Contract: (\d{4})$", re.MULTILINE)
_CONTRACTS = re.compile(r"\bDROP\s+(?:TABLE|COLUMN|FUNCTION)\b|\bRENAME\b", re.IGNORECASE)  # what old code may use
VERSIONS = resources.files(__name__) / "versions"
NAME = re.compile(r"(\d{4})_[a-z][a-z0-9_]*\.sql")


class Migration(Struct, frozen=True):
    revision: str
    name: str  # of the file
    doc: str  # the first paragraph of the comment at its top
    sql: str
    contract: str  # the oldest revision whose code works with it; empty: it only adds


def load(folder: Traversable = VERSIONS) -> list[Migration]:
    """Return every migration, oldest first. Raises StoreError with all that is wrong with the files."""
    files = sorted(
        (file for file in folder.iterdir() if not file.name.startswith((".", "__"))), key=lambda one: one.name
    )
    wrong = [f"{file.name} is not named like 0001_name.sql" for file in files if not NAME.fullmatch(file.name)]
    found = [_read(file) for file in files if NAME.fullmatch(file.name)]
    wrong += [f"{one.name} does not begin with a comment that says what it is for" for one in found if not one.doc]
    wrong += [
        f"{one.name} removes or renames, and does not say `-- Contract: NNNN` at its top"
        for one in found
        if not one.contract and _CONTRACTS.search(re.sub(r"--[^\n]*", "", one.sql))
    ]
    numbers = Counter(int(one.revision) for one in found)
    wrong += [f"{number:04} is there {count} times" for number, count in numbers.items() if count > 1]
    lacking = set(range(1, max(numbers, default=1) + 1)) - set(numbers)
    wrong += [f"{number:04} is missing" for number in sorted(lacking)]
    wrong += ["0000 is no number: the first is 0001"] if 0 in numbers else []
    if wrong:
        raise StoreError(f"migrations: {'; '.join(wrong)}")
    return found


def _read(file: Traversable) -> Migration:
    text = file.read_text(encoding="utf-8")
    head = re.match(r"(?:--[^\n]*\n)*", text)
    paragraph = re.split(r"^--\s*$", head[0] if head else "", flags=re.MULTILINE)[0]
    doc = " ".join(line.removeprefix("--").strip() for line in paragraph.splitlines())
    contract = CONTRACT.search(head[0] if head else "")
    return Migration(
        revision=file.name[:4], name=file.name, doc=doc, sql=text, contract=contract[1] if contract else ""
    )


def oldest(migrations: list[Migration]) -> str:
    """Return the oldest revision whose code works with the schema that these make."""
    return max(one.contract or migrations[0].revision for one in migrations)


def is_newer(migrations: list[Migration], current: str | None) -> bool:
    """Whether newer code has migrated a database that is at `current`."""
    return current is not None and re.fullmatch(r"\d{4}", current) is not None and current > migrations[-1].revision


def after(migrations: list[Migration], current: str | None, works_from: str | None) -> list[Migration]:
    """Return those that a database at `current` lacks: none if newer code has migrated it and this code works with it.

    `works_from` is what the database says of itself: the oldest revision whose code does. Raises WrongSchema if the
    database is at a revision that this code does not know, and does not say that this code works with it.
    """
    if current is None:
        return migrations
    known = [one.revision for one in migrations]
    if is_newer(migrations, current) and works_from is not None and works_from <= known[-1]:
        return []
    if current not in known:
        raise WrongSchema(f"the schema is at {current}, which this version does not have: a newer one has migrated it")
    return migrations[known.index(current) + 1 :]
