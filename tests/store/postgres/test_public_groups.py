"""store.postgres.public_groups: groups that anybody may find, by the words of their title and description."""

from uuid import UUID

from msgspec.structs import replace

from store.ids import new_id
from store.model import GroupDetails
from store.postgres import conversations, public_groups, queries
from store.postgres.connection import Connection
from tests.store.postgres.test_users import explained
from tests.store.world import fetch_value, make_users

PUBLIC = GroupDetails(is_public=True)


async def make_public(conn: Connection, owner: UUID, title: str | None, description: str | None = None) -> UUID:
    group, _ = await conversations.insert_group(conn, owner, title, [])
    details = replace(PUBLIC, description=description, avatar_url="https://example.org/a.png")
    await conversations.update_details(conn, group.id, GroupDetails(), details, by=owner)
    return group.id


async def found(conn: Connection, query: str, limit: int = 50) -> list[UUID]:
    """Over all pages."""
    ids: list[UUID] = []
    position = None
    while True:
        groups, position = await public_groups.list_groups(conn, query, limit=limit, position=position)
        assert len(groups) <= limit
        ids += [group.id for group in groups]
        if position is None:
            return ids


async def test_found_by_words(conn: Connection) -> None:
    """By the beginning of any word of title or description, without case and accents; each group once; by that word in
    order. Without a query all of them are."""
    [alice] = await make_users(conn, 1)
    garden = await make_public(conn, alice, "Jardín of Alice", "Roses, rosemary\nand roses again")
    rocket = await make_public(conn, alice, "Rockets", None)
    nameless = await make_public(conn, alice, None)
    for query in ("jardin", "JARDÍN", "of alice", "rosem", "and roses"):
        assert await found(conn, query) == [garden], query
    assert await found(conn, "ro") == [rocket, garden] and await found(conn, " rockets ") == [rocket]
    assert await found(conn, "nothing") == await found(conn, "\u200d") == await found(conn, "%") == []
    assert sorted(await found(conn, "")) == sorted([garden, rocket, nameless])
    [shown], _ = await public_groups.list_groups(conn, "jardin")
    assert (shown.name, shown.description, shown.member_count) == (
        "Jardín of Alice", "Roses, rosemary\nand roses again", 1,
    )  # fmt: skip
    assert shown.avatar_url == "https://example.org/a.png"


async def test_only_while_it_is_public(conn: Connection) -> None:
    """A new title and description are what it is found by; one that is not public any more, or is deleted, is not found
    by anything, and nothing of it is left."""
    [alice] = await make_users(conn, 1)
    hidden, _ = await conversations.insert_group(conn, alice, "old", [])
    await conversations.update_title(conn, hidden.id, "older", by=alice)
    assert await found(conn, "old") == [] == await found(conn, "")
    group = await make_public(conn, alice, "old", "words")
    await conversations.update_title(conn, group, "new", by=alice)
    assert (await found(conn, "old"), await found(conn, "new"), await found(conn, "words")) == ([], [group], [group])
    head = await conversations.lock_conversation(conn, group)
    assert head is not None
    await conversations.update_details(conn, group, head.details, replace(head.details, description=None), by=alice)
    assert (await found(conn, "words"), await found(conn, "new")) == ([], [group])
    gone = await make_public(conn, alice, "new")
    await conversations.delete_conversation(conn, gone, by=alice)
    await conversations.update_details(conn, group, PUBLIC, GroupDetails(), by=alice)
    assert await found(conn, "new") == [] == await found(conn, "")
    assert await fetch_value(conn, "SELECT count(*) FROM public_group_words") == 0


async def test_what_code_of_before_leaves(conn: Connection) -> None:
    """Words of a group that it has deleted find nothing."""
    [alice] = await make_users(conn, 1)
    group = await make_public(conn, alice, "here")
    await conn.execute("UPDATE conversations SET deleted_at = now() WHERE id = %s", [group])
    assert await found(conn, "here") == [] == await found(conn, "")


async def test_in_pages(conn: Connection) -> None:
    """Each once, whatever the limit, also where many words of one group fit."""
    [alice] = await make_users(conn, 1)
    groups = [await make_public(conn, alice, f"a{number} ab ac ad", "ae af " * 30) for number in range(9)]
    for limit in (1, 2, 4, 9, 50):
        assert sorted(await found(conn, "a", limit)) == sorted(groups), limit
        assert sorted(await found(conn, "", limit)) == sorted(groups), limit


async def test_long_descriptions(conn: Connection) -> None:
    """A page ends before it is too large; the rest is on the next ones."""
    [alice] = await make_users(conn, 1)
    groups = [await make_public(conn, alice, "long", "\U0001f680" * 1024) for _ in range(70)]
    page, following = await public_groups.list_groups(conn, "long", limit=200)
    assert 60 < len(page) < 70 and following is not None
    assert await found(conn, "long", 200) == sorted(groups)


async def test_a_page_reads_what_it_answers(conn: Connection) -> None:
    """By the index alone, however many groups there are and wherever the page begins."""
    await conn.execute(
        "INSERT INTO conversations (id, kind, title, is_public)"
        " SELECT gen_random_uuid(), 'Group', 'g', true FROM generate_series(1, 3000)"
    )
    await conn.execute("INSERT INTO public_group_words SELECT id, 'word ' || id FROM conversations")
    await conn.execute("ANALYZE conversations, public_group_words")
    for prefix, after in (("word ", "word "), ("word 8", "word 8"), ("word ", "word f")):
        parameters = {
            "prefix": prefix,
            "below": prefix + public_groups.TOP,
            "after": after,
            "after_id": new_id(),
            "limit": 20,
        }
        nodes = await explained(conn, queries.list_public_groups, parameters)
        scans = [node for node in nodes if "Index Name" in node]
        assert {node["Node Type"] for node in nodes} & {"Seq Scan", "Bitmap Heap Scan", "Sort"} == set()
        assert max(node["Actual Rows"] for node in scans) <= 20
