"""`parley webhook`: what is done and printed. Owns nothing: the endpoints are in PostgreSQL."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import trio

from handlers.model import CreateWebhook, NewWebhook, ReplayDeadLetters, UpdateWebhook
from handlers.webhooks import Rules, Webhooks
from server.config.settings import ConfigError, Settings
from server.identity.access_tokens import signing_keys
from server.protocol import terminal
from store.model import Webhook, WebhookState
from store.postgres import webhooks as store
from store.postgres.pool import Pool

PAGE = 200
STATEMENT_TIMEOUT = 60.0  # seconds


class Work:
    """What an operator of this machine does."""

    def __init__(self, pool: Pool, handler: Webhooks) -> None:
        self._pool = pool
        self._handler = handler

    async def create(self, url: str, events: Sequence[str], conversation_id: UUID | None) -> None:
        _say_secret(await self._handler.create(None, CreateWebhook(url, tuple(events), conversation_id)))

    async def list_all(self) -> None:
        table = terminal.table("id", "state", "url", "events", "conversation", "failing since")
        cursor: str | None = None
        while True:
            items, cursor = await self._handler.list(None, PAGE, cursor)
            for one in items:
                events = ", ".join(one.events) or "all"
                where = str(one.conversation_id or "all")
                table.add_row(str(one.id), one.state.value, one.url, events, where, one.failing_since or "")
            if cursor is None:
                break
        terminal.show(table)

    async def show(self, webhook_id: UUID) -> None:
        _say(await self._handler.get(None, webhook_id))

    async def pause(self, webhook_id: UUID) -> None:
        _say(await self._handler.update(None, webhook_id, UpdateWebhook(WebhookState.PAUSED.value)))

    async def resume(self, webhook_id: UUID) -> None:
        _say(await self._handler.update(None, webhook_id, UpdateWebhook(WebhookState.ACTIVE.value)))

    async def rotate_secret(self, webhook_id: UUID) -> None:
        _say_secret(await self._handler.rotate_secret(None, webhook_id))

    async def delete(self, webhook_id: UUID) -> None:
        await self._handler.delete(None, webhook_id)
        terminal.echo("deleted")

    async def behind(self, webhook_id: UUID) -> None:
        await self._handler.get(None, webhook_id)
        async with self._pool.connection() as conn:
            found = await store.fetch_backlog(conn, webhook_id)
        terminal.echo(f"events wait in {found.conversations} conversations, the oldest for {found.seconds:.1f} s")
        terminal.echo(f"in {found.failing_conversations} of them the next one was tried, and failed")
        if found.events:
            terminal.echo(
                f"{found.events} that are in no conversation's order wait, too; {found.failing_events} have failed"
            )

    async def dead_letters(self, webhook_id: UUID, limit: int) -> None:
        table = terminal.table("webhook-id", "type", "failed at", "attempts", "reason", "", whole=("webhook-id",))
        cursor: str | None = None
        while limit:
            items, cursor = await self._handler.dead_letters(None, webhook_id, min(limit, PAGE), cursor)
            limit -= len(items)
            for one in items:
                word = "to be tried again" if one.replaying else ""
                table.add_row(one.id, one.type, one.failed_at, str(one.attempts), one.reason, word)
            if cursor is None:
                break
        terminal.show(table)

    async def replay(self, webhook_id: UUID, ids: Sequence[str] | None) -> None:
        request = ReplayDeadLetters(None if ids is None else tuple(ids))
        terminal.echo(f"{await self._handler.replay(None, webhook_id, request)} will be tried again")


async def run(settings: Settings, act: Callable[[Work], Awaitable[None]]) -> None:
    """Raises ConfigError, or a group of StoreError and ChatError."""
    if not settings.database_url:
        raise ConfigError("DATABASE_URL: required, for example postgresql://parley@db/parley")
    if not settings.jwt_key:
        raise ConfigError("JWT_KEY: required, as secrets are sealed with it")
    pool = Pool(settings.database_url, name="parley-webhook", size=2, statement_timeout=STATEMENT_TIMEOUT)
    handler = Webhooks(pool, signing_keys(settings), Rules(settings.webhook_hosts))
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        await act(Work(pool, handler))
        nursery.cancel_scope.cancel()


def _say(webhook: Webhook) -> None:
    for name, value in (
        ("id", webhook.id),
        ("url", webhook.url),
        ("events", ", ".join(webhook.events) or "all"),
        ("conversation", webhook.conversation_id or "all"),
        ("state", webhook.state.value),
        ("created", webhook.created_at),
        ("failing since", webhook.failing_since),
        ("last failure", webhook.last_failure),
        ("old secret until", webhook.old_secret_until),
    ):
        if value is not None:
            terminal.echo(f"{name + ':':18}{terminal.line(str(value))}")


def _say_secret(webhook: NewWebhook) -> None:
    _say(webhook)
    terminal.echo(f"{'secret:':18}{webhook.secret}")
    terminal.echo("keep it now: it is not shown again", err=True)
