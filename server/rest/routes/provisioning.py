"""REST for applications that bring their own users (docs/own-users.md). Owns the routes.

`handlers.provisioning` and `handlers.accounts` implement them; `server.rest.key_access` says who may call them.
"""

import structlog
from quart import Blueprint, Response

from handlers import preconditions
from handlers.accounts import Accounts
from handlers.model import TOKEN_SECONDS, Client, GrantedToken, MintToken, ProvisionUser, ProvisionUsers
from handlers.provisioning import Provisioning
from handlers.users import Users
from server.rest.key_access import acting_as, require_application
from server.rest.operations import UNUSED_KEY, Answer, done, operation
from server.rest.requests import address, answer, idempotency_key, nothing, path_id
from store.model import Account, Wire

log = structlog.get_logger("parley.provisioning")

FOUND = Answer(200, Account, "The user.", ("ETag",))


class Provisioned(Wire, frozen=True):
    items: tuple[Account, ...]


def blueprint(provisioning: Provisioning, accounts: Accounts, users: Users) -> Blueprint:
    routes = Blueprint("provisioning", __name__, url_prefix="/api/users")

    def shown(account: Account, status: int = 200) -> Response:
        return answer(account, status, version=preconditions.of_account(account))

    @routes.put("/by-external-id/<external:external_id>")
    @operation(
        Answer(200, Account, "The user, who was there.", ("ETag",)),
        Answer(201, Account, "The new user.", ("ETag", "Location")),
        takes=ProvisionUser,
        refuses=("forbidden", "username_taken", "conflict"),
    )
    async def put(external_id: str, data: ProvisionUser) -> Response:
        """Create a user of the application, or change their profile. Safe to repeat.

        Without a username one is made of the display name; it stays what it is from then on. A user who was erased is
        made anew, as another user.
        """
        admin = await require_application(users)
        account, is_new = await provisioning.put(external_id, data, admin=admin)
        response = shown(account, 201 if is_new else 200)
        if is_new:
            response.headers["Location"] = f"/api/users/{account.id}"
        return response

    @routes.get("/by-external-id/<external:external_id>")
    @operation(FOUND, refuses=("forbidden",))
    async def get(external_id: str) -> Response:
        """Get a user by the application's id, with their email."""
        await require_application(users)
        return shown(await provisioning.get(external_id))

    @routes.post("/batch")
    @operation(
        Answer(200, Provisioned, "The users, in the order of the request."),
        takes=ProvisionUsers,
        parameters=(UNUSED_KEY,),
        refuses=("forbidden", "username_taken", "conflict"),
    )
    async def put_all(data: ProvisionUsers) -> Response:
        """Create or change up to 100 users: all of them, or none. Safe to repeat."""
        admin = await require_application(users)
        idempotency_key()
        return answer(Provisioned(tuple(await provisioning.put_all(data.users, admin=admin))))

    @routes.post("/<id:user_id>/tokens")
    @operation(
        Answer(201, GrantedToken, "An access token of a new session."),
        takes=MintToken,
        parameters=(UNUSED_KEY,),
        refuses=("forbidden", "banned"),
    )
    async def mint(user_id: str, data: MintToken) -> Response:
        """Mint an access token for a client of the user: for an hour, or a time between a minute and a day.

        It cannot be refreshed: mint another. It is a session of the user's, which they may end, too.
        """
        admin = await require_application(users)
        idempotency_key()
        seconds = data.expires_in_seconds or TOKEN_SECONDS
        granted = await accounts.grant(path_id(user_id), seconds, Client(acting_as(), address()), admin=admin)
        log.info("token_minted", user=user_id, session=str(granted.session_id), seconds=seconds, by=acting_as())
        return answer(granted, 201)

    @routes.delete("/<id:user_id>/tokens")
    @operation(done("The user's sessions are over, and their connections closed."), refuses=("forbidden",))
    async def end_all(user_id: str) -> Response:
        """End all sessions of a user, on every instance. Safe to repeat."""
        admin = await require_application(users)
        await accounts.end_all(path_id(user_id), admin=admin, by=acting_as())
        log.info("sessions_ended", user=user_id, by=acting_as())
        return nothing()

    return routes
