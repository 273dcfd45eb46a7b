"""Users that an application brings: it knows them by ids of its own.

Owns what an external id is, and that one id is one user, however many requests name it at once. Whether an application
may do this is decided before (`server.rest.key_access`); whether an administrator may, in the transaction that writes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

import structlog
from msgspec import UNSET

from handlers import permissions, standing, text_rules
from handlers.accounts import make_user
from handlers.errors import ChatError
from handlers.model import Caller, Identity, ProvisionedUser, ProvisionUser, UpdateUser
from handlers.ports import Connections
from handlers.transactions import Transactions
from handlers.users import USERNAME_RULE, check_profile
from store.ids import new_id, timestamp
from store.model import Account, Change, UserRole
from store.postgres import external_ids as store
from store.postgres import users
from store.postgres.connection import Connection

EXTERNAL_ID_RULE = "1 to 255 visible ASCII characters, without / and \\, and no dot at the beginning"
ATTEMPTS = 3  # at an id that others give and erase at the same time

log = structlog.get_logger("parley.provisioning")


class Provisioning:
    def __init__(self, pool: Connections, transactions: Transactions) -> None:
        self._pool = pool
        self._transactions = transactions

    async def put(
        self, external_id: str, request: ProvisionUser, *, admin: Caller | None = None
    ) -> tuple[Account, bool]:
        """Create the user, or change their profile: (the user, whether they are new). Safe to repeat.

        A user who was erased is made anew, without anything of before: the application asks for them. Here and below,
        `admin` is an administrator who does so instead of one.
        """
        check(external_id, request)

        async def write(conn: Connection) -> tuple[tuple[Account, bool], Sequence[Change]]:
            await standing.require_role(conn, admin, UserRole.ADMINISTRATOR)
            return await self._put(conn, external_id, request), ()

        account, is_new = await self._transactions.run(write)
        if is_new:
            log.info("user_provisioned", user=str(account.id))
        return account, is_new

    async def put_all(self, requests: Sequence[ProvisionedUser], *, admin: Caller | None = None) -> list[Account]:
        """Make or change several users: all of them, or none. Safe to repeat. A user who is named twice is changed
        twice.
        """
        for number, request in enumerate(requests):
            with _naming(number):
                check(request.external_id, request)

        async def write(conn: Connection) -> tuple[tuple[list[Account], int], Sequence[Change]]:
            await standing.require_role(conn, admin, UserRole.ADMINISTRATOR)
            made: dict[int, Account] = {}
            owned: dict[int, tuple[UUID, bool]] = {}
            # In one order, whatever the request's: two of them that have users in common wait, and do not deadlock. The
            # ids are claimed before any user is locked, and the users in the order in which all others lock them.
            order = sorted(range(len(requests)), key=lambda one: requests[one].external_id)
            for number in order:
                with _naming(number):
                    owned[number] = await own(conn, requests[number].external_id)
            await store.lock_owners(conn, [user_id for user_id, is_new in owned.values() if not is_new])
            for number in order:
                with _naming(number):
                    made[number] = await _write(conn, requests[number].external_id, *owned[number], requests[number])
            new = sum(is_new for _, is_new in owned.values())
            return ([made[number] for number in range(len(requests))], new), ()

        accounts, new = await self._transactions.run(write)
        log.info("users_provisioned", users=len(accounts), new=new)
        return accounts

    async def get(self, external_id: str) -> Account:
        """Raises ChatError("not_found")."""
        async with self._pool.connection() as conn:
            owner = await store.fetch_owner(conn, external_id)
            account = None if owner is None else await users.fetch_account(conn, owner.user_id)
        if account is None:
            raise permissions.not_found("user")
        return account

    async def find(self, *, user_id: UUID | None = None, external_id: str = "") -> UUID:
        """Return the user with one of these ids, for whom something is to be done. Raises ChatError("not_found")."""
        async with self._pool.connection() as conn:
            if user_id is None:
                owner = await store.fetch_owner(conn, external_id)
                user_id = None if owner is None or owner.is_erased else owner.user_id
            if user_id is not None:
                exists, _, banned_until = await users.fetch_standing(conn, user_id, None)
                if banned_until is not None:
                    raise standing.banned(timestamp(banned_until))
                if exists:
                    return user_id
        raise ChatError("not_found", "There is no user to act for with this id.")

    async def whose(self, subject: str) -> UUID | None:
        """Return the user of a token with this subject: the one with that external id, else with that id. None if there
        is neither.

        Raises ChatError("unauthenticated") if the external id was that of a user who was erased.
        """
        async with self._pool.connection() as conn:
            owner = await store.fetch_owner(conn, subject)
            if owner is not None and owner.is_erased:
                raise _gone()
            if owner is not None:
                return owner.user_id
            try:
                user_id = UUID(subject)
            except ValueError:
                return None
            return user_id if await users.fetch_user(conn, user_id) is not None else None

    async def admit(self, identity: Identity) -> tuple[UUID, bool]:
        """Return the user with this subject as their external id, and whether they are new.

        Raises ChatError("unauthenticated") for a user who was erased: only the application brings them back.
        """

        async def write(conn: Connection) -> tuple[tuple[UUID, bool], Sequence[Change]]:
            user_id, is_new = await own(conn, identity.subject, revives=False)
            if is_new:
                await make_user(conn, identity, user_id=user_id)
            return (user_id, is_new), ()

        user_id, is_new = await self._transactions.run(write)
        if is_new:
            log.info("user_first_seen", user=str(user_id))
        return user_id, is_new

    async def _put(self, conn: Connection, external_id: str, request: ProvisionUser) -> tuple[Account, bool]:
        user_id, is_new = await own(conn, external_id)
        return await _write(conn, external_id, user_id, is_new, request), is_new


async def own(conn: Connection, external_id: str, *, revives: bool = True) -> tuple[UUID, bool]:
    """Whose id this is: (the user, whether they are to be made now, with this id).

    Of several at once one makes them; the others wait for its end. Without `revives`, an id whose user was erased
    raises ChatError("unauthenticated").
    """
    for _ in range(ATTEMPTS):
        owner = await store.fetch_owner(conn, external_id)
        if owner is not None and not owner.is_erased:
            return owner.user_id, False
        if owner is not None and not revives:
            raise _gone()
        fresh = new_id()
        take = store.claim_id if owner is None else store.reclaim_id
        if await take(conn, external_id, fresh):
            return fresh, True
    raise ChatError("unavailable", "The user is being made and erased at the same time; try again.")


def _gone() -> ChatError:
    return ChatError("unauthenticated", "There is no such user (any more).")


async def _write(conn: Connection, external_id: str, user_id: UUID, is_new: bool, request: ProvisionUser) -> Account:
    if not is_new:
        return await _update(conn, user_id, request)
    email, picture = request.email or None, request.avatar_url or None
    identity = Identity("app", external_id, request.username, request.display_name, email, picture)
    return await make_user(conn, identity, user_id=user_id, may_differ=request.username is None)


async def _update(conn: Connection, user_id: UUID, request: ProvisionUser) -> Account:
    account = await users.lock_account(conn, user_id)
    if account is None:
        raise ChatError("conflict", "The user is being erased; try again.")
    given = {"avatar_url": request.avatar_url, "email": request.email}
    changes = {name: value for name, value in given.items() if value is not UNSET}
    if request.display_name is not None:
        changes["display_name"] = request.display_name
    if all(getattr(account, name) == value for name, value in changes.items()):
        return account
    changed = await users.update_user(
        conn, user_id, display_name=request.display_name, avatar_url=request.avatar_url, email=request.email
    )
    assert changed is not None  # it is locked
    return changed


def check(external_id: str, request: ProvisionUser) -> None:
    """Raises ChatError("invalid_request")."""
    if not text_rules.fits(text_rules.EXTERNAL_ID, external_id):
        sentence = EXTERNAL_ID_RULE
        raise ChatError("invalid_request", f"An external id is {sentence}.", errors={"externalId": sentence})
    if request.username is not None and not text_rules.fits(text_rules.USERNAME, request.username):
        raise ChatError("invalid_request", f"A username is {USERNAME_RULE}.", errors={"username": USERNAME_RULE})
    check_profile(UpdateUser(request.display_name, request.avatar_url, request.email))


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Errors in this block name the user of that number."""
    try:
        yield
    except ChatError as error:
        if not error.errors:
            raise
        place = f"users[{number}]"
        errors = {f"{place}.{name}": text for name, text in error.errors.items()}
        raise ChatError(error.code, f"{error.sentence} (at {place})", errors=errors) from None
