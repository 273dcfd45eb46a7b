"""Two people and a real server process: the promises as clients see them."""

from typing import Any
from uuid import uuid4

import psycopg
import pytest
import trio

from loadtest.client import ClientError, HubError
from tests.running import Running, running

WAIT = 20.0  # seconds: long past anything but a hang


class Inbox:
    """What a client was told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[Any]]] = []
        self._more = trio.Event()

    def __call__(self, target: str, arguments: list[Any]) -> None:
        self.events.append((target, arguments))
        self._more.set()

    def of(self, target: str) -> list[Any]:
        return [arguments[0] for name, arguments in self.events if name == target]

    @property
    def messages(self) -> list[Any]:
        return [message for message in self.of("ReceiveMessage") if message["type"] != "System"]

    async def until(self, count: int, target: str = "ReceiveMessage") -> list[Any]:
        with trio.fail_after(WAIT):
            while len(self.of(target)) < count:
                self._more = trio.Event()
                await self._more.wait()
        return self.of(target)


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_two_people_chat(server: Running, protocol: str) -> None:
    """A send answers with the message after its commit; both sides get the same message, once, in order."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    mine, hers = Inbox(), Inbox()
    async with (
        server.connect(alice, mine, protocol=protocol) as a,
        server.connect(bob, hers, protocol=protocol) as b,
    ):
        first = await a.invoke("SendMessage", {"conversationId": conversation, "content": "hello 👋"})
        second = await b.invoke("sendmessage", {"conversationId": conversation, "content": "hello yourself"})
        assert (await hers.until(2))[:2] == [first, second]
        assert (await mine.until(2))[:2] == [first, second]
        assert [first["seq"], second["seq"]] == [first["seq"], first["seq"] + 1]
        assert first["content"] == "hello 👋" and first["senderId"] == alice.id and first["status"] == "Sent"
        edited = await a.invoke("EditMessage", first["id"], "hello")
        assert (await hers.until(1, "MessageChanged"))[0] == edited
        assert edited["seq"] == first["seq"] and edited["changedSeq"] > second["seq"]
        deleted = await b.invoke("DeleteMessage", second["id"])
        assert (await mine.until(2, "MessageChanged"))[1] == deleted
        assert deleted["deletedAt"] and not deleted["content"]
    assert (await server.history(bob, conversation))[0]["content"] == "hello"


async def test_a_repeated_send_is_one_message(server: Running) -> None:
    """P2: the same clientMessageId gives the same message back, over hub and REST, at once and later."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    inbox = Inbox()
    body = {"conversationId": conversation, "content": "once", "clientMessageId": "c-1"}
    async with server.connect(alice) as a, server.connect(bob, inbox):
        calls = [await a.start("SendMessage", body) for _ in range(5)]
        answers = [await a.result(call) for call in calls]
        async with server.http(alice) as http:
            over_rest = (await http.post("/api/messages", json=body)).json()
        last = await a.invoke("SendMessage", {**body, "clientMessageId": "c-2", "content": "twice"})
        await inbox.until(2)
    assert all(answer["id"] == over_rest["id"] for answer in answers)
    assert [message["id"] for message in inbox.messages] == [over_rest["id"], last["id"]]


async def test_pipelined_sends_keep_their_order(server: Running) -> None:
    """P3: 200 sends without waiting are committed, completed and delivered in the order of sending."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    inbox = Inbox()
    async with server.connect(alice) as a, server.connect(bob, inbox):
        calls = [await a.start("SendMessage", {"conversationId": conversation, "content": str(n)}) for n in range(200)]
        with trio.fail_after(WAIT):
            seqs = [(await a.result(call))["seq"] for call in calls]
        await inbox.until(200)
    assert seqs == list(range(seqs[0], seqs[0] + 200))
    assert [message["content"] for message in inbox.messages] == [str(n) for n in range(200)]


async def test_errors_are_told_and_harm_nobody(server: Running) -> None:
    """Each refusal has its code, and the connection goes on."""
    alice, bob, eve = [await server.register(name) for name in ("alice", "bob", "eve")]
    conversation = await server.direct(alice, bob)
    async with server.connect(eve) as e, server.connect(alice) as a:
        for code, target, *arguments in (
            ("not_found", "NoSuchMethod"),
            ("not_found", "SendMessage", {"conversationId": conversation, "content": "let me in"}),
            ("not_found", "SendMessage", {"conversationId": str(uuid4()), "content": "x"}),
            ("not_found", "JoinConversation", conversation),
            ("not_found", "EditMessage", str(uuid4()), "x"),
            ("invalid_request", "SendMessage", {"conversationId": conversation}),
            ("invalid_request", "SendMessage", {"conversationId": "not a uuid", "content": "x"}),
            ("invalid_request", "SendMessage"),
            ("invalid_request", "SendMessage", {"conversationId": conversation, "content": 5}),
            ("invalid_request", "StreamHistory", conversation),
            ("invalid_cursor", "Sync", {conversation: -1}),
        ):
            with trio.fail_after(WAIT), pytest.raises(HubError) as caught:
                await e.invoke(target, *arguments)
            assert caught.value.code == code, (target, arguments, str(caught.value))
        await e.send("NoSuchMethod")  # fire and forget: nothing comes back
        assert await e.invoke("Ping") == {}
        with pytest.raises(HubError):
            await a.invoke("SendMessage", {"conversationId": conversation, "content": ""})
        assert (await a.invoke("SendMessage", {"conversationId": conversation, "content": "fine"}))["content"] == "fine"


async def test_resume_by_cursor(server: Running) -> None:
    """P4: Sync replays what changed after the cursor, each message once in its final state, then goes on live."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    async with server.connect(alice) as a:
        sent = [await a.invoke("SendMessage", {"conversationId": conversation, "content": str(n)}) for n in range(250)]
        await a.invoke("EditMessage", sent[3]["id"], "three")
        cursor = sent[200]["seq"]
        inbox = Inbox()
        async with server.connect(bob, inbox, query={"sync": "manual"}) as b:
            await a.invoke("SendMessage", {"conversationId": conversation, "content": "unheard"})
            assert (await b.invoke("Sync", {conversation: cursor}))["resync"] == []
            live = await a.invoke("SendMessage", {"conversationId": conversation, "content": "live"})
            received = await inbox.until(51)
            assert [m["content"] for m in received] == [str(n) for n in range(201, 250)] + ["unheard", "live"]
            assert [m["content"] for m in inbox.of("MessageChanged")] == ["three"]
            joined = await b.invoke("JoinConversation", conversation, live["seq"])
            assert joined["lastSeq"] == live["seq"]
            await b.invoke("LeaveConversation", conversation)
            await a.invoke("SendMessage", {"conversationId": conversation, "content": "not for bob"})
            await b.invoke("Ping")
            assert inbox.messages[-1] == live
            late = await b.invoke("Sync", {conversation: 10**9, str(uuid4()): 0})
            assert len(late["resync"]) == 2


async def test_too_far_behind_is_told(server: Running, database: str) -> None:
    """P4: more than 1,000 changes behind is an explicit resync, with live events from the head on."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    async with server.connect(alice) as a:
        calls = [await a.start("SendMessage", {"conversationId": conversation, "content": "x"}) for _ in range(1100)]
        for call in calls:
            await a.result(call)
        inbox = Inbox()
        async with server.connect(bob, inbox, query={"sync": "manual"}) as b:
            synced = await b.invoke("Sync", {conversation: 0})
            assert synced["resync"] == [conversation]
            live = await a.invoke("SendMessage", {"conversationId": conversation, "content": "now"})
            assert synced["heads"] == {conversation: live["seq"] - 1}
            assert await inbox.until(1) == [live]


async def test_history_that_is_gone_is_told(server: Running, database: str) -> None:
    """P4: whoever resumes from before what retention has dropped gets an explicit resync, not a silent hole."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    async with server.connect(alice) as a:
        sent = [await a.invoke("SendMessage", {"conversationId": conversation, "content": str(n)}) for n in range(4)]
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute("DELETE FROM messages WHERE id = ANY(%s)", [[m["id"] for m in sent[:2]]])
            admin.execute("UPDATE conversations SET floor_seq = %s", [sent[1]["seq"]])  # as `parley purge` does it
        for cursor, resync in ((sent[0]["seq"], [conversation]), (sent[1]["seq"], [])):
            inbox = Inbox()
            async with server.connect(bob, inbox, query={"sync": "manual"}) as b:
                assert (await b.invoke("Sync", {conversation: cursor}))["resync"] == resync
                live = await a.invoke("SendMessage", {"conversationId": conversation, "content": "now"})
                await inbox.until(1)
                while not inbox.messages or inbox.messages[-1] != live:
                    await inbox.until(len(inbox.messages) + 1)
                assert inbox.messages[0] == (live if resync else sent[2])


async def test_history_streams_at_the_clients_pace(server: Running) -> None:
    """StreamHistory gives every message, newest first, and ends early when it is cancelled."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    async with server.connect(alice) as a:
        calls = [await a.start("SendMessage", {"conversationId": conversation, "content": str(n)}) for n in range(120)]
        for call in calls:
            await a.result(call)
        contents = [m["content"] async for m in a.stream("StreamHistory", conversation) if m["type"] == "Text"]
        assert contents == [str(n) for n in reversed(range(120))]
        assert len([m async for m in a.stream("StreamHistory", conversation, None, 7)]) == 7
        items = a.stream("StreamHistory", conversation)
        assert (await anext(items))["content"] == "119"
        await items.aclose()  # type: ignore[attr-defined]
        assert await a.invoke("Ping") == {}
        with pytest.raises(HubError, match="invalid_request"):
            await anext(a.stream("StreamHistory", conversation, None, 0))


async def test_removal_is_live(server: Running) -> None:
    """P9: who is removed hears nothing more at once; who is added hears all from then on."""
    alice, bob, carol = [await server.register(name) for name in ("alice", "bob", "carol")]
    group = await server.group(alice, bob)
    bobs, carols = Inbox(), Inbox()
    async with server.connect(alice) as a, server.connect(bob, bobs) as b, server.connect(carol, carols) as c:
        async with server.http(alice) as http:
            assert (await http.delete(f"/api/conversations/{group}/members/{bob.id}")).is_success
            assert (await http.post(f"/api/conversations/{group}/members", json={"userId": carol.id})).is_success
        await bobs.until(1, "ConversationRemoved")
        await carols.until(1, "ConversationChanged")
        said = await a.invoke("SendMessage", {"conversationId": group, "content": "secret"})
        with trio.fail_after(WAIT):
            while said not in carols.messages:
                await c.invoke("Ping")
        await b.invoke("Ping")
        assert bobs.messages == []
        with pytest.raises(HubError, match="not_found"):
            await b.invoke("JoinConversation", group)


async def test_deleting_a_user_closes_her_sockets(server: Running) -> None:
    """P9: a deleted user's open sockets are closed, for good; her token opens no new one."""
    alice = await server.register("alice")
    async with server.connect(alice) as a:
        async with server.http(alice) as http:
            assert (await http.delete(f"/api/users/{alice.id}")).is_success
        with trio.fail_after(WAIT):
            await a.closed.wait()
        assert a.close_message is not None and not a.close_message.allow_reconnect
    async with server.connect(alice) as again:
        with trio.fail_after(WAIT):
            await again.closed.wait()
        assert again.close_message is not None and not again.close_message.allow_reconnect


async def test_kill_in_the_middle_of_two_hundred_sends(database: str, redis_url: str) -> None:
    """P1, P2, P4: after kill -9 amid 200 concurrent sends every acknowledged message is there exactly once, in
    order, and a client resumes by Sync with no hole."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        group = await server.group(alice, bob)
        acknowledged: dict[str, int] = {}
        inbox = Inbox()
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

        async with server.connect(bob, inbox), trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(send, number)
            with trio.fail_after(60):
                await enough.wait()
            server.kill()
            await server.wait()
        seen = inbox.messages
    assert [m["seq"] for m in seen] == list(range(seen[0]["seq"], seen[0]["seq"] + len(seen)))

    async with running(database, redis_url) as server:
        stored = await server.history(bob, group)
        by_content = {message["content"]: message["seq"] for message in stored}
        assert len(by_content) == len(stored), "a message is there twice"
        assert acknowledged.items() <= by_content.items()
        assert [m["seq"] for m in stored] == list(range(stored[0]["seq"], stored[0]["seq"] + len(stored)))
        resumed = Inbox()
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
    inbox = Inbox()
    acknowledged: list[str] = []
    async with server.connect(alice) as a, server.connect(bob, inbox):
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
        await inbox.until(60)
    assert [m["content"] for m in inbox.messages] == acknowledged
    assert [m["content"] for m in await server.history(bob, conversation)] == acknowledged


async def test_drain_is_quiet(database: str, redis_url: str) -> None:
    """P10: SIGTERM loses no accepted message, tells every client to come again, and ends with exit code 0."""
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
