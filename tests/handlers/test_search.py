"""handlers.search: what may be asked, and what is shown."""

from typing import Any

import pytest
from msgspec.structs import replace

from handlers import search
from handlers.errors import ChatError
from handlers.model import Highlight, SearchMessages
from store.ids import new_id
from store.model import Role
from tests.handlers.memory import Memory, refused


async def find(memory: Memory, caller: Any, query: str, **options: Any) -> tuple[list[str], str | None]:
    page = await memory.search.find(caller, SearchMessages(query=query, **options))
    return [hit.message.content for hit in page.items], page.next


async def test_pages(memory: Memory) -> None:
    """The newest first; from page to page everything once."""
    caller = memory.user()
    group = memory.group((caller, Role.OWNER))
    said = [memory.say(group, caller, f"word {number}") for number in range(5)]
    wanted = [message.content for message in sorted(said, key=lambda message: message.id, reverse=True)]
    found, following = await find(memory, caller, "word", limit=2)
    assert found == wanted[:2] and following
    more, following = await find(memory, caller, "word", limit=2, cursor=following)
    assert more == wanted[2:4] and following
    assert await find(memory, caller, "word", limit=2, cursor=following) == (wanted[4:], None)


async def test_what_is_shown_is_true_now(memory: Memory) -> None:
    """What the search still has and is deleted, edited, or of a conversation that one has left, is not shown."""
    caller, other = memory.user(), memory.user()
    group, left = memory.group((caller, Role.OWNER)), memory.group((other, Role.OWNER))
    edited, deleted, kept = (memory.say(group, caller, f"word {number}") for number in range(3))
    memory.say(left, other, "word of others")
    tables = memory.database.tables
    tables.messages[edited.id] = replace(edited, content="another")
    tables.messages[deleted.id] = replace(deleted, content="", deleted_at="2026-01-01T00:00:00.000Z")
    tables.searched |= {edited.id: "word", deleted.id: "word"}
    assert await find(memory, caller, "word") == ([kept.content], None)


async def test_a_page_looks_through_so_much_text(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends early, and says where to go on, also where it has found nothing: what was edited since costs as much."""
    monkeypatch.setattr(search, "TERMS", 100)
    caller = memory.user()
    group = memory.group((caller, Role.OWNER))
    said = [memory.say(group, caller, "word " * 60) for _ in range(6)]
    tables = memory.database.tables
    newest_first = sorted(said, key=lambda message: message.id, reverse=True)
    for edited in newest_first[:3]:
        tables.messages[edited.id] = replace(edited, content="another " * 60)
        tables.searched[edited.id] = "word"
    pages: list[int] = []
    following: str | None = None
    while following is not None or not pages:
        found, following = await find(memory, caller, "word", cursor=following)
        pages.append(len(found))
    assert pages[0] == 0 and sum(pages) == 3 and max(pages) < 3


async def test_highlights(memory: Memory) -> None:
    """Where the words are, in UTF-16 code units."""
    caller = memory.user()
    memory.say(memory.group((caller, Role.OWNER)), caller, "😀 At noon, NOON")
    page = await memory.search.find(caller, SearchMessages(query="noon"))
    assert page.items[0].highlights == (Highlight("content", 6, 4), Highlight("content", 12, 4))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"query": "x" * (search.MAX_QUERY + 1)}, "invalid_request"),
        ({"query": "a\0"}, "invalid_request"),
        ({"query": "a", "before": "yesterday"}, "invalid_request"),
        ({"query": "a", "after": "2026-01-01T00:00:00"}, "invalid_request"),
        ({"query": "a", "cursor": "!"}, "invalid_cursor"),
        ({"query": "a", "conversation_id": new_id()}, "not_found"),
    ],
)
async def test_refused(memory: Memory, options: dict[str, Any], code: str) -> None:
    """What cannot be asked, and conversations that one is no member of."""
    caller = memory.user()
    assert (await refused(memory, memory.search.find(caller, SearchMessages(**options)))).code == code


@pytest.mark.parametrize(
    "time",
    ["2026-01-01T00:00:00Z", "1969-12-31T23:59:60+14:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
)
async def test_any_time(memory: Memory, time: str) -> None:
    """Of any year and zone, also one that a clock here never shows."""
    caller = memory.user()
    assert await find(memory, caller, "a", before=time, after=time) == ([], None)


async def test_nothing_to_look_for(memory: Memory) -> None:
    """Finds nothing."""
    caller = memory.user()
    assert await find(memory, caller, "?!") == ([], None)
    assert await find(memory, caller, "") == ([], None)


async def test_rate(memory: Memory) -> None:
    """So many searches of one user, and no more."""
    caller = memory.user()
    with pytest.raises(ChatError, match="rate_limited"):
        for _ in range(1000):
            await find(memory, caller, "a")
