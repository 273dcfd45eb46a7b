"""Two people and a real server process: the promises as clients see them."""

import psycopg
import trio

from loadtest.client import ClientError, HubError
from tests.event_recorder import WAIT, EventRecorder, event_of
from tests.running import Running, running


async def test_history_that_is_gone_is_a_resync(server: Running, database: str) -> None:
    """P4: a client that resumes from below the retention watermark gets an explicit resync, not a silent gap."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    async with server.connect(alice) as a:
        sent = [await a.invoke("SendMessage", {"conversationId": conversation, "content": str(n)}) for n in range(4)]
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute("DELETE FROM messages WHERE id = ANY(%s)", [[m["id"] for m in sent[:2]]])
            admin.execute("UPDATE conversations SET floor_seq = %s", [sent[1]["seq"]])  # as `parley purge` does it
        for cursor, resync in ((sent[0]["seq"], [conversation]), (sent[1]["seq"], [])):
            recorder = EventRecorder()
            async with server.connect(bob, recorder, query={"sync": "manual"}) as b:
                assert (await b.invoke("Sync", {conversation: cursor}))["resync"] == resync
                live = await a.invoke("SendMessage", {"conversationId": conversation, "content": "now"})
                await recorder.until(1)
                while not recorder.messages or recorder.messages[-1] != event_of(live):
                    await recorder.until(len(recorder.messages) + 1)
                assert recorder.messages[0] == event_of(live if resync else sent[2])


async def test_kill_in_the_middle_of_two_hundred_sends(database: str, redis_url: str) -> None:
    """P1, P2, P4: after kill -9 amid 200 concurrent sends every acknowledged message is there exactly once, in
    order, and a client resumes by Sync with no gap."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        group = await server.group(alice, bob)
        acknowledged: dict[str, int] = {}
        recorder = EventRecorder()
        enough = trio.Event()
        people = [alice, bob]

        async def send(number: int) -> None:
            try:
                async with server.connect(people[number % 2]) as client:
                    for turn in range(1000):
                        key = f"{number}-{turn}"
                        body = {"conversationId": group, "content": key, "clientMessageId": key}
                        acknowledged[key] = (await client.invoke("SendMessage", body))["seq"]
                        if len(acknowledged) >= 600:
                            enough.set()
            except* ClientError:
                pass  # killed

        async with server.connect(bob, recorder), trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(send, number)
            with trio.fail_after(60):
                await enough.wait()
            server.kill()
            await server.wait()
        seen = recorder.messages
    assert [m["seq"] for m in seen] == list(range(seen[0]["seq"], seen[0]["seq"] + len(seen)))

    async with running(database, redis_url) as server:
        stored = await server.history(bob, group)
        by_content = {message["content"]: message["seq"] for message in stored}
        assert len(by_content) == len(stored), "a message is there twice"
        assert acknowledged.items() <= by_content.items()
        assert [m["seq"] for m in stored] == list(range(stored[0]["seq"], stored[0]["seq"] + len(stored)))
        resumed = EventRecorder()
        async with server.connect(bob, resumed, query={"sync": "manual"}) as b, server.connect(alice) as a:
            await b.invoke("Sync", {group: seen[-1]["seq"]})
            repeated = next(iter(acknowledged))
            body = {"conversationId": group, "content": repeated, "clientMessageId": repeated}
            sender = a if int(repeated.partition("-")[0]) % 2 == 0 else b
            assert (await sender.invoke("SendMessage", body))["seq"] == acknowledged[repeated]
            await a.invoke("SendMessage", {"conversationId": group, "content": "after"})
            await resumed.until(len(stored) - len(seen) + 1)
        both = [m["content"] for m in seen + resumed.messages]
        assert both == [m["content"] for m in stored] + ["after"]


async def test_two_processes_share_conversations(database: str, redis_url: str) -> None:
    """P3: two processes that write to the same conversations never deadlock and leave no gap."""
    async with running(database, redis_url) as one, running(database, redis_url) as two:
        alice, bob = await one.register("alice"), await one.register("bob")
        groups = [await one.group(alice, bob) for _ in range(5)]

        async def send(server: Running, conversation: str) -> None:
            async with server.connect(alice) as client:
                body = {"conversationId": conversation, "content": "x"}
                calls = [await client.start("SendMessage", body) for _ in range(60)]
                for call in calls:
                    await client.result(call)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for server in (one, two):
                    for conversation in groups:
                        nursery.start_soon(send, server, conversation)
        for conversation in groups:
            seqs = [message["seq"] for message in await two.history(bob, conversation)]
            assert seqs == list(range(seqs[0], seqs[0] + 120))


async def test_postgres_drops_every_connection(server: Running, database: str) -> None:
    """When PostgreSQL ends our sessions, sends fail clearly or succeed, sockets stay, and it heals by itself."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    recorder = EventRecorder()
    acknowledged: list[str] = []
    async with server.connect(alice) as a, server.connect(bob, recorder):
        for turn in range(60):
            if turn in (10, 30):
                with psycopg.connect(database, autocommit=True) as conn:
                    conn.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
            key = str(turn)
            body = {"conversationId": conversation, "content": key, "clientMessageId": key}
            with trio.fail_after(WAIT):
                while key not in acknowledged:
                    try:
                        await a.invoke("SendMessage", body)
                        acknowledged.append(key)
                    except HubError as error:
                        assert error.code in ("unavailable", "overloaded")
        await recorder.until(60)
    assert [m["content"] for m in recorder.messages] == acknowledged
    assert [m["content"] for m in await server.history(bob, conversation)] == acknowledged


async def test_drain_is_quiet(database: str, redis_url: str) -> None:
    """P10: SIGTERM loses no accepted message, asks every client to reconnect, and ends with exit code 0."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        async with server.connect(alice) as a, server.connect(bob) as b:
            calls = [await a.start("SendMessage", {"conversationId": conversation, "content": "x"}) for _ in range(30)]
            await a.result(calls[0])
            server.terminate()
            with trio.fail_after(WAIT):
                await a.closed.wait()
                await b.closed.wait()
            for client in (a, b):
                assert client.close_message is not None and client.close_message.allow_reconnect
                assert "draining" in (client.close_message.error or "")
            accepted = sum(call.error is None and call.done.is_set() for call in calls)
        assert await server.wait() == 0
    async with running(database, redis_url) as server:
        assert len(await server.history(bob, conversation)) >= accepted
