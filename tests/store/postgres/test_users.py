"""store.postgres.users: accounts, search, status, deletion."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import trio
from psycopg.sql import SQL, Literal

from store.ids import id_floor, new_id
from store.model import Account, Role, User, UserStatus
from store.postgres import conversations, queries, system_messages, users
from store.postgres.connection import Connection
from store.postgres.conversations import UnknownUser
from tests.store.world import fetch_value, make_group, make_users, wait_for_lock


async def test_insert_and_fetch(conn: Connection) -> None:
    """A new user is found by id and by name in any case; the email address only as an account."""
    account = await users.insert_user(conn, "Zoë", "Zoë K.", email="z@example.org")
    assert isinstance(account, Account) and account.email == "z@example.org"
    user = await users.fetch_user(conn, account.id)
    assert type(user) is User
    assert (user.username, user.display_name, user.status) == ("Zoë", "Zoë K.", UserStatus.ONLINE)
    assert await users.fetch_account(conn, account.id) == account
    assert await users.fetch_user_by_name(conn, "ZOË") == user
    assert await users.fetch_user(conn, new_id()) is None
    assert await users.fetch_user_by_name(conn, "unknown") is None
    assert await users.list_users_by_id(conn, [account.id, new_id()]) == [user]


async def test_username_is_unique_in_any_case(conn: Connection, other: Connection) -> None:
    """Taken is taken, also for the one who asks at the same moment."""
    await users.insert_user(conn, "alice", "Alice")
    with pytest.raises(users.UsernameTaken):
        await users.insert_user(conn, "ALICE", "Another")
    failures = []

    async def register(connection: Connection) -> None:
        try:
            await users.insert_user(connection, "bob", "Bob")
        except users.UsernameTaken as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(register, conn)
        nursery.start_soon(register, other)
    assert len(failures) == 1


async def test_search(conn: Connection) -> None:
    """By prefix of username or display name, in any case, by username, in pages; wildcards mean themselves."""
    for username, display_name in [("bert", "Ann B"), ("Anna", "x"), ("a_x", "y"), ("abc", "z"), ("carl", "100% Carl")]:
        await users.insert_user(conn, username, display_name)

    async def names(prefix: str, limit: int = 50) -> list[str]:
        found, position = await users.list_users(conn, prefix, limit=limit)
        while position is not None:
            page, position = await users.list_users(conn, prefix, limit=limit, position=position)
            assert len(page) <= limit
            found += page
        return [user.username for user in found]

    assert await names("AN") == ["Anna", "bert"]
    assert await names("a_") == ["a_x"]
    assert await names("100%") == ["carl"]
    assert await names("%") == []
    assert await names("") == ["a_x", "abc", "Anna", "bert", "carl"]
    for limit in (1, 2, 3, 5):
        assert await names("", limit) == ["a_x", "abc", "Anna", "bert", "carl"]
        assert await names("a", limit) == ["a_x", "abc", "Anna", "bert"]


async def test_search_as_people_type(conn: Connection) -> None:
    """Without accents, with umlauts spelt out, by later words: after those found by the beginnings of their names, each
    user once, in pages of any size."""
    for username, display_name in [
        ("jg", "José García"),
        ("jm", "Jürgen Müller"),
        ("muller", "Muller"),
        ("anna-maria", "Anna-Maria von Berg"),
    ]:
        await users.insert_user(conn, username, display_name)

    async def names(prefix: str, limit: int) -> list[str]:
        found, position = await users.list_users(conn, prefix, limit=limit)
        while position is not None:
            page, position = await users.list_users(conn, prefix, limit=limit, position=position)
            found += page
        return [user.username for user in found]

    for typed, expected in {
        "jose": ["jg"],
        "JOSÉ": ["jg"],
        "jose g": ["jg"],
        "garcia": ["jg"],
        "García": ["jg"],
        "muller": ["muller", "jm"],
        "Müller": ["jm"],
        "mueller": ["jm"],
        "juergen m": ["jm"],
        "jurg": ["jm"],
        "maria": ["anna-maria"],
        "von berg": ["anna-maria"],
        "j": ["jg", "jm"],
        "m": ["muller", "anna-maria", "jm"],
        "\u0301": [],
        "erg": [],
    }.items():
        for limit in (1, 2, 10):
            assert await names(typed, limit) == expected, (typed, limit)


async def test_a_search_by_words_reads_a_page_of_a_million(conn: Connection) -> None:
    """However many users have such a word: a range of an index, and a look at each user who is answered."""
    await conn.execute("ALTER TABLE users DISABLE TRIGGER USER")
    await conn.execute(
        "INSERT INTO users (id, username, display_name, username_folded, display_name_folded)"
        " SELECT gen_random_uuid(), 'user' || n, 'same ' || n, 'user' || n, 'same ' || n"
        " FROM generate_series(1, 20000) AS n"
    )
    await conn.execute("INSERT INTO user_words SELECT id, left(username, 1) || id FROM users")
    await conn.execute("ANALYZE users, user_words")
    for mode in ("force_custom_plan", "force_generic_plan"):
        await conn.execute(f"SET plan_cache_mode = {mode}".encode())
        for prefix in ("u", "u1", "a", "z"):
            parameters = users.search_parameters(prefix, users.Position(by=users.By.WORD), 51)
            nodes = await explained(conn, queries.list_users_by_word, parameters)
            used = {node.get("Index Name") for node in nodes}
            assert used == {None, "user_words_word", "users_pkey", "external_ids_user_id_key"}
            read = nodes[0]["Shared Hit Blocks"] + nodes[0]["Shared Read Blocks"]
            assert read <= 9 * 51 + 10, (prefix, read)


async def test_a_search_reads_a_page_of_a_million(conn: Connection) -> None:
    """However many users there are, and whatever is asked for: a range of an index, and no more rows than a page."""
    await conn.execute(
        "INSERT INTO users (id, username, display_name, username_folded, display_name_folded)"
        " SELECT gen_random_uuid(), name, 'same ' || n, name, 'same ' || n FROM generate_series(1, 20000) AS n,"
        " LATERAL (SELECT CASE n % 4 WHEN 0 THEN 'é' WHEN 1 THEN 'zoë' ELSE 'user' END || n) AS named (name)"
    )
    await conn.execute("ANALYZE users")
    for query, index in (
        (queries.list_users_by_username, "users_username_folded"),
        (queries.list_users_by_display_name, "users_display_name_folded"),
    ):
        for mode in ("force_custom_plan", "force_generic_plan"):  # a prepared statement ends up with either
            await conn.execute(f"SET plan_cache_mode = {mode}".encode())
            for prefix in (
                "",
                " ",
                "u",
                "user1",
                "user19998",
                "s",
                "same 1",
                "é",
                "zoë1",
                "nothing",
                "zzz",
                "\U0001f600",
            ):
                nodes = await explained(conn, query, users.search_parameters(prefix, users.Position(), 51))
                assert [node["Node Type"] for node in nodes] == ["Limit", "Index Scan", "Index Scan"]
                _, scan, its_id = nodes
                assert its_id["Index Name"] == "external_ids_user_id_key"
                assert scan["Index Name"] == index and scan["Actual Rows"] <= 51
                assert not scan.get("Rows Removed by Filter") and "Filter" not in scan
                read = scan["Shared Hit Blocks"] + scan["Shared Read Blocks"]
                assert read <= 5 * 51 + 10, (prefix, read)
    found, position = await users.list_users(conn, "same", limit=3)
    assert len(found) == 3 and position is not None
    assert (await users.list_users(conn, "zzz", limit=3)) == ([], None)


async def explained(conn: Connection, query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of the plan of one of `queries`, as it was run: with rows and pages."""
    plain = query
    for number, name in enumerate(parameters, 1):
        plain = plain.replace(f"%({name})s", f"${number}")
    known = {UUID: "uuid", int: "bigint", float: "float8", datetime: "timestamptz", bytes: "bytea"}
    types = ", ".join(known.get(type(value), "text") for value in parameters.values())
    await conn.execute(f"PREPARE explained ({types}) AS {plain}".encode())
    try:
        given = SQL(", ").join(map(Literal, parameters.values()))
        statement = SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE explained ({})").format(given)
        rows = await (await conn.execute(statement)).fetchall()
    finally:
        await conn.execute("DEALLOCATE explained")
    return list(plan_nodes(rows[0][0][0]["Plan"]))


def plan_nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from plan_nodes(part)


async def test_updates(conn: Connection) -> None:
    """What is not given stays as it is."""
    [user_id] = await make_users(conn, 1)
    updated = await users.update_user(conn, user_id, display_name="New", email="n@example.org")
    assert updated is not None and (updated.display_name, updated.email) == ("New", "n@example.org")
    updated = await users.update_user(conn, user_id, avatar_url="https://example.org/a.png")
    assert updated is not None and (updated.display_name, updated.avatar_url) == ("New", "https://example.org/a.png")
    updated = await users.update_status(conn, user_id, UserStatus.BUSY, "in a meeting")
    assert updated is not None and (updated.status, updated.status_text) == (UserStatus.BUSY, "in a meeting")
    assert updated is not None and updated.email == "n@example.org"
    updated = await users.update_user(conn, user_id, email=None, avatar_url=None, status_text="here")
    assert updated is not None and (updated.email, updated.avatar_url, updated.status_text) == (None, None, "here")
    updated = await users.update_user(conn, user_id, display_name=None, status_text=None)
    assert updated is not None and (updated.display_name, updated.status_text) == ("New", None)
    assert await users.update_user(conn, new_id(), display_name="x") is None
    assert await users.update_status(conn, new_id(), UserStatus.AWAY, None) is None


async def test_last_seen_moves_forward_only(conn: Connection) -> None:
    """Two instances report; the later moment stays."""
    [user_id] = await make_users(conn, 1)
    late = datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    for at in (late - timedelta(minutes=5), late, late - timedelta(minutes=1)):
        await users.update_last_seen(conn, [user_id], at)
    user = await users.fetch_user(conn, user_id)
    assert user is not None and user.last_seen_at == "2030-01-02T03:04:05.678Z"


async def test_deletion_of_a_member_of_many(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves thousands of conversations is taken out of them a few at a time, in one transaction."""
    monkeypatch.setattr(system_messages, "STEP", 3)
    alice, bob = await make_users(conn, 2)
    groups = {await make_group(conn, [bob, alice]) for _ in range(10)} | {await make_group(conn, [alice, bob])}
    sizes = []
    execute = Connection.execute

    async def counted(self: Connection, query: Any, parameters: Any = None, **options: Any) -> Any:
        if query == queries.insert_system_messages:
            sizes.append(len(parameters["ids"]))
        return await execute(self, query, parameters, **options)

    monkeypatch.setattr(Connection, "execute", counted)
    changes = await users.delete_user(conn, alice)
    assert changes is not None and sizes == [3, 3, 3, 2, 1]  # the last: bob owns the group that was theirs alone
    assert {change.conversation_id for change in changes if change.removed == (alice,)} == groups
    heads = await conversations.fetch_heads(conn, groups)
    assert {change.conversation_id: change.seq for change in changes} == heads


async def test_leaving_large_groups_of_ones_own(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """So few at a time that an heir is looked for among no more than so many members, or in one; those that others own
    do not count, and nothing is left over."""
    monkeypatch.setattr(users, "HEIRS_AMONG", 7)
    [alice, *people] = await make_users(conn, 10)
    owned = [await make_group(conn, [alice, *people[:count]]) for count in (2, 2, 9, 2, 2)]
    joined = [await make_group(conn, [people[0], alice, *people[1:]]) for _ in range(4)]
    left: list[list[UUID]] = []
    is_more = True
    while is_more:
        changes, is_more = await users.leave_some(conn, alice, 4)
        left.append([change.conversation_id for change in changes if change.removed == (alice,)])
    assert left[0] == owned[:2] and left[1] == owned[2:3] and left[2][:2] == owned[3:]
    assert [one for some in left for one in some] == owned + joined and max(map(len, left)) <= 4
    assert await conversations.list_memberships(conn, [alice]) == {}
    for group in owned:
        heir = await conversations.fetch_member(conn, group, people[0])
        assert heir is not None and heir.role is Role.OWNER


async def test_deletion(conn: Connection) -> None:
    """The user's data is erased, their name is free again, and they leave every conversation, with a change in each."""
    account = await users.insert_user(conn, "gone", "Gone G.", email="g@example.org")
    [bob, carl] = await make_users(conn, 2)
    owned = await make_group(conn, [account.id, carl, bob])
    await conversations.update_role(conn, owned, bob, Role.ADMIN, by=account.id)
    joined = await make_group(conn, [bob, account.id])
    alone = await make_group(conn, [account.id])
    await conn.execute("INSERT INTO identities (provider, subject, user_id) VALUES ('p', 's', %s)", [account.id])
    query = "INSERT INTO sessions (id, user_id, token_hash, expires_at) VALUES (%s, %s, '', now())"
    await conn.execute(query, [new_id(), account.id])

    changes = await users.delete_user(conn, account.id)

    assert changes is not None
    left = {change.conversation_id for change in changes if change.removed == (account.id,)}
    assert left == {owned, joined, alone}
    heads = await conversations.fetch_heads(conn, left)
    assert heads == {owned: 4, joined: 2, alone: 2}  # in `owned` the admin became the owner
    heir = await conversations.fetch_member(conn, owned, bob)
    assert heir is not None and heir.role is Role.OWNER
    assert sorted(change.seq for change in changes if change.conversation_id == owned) == [3, 4]
    assert await conversations.list_memberships(conn, [account.id]) == {}
    head = await conversations.lock_conversation(conn, owned)
    assert head is not None and head.member_count == 2

    shown = await users.fetch_user(conn, account.id)
    assert shown is not None and shown.display_name == "Deleted user" and "gone" not in shown.username
    assert await users.fetch_account(conn, account.id) is None
    assert await users.fetch_user_by_name(conn, "gone") is None
    assert await users.list_users(conn, "deleted") == ([], None)
    for table in ("identities", "sessions"):
        assert await fetch_value(conn, f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - constants of this test
    await users.insert_user(conn, "gone", "Somebody else")
    assert await users.delete_user(conn, account.id) is None


async def test_deletion_of_a_user_of_much(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a user who has much of everything, a piece is deleted with them, and the rest in pieces; the purge goes on
    with what a process has left when it died."""
    monkeypatch.setattr(users, "FORGOTTEN", 10)
    gone, left, bob = await make_users(conn, 3)
    others = await make_users(conn, 25)
    group = await make_group(conn, [bob, *others])
    for user in (gone, left):
        ids = [new_id() for _ in range(25)]
        for table, values in {
            "sends (sender_id, client_message_id, message_id)": "%(user)s, i::text, i",
            "sessions (id, user_id, token_hash, expires_at)": "i, %(user)s, '', now()",
            "mentions (user_id, conversation_id, seq, message_id, sender_id)": "%(user)s, %(group)s, n, i, i",
            "creations (scope, key, fingerprint, resource_id)": "%(user)s, i::text, '', i",
            "audit (id, act, actor_id, user_id, address)": "i, 'SignedIn', %(user)s, %(user)s, 'a'",
            "blocks (user_id, blocked_id, version)": "(%(others)s::uuid[])[n], %(user)s, n",
            "thread_members (user_id, root_id, conversation_id, is_following, read_seq)": (
                "%(user)s, i, %(group)s, true, 0"
            ),
        }.items():
            rows = f"SELECT {values} FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS o (i, n)"  # noqa: S608
            query = f"INSERT INTO {table} {rows}"
            await conn.execute(query, {"user": user, "ids": ids, "group": group, "others": others})
    sizes: list[int] = []
    execute = Connection.execute

    async def counted(self: Connection, query: Any, parameters: Any = None, **options: Any) -> Any:
        cursor = await execute(self, query, parameters, **options)
        if parameters and "limit" in parameters:
            sizes.append(cursor.rowcount)
        return cursor

    async def kept() -> list[object]:
        tables = ("sends", "sessions", "mentions", "creations", "blocks", "thread_members", "erasures")
        found = [await fetch_value(conn, f"SELECT count(*) FROM {table}") for table in tables]  # noqa: S608
        return [*found, await fetch_value(conn, "SELECT count(*) FROM audit WHERE address IS NOT NULL")]

    assert await kept() == [50, 50, 50, 50, 50, 50, 0, 50]
    monkeypatch.setattr(Connection, "execute", counted)
    for user in (gone, left):
        assert await users.delete_user(conn, user) is not None
    assert await kept() == [30, 30, 30, 30, 30, 30, 2, 30]
    assert await users.forget_some(conn, bob, 10) is None
    pieces = [await users.forget_some(conn, gone, 10) for _ in range(3)]
    assert pieces == [70, 35, None] and await kept() == [15, 15, 15, 15, 15, 15, 1, 15]
    assert max(sizes) == 10
    assert await users.forget_erased(conn, 1000) == 15 * 7 and await kept() == [0] * 8
    assert await users.forget_erased(conn, 1000) == 0


async def test_an_erasure_looks_at_few_files(conn: Connection) -> None:
    """However many a user has: those that are in no message and were uploaded lately are given up with them. Older ones
    the purge gives up in any case, before it deletes what was given up."""
    [gone] = await make_users(conn, 1)
    group = await make_group(conn, [gone])
    old = [id_floor(int((datetime.now(UTC) - timedelta(days=9)).timestamp() * 1000) + number) for number in range(500)]
    young = [new_id() for _ in range(5)]
    await conn.execute(
        "INSERT INTO files (id, owner_id, key, name, content_type, size, state)"
        " SELECT i, %s, i::text, 'x', 'text/plain', 1, 'Ready' FROM unnest(%s::uuid[]) AS i",
        [gone, [*old, *young]],
    )
    await conn.execute(
        "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body, file_id)"
        " SELECT i, %s, n + 1, n + 1, %s, 'File', '', i FROM unnest(%s::uuid[]) WITH ORDINALITY AS o (i, n)",
        [group, gone, [*old[1:], *young[1:]]],
    )
    await conn.execute("ANALYZE files, messages")
    nodes = await explained(conn, queries.give_up_files_of, {"user_id": gone, "limit": 100})
    assert sum(node["Actual Rows"] for node in nodes if node.get("Relation Name") == "files") < 20
    rows = await (await conn.execute("SELECT id FROM files WHERE state = 'Deleted'")).fetchall()
    assert rows == [(young[0],)]


async def test_what_is_left_is_deleted_by_one(conn: Connection, other: Connection) -> None:
    """What is left of a user is deleted by one process at a time; others find nothing to do."""
    await conn.execute("INSERT INTO erasures SELECT %s", [(await make_users(conn, 1))[0]])
    async with conn.transaction():
        assert await users.forget_some(conn, None) == 0
        assert await users.forget_some(other, None) is None
        assert await users.forget_erased(other, 10) == 0
    assert await fetch_value(conn, "SELECT count(*) FROM erasures") == 0


@pytest.mark.parametrize(
    ("table", "owner", "key", "rows"),
    [
        ("sends", "sender_id", "client_message_id", "%(gone)s, n::text, gen_random_uuid()"),
        ("mentions", "user_id", "seq", "%(gone)s, %(group)s, n, gen_random_uuid(), %(gone)s"),
        ("creations", "scope", "key", "%(gone)s, n::text, '', gen_random_uuid()"),
    ],
)
async def test_what_others_delete_meanwhile(
    table: str, owner: str, key: str, rows: str, conn: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the rows that a piece has found others may delete some first. That is no sign that there were no more: the
    rest is deleted, too."""
    monkeypatch.setattr(users, "FORGOTTEN", 10)
    [gone, bob] = await make_users(conn, 2)
    parameters = {"gone": gone, "group": await make_group(conn, [bob])}
    query = f"INSERT INTO {table} SELECT {rows} FROM generate_series(11, 35) AS n"  # noqa: S608
    await conn.execute(query.encode(), parameters)
    watcher = await Connection.open(conn.info.dsn)
    async with trio.open_nursery() as nursery:
        async with other.transaction():
            first = f"DELETE FROM {table} WHERE {owner} = %s AND {key} = '11'"  # noqa: S608
            await other.execute(first.encode(), [gone])
            nursery.start_soon(users.delete_user, conn, gone)
            await wait_for_lock(watcher)
    await watcher.close()
    assert await fetch_value(conn, f"SELECT count(*) FROM {table}") == 15  # noqa: S608
    assert [await users.forget_some(conn, gone, 10) for _ in range(3)] == [10, 5, None]
    assert await fetch_value(conn, f"SELECT count(*) FROM {table}") == 0  # noqa: S608


async def test_deletion_while_being_added(conn: Connection, other: Connection) -> None:
    """A user added and deleted at the same moment is either refused or leaves that conversation too."""
    [alice, gone] = await make_users(conn, 2)
    group = await make_group(conn, [alice])
    async with conn.transaction():
        await conversations.insert_member(conn, group, gone, Role.MEMBER, by=alice)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(users.delete_user, other, gone)
            watcher = await Connection.open(conn.info.dsn)
            await wait_for_lock(watcher)
            await watcher.close()
            await commit(conn)
    assert await conversations.fetch_member(conn, group, gone) is None
    with pytest.raises(UnknownUser):
        await conversations.insert_member(conn, group, gone, Role.MEMBER, by=alice)


async def commit(conn: Connection) -> None:
    """End the open transaction early; the block around it then has nothing left to commit."""
    await conn.execute("COMMIT")


async def test_unknown_user_id(conn: Connection) -> None:
    """Deleting a user who does not exist finds nothing, and does not raise."""
    assert await users.delete_user(conn, UUID(int=1)) is None
