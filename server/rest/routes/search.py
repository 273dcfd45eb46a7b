"""REST for search (docs/rest.md). Owns the route; `handlers.search` implements it."""

from typing import cast

from quart import Blueprint, Response, request

from handlers.errors import ChatError
from handlers.model import SearchMessages, SearchPage
from handlers.search import MAX_QUERY, Search
from server.rest.operations import ID_CURSOR, LIMIT, UUID_SCHEMA, Answer, operation, query
from server.rest.requests import answer, caller, cursor, limit, query_id

HAS = ("file", "link")
TIME = {"type": "string", "format": "date-time"}
SEARCH = (
    query(
        "q",
        {"type": "string", "maxLength": MAX_QUERY, "pattern": "^[^\\u0000]*$"},
        'Words, `"phrases"`, and beginnings of words with a star.',
    ),
    query("conversationId", UUID_SCHEMA, "Only in this conversation."),
    query("senderId", UUID_SCHEMA, "Only messages of this user."),
    query("before", TIME, "Only messages made before this time."),
    query("after", TIME, "Only messages made after this time."),
    query("has", {"type": "string", "enum": list(HAS)}, "Only messages with a file, or with a link in their text."),
    LIMIT,
    ID_CURSOR,
)


def blueprint(search: Search) -> Blueprint:
    routes = Blueprint("search", __name__, url_prefix="/api/search")

    @routes.get("/messages")
    @operation(Answer(200, SearchPage, "A page of messages."), parameters=SEARCH, refuses=("not_found",))
    async def messages() -> Response:
        """Search for messages, in all conversations of the caller or in one.

        The newest message first, with the places where it has the words. Case and accents do not count; in scripts
        without spaces any part of a text is found, and a file is found by its name. The work for one page is bounded:
        it may have fewer than `limit` items, or none, without being the last one; only `next` shows whether there are
        more. It has at most 50.
        """
        given = request.args
        if given.get("has") not in (None, *HAS):
            sentence = " or ".join(HAS)
            raise ChatError("invalid_request", f"The parameter has is {sentence}.", errors={"has": sentence})
        asked = SearchMessages(
            query=given.get("q", ""),
            conversation_id=query_id("conversationId") if "conversationId" in given else None,
            sender_id=query_id("senderId") if "senderId" in given else None,
            before=given.get("before"),
            after=given.get("after"),
            has=cast(None, given.get("has")),
            cursor=cursor(),
            limit=limit(),
        )
        return answer(await search.find(caller(), asked))

    return routes
