"""REST for conversations and their members (contract.md 2). Owns the routes; `handlers.conversations` the meaning."""

from quart import Blueprint, Response, request
from quart_schema import document_response, validate_request

from handlers.conversations import Conversations
from handlers.model import AddMember, ChangeRole, CreateConversation, UpdateConversation
from server.rest.requests import answer, caller, limit, nothing, once, page, path_id
from store.model import Conversation, Member, Wire


class ConversationPage(Wire, frozen=True):
    items: tuple[Conversation, ...]
    next: str | None


class MemberPage(Wire, frozen=True):
    items: tuple[Member, ...]
    next: str | None


def blueprint(conversations: Conversations) -> Blueprint:
    routes = Blueprint("conversations", __name__, url_prefix="/api/conversations")

    @routes.get("")
    @document_response(ConversationPage)
    async def list_mine() -> Response:
        items, following = await conversations.list(caller(), limit(), request.args.get("cursor"))
        return page(items, following)

    @routes.post("")
    @document_response(Conversation, 201)
    @validate_request(CreateConversation)
    async def create(data: CreateConversation) -> Response:
        conversation, created = await conversations.create(caller(), data, await once())
        response = answer(conversation, 201 if created else 200)
        response.headers["Location"] = f"/api/conversations/{conversation.id}"
        return response

    @routes.get("/<conversation_id>")
    @document_response(Conversation)
    async def get(conversation_id: str) -> Response:
        return answer(await conversations.get(caller(), path_id(conversation_id)))

    @routes.put("/<conversation_id>")
    @document_response(Conversation)
    @validate_request(UpdateConversation)
    async def update(conversation_id: str, data: UpdateConversation) -> Response:
        return answer(await conversations.rename(caller(), path_id(conversation_id), data))

    @routes.delete("/<conversation_id>")
    async def delete(conversation_id: str) -> Response:
        await conversations.delete(caller(), path_id(conversation_id))
        return nothing()

    @routes.get("/<conversation_id>/members")
    @document_response(MemberPage)
    async def list_members(conversation_id: str) -> Response:
        items, following = await conversations.list_members(
            caller(), path_id(conversation_id), limit(), request.args.get("cursor")
        )
        return page(items, following)

    @routes.post("/<conversation_id>/members")
    @document_response(Conversation, 201)
    @validate_request(AddMember)
    async def add_member(conversation_id: str, data: AddMember) -> Response:
        conversation, added = await conversations.add_member(caller(), path_id(conversation_id), data)
        return answer(conversation, 201 if added else 200)

    @routes.delete("/<conversation_id>/members/<user_id>")
    async def remove_member(conversation_id: str, user_id: str) -> Response:
        await conversations.remove_member(caller(), path_id(conversation_id), path_id(user_id))
        return nothing()

    @routes.put("/<conversation_id>/members/<user_id>/role")
    @document_response(Conversation)
    @validate_request(ChangeRole)
    async def change_role(conversation_id: str, user_id: str, data: ChangeRole) -> Response:
        return answer(await conversations.change_role(caller(), path_id(conversation_id), path_id(user_id), data))

    return routes
