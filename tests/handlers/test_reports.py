"""handlers.reports: who may report what, and who sees it."""

from typing import Any
from uuid import UUID

import pytest
import trio
from msgspec.structs import replace

from handlers import reports
from handlers.model import MAX_COMMENT, Caller, CreateReport, ResolveReport
from handlers.rate_limits import Rate
from store.ids import new_id
from store.model import FullReport, MessageType, ReportState, Role, UserRole
from store.postgres import reports as store
from store.redis.inbox_entries import Disconnection
from tests.handlers.memory import Memory, refused

SOON = "2999-01-01T00:00:00.000Z"


def moderator(memory: Memory) -> Caller:
    made = memory.user()
    memory.tables.roles[made.user_id] = UserRole.MODERATOR
    return made


async def test_reported_once(memory: Memory) -> None:
    """While a report is open the same again is that one; of another message, by another user, or later it is new."""
    one, other, rude = memory.user(), memory.user(), memory.user()
    group = memory.group((one, Role.MEMBER), (other, Role.MEMBER), (rude, Role.OWNER))
    said, more = memory.say(group, rude, "rude"), memory.say(group, rude)
    first, is_new = await memory.reports.create(one, CreateReport("spam", said.id, comment="look"))
    assert is_new and (first.user_id, first.message_id, first.conversation_id) == (rude.user_id, said.id, group)
    assert (first.state, first.comment) == (ReportState.OPEN, "look")
    again, is_new = await memory.reports.create(one, CreateReport("Hate", said.id))
    assert (again, is_new) == (first, False)
    for who, request in (
        (one, CreateReport("Spam", more.id)),
        (one, CreateReport("Spam", user_id=rude.user_id)),
        (other, CreateReport(0, said.id)),
    ):
        assert (await memory.reports.create(who, request))[1]
    await memory.reports.resolve(None, first.id, ResolveReport("warned"))
    assert (await memory.reports.create(one, CreateReport("Spam", said.id)))[1]


async def test_what_may_be_reported(memory: Memory) -> None:
    """What one may see, of somebody else: not what is said where one is no member, System messages, or what is gone."""
    one, rude, stranger = memory.user(), memory.user(), memory.user()
    group = memory.group((one, Role.MEMBER), (rude, Role.OWNER))
    said, gone = memory.say(group, rude), memory.say(group, rude)
    mine = memory.say(group, one)
    system = memory.tables.say(group, rude.user_id, "{}", MessageType.SYSTEM)
    await memory.messages.delete(rude, gone.id)
    memory.publisher.published.clear()
    for who, request, code in (
        (stranger, CreateReport("Spam", said.id), "not_found"),
        (one, CreateReport("Spam", new_id()), "not_found"),
        (one, CreateReport("Spam", system.id), "forbidden"),
        (one, CreateReport("Spam", gone.id), "gone"),
        (one, CreateReport("Spam", mine.id), "conflict"),
        (one, CreateReport("Spam", user_id=one.user_id), "conflict"),
        (one, CreateReport("Spam", user_id=new_id()), "not_found"),
    ):
        assert (await refused(memory, memory.reports.create(who, request))).code == code


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("category", CreateReport("Boredom", new_id())),
        ("category", CreateReport(99, new_id())),
        ("messageId", CreateReport("Spam")),
        ("messageId", CreateReport("Spam", new_id(), new_id())),
        ("comment", CreateReport("Spam", new_id(), comment="x" * (MAX_COMMENT + 1))),
        ("comment", CreateReport("Spam", new_id(), comment=" ")),
    ],
)
async def test_what_is_no_report(memory: Memory, field: str, request_: CreateReport) -> None:
    """The error names the field."""
    error = await refused(memory, memory.reports.create(memory.user(), request_))
    assert error.code == "invalid_request" and list(error.errors) == [field]


async def test_bounds(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many at a rate, and so many that wait."""
    one, monkeys = memory.user(), [memory.user() for _ in range(3)]
    monkeypatch.setattr(reports, "MAX_OPEN", 2)
    for other in monkeys[:2]:
        await memory.reports.create(one, CreateReport("Spam", user_id=other.user_id))
    call = memory.reports.create(one, CreateReport("Spam", user_id=monkeys[2].user_id))
    assert (await refused(memory, call)).code == "conflict"
    memory.reporting.limit_to(Rate(1, 60.0))
    await memory.reports.create(monkeys[0], CreateReport("Spam", user_id=one.user_id))
    call = memory.reports.create(monkeys[0], CreateReport("Spam", user_id=monkeys[1].user_id))
    assert (await refused(memory, call)).code == "rate_limited"


async def test_who_sees_them(memory: Memory) -> None:
    """Moderators all but those about themselves, with what was said; reporters their own, without what moderators note;
    who is reported nothing."""
    one, first, second = memory.user(), moderator(memory), moderator(memory)
    group = memory.group((one, Role.MEMBER), (first, Role.MEMBER), (second, Role.OWNER))
    said = memory.say(group, first, "rude words")
    about_first, _ = await memory.reports.create(one, CreateReport("Hate", said.id))
    about_second, _ = await memory.reports.create(one, CreateReport("Spam", user_id=second.user_id))
    assert (await refused(memory, memory.reports.list(one, 9, None))).code == "forbidden"
    for who, ids in ((first, [about_second.id]), (second, [about_first.id]), (None, [about_first.id, about_second.id])):
        found, _ = await memory.reports.list(who, 9, None)
        assert [report.id for report in found] == ids
    [seen], _ = await memory.reports.list(second, 9, None, state=ReportState.OPEN)
    assert (seen.reporter_id, seen.content) == (one.user_id, "rude words")
    own, cursor = await memory.reports.list_own(one, 1, None)
    rest, following = await memory.reports.list_own(one, 1, cursor)
    assert [*own, *rest] == [about_first, about_second] and following is None
    assert not {"note", "reporter_id", "resolved_by", "content"} & set(own[0].__struct_fields__)
    for who in (first, second):
        assert await memory.reports.list_own(who, 9, None) == ([], None)


async def test_resolved(memory: Memory) -> None:
    """By a moderator whom it is not about, once; what was said is not kept any longer; it is in the audit log."""
    one, rude, mod = memory.user(), moderator(memory), moderator(memory)
    report, _ = await memory.reports.create(one, CreateReport("Spam", user_id=rude.user_id))
    note = ResolveReport("warned")
    for who, report_id, code in (
        (one, report.id, "forbidden"),
        (rude, report.id, "not_found"),
        (mod, new_id(), "not_found"),
    ):
        assert (await refused(memory, memory.reports.resolve(who, report_id, note))).code == code
    resolved = await memory.reports.resolve(mod, report.id, note)
    assert (resolved.state, resolved.note, resolved.resolved_by) == (ReportState.RESOLVED, "warned", mod.user_id)
    assert await memory.reports.resolve(None, report.id, ResolveReport("never mind")) == resolved
    entries: list[Any] = [(one.act, one.actor_id, one.user_id, one.object_id) for one in memory.tables.audit.values()]
    assert entries == [("reportResolved", mod.user_id, rude.user_id, report.id)]
    assert (await refused(memory, memory.reports.resolve(mod, report.id, ResolveReport(" ")))).code == "invalid_request"


def noted(memory: Memory) -> list[tuple[str, UUID | None, str | None]]:
    return [(one.act, one.actor_id, one.detail) for one in memory.tables.audit.values()]


async def test_resolved_with_an_act(memory: Memory) -> None:
    """What is done is done with the decision, as by the route that does it, and noted with the report as its reason."""
    one, rude, mod = memory.user(), memory.user(), moderator(memory)
    group = memory.group((one, Role.OWNER), (rude, Role.MEMBER))
    ids = []
    for category in ("Spam", "Hate", "Other"):
        made, _ = await memory.reports.create(one, CreateReport(category, memory.say(group, rude, "rude").id))
        ids.append(made.id)
    of_user, _ = await memory.reports.create(one, CreateReport("Spam", user_id=rude.user_id))
    first = memory.tables.reports[ids[0]].message_id
    assert first is not None
    await memory.reports.resolve(mod, ids[0], ResolveReport("an insult", "deleteMessage"))
    assert memory.tables.messages[first].deleted_at is not None
    await memory.reports.resolve(mod, ids[1], ResolveReport(None, "MuteMember", SOON))
    assert memory.tables.muted[group, rude.user_id] == SOON
    await memory.reports.resolve(mod, ids[2], ResolveReport(None, 2))
    assert (group, rude.user_id) not in memory.tables.members and (group, rude.user_id) in memory.tables.kept_out
    await memory.reports.resolve(mod, of_user.id, ResolveReport(None, "BanUser", SOON))
    assert memory.tables.bans[rude.user_id] == SOON
    assert isinstance(memory.publisher.published[-1][1], Disconnection)
    assert noted(memory) == [
        ("messageDeleted", mod.user_id, None),
        ("reportResolved", mod.user_id, "DeleteMessage"),
        ("memberMuted", mod.user_id, None),
        ("reportResolved", mod.user_id, "MuteMember"),
        ("memberBanned", mod.user_id, None),
        ("reportResolved", mod.user_id, "KeepOut"),
        ("userBanned", mod.user_id, None),
        ("reportResolved", mod.user_id, "BanUser"),
    ]
    reasons = [one.reason for one in memory.tables.audit.values() if one.act != "reportResolved"]
    assert reasons == [f"report {report_id}" for report_id in (*ids, of_user.id)]
    memory.publisher.published.clear()
    before = memory.tables.copy()
    await memory.reports.resolve(mod, of_user.id, ResolveReport(None, "BanUser"))  # it is resolved: nothing is done
    assert memory.tables.copy() == before


@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("dance", "invalid_request"),
        ("DeleteMessage", "invalid_request"),  # of a report about a user
        ("MuteMember", "invalid_request"),
        ("BanUser", "forbidden"),  # of somebody whose role is not lower
    ],
)
async def test_acts_that_cannot_be(memory: Memory, act: str, code: str) -> None:
    """The report stays open, and nothing is done."""
    one, mod, other = memory.user(), moderator(memory), moderator(memory)
    made, _ = await memory.reports.create(one, CreateReport("Spam", user_id=other.user_id))
    memory.publisher.published.clear()
    assert (await refused(memory, memory.reports.resolve(mod, made.id, ResolveReport(None, act)))).code == code


async def test_an_operator_whom_members_would_see(memory: Memory) -> None:
    """An operator deletes and bans; a mute is somebody's."""
    one, rude = memory.user(), memory.user()
    group = memory.group((one, Role.OWNER), (rude, Role.MEMBER))
    made, _ = await memory.reports.create(one, CreateReport("Spam", memory.say(group, rude).id))
    memory.publisher.published.clear()
    request = ResolveReport(None, "MuteMember")
    assert (await refused(memory, memory.reports.resolve(None, made.id, request))).code == "invalid_request"
    await memory.reports.resolve(None, made.id, ResolveReport(None, "DeleteMessage"))
    assert [(act, by) for act, by, _ in noted(memory)] == [("messageDeleted", None), ("reportResolved", None)]


async def test_two_resolve_at_once(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the second one does is taken back, and it is answered with the decision of the first."""
    one, rude, mod = memory.user(), memory.user(), moderator(memory)
    made, _ = await memory.reports.create(one, CreateReport("Spam", user_id=rude.user_id))
    first = await memory.reports.resolve(None, made.id, ResolveReport("the first"))
    stale = replace(first, state=ReportState.OPEN)

    async def fetch_report(conn: object, report_id: UUID) -> FullReport:
        await trio.lowlevel.checkpoint()
        return stale

    monkeypatch.setattr(store, "fetch_report", fetch_report)
    memory.publisher.published.clear()
    before = memory.tables.copy()
    assert await memory.reports.resolve(mod, made.id, ResolveReport("the second", "BanUser")) == first
    assert memory.tables.copy() == before and memory.publisher.published == []
