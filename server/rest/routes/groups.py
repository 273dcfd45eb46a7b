"""REST for joining groups (docs/rest.md). Owns the routes; `handlers.groups` implements them."""

from quart import Blueprint, Response

from handlers import preconditions
from handlers.groups import Groups
from handlers.model import CreateJoinLink, JoinByLink, NewJoinLink
from server.rest.operations import IDEMPOTENCY_KEY, PAGE, UNUSED_KEY, Answer, done, operation
from server.rest.requests import answer, caller, cursor, join_route, limit, nothing, once, page, path_id
from store.model import Conversation, JoinLink, Wire

JOINED = (
    Answer(201, Conversation, "The conversation, which the caller has joined.", ("ETag",)),
    Answer(200, Conversation, "The conversation; the caller was a member already.", ("ETag",)),
)


class JoinLinkPage(Wire, frozen=True):
    items: tuple[JoinLink, ...]
    next: str | None


def blueprint(groups: Groups) -> Blueprint:
    routes = Blueprint("groups", __name__, url_prefix="/api")

    @routes.post("/conversations/<id:conversation_id>/links")
    @operation(
        Answer(201, NewJoinLink, "The link, with its token."),
        takes=CreateJoinLink,
        parameters=(IDEMPOTENCY_KEY,),
        refuses=("forbidden", "conflict"),
    )
    async def create_link(conversation_id: str, data: CreateJoinLink) -> Response:
        """Make a link by which people join a group.

        By admins and owners. The `token` is shown this once; the server keeps only its hash. A request that is repeated
        with its Idempotency-Key is answered with the same link and another token, in place of the first. A group has at
        most 50 links by which people can join.
        """
        return answer(await groups.create_link(caller(), path_id(conversation_id), data, await once()), 201)

    @routes.get("/conversations/<id:conversation_id>/links")
    @operation(Answer(200, JoinLinkPage, "A page of links."), parameters=PAGE, refuses=("forbidden",))
    async def list_links(conversation_id: str) -> Response:
        """List the links of a group, the oldest first, with how often each was used.

        For admins and owners. Links that have expired or are used up are among them until others are made.
        """
        items, following = await groups.list_links(caller(), path_id(conversation_id), limit(), cursor())
        return page(items, following)

    @routes.delete("/conversations/<id:conversation_id>/links/<id:link_id>")
    @operation(done("The link is revoked."), refuses=("forbidden", "conflict"))
    async def revoke_link(conversation_id: str, link_id: str) -> Response:
        """Revoke a link: no user joins by it any more. Who has joined stays."""
        await groups.revoke_link(caller(), path_id(conversation_id), path_id(link_id))
        return nothing()

    @routes.post("/join")
    @operation(*JOINED, takes=JoinByLink, parameters=(UNUSED_KEY,), refuses=("not_found",))
    @join_route
    async def join_by_link(data: JoinByLink) -> Response:
        """Join a group by the token of a link.

        The token is in the body, so that no log of addresses has it. A link that never was, has expired, is used up or
        was revoked is not found. Who is a member already stays so, and the link is not used.
        """
        return _joined(*await groups.join_by_link(caller(), data.token))

    return routes


def _joined(conversation: Conversation, is_new: bool) -> Response:
    return answer(conversation, 201 if is_new else 200, version=preconditions.of_conversation(conversation))
