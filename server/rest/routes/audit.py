"""REST for the audit log (docs/rest.md). Owns the route; `handlers.moderation` implements it."""

from datetime import datetime
from uuid import UUID

from quart import Blueprint, Response, request

from handlers import text_rules
from handlers.errors import ChatError
from handlers.moderation import Moderation
from server.rest.operations import PAGE, UUID_SCHEMA, Answer, operation, query
from server.rest.requests import caller, cursor, limit, page, query_id
from store.model import Act, AuditEntry, Wire
from store.postgres.audit import Filter

TIME = {"type": "string", "pattern": f"^{text_rules.TIME}$"}
FILTERS = (
    query("act", {"type": "string", "enum": [member.value for member in Act]}, "Only entries of this act."),
    query("actorId", UUID_SCHEMA, "Only what this user has done."),
    query("userId", UUID_SCHEMA, "Only what was done to this user."),
    query("conversationId", UUID_SCHEMA, "Only what was done in this conversation."),
    query("after", TIME, "Only entries from this time on."),
    query("before", TIME, "Only entries from before this time."),
)


class AuditPage(Wire, frozen=True):
    items: tuple[AuditEntry, ...]
    next: str | None


def blueprint(moderation: Moderation) -> Blueprint:
    routes = Blueprint("audit", __name__, url_prefix="/api/audit")

    @routes.get("")
    @operation(Answer(200, AuditPage, "A page of entries."), parameters=(*FILTERS, *PAGE), refuses=("forbidden",))
    async def list_audit() -> Response:
        """List who has done what to whom, when and why: the newest first.

        For administrators. Where an operator acted there is no `actorId`. Sign-ins of one user from one network are
        one entry in ten minutes.
        """
        only = Filter(_act(), _id("actorId"), _id("userId"), _id("conversationId"), _time("after"), _time("before"))
        items, following = await moderation.list_audit(caller(), only, limit(), cursor())
        return page(items, following)

    return routes


def _act() -> Act | None:
    text = request.args.get("act")
    try:
        return None if text is None else Act(text)
    except ValueError:
        names = ", ".join(member.value for member in Act)
        raise ChatError("invalid_request", f"The parameter act is one of {names}.", errors={"act": names}) from None


def _id(name: str) -> UUID | None:
    return query_id(name) if name in request.args else None


def _time(name: str) -> datetime | None:
    text = request.args.get(name)
    if text is None:
        return None
    found = text_rules.time_of(text)
    if found is None:
        sentence = "a time as in RFC 3339, with its time zone"
        raise ChatError("invalid_request", f"The parameter {name} is {sentence}.", errors={name: sentence})
    return found
