"""REST for pinned messages (docs/rest.md). Owns the routes; `handlers.messages` implements them."""

from quart import Blueprint, Response

from handlers import preconditions
from handlers.messages import Messages
from handlers.model import SentMessage, sent
from server.rest.operations import LIMIT, TEXT_CURSOR, Answer, operation
from server.rest.requests import answer, caller, cursor, limit, page, path_id
from server.rest.routes.messages import MessagePage
from store.model import Message

WRITTEN = Answer(200, SentMessage, "The message, committed.", ("ETag",))


def blueprint(messages: Messages) -> Blueprint:
    routes = Blueprint("pins", __name__, url_prefix="/api")

    @routes.put("/messages/<id:message_id>/pin")
    @operation(WRITTEN, refuses=("forbidden", "conflict", "gone"))
    async def pin(message_id: str) -> Response:
        """Pin a message.

        For all members of the conversation. Both users of a direct one may, and admins and owners of a group. A message
        that is pinned stays as it is. A conversation has at most 50 pins; beyond that: 409.
        """
        return _answer(await messages.pin(caller(), path_id(message_id)))

    @routes.delete("/messages/<id:message_id>/pin")
    @operation(WRITTEN, refuses=("forbidden", "gone"))
    async def unpin(message_id: str) -> Response:
        """Take a pin away, by those who may pin. Where there is none, nothing changes."""
        return _answer(await messages.unpin(caller(), path_id(message_id)))

    @routes.get("/conversations/<id:conversation_id>/pins")
    @operation(Answer(200, MessagePage, "A page of messages."), parameters=(LIMIT, TEXT_CURSOR))
    async def list_pinned(conversation_id: str) -> Response:
        """List the messages that are pinned in a conversation, the last one to be pinned first."""
        items, following = await messages.list_pins(caller(), path_id(conversation_id), limit(), cursor())
        return page(items, following)

    return routes


def _answer(message: Message) -> Response:
    return answer(sent(message), version=preconditions.of_message(message), resource=message)
