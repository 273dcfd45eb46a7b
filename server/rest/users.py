"""REST for users (contract.md 2). Owns the routes; what they mean is in `handlers.users`."""

from uuid import UUID

import msgspec
from quart import Blueprint, Response, request
from quart_schema import document_response, validate_request

from handlers.accounts import Accounts
from handlers.export import Export
from handlers.model import CreateUser, UpdateStatus, UpdateUser
from handlers.users import Users
from server.config import Settings
from server.rest.requests import (
    answer,
    caller,
    client,
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


def blueprint(users: Users, accounts: Accounts, export: Export, settings: Settings) -> Blueprint:
    routes = Blueprint("users", __name__, url_prefix="/api/users")

    @routes.post("")
    @document_response(Registered, 201)
    @validate_request(CreateUser)
    @sign_in_route
    async def create(data: CreateUser) -> Response:
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
        response = answer(registered, 201)
        response.headers["Location"] = f"/api/users/{account.id}"
        return response

    @routes.get("")
    @document_response(UserPage)
    async def search() -> Response:
        items, following = await users.search(request.args.get("q", ""), limit(), request.args.get("cursor"))
        return page(items, following)

    @routes.get("/me")
    @document_response(Account)
    async def me() -> Response:
        return answer(await users.me(caller()))

    @routes.get("/me/export")
    @upload_route
    async def export_mine() -> Response:
        headers = {"Content-Type": "application/zip", "Content-Disposition": attachment("parley-export.zip")}
        response = Response(await export.begin(caller()), headers=headers)
        response.timeout = None  # it takes as long as there is something; whoever does not read is cut off by TCP
        return response

    @routes.put("/me")
    @document_response(Account)
    @validate_request(UpdateUser)
    async def update(data: UpdateUser) -> Response:
        return answer(await users.update(caller(), data))

    @routes.put("/status")
    @document_response(Account)
    @validate_request(UpdateStatus)
    async def update_status(data: UpdateStatus) -> Response:
        return answer(await users.update_status(caller(), data))

    @routes.get("/<user_id>")
    @document_response(User)
    async def get(user_id: str) -> Response:
        return answer(await users.get(path_id(user_id)))

    @routes.delete("/<user_id>")
    async def delete(user_id: str) -> Response:
        await users.delete(caller(), path_id(user_id))
        return nothing()

    return routes
