"""store.postgres.files: a file that is deleted leaves the messages that hold it, a change of each, before it is
gone."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import trio

from store.ids import new_id
from store.model import Change
from store.postgres import conversations, files, messages, queries
from store.postgres.connection import Connection
from tests.store.postgres.test_group_commit import insert_file
from tests.store.postgres.test_users import explained
from tests.store.world import Writer, fetch_value, make_group, make_users, wait_for_lock


async def test_what_the_files_of_a_user_take(conn: Connection) -> None:
    """Of all but the deleted, from the index alone: somebody may have a hundred thousand, and every upload asks."""
    [alice, bob] = await make_users(conn, 2)
    for owner, count in ((alice, 3000), (bob, 20_000)):
        await conn.execute(
            "INSERT INTO files (id, owner_id, key, name, content_type, size, state, created_at)"
            " SELECT gen_random_uuid(), %s, gen_random_uuid()::text, 'a.txt', 'text/plain', 10,"
            " CASE n %% 3 WHEN 0 THEN 'Deleted' WHEN 1 THEN 'Pending' ELSE 'Ready' END, now() - n * interval '1 minute'"
            " FROM generate_series(1, %s) AS n",
            [owner, count],
        )
    await conn.execute("VACUUM ANALYZE files")
    since = datetime.now(UTC) - timedelta(minutes=15)
    async with conn.transaction():
        found = await files.lock_storage(conn, alice, since)
    assert found is not None and (found.size, found.open_uploads) == (20_000, 5)
    for mode in ("force_custom_plan", "force_generic_plan"):
        await conn.execute(f"SET plan_cache_mode = {mode}".encode())
        nodes = await explained(conn, queries.fetch_storage, {"owner_id": alice, "since": since})
        [scan] = [node for node in nodes if "Relation Name" in node]
        assert (scan["Node Type"], scan["Index Name"]) == ("Index Only Scan", "files_owned")
        assert scan["Actual Rows"] == 2000 and not scan.get("Rows Removed by Filter") and not scan["Heap Fetches"]
        after = {"owner_id": alice, "after": UUID(int=0), "limit": 200}
        nodes = await explained(conn, queries.list_files_of, after)
        assert [node["Node Type"] for node in nodes] == ["Limit", "Index Scan"], "in order, without a sort"


async def state(conn: Connection, file_id: UUID) -> object:
    return await fetch_value(conn, "SELECT state FROM files WHERE id = %s", file_id)


async def test_every_message_that_holds_it(conn: Connection, writer: Writer) -> None:
    """A few at a time: each its own seq, without gaps; the file is there for the others until the last is done."""
    [alice] = await make_users(conn, 1)
    one, two = await make_group(conn, [alice]), await make_group(conn, [alice])
    file_id, other = await insert_file(conn, alice), await insert_file(conn, alice)
    held = [await writer.send(group, alice, file_id=file_id).message() for group in (one, one, two, one)]
    kept = await writer.send(one, alice, file_id=other).message()
    deleted = await writer.send(two, alice, file_id=file_id).message()
    await messages.delete_message(conn, deleted.id)
    changes: list[Change] = []
    for expected in (2, 2):
        assert await state(conn, file_id) == "Ready"
        found, is_given_up = await files.release_file(conn, file_id, 2)
        changes += found
        assert len(found) == expected and is_given_up == (len(changes) == 4)
        left = [await messages.fetch_message(conn, message.id) for message in held]
        assert [message is not None and message.file is not None for message in left].count(True) == 4 - len(changes)
    assert await state(conn, file_id) == "Deleted"
    for group, seqs in ((one, [6, 7, 8]), (two, [5])):
        of_it = [change for change in changes if change.conversation_id == group]
        assert [change.seq for change in of_it] == seqs
        assert await conversations.fetch_heads(conn, [group]) == {group: seqs[-1]}
        assert await messages.list_changes(conn, group, seqs[0] - 1) == of_it
    assert {change.message.id for change in changes} == {message.id for message in held}
    for change in changes:
        assert (change.created, change.message.file, change.message.edited_at) == (False, None, None)
        assert change.message.content == "hello" and change.message.changed_seq == change.seq
    assert await messages.fetch_message(conn, kept.id) == kept
    assert await files.release_file(conn, file_id, 2) == ([], True)


async def test_who_has_heard_the_last_word(conn: Connection, writer: Writer) -> None:
    """A dissolved conversation hears nothing more: its messages let go of the file without a change."""
    [alice] = await make_users(conn, 1)
    group, file_id = await make_group(conn, [alice]), await insert_file(conn, alice)
    message = await writer.send(group, alice, file_id=file_id).message()
    await conversations.delete_conversation(conn, group, by=alice)
    assert await files.release_file(conn, file_id, 10) == ([], True)
    found = await messages.fetch_message(conn, message.id)
    assert found is not None and (found.file, found.changed_seq) == (None, message.changed_seq)
    assert await conversations.fetch_heads(conn, [group]) == {group: 3}


async def test_a_message_that_takes_it_meanwhile(conn: Connection, other: Connection, database: str) -> None:
    """A message under way with the file keeps it, and is changed next: none ever holds a file that is given up."""
    [alice] = await make_users(conn, 1)
    group, file_id, message_id = await make_group(conn, [alice]), await insert_file(conn, alice), new_id()
    outcomes: list[tuple[list[Change], bool]] = []

    async def release() -> None:
        outcomes.append(await files.release_file(conn, file_id, 10))

    watcher = await Connection.open(database)
    async with trio.open_nursery() as nursery:
        async with other.transaction():  # as a lane does it
            await conversations.lock_conversation(other, group)
            await other.execute("SELECT FROM files WHERE id = %s AND state = 'Ready' FOR SHARE", [file_id])
            nursery.start_soon(release)
            await wait_for_lock(watcher)
            await other.execute("UPDATE conversations SET last_seq = 2 WHERE id = %s", [group])
            await other.execute(
                "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body, file_id)"
                " VALUES (%s, %s, 2, 2, %s, 'File', '', %s)",
                [message_id, group, alice, file_id],
            )
    await watcher.close()
    assert outcomes == [([], False)] and await state(conn, file_id) == "Ready"
    await release()
    [change], is_given_up = outcomes[1]
    assert is_given_up and (change.message.id, change.seq, change.message.file) == (message_id, 3, None)
