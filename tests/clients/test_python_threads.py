"""Threads by the Python client, against a real server."""

import parley_client

from tests.running import running
from tests.waiting import wait_until


async def test_threads(database: str, redis_url: str) -> None:
    """Replies are sent, shown apart, read further back past all of them, followed and read, on each of one's
    devices."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        group = await server.group(alice, bob)
        url = server.url
        async with (
            parley_client.connect(url, token=alice.token) as a,
            parley_client.connect(url, token=alice.token) as other,
            parley_client.connect(url, token=bob.token) as b,
        ):
            root = await a.conversation(group).send("root").committed()
            for number in range(30):
                sent = await b.conversation(group).send(f"reply {number}", thread=root).committed()
            also = await b.conversation(group).send("also", thread=root, also_in_conversation=True).committed()
            found = a.conversation(group)
            await wait_until(lambda: found.get(also.id) is not None)
            assert [one.content for one in found.messages[-2:]] == ["root", "also"] and len(found.replies(root)) == 31

            def is_shown() -> bool:
                shown = found.get(root.id)
                return shown is not None and shown.thread is not None and shown.thread.reply_count == 31

            await wait_until(is_shown)
            assert found.is_following(root) and found.unread_count == 31
            async with parley_client.connect(url, token=alice.token) as fresh:
                talk = fresh.conversation(group)
                while await talk.load_older(5):
                    pass
                assert talk.is_whole and "root" in [one.content for one in talk.messages]
                newest = await talk.read_replies(root, limit=7)
                assert newest[-1].id == also.id
                page = await talk.page_replies(root, limit=3)
                further = await talk.page_replies(root, before=page.next, limit=4)
                assert [*page.items, *further.items] == newest[::-1]
            [thread] = await a.threads(unread=True)
            assert (thread.root.id, thread.unread_count) == (root.id, 31)
            assert (await a.unread()).unread_threads == 1
            events = other.conversation(group).events()
            state = await found.mark_thread_read(root, sent.seq)
            assert state.unread_count == 1
            await found.unfollow_thread(root)
            assert not found.is_following(root) and found.unread_count == 1
            async for event in events:
                if isinstance(event, parley_client.ThreadChanged) and not event.thread.is_following:
                    break
            assert not other.conversation(group).is_following(root)
            async with parley_client.connect(url, token=alice.token) as later:
                heard = later.conversation(group)
                while await heard.load_older():
                    pass
                await wait_until(lambda: not heard.is_following(root) and heard.unread_count == 1)
            await b.conversation(group).send("to all", thread=root, mention_all=True).committed()
            await wait_until(lambda: (found.unread_count, found.mention_count) == (2, 1))
            assert (await a.unread()).unread_count == 2 and not found.is_following(root)
            assert (await found.follow_thread(root)).is_following and (await a.unread()).unread_threads == 0
