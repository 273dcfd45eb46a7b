"""REST for users (docs/rest.md). Owns the routes; `handlers.users` implements them."""

from typing import Any, cast
from uuid import UUID

import msgspec
from quart import Blueprint, Response, request

from handlers import preconditions
from handlers.accounts import Accounts
from handlers.conversations import Conversations
from handlers.errors import ChatError
from handlers.export import EXPORT_SECONDS, Export
from handlers.model import Caller, CreateUser, UpdatePrivacy, UpdateStatus, UpdateUser
from handlers.users import MAX_QUERY, REGISTRATION_CLOSED, Users
from handlers.users import REGISTRATION_KEY as REGISTRATION_KEY_LENGTH
from server.config.settings import Settings
from server.identity.access_tokens import Verifier
from server.rest.answer_memory import AT_END
from server.rest.key_access import is_application
from server.rest.operations import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    LIMIT,
    TEXT_CURSOR,
    Answer,
    done,
    operation,
    query,
)
from server.rest.requests import (
    answer,
    bearer,
    caller,
    client,
    cursor,
    if_match,
    limit,
    nothing,
    once,
    page,
    path_id,
    sign_in_route,
    upload_route,
)
from store.model import Account, Privacy, UnreadTotals, User, Wire
from store.objects import attachment


class Registered(Account, frozen=True):
    """A new user. The tokens are present if registration is open."""

    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: int | None = None
    session_id: UUID | None = None


class UserPage(Wire, frozen=True):
    items: tuple[User, ...]
    next: str | None


SHOWN = Answer(200, Account, "The caller's account.", ("ETag",))
SEARCH = (
    query(
        "q",
        {"type": "string", "maxLength": MAX_QUERY, "pattern": "^[^\\u0000]*$"},
        "The prefix to search for; without it, all users are listed.",
    ),
    LIMIT,
    TEXT_CURSOR,
)
REGISTRATION_KEY = IDEMPOTENCY_KEY._replace(
    schema={**IDEMPOTENCY_KEY.schema, "minLength": REGISTRATION_KEY_LENGTH},
    description="A random key. For ten minutes, repeating the registration with it gets tokens of the same user.",
)


def blueprint(
    users: Users,
    conversations: Conversations,
    accounts: Accounts,
    export: Export,
    verifier: Verifier,
    settings: Settings,
) -> Blueprint:
    routes = Blueprint("users", __name__, url_prefix="/api/users")

    async def _require_registration() -> Caller | None:
        """Return the administrator whose role decides."""
        if settings.registration == "open":
            return None
        if settings.registration == "closed" and "Authorization" in request.headers:
            known = await verifier.verify(bearer())
            await users.require(known)
            if await users.is_administrator(known):
                return known
        raise ChatError("registration_closed", REGISTRATION_CLOSED)

    def shown(account: Account) -> Response:
        return answer(account, version=preconditions.of_account(account))

    @routes.post("")
    @operation(
        Answer(201, Registered, "The new user, and their first session if registration is open.", ("ETag", "Location")),
        takes=CreateUser,
        parameters=(REGISTRATION_KEY,),
        refuses=("username_taken", "registration_closed", "unauthenticated", "banned"),
    )
    @sign_in_route
    async def create(data: CreateUser) -> Response:
        """Register.

        If registration is closed, only administrators can create users, and the answer has no tokens.
        """
        admin = await _require_registration()
        account = await users.create(data, await once(), admin=admin)
        registered = Registered(**msgspec.structs.asdict(account))
        if settings.registration == "open":
            tokens = await accounts.begin(account.id, client())
            registered = msgspec.structs.replace(
                registered,
                access_token=tokens.access_token,
                refresh_token=tokens.refresh_token,
                expires_in=tokens.expires_in,
                session_id=tokens.session_id,
            )
        response = answer(registered, 201, version=preconditions.of_account(account))
        response.headers["Location"] = f"/api/users/{account.id}"
        return response

    @routes.get("")
    @operation(Answer(200, UserPage, "A page of users."), parameters=SEARCH)
    async def search() -> Response:
        """Search for users by the beginning of their username, display name, or a later word of either.

        Users found by username come first, ordered by username; then those found by display name; then those found by a
        later word, or without accents (`jose`, `muller` or `mueller`). A page may have fewer than `limit` users, or
        none, without being the last one; only `next` shows whether there are more.
        """
        items, following = await users.search(caller(), request.args.get("q", ""), limit(), cursor())
        return page(items, following)

    @routes.get("/me")
    @operation(SHOWN, parameters=(IF_NONE_MATCH,))
    async def me() -> Response:
        """Get the caller's account."""
        return shown(await users.me(caller()))

    @routes.get("/me/unread")
    @operation(Answer(200, UnreadTotals, "The totals."))
    async def unread() -> Response:
        """Count what the caller has not read, in all conversations together: for a badge."""
        return answer(await conversations.unread_totals(caller()))

    @routes.get("/me/export")
    @operation(Answer(200, None, "A ZIP file.", media="application/zip"))
    @upload_route
    async def export_mine() -> Response:
        """Export all data of the caller as a ZIP file."""
        headers = {"Content-Type": "application/zip", "Content-Disposition": attachment("parley-export.zip")}
        zipped, release = await export.begin(caller())
        cast(dict[str, Any], request.scope)[AT_END] = release
        response = Response(zipped, headers=headers)
        response.timeout = EXPORT_SECONDS  # bounds slow readers; a stalled connection is closed earlier
        return response

    @routes.put("/me")
    @operation(SHOWN, takes=UpdateUser, parameters=(IF_MATCH,))
    async def update(data: UpdateUser) -> Response:
        """Change the caller's profile."""
        return shown(await users.update(caller(), data, if_match=if_match()))

    @routes.get("/me/privacy")
    @operation(Answer(200, Privacy, "What the caller shows."))
    async def privacy() -> Response:
        """Get what the caller shows to others, and sees of them."""
        return answer(await users.privacy(caller()))

    @routes.put("/me/privacy")
    @operation(Answer(200, Privacy, "What the caller shows."), takes=UpdatePrivacy)
    async def update_privacy(data: UpdatePrivacy) -> Response:
        """Change what the caller shows to others: what they hide they do not see of others, either.

        What is left out stays as it is.
        """
        return answer(await users.update_privacy(caller(), data))

    @routes.put("/status")
    @operation(SHOWN, takes=UpdateStatus, parameters=(IF_MATCH,))
    async def update_status(data: UpdateStatus) -> Response:
        """Change the caller's status."""
        return shown(await users.update_status(caller(), data, if_match=if_match()))

    @routes.get("/<id:user_id>")
    @operation(Answer(200, User, "The user's public profile."))
    async def get(user_id: str) -> Response:
        """Get a user."""
        return answer(await users.get(caller(), path_id(user_id)))

    @routes.delete("/<id:user_id>")
    @operation(done("The user is erased; their messages stay, shown as a deleted user's."), refuses=("forbidden",))
    async def delete(user_id: str) -> Response:
        """Erase the caller, or, as an administrator, any user."""
        await users.delete(caller(), path_id(user_id), by_application=is_application())
        return nothing()

    return routes
