"""Reports of messages and users.

Owns the rows of `reports`. Writes take part in the caller's transaction. What a reported message said is kept beside it
while the report is open, as its sender may delete it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from store.ids import epoch_ms, id_floor, id_ms, timestamp
from store.model import FullReport, OwnReport, ReportCategory, ReportState
from store.postgres import queries
from store.postgres.connection import Connection

LOWEST_ID = UUID(int=0)


async def insert_report(
    conn: Connection,
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
    """None where the same user has an open report about the same thing."""
    parameters = {
        "id": report_id,
        "reporter_id": reporter_id,
        "user_id": user_id,
        "message_id": message_id,
        "conversation_id": conversation_id,
        "category": category.value,
        "comment": comment,
        "content": content,
    }
    row = await (await conn.execute(queries.insert_report, parameters)).fetchone()
    return None if row is None else _report_of(row)


async def fetch_open_report(
    conn: Connection, reporter_id: UUID, user_id: UUID, *, message_id: UUID | None
) -> FullReport | None:
    parameters = {"reporter_id": reporter_id, "user_id": user_id, "message_id": message_id}
    row = await (await conn.execute(queries.fetch_open_report, parameters)).fetchone()
    return None if row is None else _report_of(row)


async def count_open_reports(conn: Connection, reporter_id: UUID) -> int:
    row = await (await conn.execute(queries.count_open_reports, {"reporter_id": reporter_id})).fetchone()
    return int(row[0]) if row else 0


async def list_reports(
    conn: Connection,
    viewer_id: UUID | None,
    *,
    state: ReportState | None = None,
    user_id: UUID | None = None,
    after: UUID | None = None,
    limit: int,
) -> list[FullReport]:
    """Return reports, the oldest first, without those about the viewer."""
    parameters: dict[str, object] = {"viewer_id": viewer_id, "after": after or LOWEST_ID, "limit": limit}
    query = queries.list_open_reports
    if state is not ReportState.OPEN or user_id is not None:
        query = queries.list_reports
        parameters |= {"is_open": None if state is None else state is ReportState.OPEN, "user_id": user_id}
    return [_report_of(row) for row in await (await conn.execute(query, parameters)).fetchall()]


async def list_own_reports(conn: Connection, reporter_id: UUID, *, after: UUID | None, limit: int) -> list[OwnReport]:
    """Return what a user has reported, the oldest first, as they may see it."""
    parameters = {"reporter_id": reporter_id, "after": after or LOWEST_ID, "limit": limit}
    rows = await (await conn.execute(queries.list_own_reports, parameters)).fetchall()
    return [own(_report_of(row)) for row in rows]


async def fetch_backlog(conn: Connection, limit: int) -> tuple[int, UUID | None]:
    """Return how many reports are open, counted up to `limit`, and which is the oldest."""
    row = await (await conn.execute(queries.fetch_report_backlog, {"limit": limit})).fetchone()
    assert row is not None
    return row[0], row[1]


async def fetch_report(conn: Connection, report_id: UUID) -> FullReport | None:
    row = await (await conn.execute(queries.fetch_report, {"id": report_id})).fetchone()
    return None if row is None else _report_of(row)


async def lock_report(conn: Connection, report_id: UUID) -> FullReport | None:
    row = await (await conn.execute(queries.lock_report, {"id": report_id})).fetchone()
    return None if row is None else _report_of(row)


async def resolve_report(conn: Connection, report_id: UUID, *, by: UUID | None, note: str | None) -> FullReport:
    """Resolve a report, which the caller has locked."""
    row = await (await conn.execute(queries.resolve_report, {"id": report_id, "by": by, "note": note})).fetchone()
    assert row is not None
    return _report_of(row)


async def delete_old_reports(conn: Connection, before: datetime, limit: int) -> int:
    """Remove up to `limit` of the reports from before this time; return how many."""
    parameters = {"bound": id_floor(epoch_ms(before)), "limit": limit}
    return (await conn.execute(queries.delete_old_reports, parameters)).rowcount


def own(report: FullReport) -> OwnReport:
    """Return what its reporter sees of a report."""
    return OwnReport(**{name: getattr(report, name) for name in OwnReport.__struct_fields__})


def _report_of(row: Sequence[Any]) -> FullReport:
    id_, user_id, message_id, conversation_id, category, comment, is_resolved, reporter_id, *rest = row
    content, note, resolved_by, resolved_at = rest
    return FullReport(
        id=id_,
        created_at=timestamp(id_ms(id_)),
        user_id=user_id,
        message_id=message_id,
        conversation_id=conversation_id,
        category=ReportCategory(category),
        comment=comment,
        state=ReportState.RESOLVED if is_resolved else ReportState.OPEN,
        reporter_id=reporter_id,
        content=content,
        note=note,
        resolved_by=resolved_by,
        resolved_at=None if resolved_at is None else timestamp(resolved_at),
    )
