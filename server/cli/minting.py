"""Access tokens for the commands that need one.

Owns the way from a user's id or name to a token, and to the user of a `parley dev`.
"""

from pathlib import Path
from uuid import UUID

import trio

from server.cli.dev.run import KEY_FILE, dev_settings
from server.config.settings import ConfigError, Settings
from server.identity.access_tokens import ACCESS_TTL, mint_token
from store.postgres import users
from store.postgres.sessions import Connector


def mint(settings: Settings, user: str, seconds: float = ACCESS_TTL, *, admin: bool = False) -> str | None:
    """Return a token for the user with this id or username, or None if there is no such user."""
    user_id = trio.run(_find_user, settings, user)
    return None if user_id is None else mint_token(settings, user_id, seconds, admin=admin)


def dev_token(data: Path, user: str) -> str | None:
    """Return a token for a user of the development server in `data`, or None without such a server or user."""
    return mint(dev_settings(data), user) if (data / KEY_FILE).exists() else None


async def _find_user(settings: Settings, id_or_name: str) -> UUID | None:
    """Return the id of the user with this id or username, or None."""
    try:
        return UUID(id_or_name)
    except ValueError:
        pass
    if not settings.database_url:
        raise ConfigError("DATABASE_URL: required to find a user by name, for example postgresql://parley@db/parley")
    conn = await Connector(settings.database_url, name="parley-token").connect()
    try:
        user = await users.fetch_user_by_name(conn, id_or_name)
    finally:
        conn.finish()
    return user.id if user else None
