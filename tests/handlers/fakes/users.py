"""In place of `store.postgres.privacy` and `store.postgres.users`."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from store import names
from store.ids import new_id, timestamp_ms
from store.model import Account, Change, Privacy, User, UserStatus
from store.postgres import external_ids, privacy, users
from tests.handlers.database import NOW, Tables, stands_for
from tests.handlers.fakes.conversations import delete_member


@stands_for(users.insert_user)
def _insert_user(
    tables: Tables,
    username: str,
    display_name: str,
    *,
    email: str | None = None,
    avatar_url: str | None = None,
    user_id: UUID | None = None,
) -> Account:
    if any(names.fold(one.username) == names.fold(username) for one in tables.users.values()):
        raise users.UsernameTaken
    made = Account(
        user_id or new_id(),
        username,
        display_name,
        avatar_url,
        UserStatus.ONLINE,
        None,
        None,
        NOW,
        next((one for one, owner in tables.external_ids.items() if owner.user_id == user_id), None),
        email=email,
    )
    tables.users[made.id] = made
    return made


@stands_for(users.fetch_user)
def _fetch_user(tables: Tables, user_id: UUID) -> User | None:
    found = tables.users.get(user_id)
    return None if found is None else User(**{name: getattr(found, name) for name in User.__struct_fields__})


@stands_for(users.fetch_account)
def _fetch_account(tables: Tables, user_id: UUID) -> Account | None:
    return tables.users.get(user_id)


@stands_for(users.lock_account)
def _lock_account(tables: Tables, user_id: UUID) -> Account | None:
    return tables.users.get(user_id)


@stands_for(users.fetch_standing)
def fetch_standing(tables: Tables, user_id: UUID, session_id: UUID | None) -> tuple[bool, bool, int | None]:
    session = None if session_id is None else tables.sessions.get(session_id)
    until = tables.ban_of(user_id)
    is_live = session_id is None or (session is not None and session.is_live)
    return user_id in tables.users, is_live, None if until is None else timestamp_ms(until)


@stands_for(users.list_users)
def _list_users(
    tables: Tables, prefix: str, *, limit: int = 50, position: users.Position | None = None
) -> tuple[list[User], users.Position | None]:
    found = sorted(names.fold(one.username) for one in tables.users.values())
    by_name = {names.fold(one.username): one for one in tables.users.values()}
    names_left = [
        one for one in found if one.startswith(names.fold(prefix)) and (position is None or one > position.after)
    ]
    page = names_left[:limit]
    more = users.Position(page[-1], by_name[page[-1]].id) if len(names_left) > limit else None
    return [user for one in page if (user := _fetch_user(tables, by_name[one].id))], more


@stands_for(privacy.list_privacy)
def _list_privacy(tables: Tables, user_ids: Collection[UUID]) -> dict[UUID, privacy.Chosen]:
    return {user_id: tables.privacy[user_id] for user_id in user_ids if user_id in tables.privacy}


@stands_for(privacy.update_privacy)
def _update_privacy(
    tables: Tables,
    user_id: UUID,
    *,
    read_receipts: bool | None = None,
    typing: bool | None = None,
    last_seen: bool | None = None,
) -> privacy.Chosen | None:
    if user_id not in tables.users:
        return None
    known, version = tables.privacy.get(user_id, (Privacy(), 0))
    given = {"read_receipts": read_receipts, "typing": typing, "last_seen": last_seen}
    chosen = replace(known, **{name: value for name, value in given.items() if value is not None})
    tables.privacy[user_id] = chosen, version + 1
    return tables.privacy[user_id]


@stands_for(users.list_users_by_id)
def _list_users_by_id(tables: Tables, user_ids: Collection[UUID]) -> list[User]:
    return [user for one in sorted(set(user_ids)) if (user := _fetch_user(tables, one))]


@stands_for(users.list_deleted)
def _list_deleted(tables: Tables, user_ids: Collection[UUID]) -> list[UUID]:
    return [one for one in user_ids if one in tables.deleted]


@stands_for(users.update_user)
def _update_user(
    tables: Tables,
    user_id: UUID,
    *,
    display_name: str | None = None,
    avatar_url: str | UnsetType | None = UNSET,
    email: str | UnsetType | None = UNSET,
    status_text: str | UnsetType | None = UNSET,
) -> Account | None:
    found = tables.users.get(user_id)
    if found is None:
        return None
    given = {"avatar_url": avatar_url, "email": email, "status_text": status_text}
    given = {name: value for name, value in given.items() if value is not UNSET}
    changed = replace(found, display_name=display_name or found.display_name, **given)
    tables.users[user_id] = changed
    return changed


@stands_for(users.rename_user)
def _rename_user(tables: Tables, user_id: UUID, username: str) -> Account | None:
    if any(one.username == username and one.id != user_id for one in tables.users.values()):
        raise users.UsernameTaken
    tables.users[user_id] = replace(tables.users[user_id], username=username)
    return tables.users[user_id]


@stands_for(users.update_status)
def _update_status(tables: Tables, user_id: UUID, status: UserStatus, status_text: str | None) -> Account | None:
    found = tables.users.get(user_id)
    if found is None:
        return None
    tables.users[user_id] = changed = replace(found, status=status, status_text=status_text)
    return changed


@stands_for(users.update_last_seen)
def _update_last_seen(tables: Tables, user_ids: Collection[UUID], at: datetime) -> None:
    for one in user_ids:
        tables.users[one] = replace(tables.users[one], last_seen_at=at.isoformat())


@stands_for(users.leave_some)
def _leave_some(tables: Tables, user_id: UUID, limit: int) -> tuple[list[Change], bool]:
    left = [conversation_id for conversation_id, member in tables.members if member == user_id][:limit]
    return [delete_member(tables, one, user_id, by=user_id) for one in left], len(left) == limit


@stands_for(users.delete_user)
def _delete_user(tables: Tables, user_id: UUID) -> tuple[Change, ...] | None:
    if user_id not in tables.users:
        return None
    changes, _ = _leave_some(tables, user_id, 10**6)
    del tables.users[user_id]
    tables.deleted[user_id] = None
    for one in [one for one, session in tables.sessions.items() if session.user_id == user_id]:
        del tables.sessions[one]
    for identity in [identity for identity, its in tables.identities.items() if its == user_id]:
        del tables.identities[identity]
    for external_id, owner in tables.external_ids.items():
        if owner.user_id == user_id:
            tables.external_ids[external_id] = external_ids.Owner(user_id, True)
    return tuple(changes)


@stands_for(users.forget_some)
def _forget_some(tables: Tables, user_id: UUID | None, limit: int = users.FORGOTTEN) -> int | None:
    return None
