"""REST for users (contract.md 2). Owns the routes; what they mean is in `handlers.users`."""

from quart import Blueprint, Response, request
from quart_schema import document_response, validate_request

from handlers.model import CreateUser, UpdateStatus, UpdateUser
from handlers.users import Users
from server.auth import ACCESS_TTL, mint_token
from server.config import Settings
from server.rest.requests import answer, caller, limit, nothing, open_route, page, path_id
from store.model import Account, User, Wire


class Registered(Account, frozen=True):
    """A new user; the token is there while registration is open (refresh tokens come with sign-in)."""

    access_token: str | None = None
    expires_in: int | None = None


class UserPage(Wire, frozen=True):
    items: tuple[User, ...]
    next: str | None


def blueprint(users: Users, settings: Settings) -> Blueprint:
    routes = Blueprint("users", __name__, url_prefix="/api/users")

    @routes.post("")
    @document_response(Registered, 201)
    @validate_request(CreateUser)
    @open_route
    async def create(data: CreateUser) -> Response:
        account = await users.create(data)
        token = None
        if settings.registration == "open" and settings.jwt_key:
            token = mint_token(settings, account.id)
        fields = {name: getattr(account, name) for name in account.__struct_fields__}
        registered = Registered(**fields, access_token=token, expires_in=ACCESS_TTL if token else None)
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
