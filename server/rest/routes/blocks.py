"""REST for blocks (docs/rest.md). Owns the routes; `handlers.blocks` implements them."""

from quart import Blueprint, Response

from handlers.blocks import Blocks
from server.rest.operations import PAGE, Answer, done, operation
from server.rest.requests import caller, cursor, limit, nothing, page, path_id
from store.model import Block, Wire


class BlockPage(Wire, frozen=True):
    items: tuple[Block, ...]
    next: str | None


def blueprint(blocks: Blocks) -> Blueprint:
    routes = Blueprint("blocks", __name__, url_prefix="/api/users/me/blocks")

    @routes.get("")
    @operation(Answer(200, BlockPage, "A page of blocks."), parameters=PAGE)
    async def list_blocks() -> Response:
        """List the users whom the caller has blocked."""
        items, following = await blocks.list(caller(), limit(), cursor())
        return page(items, following)

    @routes.put("/<id:user_id>")
    @operation(done("The user is blocked."), refuses=("conflict",))
    async def block(user_id: str) -> Response:
        """Block a user. Safe to repeat.

        They begin no direct conversation with the caller, do not write into the one that there is, and add the caller
        to no group; neither sees the other's presence. They do not learn it. At most 1,000 users may be blocked.
        """
        await blocks.block(caller(), path_id(user_id))
        return nothing()

    @routes.delete("/<id:user_id>")
    @operation(done("The user is not blocked."))
    async def unblock(user_id: str) -> Response:
        """Block a user no more. Safe to repeat."""
        await blocks.unblock(caller(), path_id(user_id))
        return nothing()

    return routes
