"""store.postgres.mentions: who is mentioned, counted beside what is unread, and listed."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from store.ids import id_floor, new_id
from store.model import Role
from store.postgres import conversation_views, conversations, mentions, messages, queries, users
from store.postgres.connection import Connection
from tests.store.postgres.test_conversations import rows_read
from tests.store.postgres.test_users import explained
from tests.store.world import Writer, fetch_value, make_group, make_users
from tests.waiting import wait_until

END = UUID(int=2**128 - 1)
UP_TO = 3  # members of a conversation in which any of them may mention all


async def mention_count(conn: Connection, user_id: UUID, group: UUID) -> int:
    """Of the view of the conversation, which says what the counts of many say, too."""
    conversation = await conversation_views.fetch_conversation(conn, group, user_id)
    own = (await conversations.list_standings(conn, [(user_id, group)]))[user_id, group]
    assert conversation is not None
    assert (own.unread_count, own.mention_count) == (conversation.unread_count, conversation.mention_count)
    return conversation.mention_count


async def listed(conn: Connection, user_id: UUID, before: UUID = END, limit: int = 9) -> list[UUID]:
    return [message_id for message_id, _ in await mentions.list_mentions(conn, user_id, before, limit)]


async def test_a_message_and_its_mentions(conn: Connection, writer: Writer) -> None:
    """Who is named is counted once, also where all are mentioned, the sender never; others of the batch are plain."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    plain = writer.send(group, alice)
    naming = writer.send(group, alice, mentions=[carol, alice, bob])
    to_all = writer.send(group, alice, mentions=[bob], all_up_to=UP_TO)
    assert [(await one.message()).mentions for one in (plain, naming, to_all)] == [(), (carol, alice, bob), (bob,)]
    assert [(await one.message()).mention_all for one in (plain, naming, to_all)] == [False, False, True]
    for sent in (plain, naming, to_all):
        assert await messages.fetch_message(conn, (await sent.message()).id) == await sent.message()
    assert [await mention_count(conn, one, group) for one in (alice, bob, carol)] == [0, 2, 2]
    await wait_until(lambda: (writer.lanes.times.naming, writer.lanes.times.to_all) == (1, 1))  # behind the answers
    both = sorted([(await one.message()).id for one in (to_all, naming)], reverse=True)
    assert [await listed(conn, one) for one in (alice, bob, carol)] == [[], both, both]
    await conn.execute("UPDATE members SET read_seq = %s WHERE user_id = %s", [(await naming.message()).seq, bob])
    assert await mention_count(conn, bob, group) == 1
    assert await listed(conn, bob) == both  # read or not


async def test_who_may_be_mentioned(conn: Connection, writer: Writer) -> None:
    """Members only; all of a large group by its admins and owners only. Nothing of a message that is refused is left,
    and its clientMessageId is free."""
    alice, bob, stranger = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob])
    refused = writer.send(group, bob, mentions=[alice, stranger], key="one")
    too_many = writer.send(group, bob, all_up_to=1, key="two")
    as_owner = writer.send(group, alice, all_up_to=1)
    assert (await refused.refusal(), await too_many.refusal()) == ("no_such_mention", "mention_all")
    assert (await as_owner.message()).mention_all
    assert await fetch_value(conn, "SELECT count(*) FROM mentions") == 1
    assert (await writer.send(group, bob, mentions=[alice], key="one").message()).mentions == (alice,)
    assert await fetch_value(conn, "SELECT count(*) FROM sends") == 1


async def test_a_repeated_send(conn: Connection, writer: Writer) -> None:
    """One message, and one mention; the answer has it."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    for _ in range(2):
        answers = [writer.send(group, alice, mentions=[bob], key="k") for _ in range(2)]
        assert [(await one.message()).mentions for one in answers] == [(bob,)] * 2
    assert await mention_count(conn, bob, group) == 1


async def test_edits_and_deletions(conn: Connection, writer: Writer) -> None:
    """An edit counts for whom it names now, in the place of the message; a deletion for none."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    sent = await writer.send(group, alice, mentions=[bob]).message()
    later = await writer.send(group, alice).message()

    async def counts() -> list[int]:
        return [await mention_count(conn, one, group) for one in (alice, bob, carol)]

    for named, to_all, expected in (
        ([carol, alice, bob], False, [0, 1, 1]),
        ([carol], False, [0, 0, 1]),
        ([carol], True, [0, 1, 1]),
        ([bob], False, [0, 1, 0]),
        ([], False, [0, 0, 0]),
        ([], True, [0, 1, 1]),
    ):
        await mentions.replace_mentions(conn, sent, named, to_all)
        change = await messages.update_message(conn, sent.id, "edited")
        assert change is not None
        assert (change.message.mentions, change.message.mention_all) == (tuple(named), to_all)
        assert await counts() == expected
        assert [len(await listed(conn, one)) for one in (alice, bob, carol)] == expected
    await conn.execute("UPDATE members SET read_seq = %s WHERE user_id = %s", [later.seq, carol])
    assert await counts() == [0, 1, 0]
    deleted = await messages.delete_message(conn, sent.id)
    assert deleted is not None and deleted.message.mentions == () and not deleted.message.mention_all
    assert await counts() == [0, 0, 0]
    assert await fetch_value(conn, "SELECT count(*) FROM mentions") == 0


async def test_membership(conn: Connection, writer: Writer) -> None:
    """Who is removed has no mentions there at once; who joins, or comes back, has those that came since."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob])
    before = await writer.send(group, alice, mentions=[bob], all_up_to=9).message()
    named = await writer.send(group, alice, mentions=[bob]).message()
    assert set(await listed(conn, bob)) == {named.id, before.id}
    await conversations.delete_member(conn, group, bob, by=alice)
    assert await listed(conn, bob) == []
    for user_id in (bob, carol):
        await conversations.insert_member(conn, group, user_id, Role.MEMBER, by=alice)
        assert (await listed(conn, user_id), await mention_count(conn, user_id, group)) == ([], 0)
    # A message from before they joined, edited: it is shown, and no mention of theirs.
    await mentions.replace_mentions(conn, before, [carol], False)
    assert (await listed(conn, carol), await mention_count(conn, carol, group)) == ([], 0)
    since = await writer.send(group, alice, all_up_to=9).message()
    assert [await listed(conn, one) for one in (bob, carol)] == [[since.id]] * 2
    assert [await mention_count(conn, one, group) for one in (bob, carol)] == [1, 1]


async def test_pages_of_mentions(conn: Connection, writer: Writer) -> None:
    """Across conversations, newest first, each once, whether by name or as one of all."""
    alice, bob = await make_users(conn, 2)
    groups = [await make_group(conn, [alice, bob]) for _ in range(3)]
    sent = []
    for number in range(12):
        how = {"all_up_to": 9} if number % 2 else {"mentions": [bob]}
        sent.append((await writer.send(groups[number % 3], alice, **how).message()).id)
    found: list[UUID] = []
    while page := await listed(conn, bob, found[-1] if found else END, 5):
        found += page
    assert found == sorted(sent, reverse=True)


async def test_erasure_and_retention(conn: Connection, writer: Writer) -> None:
    """A user who is erased is mentioned no more; what retention has dropped mentions none."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await writer.send(group, alice, mentions=[bob]).message()
    await writer.send(group, alice, all_up_to=9).message()
    await users.delete_user(conn, bob)
    assert await fetch_value(conn, "SELECT array_agg(user_id) FROM mentions") == [mentions.EVERYBODY]
    now = datetime.now(UTC)
    assert await mentions.delete_old_mentions(conn, now - timedelta(days=1), 9) == 0
    assert await mentions.delete_old_mentions(conn, now + timedelta(days=1), 9) == 1


async def test_what_older_code_has_deleted(conn: Connection, writer: Writer) -> None:
    """`parley migrate` forgets mentions in messages that code of before has deleted, however few at once."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    sent = [await writer.send(group, alice, mentions=[bob]).message() for _ in range(5)]
    await conn.execute("UPDATE messages SET deleted_at = now() WHERE id = ANY(%s)", [[sent[1].id, sent[4].id]])
    after: UUID | None = UUID(int=0)
    while after is not None:
        parameters = {"after": after, "days": 7, "limit": 2}
        row = await (await conn.execute(queries.forget_mentions, parameters)).fetchone()
        after = row[0] if row else None
    assert set(await listed(conn, bob)) == {sent[index].id for index in (3, 2, 0)}


async def test_counting_and_listing_read_little(conn: Connection) -> None:
    """Of many mentions that the user has read, that are another's, or that are older than the membership: none is read
    to count; to list one of each conversation, and of as many as a page has messages no more than a page."""
    alice, bob = await make_users(conn, 2)
    groups = [await make_group(conn, [alice, bob]) for _ in range(20)]
    joined = id_floor(int((datetime.now(UTC) + timedelta(hours=2)).timestamp() * 1000))
    await conn.execute(
        "INSERT INTO mentions SELECT u, g, n, (left(%s::text, 15) || substr(gen_random_uuid()::text, 16))::uuid, %s"
        " FROM unnest(%s::uuid[]) AS u, unnest(%s::uuid[]) AS g, generate_series(2, 501) AS n",
        [joined, alice, [alice, bob, mentions.EVERYBODY, new_id()], groups],
    )
    await conn.execute("UPDATE members SET read_seq = 491")
    await conn.execute("UPDATE conversations SET last_seq = 501")
    await conn.execute("VACUUM ANALYZE mentions")
    found = await conversations.list_standings(conn, [(bob, group) for group in groups])
    assert {own.mention_count for own in found.values()} == {20}
    parameters = {"id": groups[0], "viewer_id": bob}
    assert rows_read(await explained(conn, queries.fetch_conversation, parameters), "mentions") <= 20
    page = {"user_id": bob, "before": END, "limit": 3}
    newest = "SELECT array_agg(message_id) FROM (SELECT message_id FROM mentions WHERE user_id IN (%s, %s)"
    newest += " ORDER BY message_id DESC LIMIT 3) AS m"
    assert await listed(conn, bob, limit=3) == await fetch_value(conn, newest, bob, mentions.EVERYBODY)
    assert rows_read(await explained(conn, queries.list_mentions, page), "mentions") <= 2 * len(groups) + 2 * 3 * 3
    await conn.execute("UPDATE members SET joined_at = now() + interval '1 day', joined_seq = 501")
    assert await listed(conn, bob) == []
    assert rows_read(await explained(conn, queries.list_mentions, page), "mentions") == 0
