"""handlers.reports: who may report what, and who sees it."""

from typing import Any

import pytest

from handlers import reports
from handlers.model import MAX_COMMENT, Caller, CreateReport, ResolveReport
from handlers.rate_limits import Rate
from store.ids import new_id
from store.model import MessageType, ReportState, Role, UserRole
from tests.handlers.memory import Memory, refused


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
