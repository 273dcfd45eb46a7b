"""REST for reactions to messages (docs/rest.md). Owns the routes; `handlers.reactions` implements them."""

from quart import Blueprint, Response, request

from handlers import preconditions
from handlers.emoji import EMOJI
from handlers.model import Reactor, SentMessage, sent
from handlers.reactions import Reactions
from server.rest.operations import LIMIT, TEXT_CURSOR, Answer, operation, query
from server.rest.requests import answer, caller, cursor, limit, page, path_id
from store.model import Message, Wire

WRITTEN = Answer(200, SentMessage, "The message with its reactions, committed.", ("ETag",))
PAGING = (
    query("emoji", {"type": "string", "pattern": f"^{EMOJI}$"}, "Only who has reacted with this one."),
    LIMIT,
    TEXT_CURSOR,
)


class ReactorPage(Wire, frozen=True):
    items: tuple[Reactor, ...]
    next: str | None


def blueprint(reactions: Reactions) -> Blueprint:
    routes = Blueprint("reactions", __name__, url_prefix="/api/messages/<id:message_id>/reactions")

    @routes.get("")
    @operation(Answer(200, ReactorPage, "A page of reactions."), parameters=PAGING)
    async def list_reactors(message_id: str) -> Response:
        """List who has reacted to a message, by emoji, and to each the first before the later ones."""
        emoji = request.args.get("emoji")
        items, following = await reactions.list(
            caller(), path_id(message_id), emoji=emoji, limit=limit(), cursor=cursor()
        )
        return page(items, following)

    @routes.put("/<emoji>")
    @operation(WRITTEN, refuses=("invalid_request", "forbidden", "conflict", "gone"))
    async def react(message_id: str, emoji: str) -> Response:
        """React to a message with an emoji.

        The same reaction again changes nothing. The emoji is percent-encoded in the path. A message has at most 50
        kinds of reactions, and a user 20 of their own to one message; beyond that: 409.
        """
        return _answer(await reactions.react(caller(), path_id(message_id), emoji))

    @routes.delete("/<emoji>")
    @operation(WRITTEN, refuses=("invalid_request", "forbidden", "gone"))
    async def unreact(message_id: str, emoji: str) -> Response:
        """Take one's own reaction back. Where it is not there, nothing changes."""
        return _answer(await reactions.unreact(caller(), path_id(message_id), emoji))

    return routes


def _answer(message: Message) -> Response:
    return answer(sent(message), version=preconditions.of_message(message), resource=message)
