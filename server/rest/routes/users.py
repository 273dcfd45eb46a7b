"""REST for users (docs/rest.md). Owns the routes; what they mean is in `handlers.users`."""

from typing import Any, cast
from uuid import UUID

import msgspec
from quart import Blueprint, Response, request

from handlers import preconditions
from handlers.accounts import Accounts
from handlers.errors import ChatError
from handlers.export import EXPORT_SECONDS, Export
from handlers.model import CreateUser, UpdateStatus, UpdateUser
from handlers.users import MAX_QUERY, Users
from handlers.users import REGISTRATION_KEY as REGISTRATION_KEY_LENGTH
from server.config.settings import Settings
from server.identity.access_tokens import Verifier
from server.rest.answer_memory import AT_END
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
from store.model import Account, User, Wire
from store.objects import attachment


class Registered(Account, frozen=True):
    """A new user; the tokens are there while registration is open."""

    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: int | None = None
    session_id: UUID | None = None


class UserPage(Wire, frozen=True):
    items: tuple[User, ...]
    next: str | None


SHOWN = Answer(200, Account, "Myself.", ("ETag",))
SEARCH = (
    query(
        "q",
        {"type": "string", "maxLength": MAX_QUERY, "pattern": "^[^\\u0000]*$"},
        "The beginning; everybody without it.",
    ),
    LIMIT,
    TEXT_CURSOR,
)
REGISTRATION_KEY = IDEMPOTENCY_KEY._replace(
    schema={**IDEMPOTENCY_KEY.schema, "minLength": REGISTRATION_KEY_LENGTH},
    description="A random one: whoever knows it may register again within ten minutes, as the same user.",
)


def blueprint(users: Users, accounts: Accounts, export: Export, verifier: Verifier, settings: Settings) -> Blueprint:
    routes = Blueprint("users", __name__, url_prefix="/api/users")

    async def _require_registration() -> None:
        if settings.registration == "open":
            return
        if settings.registration == "closed" and "Authorization" in request.headers:
            known = await verifier.verify(bearer())
            await users.require(known)
            if known.is_admin:
                return
        raise ChatError("registration_closed", "Registration is not open here.")

    def shown(account: Account) -> Response:
        return answer(account, version=preconditions.of_account(account))

    @routes.post("")
    @operation(
        Answer(
            201, Registered, "The new user, and, where registration is open, her first session.", ("ETag", "Location")
        ),
        takes=CreateUser,
        parameters=(REGISTRATION_KEY,),
        refuses=("username_taken", "registration_closed", "unauthenticated"),
    )
    @sign_in_route
    async def create(data: CreateUser) -> Response:
        """Register.

        Where registration is closed, an administrator makes users; no tokens come back then.
        """
        await _require_registration()
        account = await users.create(data, await once())
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
        """Users whose username or display name begins with something.

        Those found by username come first, by username; then those found by display name. A page may have fewer users
        than `limit`, even none, and not be the last one: `next` says.
        """
        items, following = await users.search(request.args.get("q", ""), limit(), cursor())
        return page(items, following)

    @routes.get("/me")
    @operation(SHOWN, parameters=(IF_NONE_MATCH,))
    async def me() -> Response:
        """Myself."""
        return shown(await users.me(caller()))

    @routes.get("/me/export")
    @operation(Answer(200, None, "A ZIP file.", media="application/zip"))
    @upload_route
    async def export_mine() -> Response:
        """Everything the server has of me, as a ZIP file."""
        headers = {"Content-Type": "application/zip", "Content-Disposition": attachment("parley-export.zip")}
        zipped, release = await export.begin(caller())
        cast(dict[str, Any], request.scope)[AT_END] = release
        response = Response(zipped, headers=headers)
        response.timeout = EXPORT_SECONDS  # whoever does not read is cut off by TCP; who reads slowly may not for ever
        return response

    @routes.put("/me")
    @operation(SHOWN, takes=UpdateUser, parameters=(IF_MATCH,))
    async def update(data: UpdateUser) -> Response:
        """Change my profile."""
        return shown(await users.update(caller(), data, if_match=if_match()))

    @routes.put("/status")
    @operation(SHOWN, takes=UpdateStatus, parameters=(IF_MATCH,))
    async def update_status(data: UpdateStatus) -> Response:
        """Change my status."""
        return shown(await users.update_status(caller(), data, if_match=if_match()))

    @routes.get("/<id:user_id>")
    @operation(Answer(200, User, "The user, as others see her."))
    async def get(user_id: str) -> Response:
        """A user."""
        return answer(await users.get(path_id(user_id)))

    @routes.delete("/<id:user_id>")
    @operation(done("She is gone; her messages stay, as a deleted user's."), refuses=("forbidden",))
    async def delete(user_id: str) -> Response:
        """Erase a user: oneself, or anybody for an administrator."""
        await users.delete(caller(), path_id(user_id))
        return nothing()

    return routes
