"""REST for conversations and their members (docs/rest.md). Owns the routes; `handlers.conversations` the rules."""

from quart import Blueprint, Response

from handlers import preconditions
from handlers.conversations import Conversations
from handlers.model import AddMember, ChangeRole, CreateConversation, UpdateConversation, UpdateSettings
from server.rest.operations import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    LIMIT,
    PAGE,
    Answer,
    cursor_parameter,
    done,
    operation,
    query,
)
from server.rest.requests import (
    answer,
    caller,
    count_additions,
    cursor,
    if_match,
    limit,
    nothing,
    once,
    page,
    path_id,
    query_choice,
)
from store.ids import distinct
from store.model import Conversation, ConversationSettings, Member, Wire
from store.postgres.conversation_views import Filter

SHOWN = Answer(200, Conversation, "The conversation, as the caller sees it.", ("ETag",))
LISTING = (
    LIMIT,
    cursor_parameter("^(?:[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])?$"),
    query("archived", {"type": "boolean"}, "Only those that the caller has archived; `false`: only the others."),
    query("favourite", {"type": "boolean"}, "Only the caller's favourites; `false`: only the others."),
)


class ConversationPage(Wire, frozen=True):
    items: tuple[Conversation, ...]
    next: str | None


class MemberPage(Wire, frozen=True):
    items: tuple[Member, ...]
    next: str | None


def blueprint(conversations: Conversations) -> Blueprint:
    routes = Blueprint("conversations", __name__, url_prefix="/api/conversations")

    def shown(conversation: Conversation, status: int = 200) -> Response:
        return answer(conversation, status, version=preconditions.of_conversation(conversation))

    @routes.get("")
    @operation(Answer(200, ConversationPage, "A page of conversations."), parameters=LISTING)
    async def list_mine() -> Response:
        """List the caller's conversations, the most recently active first.

        All pages keep the order of the moment in which the first page was requested, so that no conversation is listed
        twice or left out while messages are sent. Each has its first 20 members. If last messages are long, a page may
        have fewer than `limit` items without being the last one; only `next` shows whether there are more.
        """
        only = Filter(query_choice("archived"), query_choice("favourite"))
        items, following = await conversations.list(caller(), limit(), cursor(), only=only)
        return page(items, following)

    @routes.post("")
    @operation(
        Answer(201, Conversation, "The new conversation.", ("ETag", "Location")),
        Answer(200, Conversation, "The direct conversation that the two users already have.", ("ETag", "Location")),
        takes=CreateConversation,
        parameters=(IDEMPOTENCY_KEY,),
        refuses=("not_found", "conflict"),
    )
    async def create(data: CreateConversation) -> Response:
        """Begin a conversation. It counts as one for each user with whom it begins where additions are limited."""
        await count_additions(sum(one != caller().user_id for one in distinct(data.member_ids or ())))
        conversation, created = await conversations.create(caller(), data, await once())
        response = shown(conversation, 201 if created else 200)
        response.headers["Location"] = f"/api/conversations/{conversation.id}"
        return response

    @routes.get("/<id:conversation_id>")
    @operation(SHOWN, parameters=(IF_NONE_MATCH,))
    async def get(conversation_id: str) -> Response:
        """A conversation, with its last message and its first 100 members."""
        return shown(await conversations.get(caller(), path_id(conversation_id)))

    @routes.put("/<id:conversation_id>")
    @operation(SHOWN, takes=UpdateConversation, parameters=(IF_MATCH,), refuses=("forbidden", "conflict"))
    async def update(conversation_id: str, data: UpdateConversation) -> Response:
        """Change a group: its name, description and picture, and who may send when.

        By admins and owners. With `posting: Admins` only they send messages. With `slowModeSeconds` each other member
        waits so long between two messages. Owners make it public: anybody may find and join it then. If-Match covers
        all this and the members with their roles. New messages do not change it.
        """
        return shown(await conversations.update(caller(), path_id(conversation_id), data, if_match=if_match()))

    @routes.delete("/<id:conversation_id>")
    @operation(done("The conversation is deleted for all members."), parameters=(IF_MATCH,), refuses=("forbidden",))
    async def delete(conversation_id: str) -> Response:
        """Delete a conversation for all members."""
        await conversations.delete(caller(), path_id(conversation_id), if_match=if_match())
        return nothing()

    @routes.put("/<id:conversation_id>/settings")
    @operation(Answer(200, ConversationSettings, "The settings, as they are now."), takes=UpdateSettings)
    async def update_settings(conversation_id: str, data: UpdateSettings) -> Response:
        """Archive a conversation, make it a favourite, or mute its notifications.

        For the caller alone: their connections receive `ConversationChanged`, and no other member learns of it. Leaving
        the conversation ends it. What is left out stays as it is. A time that is past mutes nothing;
        `9999-12-31T23:59:59.999Z` is for ever.
        """
        return answer(await conversations.update_settings(caller(), path_id(conversation_id), data))

    @routes.get("/<id:conversation_id>/members")
    @operation(Answer(200, MemberPage, "A page of members."), parameters=PAGE)
    async def list_members(conversation_id: str) -> Response:
        """List the members of a conversation, ordered by user id."""
        items, following = await conversations.list_members(caller(), path_id(conversation_id), limit(), cursor())
        return page(items, following)

    @routes.post("/<id:conversation_id>/members")
    @operation(
        Answer(201, Conversation, "The conversation, with the new member.", ("ETag",)),
        Answer(200, Conversation, "The conversation; the user was a member already.", ("ETag",)),
        takes=AddMember,
        parameters=(IDEMPOTENCY_KEY,),
        refuses=("forbidden", "conflict"),
    )
    async def add_member(conversation_id: str, data: AddMember) -> Response:
        """Add a user to a group."""
        await count_additions(1)
        conversation, added = await conversations.add_member(caller(), path_id(conversation_id), data, await once())
        return shown(conversation, 201 if added else 200)

    @routes.delete("/<id:conversation_id>/members/<id:user_id>")
    @operation(done(), refuses=("forbidden", "conflict", "last_owner"))
    async def remove_member(conversation_id: str, user_id: str) -> Response:
        """Remove a member from a group, or leave it by removing yourself."""
        await conversations.remove_member(caller(), path_id(conversation_id), path_id(user_id))
        return nothing()

    @routes.put("/<id:conversation_id>/members/<id:user_id>/role")
    @operation(SHOWN, takes=ChangeRole, refuses=("forbidden", "conflict", "last_owner"))
    async def change_role(conversation_id: str, user_id: str, data: ChangeRole) -> Response:
        """Give a member another role."""
        return shown(await conversations.change_role(caller(), path_id(conversation_id), path_id(user_id), data))

    return routes
