"""REST for messages (docs/rest.md). Owns the routes; `handlers.messages` implements them."""

from quart import Blueprint, Response, request

from handlers import preconditions
from handlers.errors import ChatError
from handlers.messages import Messages
from handlers.model import CreateMessage, EditMessage, MessageReceipt, SentMessage, SetMessageStatus, sent
from handlers.receipts import Receipts, parse_status
from server.rest.operations import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    LIMIT,
    PAGE,
    REASON,
    SEQ,
    UUID_SCHEMA,
    Answer,
    done,
    operation,
    query,
)
from server.rest.requests import (
    answer,
    caller,
    cursor,
    if_match,
    limit,
    nothing,
    once,
    owes_standing,
    page,
    path_id,
    query_choice,
    query_id,
    query_number,
    seq_cursor,
    standing_route,
)
from store.model import Message, Wire

LIMIT_AND_SEQ = (
    LIMIT,
    query("cursor", SEQ, "The `next` of the previous page. It replaces `before` or `after`."),
)
PAGING = (
    query("conversationId", UUID_SCHEMA, "The conversation.", is_required=True),
    query("before", SEQ, "Only messages below this `seq`."),
    query("after", SEQ, "Only messages above this `seq`, the oldest first."),
    query("replies", {"type": "boolean", "default": False}, "Also replies that are in their threads only."),
    *LIMIT_AND_SEQ,
)
SHOWN = Answer(200, Message, "The message.", ("ETag",))
WRITTEN = Answer(200, SentMessage, "The message, committed.", ("ETag",))


class MessagePage(Wire, frozen=True):
    items: tuple[Message, ...]
    next: str | None


class ReceiptPage(Wire, frozen=True):
    items: tuple[MessageReceipt, ...]
    next: str | None


def blueprint(messages: Messages, receipts: Receipts) -> Blueprint:
    routes = Blueprint("messages", __name__, url_prefix="/api/messages")

    @routes.get("")
    @standing_route
    @operation(Answer(200, MessagePage, "A page of messages."), parameters=PAGING, refuses=("not_found",))
    async def list_page() -> Response:
        """List the messages of a conversation.

        Ordered by `seq`: the newest first, or the oldest first if `after` is given. Replies in threads are left out,
        but for those with `alsoInConversation`, unless `replies` is true. A page may have fewer than `limit` items, or
        none, without being the last one; only `next` shows whether there are more.
        """
        try:
            before, after, at = query_number("before", None), query_number("after", None), seq_cursor()
            conversation_id, count, replies = query_id("conversationId"), limit(), bool(query_choice("replies"))
        except ChatError:
            if owes_standing():
                await messages.require_standing(caller())  # what is wrong with the query is for those who may ask
            raise
        if at is not None:
            before, after = (at, None) if after is None else (before, at)
        found = await messages.page(
            caller(),
            conversation_id,
            before=before,
            after=after,
            limit=count,
            replies=replies,
            owes_standing=owes_standing(),
        )
        return page(found.messages, None if found.next is None else str(found.next))

    @routes.post("")
    @operation(
        Answer(201, SentMessage, "The message, committed.", ("ETag", "Location")),
        takes=CreateMessage,
        parameters=(IDEMPOTENCY_KEY,),
        refuses=(
            "invalid_content",
            "forbidden",
            "mention_all_forbidden",
            "posting_forbidden",
            "not_found",
            "slow_mode",
            "thread_nested",
            "gone",
        ),
    )
    async def create(data: CreateMessage) -> Response:
        """Send a message.

        The answer is sent once the message is committed. Requests with the same Idempotency-Key or `clientMessageId`
        send one message, and all of them are answered with it.
        """
        message = await messages.send_once(caller(), data, await once())
        response = answer(sent(message), 201, version=preconditions.of_message(message), resource=message)
        response.headers["Location"] = f"/api/messages/{message.id}"
        return response

    @routes.get("/<id:message_id>")
    @standing_route
    @operation(SHOWN, parameters=(IF_NONE_MATCH,))
    async def get(message_id: str) -> Response:
        """Get a message."""
        message = await messages.get(caller(), path_id(message_id), owes_standing=owes_standing())
        return answer(message, version=preconditions.of_message(message))

    @routes.put("/<id:message_id>")
    @operation(
        WRITTEN,
        takes=EditMessage,
        parameters=(IF_MATCH,),
        refuses=("invalid_content", "forbidden", "mention_all_forbidden", "gone"),
    )
    async def edit(message_id: str, data: EditMessage) -> Response:
        """Edit a message of the caller: its content, and whom it mentions."""
        message = await messages.edit(
            caller(),
            path_id(message_id),
            data.content,
            mentions=data.mentions,
            mention_all=data.mention_all,
            if_match=if_match(),
        )
        return answer(sent(message), version=preconditions.of_message(message), resource=message)

    @routes.delete("/<id:message_id>")
    @operation(WRITTEN, parameters=(REASON, IF_MATCH), refuses=("forbidden", "gone"))
    async def delete(message_id: str) -> Response:
        """Delete a message of the caller, or, as an admin of the group or a moderator of the service, of any member.

        The message keeps its place without content and with `deletedAt`, so that all members see that it was deleted.
        """
        reason = request.args.get("reason")
        message = await messages.delete(caller(), path_id(message_id), if_match=if_match(), reason=reason)
        return answer(sent(message), version=preconditions.of_message(message), resource=message)

    @routes.put("/<id:message_id>/status")
    @operation(done("The receipt is durable."), takes=SetMessageStatus)
    async def set_status(message_id: str, data: SetMessageStatus) -> Response:
        """Mark everything up to this message as delivered or read."""
        await receipts.mark_message(caller(), path_id(message_id), parse_status(data.status))
        return nothing()

    @routes.get("/<id:message_id>/receipts")
    @operation(Answer(200, ReceiptPage, "A page of members."), parameters=PAGE)
    async def list_receipts(message_id: str) -> Response:
        """List the members to whom a message was delivered, and which of them have read it."""
        items, following = await receipts.list(caller(), path_id(message_id), limit(), cursor())
        return page(items, following)

    return routes
