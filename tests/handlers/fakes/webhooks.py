"""In place of `store.postgres.webhooks`."""

from collections.abc import Sequence
from uuid import UUID

from msgspec.structs import replace

from store.model import DeadLetter, Webhook, WebhookState
from store.postgres import webhooks
from tests.handlers.database import NOW, Tables, stands_for


@stands_for(webhooks.insert_webhook)
def _insert_webhook(
    tables: Tables, webhook_id: UUID, url: str, events: Sequence[str], conversation_id: UUID | None, secret: bytes
) -> Webhook:
    made = Webhook(webhook_id, url, tuple(events), conversation_id, WebhookState.ACTIVE, NOW, None, None, None)
    tables.webhooks[webhook_id], tables.webhook_secrets[webhook_id] = made, (secret,)
    return made


@stands_for(webhooks.count_webhooks)
def _count_webhooks(tables: Tables) -> int:
    return len(tables.webhooks)


@stands_for(webhooks.list_webhooks)
def _list_webhooks(tables: Tables, *, after: UUID | None, limit: int) -> list[Webhook]:
    found = sorted(tables.webhooks.values(), key=lambda one: one.id)
    return [one for one in found if after is None or one.id > after][:limit]


@stands_for(webhooks.fetch_webhook)
def _fetch_webhook(tables: Tables, webhook_id: UUID) -> Webhook | None:
    return tables.webhooks.get(webhook_id)


@stands_for(webhooks.update_state)
def _update_webhook_state(tables: Tables, webhook_id: UUID, state: WebhookState) -> Webhook | None:
    if webhook_id not in tables.webhooks:
        return None
    tables.webhooks[webhook_id] = changed = replace(tables.webhooks[webhook_id], state=state)
    return changed


@stands_for(webhooks.rotate_secret)
def _rotate_secret(tables: Tables, webhook_id: UUID, secret: bytes, *, seconds: float) -> Webhook | None:
    if webhook_id not in tables.webhooks:
        return None
    tables.webhook_secrets[webhook_id] = (secret, *tables.webhook_secrets[webhook_id][:1])
    until = NOW if seconds else None
    tables.webhooks[webhook_id] = changed = replace(tables.webhooks[webhook_id], old_secret_until=until)
    return changed


@stands_for(webhooks.replace_secret)
def _replace_secret(tables: Tables, webhook_id: UUID, secret: bytes) -> Webhook | None:
    if webhook_id not in tables.webhooks:
        return None
    tables.webhook_secrets[webhook_id] = (secret, *tables.webhook_secrets[webhook_id][1:])
    return tables.webhooks[webhook_id]


@stands_for(webhooks.delete_webhook)
def _delete_webhook(tables: Tables, webhook_id: UUID) -> bool:
    return tables.webhooks.pop(webhook_id, None) is not None


@stands_for(webhooks.list_dead_letters)
def _list_dead_letters(tables: Tables, webhook_id: UUID, *, before: int, limit: int) -> list[tuple[int, DeadLetter]]:
    found = [(number, one) for number, one in enumerate(tables.letters.get(webhook_id, ())) if number < before]
    return found[::-1][:limit]


@stands_for(webhooks.replay_dead_letters)
def _replay_dead_letters(tables: Tables, webhook_id: UUID, ids: Sequence[str] | None) -> int:
    found = tables.letters.get(webhook_id, ())
    tables.letters[webhook_id] = tuple(replace(one, replaying=ids is None or one.id in ids) for one in found)
    return sum(one.replaying for one in tables.letters[webhook_id])
