"""In place of `store.postgres.idempotency` and `store.postgres.outbox`."""

from collections.abc import Sequence
from uuid import UUID

from store.model import Change
from store.postgres import idempotency, outbox
from store.redis.inbox_entries import Personal
from tests.handlers.database import Tables, stands_for


@stands_for(idempotency.claim)
def _claim(tables: Tables, scope: UUID, key: str, fingerprint: bytes, resource_id: UUID) -> UUID | None:
    found = tables.creations.get((scope, key))
    if found is None:
        tables.creations[scope, key] = (fingerprint, resource_id)
        return None
    if found[0] != fingerprint:
        raise idempotency.Mismatch
    return found[1]


@stands_for(idempotency.release)
def _release(tables: Tables, scope: UUID, key: str, fingerprint: bytes) -> None:
    if tables.creations.get((scope, key), (b"",))[0] == fingerprint:
        del tables.creations[scope, key]


@stands_for(outbox.insert_outbox)
def _insert_outbox(
    tables: Tables, changes: Sequence[Change], personal: Personal | None = None, *, is_stale: bool = False
) -> None:
    tables.outbox += ((tuple(changes), personal),)
