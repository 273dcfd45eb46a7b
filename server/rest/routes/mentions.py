"""REST for mentions (docs/rest.md). Owns the route; `handlers.messages` implements it."""

from quart import Blueprint, Response

from handlers.messages import Messages
from server.rest.operations import PAGE, Answer, operation
from server.rest.requests import caller, cursor, limit, page
from server.rest.routes.messages import MessagePage


def blueprint(messages: Messages) -> Blueprint:
    routes = Blueprint("mentions", __name__, url_prefix="/api/mentions")

    @routes.get("")
    @operation(Answer(200, MessagePage, "A page of messages."), parameters=PAGE)
    async def list_mine() -> Response:
        """List the messages that mention the caller, by name or as one of all members.

        The newest first, of the conversations that the caller is a member of now; not what was written before they
        joined, and not their own. A page may have fewer than `limit` items without being the last one; only `next`
        shows whether there are more.
        """
        items, following = await messages.mentioning(caller(), limit=limit(), cursor=cursor())
        return page(items, following)

    return routes
