"""REST for messages (contract.md 2). Owns the routes; what they mean is in `handlers.messages`."""

import msgspec
from quart import Blueprint, Response, request
from quart_schema import document_response, validate_request

from handlers.errors import ChatError
from handlers.messages import Messages
from handlers.model import CreateMessage, EditMessage, MessageReceipt, SetMessageStatus
from handlers.receipts import Receipts, parse_status
from server.rest.requests import (
    answer,
    caller,
    idempotency_key,
    if_match,
    limit,
    nothing,
    page,
    path_id,
    query_id,
    query_number,
)
from store.model import Message, Wire


class MessagePage(Wire, frozen=True):
    items: tuple[Message, ...]
    next: str | None


class ReceiptPage(Wire, frozen=True):
    items: tuple[MessageReceipt, ...]
    next: str | None


def blueprint(messages: Messages, receipts: Receipts) -> Blueprint:
    routes = Blueprint("messages", __name__, url_prefix="/api/messages")

    @routes.get("")
    @document_response(MessagePage)
    async def list_page() -> Response:
        before, after = query_number("before", None), query_number("after", None)
        if before is not None and after is not None:
            raise ChatError("invalid_request", "Give `before` or `after`, not both.")
        size = limit()
        items = await messages.page(caller(), query_id("conversationId"), before=before, after=after, limit=size)
        return page(items, str(items[-1].seq) if len(items) == size else None)

    @routes.post("")
    @document_response(Message, 201)
    @validate_request(CreateMessage)
    async def create(data: CreateMessage) -> Response:
        key = idempotency_key()
        if key is not None and data.client_message_id is None:
            data = msgspec.structs.replace(data, client_message_id=key)
        message = await messages.send(caller(), data)
        response = answer(message, 201, etag=str(message.changed_seq))
        response.headers["Location"] = f"/api/messages/{message.id}"
        return response

    @routes.get("/<message_id>")
    @document_response(Message)
    async def get(message_id: str) -> Response:
        message = await messages.get(caller(), path_id(message_id))
        return answer(message, etag=str(message.changed_seq))

    @routes.put("/<message_id>")
    @document_response(Message)
    @validate_request(EditMessage)
    async def edit(message_id: str, data: EditMessage) -> Response:
        message = await messages.edit(caller(), path_id(message_id), data.content, if_match=if_match())
        return answer(message, etag=str(message.changed_seq))

    @routes.delete("/<message_id>")
    @document_response(Message)
    async def delete(message_id: str) -> Response:
        message = await messages.delete(caller(), path_id(message_id), if_match=if_match())
        return answer(message, etag=str(message.changed_seq))

    @routes.put("/<message_id>/status")
    @validate_request(SetMessageStatus)
    async def set_status(message_id: str, data: SetMessageStatus) -> Response:
        await receipts.mark_message(caller(), path_id(message_id), parse_status(data.status))
        return nothing()

    @routes.get("/<message_id>/receipts")
    @document_response(ReceiptPage)
    async def list_receipts(message_id: str) -> Response:
        items, following = await receipts.list(caller(), path_id(message_id), limit(), request.args.get("cursor"))
        return page(items, following)

    return routes
