"""What `parley apikey` does: keys are made, listed, revoked and given other secrets in PostgreSQL, for all instances.

Owns what is printed: never a key, but where it is made. Each act is in the audit log.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec

from handlers.api_keys import SCOPES, issue
from server.cli.errors import MISUSED, fail
from server.config.settings import ConfigError, Settings
from server.protocol import terminal
from store.errors import StoreError
from store.ids import new_id
from store.model import Act
from store.postgres import api_keys as store
from store.postgres import audit, users
from store.postgres.connection import Connection
from store.postgres.sessions import Connector

MAX_NAME = 64  # characters


async def create(
    settings: Settings, name: str, scopes: str, *, user: str | None, seconds: float | None, as_json: bool = False
) -> None:
    """Raises StoreError if there is a key of this name, or no such user."""
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or _id_of(name) is not None:
        fail(f"--name: expected 1 to {MAX_NAME} characters that are printed, and not an id", MISUSED)
    wanted = {scope.strip() for scope in scopes.split(",") if scope.strip()}
    unknown = sorted(wanted - SCOPES.keys())
    if unknown or not wanted:
        fail(f"--scopes: {', '.join(unknown) or 'none'}; expected some of {', '.join(SCOPES)}", MISUSED)
    if seconds == 0:
        fail("--expires: expected more than 0", MISUSED)
    key_id = new_id()
    key, secret_hash = issue(key_id)
    async with _connected(settings) as conn:
        user_id = None if user is None else await _find_user(conn, user)
        async with conn.transaction():
            made = await store.insert_key(conn, key_id, name, wanted, secret_hash, user_id=user_id, seconds=seconds)
            if made is not None:
                await audit.insert_audit(conn, Act.KEY_CREATED, None, object_id=key_id, user_id=user_id, detail=name)
    if made is None:
        raise StoreError(f"there is a key named {name!r} already: revoke it, rotate it, or choose another name")
    _say(f"{name}: {', '.join(sorted(wanted))}; {_until(made)}. It is shown this once:")
    terminal.echo(_line(made, key) if as_json else key)


async def show(settings: Settings, *, revoked: bool, as_json: bool = False) -> None:
    async with _connected(settings) as conn:
        found = await store.list_keys(conn, revoked=revoked)
    if as_json:
        for key in found:
            terminal.echo(_line(key))
        return
    if not found:
        _say("there are no keys; `parley apikey create --help` says how to make one")
        return
    table = terminal.table("name", "id", "scopes", "acts as", "created", "last use", "good until")
    for key in found:
        scopes = " ".join(sorted(key.scopes))
        table.add_row(
            key.name,
            str(key.id),
            scopes,
            str(key.user_id or "-"),
            _time(key.created_at),
            _time(key.last_used_at),
            f"revoked {_time(key.revoked_at)}" if key.revoked_at else _time(key.expires_at),
        )
    terminal.show(table)


async def revoke(settings: Settings, name: str) -> None:
    """Raises StoreError."""
    async with _connected(settings) as conn:
        key = await _find(conn, name)
        async with conn.transaction():
            if await store.revoke_key(conn, key.id):
                await audit.insert_audit(conn, Act.KEY_REVOKED, None, object_id=key.id, detail=key.name)
    _say(f"{key.name} is revoked; every instance refuses it within a second")


async def rotate(settings: Settings, name: str, *, keep: float, as_json: bool = False) -> None:
    """Raises StoreError."""
    async with _connected(settings) as conn:
        key = await _find(conn, name)
        new, secret_hash = issue(key.id)
        async with conn.transaction():
            rotated = await store.rotate_key(conn, key.id, secret_hash, keep=keep)
            if rotated is not None:
                await audit.insert_audit(conn, Act.KEY_ROTATED, None, object_id=key.id, detail=key.name)
    if rotated is None:
        raise StoreError(f"{name!r} was revoked meanwhile")
    until = _time(rotated.previous_until)
    _say(f"{key.name}: the secret from before is good until {until}. The new key is shown this once:")
    terminal.echo(_line(rotated, new) if as_json else new)


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Connection]:
    if not settings.database_url:
        raise ConfigError("DATABASE_URL: required, for example postgresql://parley@db/parley")
    conn = await Connector(settings.database_url, name="parley-apikey", writes=True).connect()
    try:
        yield conn
    finally:
        conn.finish()


async def _find(conn: Connection, name: str) -> store.ApiKey:
    key = await store.find_key(conn, _id_of(name), name)
    if key is None:
        raise StoreError(f"there is no key {name!r}, or it was revoked: `parley apikey list` has those that are good")
    return key


async def _find_user(conn: Connection, name: str) -> UUID:
    user_id = _id_of(name)
    if user_id is not None:
        account = await users.fetch_account(conn, user_id)
        found = None if account is None else account.id
    else:
        user = await users.fetch_user_by_name(conn, name)
        found = None if user is None else user.id
    if found is None:
        raise StoreError(f"there is no user {name!r}")
    return found


def _id_of(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _line(key: store.ApiKey, secret: str | None = None) -> str:
    """As JSON, with the key itself where it is made."""
    said = {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "userId": key.user_id,
        "createdAt": key.created_at,
        "lastUsedAt": key.last_used_at,
        "expiresAt": key.expires_at,
        "revokedAt": key.revoked_at,
    }
    return msgspec.json.encode(said if secret is None else {**said, "key": secret}).decode()


def _until(key: store.ApiKey) -> str:
    return "good until it is revoked" if key.expires_at is None else f"good until {_time(key.expires_at)}"


def _time(text: str | None) -> str:
    return "-" if text is None else text[:16].replace("T", " ") + " UTC"


def _say(line: str) -> None:
    terminal.echo(terminal.line(line), err=True)
