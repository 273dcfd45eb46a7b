"""API keys of applications: what a key looks like, what its scopes allow, and whether one that is shown is good.

Owns the scopes, and the keys that were found good just now. A key is looked up in PostgreSQL at most once a second on
each instance: one that was revoked is refused everywhere within REMEMBERED seconds, whatever else is out of reach.
When it was used last is noted by a task, behind the requests.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from uuid import UUID

import trio
from msgspec import Struct

from handlers.errors import ChatError
from handlers.ports import Connections
from store.defects import divided, guard
from store.errors import StoreError
from store.postgres import api_keys as store

PREFIX = "parley_key_"
SECRET_BYTES = 32
SCOPES: Mapping[str, str] = {
    "users:read": "read profiles of users",
    "users:write": "create, change and erase users",
    "users:act": "act for any user whom a request names",
    "tokens:mint": "mint access tokens for users, and end their sessions",
    "messages:read": "read and search messages, and load files",
    "messages:send": "send, edit, delete, pin and react, and upload files",
    "conversations:read": "read conversations, members and links",
    "conversations:write": "create and change conversations, their members and links",
}

REMEMBERED = 1.0  # seconds for which a key that was found good is not looked up again
KNOWN_MAX = 1000  # keys that are remembered
NOTE_EVERY = 2.0  # seconds between writes of when keys were used last

_KEY = re.compile(PREFIX + "([0-9a-f]{32})_([A-Za-z0-9_-]{43})")

_guard = guard("api_keys")


class Grant(Struct, frozen=True):
    """A key that was shown and is good. `user_id`: as whom it acts by itself."""

    id: UUID
    name: str
    scopes: frozenset[str]
    user_id: UUID | None = None


def issue(key_id: UUID) -> tuple[str, bytes]:
    """(the key with a new secret, the hash of the secret)"""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    return f"{PREFIX}{key_id.hex}_{secret}", _hashed(secret)


def is_key(token: str) -> bool:
    """Whether it is meant to be a key. An access token never is: it begins with the JSON of its header."""
    return token.startswith(PREFIX)


class ApiKeys:
    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._known: dict[tuple[UUID, bytes], tuple[Grant, float]] = {}  # until when; the oldest first
        self._asked: dict[tuple[UUID, bytes], trio.Event] = {}
        self._used: set[UUID] = set()  # to be noted: no more than there are keys
        self.accepted = self.refused = 0

    async def verify(self, token: str, ask: Callable[[], None]) -> Grant:
        """Return what the key is. Raises ChatError("unauthenticated"), and what `ask` raises: it is called before
        PostgreSQL is asked, so that guessing keys is limited. Requests with one key that come together ask once."""
        found = _KEY.fullmatch(token)
        if found is None:
            ask()
            raise self._refused("The API key is malformed.")
        shown = (UUID(hex=found[1]), _hashed(found[2]))
        while True:
            grant, until = self._known.get(shown, (None, 0.0))
            if grant is not None and trio.current_time() < until:
                break
            other = self._asked.get(shown)
            if other is not None:
                await other.wait()
                continue
            ask()
            self._asked[shown] = event = trio.Event()
            try:
                grant = await self._look_up(*shown)
            finally:
                del self._asked[shown]
                event.set()
            break
        self.accepted += 1
        return grant

    async def _look_up(self, key_id: UUID, secret_hash: bytes) -> Grant:
        now = trio.current_time()
        self._known.pop((key_id, secret_hash), None)
        async with self._pool.connection() as conn:
            found = await store.fetch_key(conn, key_id, secret_hash)
        if found is None:
            raise self._refused("The API key is not one of ours, or its secret was rotated.")
        if found.is_revoked:
            raise self._refused("The API key was revoked.")
        if found.is_expired:
            raise self._refused("The API key has expired.")
        if not found.is_noted:
            self._used.add(key_id)
        grant = Grant(key_id, found.key.name, found.key.scopes, found.key.user_id)
        if len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[key_id, secret_hash] = grant, now + REMEMBERED
        return grant

    def _refused(self, sentence: str) -> ChatError:
        self.refused += 1
        return ChatError("unauthenticated", sentence)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Note when keys were used last, until cancelled. What cannot be written is noted with a later use."""
        task_status.started()
        while True:
            await trio.sleep(NOTE_EVERY)
            if self._used:
                used, self._used = self._used, set()
                with suppress(StoreError):  # a later use is noted
                    await divided(_guard, sorted(used), self._note, lambda key_id, reference: None)

    async def _note(self, key_ids: Sequence[UUID]) -> None:
        async with self._pool.connection() as conn:
            await store.note_keys(conn, key_ids)


def require_scope(grant: Grant, scope: str) -> None:
    """Raises ChatError("scope_required")."""
    if scope not in grant.scopes:
        raise ChatError("scope_required", f"This needs an API key with the scope {scope}; {grant.name!r} lacks it.")


def _hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
