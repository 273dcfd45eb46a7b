"""In place of `store.postgres.reports`."""

from uuid import UUID

from msgspec.structs import replace

from store.model import FullReport, OwnReport, ReportCategory, ReportState
from store.postgres import reports
from tests.handlers.database import NOW, Tables, stands_for


@stands_for(reports.insert_report)
def _insert_report(
    tables: Tables,
    report_id: UUID,
    reporter_id: UUID,
    user_id: UUID,
    *,
    message_id: UUID | None,
    conversation_id: UUID | None,
    category: ReportCategory,
    comment: str | None,
    content: str | None,
) -> FullReport | None:
    if _fetch_open_report(tables, reporter_id, user_id, message_id=message_id) is not None:
        return None
    its = (user_id, message_id, conversation_id, category, comment, ReportState.OPEN)
    tables.reports[report_id] = FullReport(report_id, NOW, *its, reporter_id, content, None, None, None)
    return tables.reports[report_id]


@stands_for(reports.fetch_open_report)
def _fetch_open_report(
    tables: Tables, reporter_id: UUID, user_id: UUID, *, message_id: UUID | None
) -> FullReport | None:
    for one in tables.reports.values():
        same = (one.reporter_id, one.user_id, one.message_id) == (reporter_id, user_id, message_id)
        if same and one.state is ReportState.OPEN:
            return one
    return None


@stands_for(reports.count_open_reports)
def _count_open_reports(tables: Tables, reporter_id: UUID) -> int:
    return sum(one.reporter_id == reporter_id and one.state is ReportState.OPEN for one in tables.reports.values())


@stands_for(reports.list_reports)
def _list_reports(
    tables: Tables,
    viewer_id: UUID | None,
    *,
    state: ReportState | None = None,
    user_id: UUID | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[FullReport]:
    found = [
        one
        for one in tables.reports.values()
        if one.user_id != viewer_id
        and state in (None, one.state)
        and user_id in (None, one.user_id)
        and (after is None or one.id > after)
    ]
    return sorted(found, key=lambda one: one.id)[:limit]


@stands_for(reports.list_own_reports)
def _list_own_reports(tables: Tables, reporter_id: UUID, *, after: UUID | None, limit: int) -> list[OwnReport]:
    found = [
        reports.own(one)
        for one in tables.reports.values()
        if one.reporter_id == reporter_id and (after is None or one.id > after)
    ]
    return sorted(found, key=lambda one: one.id)[:limit]


@stands_for(reports.fetch_backlog)
def _fetch_backlog(tables: Tables, limit: int) -> tuple[int, UUID | None]:
    found = sorted(one.id for one in tables.reports.values() if one.state is ReportState.OPEN)
    return min(len(found), limit), found[0] if found else None


@stands_for(reports.fetch_report)
def _fetch_report(tables: Tables, report_id: UUID) -> FullReport | None:
    return tables.reports.get(report_id)


@stands_for(reports.lock_report)
def _lock_report(tables: Tables, report_id: UUID) -> FullReport | None:
    return tables.reports.get(report_id)


@stands_for(reports.resolve_report)
def _resolve_report(tables: Tables, report_id: UUID, *, by: UUID | None, note: str | None) -> FullReport:
    before = tables.reports[report_id]
    made = replace(before, state=ReportState.RESOLVED, content=None, note=note, resolved_by=by, resolved_at=NOW)
    tables.reports[report_id] = made
    return made
