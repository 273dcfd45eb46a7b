"""In place of `store.postgres.audit` and `store.postgres.moderation`."""

from collections.abc import Collection, Mapping
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from store import model
from store.ids import epoch_ms, new_id, octets, timestamp
from store.model import AuditEntry, UserRole, UserStanding
from store.postgres import audit, moderation
from tests.handlers.database import NOW, Tables, stands_for
from tests.handlers.fakes.conversations import list_memberships


@stands_for(moderation.fetch_role)
def _fetch_role(tables: Tables, user_id: UUID) -> UserRole | None:
    found = tables.standing_of(user_id)
    return None if found is None or found.banned_until is not None else found.role


@stands_for(moderation.fetch_ban)
def _fetch_user_ban(tables: Tables, user_id: UUID) -> str | None:
    return tables.ban_of(user_id)


@stands_for(moderation.fetch_user_standing)
def _fetch_user_standing(tables: Tables, user_id: UUID) -> UserStanding | None:
    return tables.standing_of(user_id)


@stands_for(moderation.lock_user_standing)
def _lock_user_standing(tables: Tables, user_id: UUID) -> UserStanding | None:
    return tables.standing_of(user_id)


@stands_for(moderation.list_bans_of_present)
def _list_bans_of_present(tables: Tables, user_ids: Collection[UUID]) -> dict[UUID, str | None]:
    return {one: tables.ban_of(one) for one in user_ids if one in tables.users}


@stands_for(moderation.list_openings)
def _list_openings(tables: Tables, attaches: Mapping[UUID, bool]) -> dict[UUID, moderation.Opening]:
    mine = list_memberships(tables, [one for one, is_wanted in attaches.items() if is_wanted])
    return {
        one: moderation.Opening(
            tables.ban_of(one),
            tables.privacy.get(one),
            any(one in pair for pair in tables.blocks),
            b"".join(octets(mine.get(one, []))),
        )
        for one in attaches
        if one in tables.users
    }


@stands_for(moderation.list_banned)
def _list_banned(tables: Tables, user_ids: Collection[UUID]) -> list[UUID]:
    return [one for one in user_ids if tables.ban_of(one) is not None]


@stands_for(moderation.update_user_role)
def _update_user_role(tables: Tables, user_id: UUID, role: UserRole) -> UserStanding:
    tables.roles[user_id] = role
    return UserStanding(user_id, role, tables.ban_of(user_id))


@stands_for(moderation.update_ban)
def _update_ban(tables: Tables, user_id: UUID, until: datetime | None) -> UserStanding:
    tables.bans.pop(user_id, None)
    if until is not None:
        tables.bans[user_id] = timestamp(epoch_ms(until))
    return UserStanding(user_id, tables.roles.get(user_id, UserRole.USER), tables.ban_of(user_id))


@stands_for(moderation.revoke_sessions_of)
def _revoke_sessions_of(tables: Tables, user_id: UUID, limit: int = moderation.REVOKED) -> int:
    live = [one for one, session in tables.sessions.items() if session.user_id == user_id and session.is_live]
    for one in live[:limit]:
        tables.sessions[one] = replace(tables.sessions[one], is_live=False)
    return len(live[:limit])


@stands_for(moderation.has_more_sessions)
def _has_more_sessions(tables: Tables, user_id: UUID, count: int = moderation.REVOKED) -> bool:
    return sum(session.user_id == user_id and session.is_live for session in tables.sessions.values()) > count


@stands_for(audit.insert_audit)
def _insert_audit(
    tables: Tables,
    act: model.Act,
    actor_id: UUID | None,
    *,
    user_id: UUID | None = None,
    conversation_id: UUID | None = None,
    object_id: UUID | None = None,
    until: datetime | None = None,
    detail: str | None = None,
    reason: str | None = None,
) -> UUID:
    ends = None if until is None else timestamp(epoch_ms(until))
    made = new_id()
    tables.audit[made] = AuditEntry(
        made, NOW, act.value, actor_id, user_id, conversation_id, object_id, ends, detail, reason, None
    )
    return made


@stands_for(audit.insert_sign_in)
def _insert_sign_in(tables: Tables, user_id: UUID, session_id: UUID, network: str | None) -> None:
    made = new_id()
    tables.audit[made] = AuditEntry(
        made, NOW, model.Act.SIGN_IN.value, user_id, user_id, None, session_id, None, None, None, network
    )


@stands_for(audit.list_audit)
def _list_audit(tables: Tables, only: audit.Filter, *, before: UUID | None = None, limit: int) -> list[AuditEntry]:
    found = [
        one
        for one in tables.audit.values()
        if (before is None or one.id < before)
        and only.actor_id in (None, one.actor_id)
        and only.user_id in (None, one.user_id)
        and (only.act is None or only.act.value == one.act)
    ]
    return sorted(found, key=lambda one: one.id, reverse=True)[:limit]
