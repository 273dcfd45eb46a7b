"""Users: their accounts, status and deletion.

Owns the rows of `users` and, when a user is deleted, everything that belongs to this user alone. Writes take part in
the caller's transaction, or run in one of their own.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from enum import Enum
from itertools import accumulate
from typing import Any
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType
from psycopg.errors import UniqueViolation

from store import names
from store.errors import StoreError
from store.ids import new_id, timestamp
from store.model import Account, Change, Role, User, UserStatus
from store.postgres import queries
from store.postgres.connection import Connection
from store.postgres.system_messages import Announcement, Event, insert_system_messages

TOP = "\U0010ffff"  # sorts above every other character
SEARCH_STEP = 200  # display names, or words, looked at in one query
SEARCHED = 5 * SEARCH_STEP  # and for one page


HEIRS_AMONG = 20_000  # members, among whom new owners are looked for in one transaction: some 50 ms
FORGOTTEN = 2000  # rows of one table that are deleted at once when a user is erased
# What a user may have any number of, or others against them.
_FORGETTING = (
    queries.delete_sessions_of,
    queries.delete_sends_of,
    queries.delete_mentions_of,
    queries.forget_threads_of,
    queries.delete_creations_of,
    queries.forget_audit_of,
    queries.delete_blocks_of,
    queries.forget_reports_of,
    queries.delete_member_bans_of,
    queries.give_up_files_of,
)

ATTEMPTS = 3  # at folding old names while others register
OLD_NAMES = 200  # names of older code's that one registration folds before it looks whether its own is free


class UsernameTaken(StoreError):
    """Somebody has this username already, or one that looks the same."""


async def insert_user(
    conn: Connection,
    username: str,
    display_name: str,
    *,
    email: str | None = None,
    avatar_url: str | None = None,
    user_id: UUID | None = None,
) -> Account:
    """A new user; the id is made here unless one is given. Raises UsernameTaken."""
    await fold_old(conn, OLD_NAMES)
    await fill_in_words(conn, OLD_NAMES)
    parameters = {
        "id": user_id or new_id(),
        "username": username,
        "display_name": display_name,
        "email": email,
        "avatar_url": avatar_url,
        "username_folded": names.fold(username),
        "username_skeleton": names.skeleton(username),
        "display_name_folded": names.fold(display_name),
    }
    async with conn.atomic():
        row = await (await conn.execute(queries.insert_user, parameters)).fetchone()
        if row is None:
            raise UsernameTaken
        account = _account_of(row)
        await _write_words(conn, [account])
    return account


async def fold_old(conn: Connection, limit: int) -> int:
    """Fold names that older code has written, the oldest first; return how many. Of names that are or look the same,
    the oldest becomes the one that is taken; the others stay what they are."""
    for _ in range(ATTEMPTS):
        with suppress(UniqueViolation):  # one of them was registered meanwhile: the next attempt sees it
            async with conn.transaction():
                rows = await (await conn.execute(queries.list_unfolded, {"limit": limit})).fetchall()
                if rows:
                    await conn.execute(queries.fold_names, folded(rows))
            return len(rows)
    return 0


async def fill_in_words(conn: Connection, limit: int) -> int:
    """Write the words of names that older code has written; return how many."""
    async with conn.atomic():
        rows = await (await conn.execute(queries.list_wordless, {"limit": limit})).fetchall()
        if rows:
            await conn.execute(queries.write_words, words_of(rows))
    return len(rows)


async def _write_words(conn: Connection, accounts: Sequence[Account]) -> None:
    """Write the words of users whose names this transaction has written."""
    rows = [(account.id, account.username, account.display_name) for account in accounts]
    await conn.execute(queries.write_words, words_of(rows))


def words_of(rows: Sequence[tuple[UUID, str, str]]) -> dict[str, list[Any]]:
    """Parameters of `write_words` for rows of `list_wordless`."""
    found = [(user_id, word) for user_id, username, shown in rows for word in names.words(username, shown)]
    return {
        "ids": [user_id for user_id, _, _ in rows],
        "user_ids": [user_id for user_id, _ in found],
        "words": [word for _, word in found],
    }


def folded(rows: Sequence[tuple[UUID, str, str]]) -> dict[str, list[Any]]:
    """Parameters of `fold_names` for rows of `list_unfolded`."""
    return {
        "ids": [user_id for user_id, _, _ in rows],
        "folded": [names.fold(username) for _, username, _ in rows],
        "skeletons": [names.skeleton(username) for _, username, _ in rows],
        "display": [names.fold(display_name) for _, _, display_name in rows],
    }


async def fetch_user(conn: Connection, user_id: UUID) -> User | None:
    """Deleted users too: as "Deleted user", so that their messages can be shown."""
    row = await (await conn.execute(queries.fetch_user, {"id": user_id})).fetchone()
    return _user_of(row) if row else None


async def fetch_account(conn: Connection, user_id: UUID) -> Account | None:
    """Return a user as they see themselves; None if the user does not exist or was deleted."""
    row = await (await conn.execute(queries.fetch_live_user, {"id": user_id})).fetchone()
    return _account_of(row) if row else None


async def fetch_standing(conn: Connection, user_id: UUID, session_id: UUID | None) -> tuple[bool, bool, int | None]:
    """Return whether the user exists, whether their sign-in session is live (true if `session_id` is None), and until
    when they are banned, in milliseconds since the epoch (None: they are not)."""
    row = await (await conn.execute(queries.fetch_standing, {"user_id": user_id, "session_id": session_id})).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


async def lock_account(conn: Connection, user_id: UUID) -> Account | None:
    """Return the account of a user, locked until the transaction ends."""
    row = await (await conn.execute(queries.lock_account, {"id": user_id})).fetchone()
    return _account_of(row) if row else None


async def fetch_user_by_name(conn: Connection, username: str) -> User | None:
    """By username, whatever its case."""
    row = await (await conn.execute(queries.fetch_user_by_name, {"folded": names.fold(username)})).fetchone()
    return _user_of(row) if row else None


class By(Enum):
    """The lists of a search, one after the other."""

    USERNAME = "u"
    DISPLAY_NAME = "d"
    WORD = "w"


class Position(Struct, frozen=True):
    """A position in a search: past this user, in one of its lists."""

    after: str = ""  # the folded name, or the word
    after_id: UUID = UUID(int=0)
    by: By = By.USERNAME


async def list_users(
    conn: Connection, prefix: str, *, limit: int = 50, position: Position | None = None
) -> tuple[list[User], Position | None]:
    """Users whose username starts with `prefix` in any case, by username; then those whose display name does, by that;
    then those who are found by a word (`names.words`), by that.

    (the users, where to go on; None at the end). Each list is a range of an index, and at most SEARCHED rows of it are
    read, whatever the prefix: a page may have fewer users than `limit`, or none, and not be the last one. An empty
    prefix lists everybody by username.
    """
    position = position or Position()
    found: list[User] = []
    for _ in range(SEARCHED // SEARCH_STEP):
        page, position, is_over = await _search(conn, prefix, position, limit - len(found))
        found += page
        if is_over:
            following = None if not prefix else _NEXT[position.by]
            if following is None:
                return found, None
            position = Position(by=following)
        if len(found) == limit:
            break
    return found, position


_NEXT = {By.USERNAME: By.DISPLAY_NAME, By.DISPLAY_NAME: By.WORD, By.WORD: None}


def search_parameters(prefix: str, position: Position, limit: int) -> dict[str, Any]:
    """Return the parameters of a search in any list. It begins at the prefix: otherwise PostgreSQL would walk from
    `after` to it, through all users before.
    """
    after = position if position.after >= prefix else Position(prefix)
    return {"prefix": prefix, "top": TOP, "after": after.after, "after_id": after.after_id, "limit": limit}


async def _search(conn: Connection, prefix: str, position: Position, wanted: int) -> tuple[list[User], Position, bool]:
    """(at most so many, past whom the search has come, whether this list is over)"""
    by = position.by
    start = names.plain(prefix.strip()) if by is By.WORD else names.fold(prefix)
    if by is By.WORD and not start:
        return [], position, True
    query = {
        By.USERNAME: queries.list_users_by_username,
        By.DISPLAY_NAME: queries.list_users_by_display_name,
        By.WORD: queries.list_users_by_word,
    }[by]
    limit = wanted + 1 if by is By.USERNAME else SEARCH_STEP
    rows = await (await conn.execute(query, search_parameters(start, position, limit))).fetchall()
    found: list[User] = []
    for number, row in enumerate(rows, 1):
        if len(found) == wanted:
            return found, position, False
        user = _user_of(row[:10])
        if not (row[11] if by is By.DISPLAY_NAME else by is By.WORD and _was_listed(user, row[10], prefix, start)):
            found.append(user)
        position = Position(row[10], row[0], by)
        if number == limit and by is not By.USERNAME:
            return found, position, False
    return found, position, True


def _was_listed(user: User, word: str, prefix: str, start: str) -> bool:
    """Whether a user who is found by a word was in one of the lists before, or by a word before this one."""
    folded_prefix = names.fold(prefix)
    return (
        names.fold(user.username).startswith(folded_prefix)
        or names.fold(user.display_name).startswith(folded_prefix)
        or any(start <= other < word for other in names.words(user.username, user.display_name))
    )


async def list_users_by_id(conn: Connection, user_ids: Collection[UUID]) -> list[User]:
    """Return those of these users who exist, in no particular order."""
    cursor = await conn.execute(queries.list_users_by_id, {"ids": list(user_ids)})
    return [_user_of(row) for row in await cursor.fetchall()]


async def list_deleted(conn: Connection, user_ids: Collection[UUID]) -> list[UUID]:
    """Return those of these users who were deleted."""
    cursor = await conn.execute(queries.list_deleted_users, {"ids": list(user_ids)})
    return [user_id for (user_id,) in await cursor.fetchall()]


async def update_user(
    conn: Connection,
    user_id: UUID,
    *,
    display_name: str | None = None,
    avatar_url: str | UnsetType | None = UNSET,
    email: str | UnsetType | None = UNSET,
    status_text: str | UnsetType | None = UNSET,
) -> Account | None:
    """Change what is given; None takes it away, but for the name. None when there is no such user."""
    parameters: dict[str, object] = {
        "id": user_id,
        "display_name": display_name,
        "display_name_folded": None if display_name is None else names.fold(display_name),
    }
    for name, value in (("avatar_url", avatar_url), ("email", email), ("status_text", status_text)):
        parameters |= {name: None if value is UNSET else value, f"sets_{name}": value is not UNSET}
    async with conn.atomic():
        row = await (await conn.execute(queries.update_user, parameters)).fetchone()
        account = _account_of(row) if row else None
        if account is not None and display_name is not None:
            await _write_words(conn, [account])
    return account


async def rename_user(conn: Connection, user_id: UUID, username: str) -> Account | None:
    """Give a user another username. None when there is no such user. Raises UsernameTaken."""
    parameters = {
        "id": user_id,
        "username": username,
        "username_folded": names.fold(username),
        "username_skeleton": names.skeleton(username),
    }
    async with conn.atomic():
        try:
            row = await (await conn.execute(queries.rename_user, parameters)).fetchone()
        except UniqueViolation:
            raise UsernameTaken from None
        account = _account_of(row) if row else None
        if account is not None:
            await _write_words(conn, [account])
    return account


async def update_status(conn: Connection, user_id: UUID, status: UserStatus, status_text: str | None) -> Account | None:
    """Set the status that the user chose to show. Return None if there is no such user."""
    parameters = {"id": user_id, "status": status.value, "status_text": status_text}
    row = await (await conn.execute(queries.update_status, parameters)).fetchone()
    return _account_of(row) if row else None


async def update_last_seen(conn: Connection, user_ids: Collection[UUID], at: datetime) -> None:
    """These users were last online at `at`; never moves back."""
    await conn.execute(queries.update_last_seen, {"ids": list(user_ids), "at": at})


async def delete_user(conn: Connection, user_id: UUID) -> tuple[Change, ...] | None:
    """Erase a user's personal data, sessions, identities and memberships; the row and the messages stay, anonymised.

    One transaction. Returns the changes of the conversations that the user was in: the user left and, where they were
    the only owner, another member owns it now. None if there is no such user.

    All writes lock conversations before users, so the conversations are locked first, in id order; then the user,
    which keeps other transactions from adding them anywhere; then the conversations once more, for those to which
    they were added between the first lock and the second. No conversation can keep a deleted member.

    Of what a user may have any number of, a piece is deleted with them, and the rest by `forget_some`, which is called
    until nothing is left, here or, should the process die, by the purge.
    """
    async with conn.atomic():
        await _lock_conversations(conn, user_id)
        if await (await conn.execute(queries.lock_user, {"id": user_id})).fetchone() is None:
            return None
        # The user cannot be added anywhere any more; memberships made since the first look are locked now.
        changes = await _leave(conn, user_id, await _lock_conversations(conn, user_id))
        _, is_more = await _forget(conn, user_id, FORGOTTEN)
        if is_more:
            await conn.execute(queries.insert_erasure, {"user_id": user_id})
        for query in (queries.delete_identities_of, queries.delete_privacy_of, queries.anonymise_user):
            await conn.execute(query, {"user_id": user_id})
    return tuple(changes)


async def forget_some(conn: Connection, user_id: UUID | None, limit: int = FORGOTTEN) -> int | None:
    """Delete a piece of what is left of a user who was erased, or of any such user: at most `limit` rows of each table.

    One transaction. Returns how many rows; None if nothing is left, or another process is about it.
    """
    async with conn.atomic():
        row = await (await conn.execute(queries.lock_erasure, {"user_id": user_id})).fetchone()
        if row is None:
            return None
        count, is_more = await _forget(conn, row[0], limit)
        if not is_more:
            await conn.execute(queries.delete_erasure, {"user_id": row[0]})
        return count


async def _forget(conn: Connection, user_id: UUID, limit: int) -> tuple[int, bool]:
    """Delete at most `limit` rows of each table: (how many were found, whether there may be more)."""
    total, is_more = 0, False
    for query in _FORGETTING:
        count = (await conn.execute(query, {"user_id": user_id, "limit": limit})).rowcount
        total += count
        is_more = is_more or count >= limit
    return total, is_more


async def forget_erased(conn: Connection, limit: int) -> int:
    """Delete what is left of users who were erased, for the purge. How many rows went; `limit` or more: go on."""
    total = 0
    while total < limit:
        gone = await forget_some(conn, None, limit)
        if gone is None:
            return min(total, limit - 1)
        total += gone
    return total


async def leave_some(conn: Connection, user_id: UUID, limit: int) -> tuple[list[Change], bool]:
    """Leave at most `limit` conversations: (the changes, whether there may be more). One transaction.

    Fewer where the user owns large ones: to find who owns such a conversation from then on, all members are read, and
    messages to all that are left wait.
    """
    async with conn.atomic():
        found = await (await conn.execute(queries.list_leaving, {"user_id": user_id, "limit": limit})).fetchall()
        read = accumulate(count for _, count in found)
        ids = [conversation_id for (conversation_id, _), total in zip(found, read, strict=True) if total <= HEIRS_AMONG]
        ids = ids or [conversation_id for conversation_id, _ in found[:1]]
        cursor = await conn.execute(queries.lock_leaving, {"ids": ids})
        locked = [conversation_id for (conversation_id,) in await cursor.fetchall()]
        return await _leave(conn, user_id, locked), len(found) == limit or len(ids) < len(found)


async def _lock_conversations(conn: Connection, user_id: UUID) -> list[UUID]:
    cursor = await conn.execute(queries.lock_conversations_of, {"user_id": user_id})
    return [conversation_id for (conversation_id,) in await cursor.fetchall()]


async def _leave(conn: Connection, user_id: UUID, conversation_ids: Sequence[UUID]) -> list[Change]:
    parameters = {"user_id": user_id, "conversation_ids": list(conversation_ids)}
    left = await (await conn.execute(queries.delete_memberships, parameters)).fetchall()
    if not left:
        return []
    said = Announcement(Event.MEMBER_REMOVED, user_id, user_id=user_id)
    changes = await insert_system_messages(conn, [(conversation_id, said) for conversation_id, _ in left])
    orphaned = [conversation_id for conversation_id, is_orphaned in left if is_orphaned]
    if orphaned:
        cursor = await conn.execute(queries.promote_heirs, {"conversation_ids": orphaned})
        heirs = [
            (conversation_id, Announcement(Event.ROLE_CHANGED, user_id, user_id=heir, role=Role.OWNER))
            for conversation_id, heir in await cursor.fetchall()
        ]
        if heirs:
            changes += await insert_system_messages(conn, heirs)
    return changes


def _user_of(row: Sequence[Any]) -> User:
    return User(**_shown(row))


def _account_of(row: Sequence[Any]) -> Account:
    return Account(**_shown(row), email=row[8])


def _shown(row: Sequence[Any]) -> dict[str, Any]:
    """A row of users as the fields of `User`."""
    id_, username, display_name, avatar_url, status, status_text, last_seen, created, _, external_id = row
    return {
        "id": id_,
        "username": username,
        "display_name": display_name,
        "avatar_url": avatar_url,
        "status": UserStatus(status),
        "status_text": status_text,
        "last_seen_at": None if last_seen is None else timestamp(last_seen),
        "created_at": timestamp(created),
        "external_id": external_id,
    }
