"""REST for what moderators do to users (docs/rest.md). Owns the routes; `handlers.moderation` implements them."""

from quart import Blueprint, Response, request

from handlers.model import BanUser, ChangeUserRole, RenameUser
from handlers.moderation import Moderation
from server.rest.operations import REASON, Answer, operation
from server.rest.requests import answer, caller, path_id
from store.model import User, UserStanding

STANDING = Answer(200, UserStanding, "The user's role, and until when they are banned.")


def blueprint(moderation: Moderation) -> Blueprint:
    routes = Blueprint("moderation", __name__, url_prefix="/api/users")

    def reason() -> str | None:
        return request.args.get("reason")

    @routes.get("/<id:user_id>/standing")
    @operation(STANDING, refuses=("forbidden",))
    async def get_standing(user_id: str) -> Response:
        """Get a user's role in the service, and until when they are banned: one's own, or for moderators anybody's."""
        return answer(await moderation.standing(caller(), path_id(user_id)))

    @routes.put("/<id:user_id>/role")
    @operation(STANDING, takes=ChangeUserRole, refuses=("forbidden",))
    async def change_role(user_id: str, data: ChangeUserRole) -> Response:
        """Make a user a moderator or an administrator of the service, or neither. For administrators."""
        return answer(await moderation.change_role(caller(), path_id(user_id), data))

    @routes.put("/<id:user_id>/ban")
    @operation(STANDING, takes=BanUser, refuses=("forbidden",))
    async def ban(user_id: str, data: BanUser) -> Response:
        """Ban a user until a time, or for good.

        Their connections end on every instance, and neither access tokens nor sign-ins of theirs are good until then
        (`banned`). For moderators, of users; for administrators, of moderators as well.
        """
        return answer(await moderation.ban(caller(), path_id(user_id), data))

    @routes.delete("/<id:user_id>/ban")
    @operation(STANDING, parameters=(REASON,), refuses=("forbidden",))
    async def unban(user_id: str) -> Response:
        """Lift a user's ban. They may not be banned."""
        return answer(await moderation.unban(caller(), path_id(user_id), reason()))

    @routes.delete("/<id:user_id>/sessions")
    @operation(STANDING, parameters=(REASON,), refuses=("forbidden",))
    async def end_sessions(user_id: str) -> Response:
        """End all sessions and connections of a user. They may sign in again. For moderators."""
        return answer(await moderation.end_sessions(caller(), path_id(user_id), reason()))

    @routes.put("/<id:user_id>/name")
    @operation(Answer(200, User, "The user."), takes=RenameUser, refuses=("forbidden", "username_taken"))
    async def rename(user_id: str, data: RenameUser) -> Response:
        """Give a user another username or display name. For moderators."""
        return answer(await moderation.rename(caller(), path_id(user_id), data))

    return routes
