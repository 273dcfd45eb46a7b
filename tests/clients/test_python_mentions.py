"""The Python client: what mentions its user, as the server lists and counts it."""

import parley_client

from tests.running import running


async def test_what_mentions_one(database: str, redis_url: str) -> None:
    """It is listed page by page, the newest first, and counted beside what is not read."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        group = await server.group(alice, bob)
        async with (
            parley_client.connect(server.url, token=alice.token) as ours,
            parley_client.connect(server.url, token=bob.token) as theirs,
        ):
            found = ours.conversation(group)
            sent = [found.send("one", mentions=[bob.id]), found.send("two"), found.send("three", mention_all=True)]
            ids = [(await one.committed()).id for one in sent]
            first = await theirs.mentions(limit=1)
            second = await theirs.mentions(limit=1, cursor=first.next)
            assert [one.id for one in (*first.items, *second.items)] == [ids[2], ids[0]]
            assert second.next is None
            totals = await theirs.unread()
            assert (totals.unread_count, totals.mention_count, totals.muted_mention_count) == (3, 2, 0)
            assert (await ours.mentions()).items == ()
