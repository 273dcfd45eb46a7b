"""In place of `store.postgres.accounts`, `store.postgres.api_keys` and `store.postgres.external_ids`."""

from collections.abc import Collection
from uuid import UUID

from msgspec.structs import replace

from store.model import Session
from store.postgres import accounts, api_keys, external_ids
from tests.handlers.database import NOW, SessionRow, Tables, stands_for


@stands_for(accounts.fetch_identity)
def _fetch_identity(tables: Tables, provider: str, subject: str) -> UUID | None:
    return tables.identities.get((provider, subject))


@stands_for(accounts.insert_identity)
def _insert_identity(tables: Tables, provider: str, subject: str, user_id: UUID) -> bool:
    is_new = (provider, subject) not in tables.identities
    tables.identities.setdefault((provider, subject), user_id)
    return is_new


@stands_for(accounts.insert_session)
def _insert_session(
    tables: Tables,
    session_id: UUID,
    user_id: UUID,
    token_hash: bytes,
    *,
    client: str,
    address: str,
    ttl: float,
) -> Session | None:
    if user_id not in tables.users:
        return None
    made = Session(session_id, client, address, NOW, NOW, NOW)
    tables.sessions[session_id] = SessionRow(made, user_id, token_hash)
    return made


@stands_for(accounts.lock_session)
def _lock_session(tables: Tables, session_id: UUID) -> accounts.LockedSession | None:
    found = tables.sessions.get(session_id)
    if found is None:
        return None
    return accounts.LockedSession(
        found.session, found.user_id, found.token_hash, found.rotated_ago, found.is_live, found.token_number
    )


@stands_for(accounts.rotate_session)
def _rotate_session(
    tables: Tables,
    session_id: UUID,
    *,
    token_hash: bytes,
    previous_hash: bytes,
    number: int,
    client: str,
    address: str,
    ttl: float,
) -> Session:
    found = tables.sessions[session_id]
    session = replace(found.session, client=client, address=address)
    tables.sessions[session_id] = replace(
        found, session=session, token_hash=token_hash, rotated_ago=0.0, token_number=number
    )
    return session


@stands_for(external_ids.fetch_owner)
def _fetch_owner(tables: Tables, external_id: str) -> external_ids.Owner | None:
    return tables.external_ids.get(external_id)


@stands_for(external_ids.lock_owners)
def _lock_owners(tables: Tables, user_ids: Collection[UUID]) -> None:
    return None


@stands_for(external_ids.claim_id)
def _claim_id(tables: Tables, external_id: str, user_id: UUID) -> bool:
    is_new = external_id not in tables.external_ids
    tables.external_ids.setdefault(external_id, external_ids.Owner(user_id, False))
    return is_new


@stands_for(external_ids.reclaim_id)
def _reclaim_id(tables: Tables, external_id: str, user_id: UUID) -> bool:
    if not tables.external_ids[external_id].is_erased:
        return False
    tables.external_ids[external_id] = external_ids.Owner(user_id, False)
    return True


@stands_for(api_keys.fetch_key)
def _fetch_key(tables: Tables, key_id: UUID, secret_hash: bytes) -> api_keys.Presented | None:
    found, its_hash = tables.api_keys.get(key_id, (None, b""))
    return found if its_hash == secret_hash else None


@stands_for(api_keys.note_keys)
def _note_keys(tables: Tables, key_ids: Collection[UUID]) -> None:
    for one in key_ids:
        tables.noted[one] = tables.noted.get(one, 0) + 1


@stands_for(accounts.list_sessions)
def _list_sessions(tables: Tables, user_id: UUID, *, limit: int, before: UUID | None = None) -> list[Session]:
    found = [one.session for one in tables.sessions.values() if one.user_id == user_id and one.is_live]
    found = [one for one in found if before is None or one.id.bytes < before.bytes]
    return sorted(found, key=lambda one: one.id.bytes, reverse=True)[:limit]


@stands_for(accounts.revoke_session)
def _revoke_session(tables: Tables, user_id: UUID, session_id: UUID) -> bool:
    found = tables.sessions.get(session_id)
    if found is None or found.user_id != user_id or not found.is_live:
        return False
    tables.sessions[session_id] = replace(found, is_live=False)
    return True


@stands_for(accounts.list_ended)
def _list_ended(tables: Tables, session_ids: Collection[UUID]) -> list[UUID]:
    return [one for one in session_ids if one not in tables.sessions or not tables.sessions[one].is_live]
