"""REST for muting members, keeping users out and renaming groups (docs/rest.md).

Owns the routes; `handlers.member_moderation` implements them.
"""

from quart import Blueprint, Response

from handlers.member_moderation import MemberModeration
from handlers.model import RenameGroup, Restrict
from server.rest.operations import PAGE, Answer, done, operation
from server.rest.requests import caller, cursor, limit, nothing, page, path_id
from store.model import MemberBan, Wire


class MemberBanPage(Wire, frozen=True):
    items: tuple[MemberBan, ...]
    next: str | None


def blueprint(moderation: MemberModeration) -> Blueprint:
    routes = Blueprint("members", __name__, url_prefix="/api/conversations")

    @routes.put("/<id:conversation_id>/members/<id:user_id>/mute")
    @operation(done("The member is muted."), takes=Restrict, refuses=("forbidden", "conflict"))
    async def mute(conversation_id: str, user_id: str, data: Restrict) -> Response:
        """Mute a member until a time, or for good: they neither send, edit nor react.

        For admins and owners of a group, and moderators of the service. It is a change of the conversation.
        """
        await moderation.mute(caller(), path_id(conversation_id), path_id(user_id), data)
        return nothing()

    @routes.delete("/<id:conversation_id>/members/<id:user_id>/mute")
    @operation(done("The member is not muted."), refuses=("forbidden", "conflict"))
    async def unmute(conversation_id: str, user_id: str) -> Response:
        """Mute a member no more."""
        await moderation.unmute(caller(), path_id(conversation_id), path_id(user_id))
        return nothing()

    @routes.get("/<id:conversation_id>/bans")
    @operation(Answer(200, MemberBanPage, "A page of users."), parameters=PAGE, refuses=("forbidden",))
    async def list_bans(conversation_id: str) -> Response:
        """List who is kept out of a group."""
        return page(*await moderation.list_bans(caller(), path_id(conversation_id), limit(), cursor()))

    @routes.put("/<id:conversation_id>/bans/<id:user_id>")
    @operation(done("The user is kept out."), takes=Restrict, refuses=("forbidden", "conflict", "last_owner"))
    async def ban(conversation_id: str, user_id: str, data: Restrict) -> Response:
        """Remove a user from a group, if they are a member, and keep them out until a time, or for good.

        Neither a link, nor that the group is public, nor an admin who adds them lets them in before (`kept_out`).
        """
        await moderation.ban(caller(), path_id(conversation_id), path_id(user_id), data)
        return nothing()

    @routes.delete("/<id:conversation_id>/bans/<id:user_id>")
    @operation(done("The user is not kept out."), refuses=("forbidden", "conflict"))
    async def lift(conversation_id: str, user_id: str) -> Response:
        """Let a user come into a group again."""
        await moderation.lift(caller(), path_id(conversation_id), path_id(user_id))
        return nothing()

    @routes.put("/<id:conversation_id>/name")
    @operation(done("The group is renamed."), takes=RenameGroup, refuses=("forbidden", "conflict"))
    async def rename(conversation_id: str, data: RenameGroup) -> Response:
        """Give any group another name. For moderators of the service. It is a change of the conversation."""
        await moderation.rename_group(caller(), path_id(conversation_id), data)
        return nothing()

    return routes
