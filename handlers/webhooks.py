"""Webhooks: administrators name the endpoints of applications, and look after them.

Owns who may, what an endpoint may be, and its secrets. Touches the pool. Delivering is `server.webhooks`'. A secret is
shown when it is made, and never again: it is kept sealed.
"""

import base64
import secrets
from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from msgspec.structs import asdict

from handlers import page_cursors, permissions, standing
from handlers.errors import ChatError
from handlers.idempotency import claim
from handlers.model import Caller, CreateWebhook, NewWebhook, Once, ReplayDeadLetters, UpdateWebhook
from handlers.ports import Connections
from handlers.webhook_urls import check_url, host_of
from store.ids import new_id
from store.model import Act, DeadLetter, UserRole, Webhook, WebhookEvent, WebhookState
from store.postgres import audit
from store.postgres import conversations as conversation_store
from store.postgres import webhooks as store
from store.postgres.connection import Connection
from store.sealing import load, seal
from store.signing import DerivedKeys, SigningKeys

MAX_WEBHOOKS = 100
SECRET_BYTES = 32  # random ones
PREFIX = "whsec_"  # of a secret as it is shown (Standard Webhooks)
PURPOSE = b"parley webhooks v1"
BOTH_SIGN = 24 * 3600.0  # seconds for which a secret signs that was replaced
MAX_DETAIL = 256  # characters, in the audit log
_END = 2**63 - 1


class Rules(NamedTuple):
    """What is allowed here: hosts of WEBHOOK_HOSTS."""

    hosts: Collection[str] = ()


class Webhooks:
    def __init__(self, pool: Connections, signing: SigningKeys, rules: Rules) -> None:
        self._pool = pool
        self._keys = sealing_keys(signing)
        self._rules = rules

    async def create(self, caller: Caller | None, request: CreateWebhook, once: Once | None = None) -> NewWebhook:
        """A new endpoint, with its secret. The same request again: the same endpoint with another secret.

        Here and below, `caller` is None for an operator of this machine.
        """
        shown, sealed = await self._new_secret()
        webhook_id = new_id()
        async with self._pool.connection() as conn, conn.transaction():
            await _require(conn, caller)
            url = check_url(request.url, self._rules.hosts)
            events = tuple(dict.fromkeys(map(_event, request.events or ())))
            earlier = None if caller is None else await claim(conn, caller.user_id, once, webhook_id)
            if earlier is not None:
                await _note(conn, caller, Act.WEBHOOK_CHANGED, earlier, "secret")
                return _with_secret(_found(await store.replace_secret(conn, earlier, sealed)), shown)
            if request.conversation_id is not None:
                heads = await conversation_store.fetch_heads(conn, [request.conversation_id])
                if request.conversation_id not in heads:
                    raise permissions.not_found()
            if await store.count_webhooks(conn) >= MAX_WEBHOOKS:
                raise ChatError("conflict", f"There are {MAX_WEBHOOKS} webhooks; delete one of them first.")
            made = await store.insert_webhook(conn, webhook_id, url, events, request.conversation_id, sealed)
            await _note(conn, caller, Act.WEBHOOK_CREATED, webhook_id, host_of(url))
        return _with_secret(made, shown)

    async def list(self, caller: Caller | None, limit: int, cursor: str | None) -> tuple[Sequence[Webhook], str | None]:
        after = page_cursors.decode_id(cursor)
        async with self._pool.connection() as conn:
            await _require(conn, caller)
            found = await store.list_webhooks(conn, after=after, limit=limit + 1)
        items = found[:limit]
        return items, page_cursors.encode_id(items[-1].id) if len(found) > limit else None

    async def get(self, caller: Caller | None, webhook_id: UUID) -> Webhook:
        async with self._pool.connection() as conn:
            await _require(conn, caller)
            return _found(await store.fetch_webhook(conn, webhook_id))

    async def update(self, caller: Caller | None, webhook_id: UUID, request: UpdateWebhook) -> Webhook:
        """Pause it, or resume it, also when it was disabled: then what waits is delivered."""
        async with self._pool.connection() as conn, conn.transaction():
            await _require(conn, caller)
            found = _found(await store.fetch_webhook(conn, webhook_id))
            if request.state is None:
                return found
            state = _state(request.state)
            if found.state is state:
                return found
            await _note(conn, caller, Act.WEBHOOK_CHANGED, webhook_id, state.value)
            return _found(await store.update_state(conn, webhook_id, state))

    async def rotate_secret(self, caller: Caller | None, webhook_id: UUID, once: Once | None = None) -> NewWebhook:
        """A new secret; the one before signs, too, for BOTH_SIGN. The same request again: another one in place of the
        new one, as its answer may have been lost."""
        shown, sealed = await self._new_secret()
        async with self._pool.connection() as conn, conn.transaction():
            await _require(conn, caller)
            earlier = None if caller is None else await claim(conn, caller.user_id, once, webhook_id)
            if earlier is None:
                found = await store.rotate_secret(conn, webhook_id, sealed, seconds=BOTH_SIGN)
            else:
                found = await store.replace_secret(conn, webhook_id, sealed)
            await _note(conn, caller, Act.WEBHOOK_CHANGED, webhook_id, "secret")
            return _with_secret(_found(found), shown)

    async def delete(self, caller: Caller | None, webhook_id: UUID) -> None:
        async with self._pool.connection() as conn, conn.transaction():
            await _require(conn, caller)
            if not await store.delete_webhook(conn, webhook_id):
                raise permissions.not_found("webhook")
            await _note(conn, caller, Act.WEBHOOK_DELETED, webhook_id)

    async def dead_letters(
        self, caller: Caller | None, webhook_id: UUID, limit: int, cursor: str | None
    ) -> tuple[Sequence[DeadLetter], str | None]:
        """Return dead letters, the last one to fail first."""
        before = _decode_number(page_cursors.decode_text(cursor))
        async with self._pool.connection() as conn:
            await _require(conn, caller)
            _found(await store.fetch_webhook(conn, webhook_id))
            found = await store.list_dead_letters(conn, webhook_id, before=before, limit=limit + 1)
        items = [letter for _, letter in found[:limit]]
        return items, page_cursors.encode_text(str(found[limit - 1][0])) if len(found) > limit else None

    async def replay(self, caller: Caller | None, webhook_id: UUID, request: ReplayDeadLetters) -> int:
        """Have dead letters tried once more: those named, or all. Return how many."""
        async with self._pool.connection() as conn, conn.transaction():
            await _require(conn, caller)
            _found(await store.fetch_webhook(conn, webhook_id))
            await _note(conn, caller, Act.WEBHOOK_CHANGED, webhook_id, "replay")
            return await store.replay_dead_letters(conn, webhook_id, request.ids)

    async def _new_secret(self) -> tuple[str, bytes]:
        """Return a new secret as it is shown, and as it is kept."""
        await load()
        secret = secrets.token_bytes(SECRET_BYTES)
        return PREFIX + base64.b64encode(secret).decode(), seal(self._keys, secret, PURPOSE)


def sealing_keys(signing: SigningKeys) -> DerivedKeys:
    return signing.derive(PURPOSE)


async def _require(conn: Connection, caller: Caller | None) -> None:
    """Raises ChatError("forbidden") unless they are an administrator."""
    await standing.require_role(conn, caller, UserRole.ADMINISTRATOR)


async def _note(conn: Connection, caller: Caller | None, act: Act, webhook_id: UUID, what: str | None = None) -> None:
    """Note an act in the audit log, with the host of the URL only: the rest may contain a key."""
    actor_id = None if caller is None else caller.user_id
    detail = None if what is None else what[:MAX_DETAIL]
    await audit.insert_audit(conn, act, actor_id, object_id=webhook_id, detail=detail)


def _found(webhook: Webhook | None) -> Webhook:
    if webhook is None:
        raise permissions.not_found("webhook")
    return webhook


def _with_secret(webhook: Webhook, secret: str) -> NewWebhook:
    return NewWebhook(**asdict(webhook), secret=secret)


def _event(name: str) -> str:
    try:
        return WebhookEvent.parse(name).value
    except ValueError:
        sentence = f"of {', '.join(WebhookEvent)}"
        raise ChatError("invalid_request", f"The events are {sentence}.", errors={"events": sentence}) from None


def _state(name: str) -> WebhookState:
    """Raises ChatError("invalid_request")."""
    try:
        state = WebhookState.parse(name)
    except ValueError:
        state = WebhookState.DISABLED
    if state is WebhookState.DISABLED:  # which the server does
        sentence = f"{WebhookState.ACTIVE.value} or {WebhookState.PAUSED.value}"
        raise ChatError("invalid_request", f"The state is {sentence}.", errors={"state": sentence})
    return state


def _decode_number(text: str | None) -> int:
    """Raises ChatError("invalid_cursor")."""
    if text is None:
        return _END
    if not text.isdecimal() or not text.isascii() or len(text) > 18:
        raise ChatError("invalid_cursor", "The cursor is not one of ours.")
    return int(text)
