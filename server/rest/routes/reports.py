"""REST for reports (docs/rest.md). Owns the routes; `handlers.reports` implements them."""

from quart import Blueprint, Response, request

from handlers.errors import ChatError
from handlers.model import CreateReport, ResolveReport
from handlers.reports import Reports
from server.rest.operations import PAGE, UNUSED_KEY, UUID_SCHEMA, Answer, operation, query
from server.rest.requests import answer, caller, cursor, idempotency_key, limit, page, path_id, query_id
from store.model import FullReport, OwnReport, ReportState, Wire

FILTERS = (
    query("state", {"type": "string", "enum": ["open", "resolved"]}, "Only those that wait for a decision, or do not."),
    query("userId", UUID_SCHEMA, "Only those about this user."),
)


class ReportPage(Wire, frozen=True):
    items: tuple[FullReport, ...]
    next: str | None


class OwnReportPage(Wire, frozen=True):
    items: tuple[OwnReport, ...]
    next: str | None


def blueprint(reports: Reports) -> Blueprint:
    routes = Blueprint("reports", __name__, url_prefix="/api")

    @routes.post("/reports")
    @operation(
        Answer(201, OwnReport, "The report."),
        Answer(200, OwnReport, "The caller's report about the same, which is open."),
        takes=CreateReport,
        parameters=(UNUSED_KEY,),
        refuses=("not_found", "forbidden", "conflict", "gone"),
    )
    async def create(data: CreateReport) -> Response:
        """Report a message or a user to the moderators of the service.

        One that the caller may see. Safe to repeat: while a report of the caller about the same is open, it is that
        one. Who is reported does not learn it.
        """
        idempotency_key()
        report, is_new = await reports.create(caller(), data)
        return answer(report, 201 if is_new else 200)

    @routes.get("/users/me/reports")
    @operation(Answer(200, OwnReportPage, "A page of reports."), parameters=PAGE)
    async def list_own() -> Response:
        """List what the caller has reported, the oldest first."""
        return page(*await reports.list_own(caller(), limit(), cursor()))

    @routes.get("/reports")
    @operation(Answer(200, ReportPage, "A page of reports."), parameters=(*FILTERS, *PAGE), refuses=("forbidden",))
    async def list_reports() -> Response:
        """List reports, the oldest first, with who has reported, and what a message said then.

        For moderators. Reports about the caller are not among them.
        """
        user_id = query_id("userId") if "userId" in request.args else None
        return page(*await reports.list(caller(), limit(), cursor(), state=_state(), user_id=user_id))

    @routes.put("/reports/<id:report_id>/resolution")
    @operation(
        Answer(200, FullReport, "The report."),
        takes=ResolveReport,
        refuses=("forbidden", "gone", "conflict", "last_owner"),
    )
    async def resolve(report_id: str, data: ResolveReport) -> Response:
        """Resolve a report, with a note for other moderators, and with what is done about it. For moderators.

        `act` is done in the same transaction, as by the route that does it: the message is deleted, its sender is muted
        in the conversation or removed from the group and kept out, or the user is banned; until a time, or for good.
        One that is resolved stays as it is, and nothing is done.
        """
        return answer(await reports.resolve(caller(), path_id(report_id), data))

    return routes


def _state() -> ReportState | None:
    text = request.args.get("state")
    try:
        return None if text is None else ReportState(text)
    except ValueError:
        names = "open or resolved"
        raise ChatError("invalid_request", f"The parameter state is {names}.", errors={"state": names}) from None
