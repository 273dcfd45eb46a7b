"""REST for joining groups (docs/rest.md). Owns the routes; `handlers.groups` implements them."""

from quart import Blueprint, Response, request

from handlers import preconditions
from handlers.groups import Groups
from handlers.model import CreateJoinLink, JoinByLink, NewJoinLink
from handlers.users import MAX_QUERY
from server.rest.operations import (
    IDEMPOTENCY_KEY,
    LIMIT,
    PAGE,
    TEXT_CURSOR,
    UNUSED_KEY,
    Answer,
    done,
    operation,
    query,
)
from server.rest.requests import (
    answer,
    caller,
    cursor,
    idempotency_key,
    join_route,
    limit,
    nothing,
    once,
    page,
    path_id,
)
from store.model import Conversation, JoinLink, PublicGroup, Wire

JOINED = (
    Answer(201, Conversation, "The conversation, which the caller has joined.", ("ETag",)),
    Answer(200, Conversation, "The conversation; the caller was a member already.", ("ETag",)),
)


SEARCH = (
    query(
        "q",
        {"type": "string", "maxLength": MAX_QUERY, "pattern": "^[^\\u0000]*$"},
        "What a word begins with; without it, all public groups are listed.",
    ),
    LIMIT,
    TEXT_CURSOR,
)


class PublicGroupPage(Wire, frozen=True):
    items: tuple[PublicGroup, ...]
    next: str | None


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

    @routes.get("/groups")
    @operation(Answer(200, PublicGroupPage, "A page of groups."), parameters=SEARCH)
    async def search() -> Response:
        """Search for public groups by the beginning of a word in their name or description.

        Ordered by that word; each group once. Case and accents do not count. A page may have fewer than `limit` groups,
        or none, without being the last one; only `next` shows whether there are more.
        """
        items, following = await groups.search(caller(), request.args.get("q", ""), limit(), cursor())
        return page(items, following)

    @routes.post("/conversations/<id:conversation_id>/join")
    @operation(*JOINED, parameters=(UNUSED_KEY,), refuses=("conflict",))
    @join_route
    async def join(conversation_id: str) -> Response:
        """Join a public group, as a Member. Who is a member already stays so. Any other group is not found."""
        idempotency_key()
        return _joined(*await groups.join(caller(), path_id(conversation_id)))

    @routes.post("/join")
    @operation(*JOINED, takes=JoinByLink, parameters=(UNUSED_KEY,), refuses=("not_found", "conflict"))
    @join_route
    async def join_by_link(data: JoinByLink) -> Response:
        """Join a group by the token of a link.

        The token is in the body, so that no log of addresses has it. A link that never was, has expired, is used up or
        was revoked is not found. Who is a member already stays so, and the link is not used.
        """
        idempotency_key()
        return _joined(*await groups.join_by_link(caller(), data.token))

    return routes


def _joined(conversation: Conversation, is_new: bool) -> Response:
    return answer(conversation, 201 if is_new else 200, version=preconditions.of_conversation(conversation))
