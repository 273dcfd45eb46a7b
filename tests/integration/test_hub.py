"""The hub as its clients see it: one suite over every transport, and its beginning in each protocol."""

from uuid import uuid4

import psycopg
import pytest
import trio

from loadtest.client import ClientError, HubError
from tests.event_recorder import WAIT, EventRecorder, event_of
from tests.integration.conftest import Shared
from tests.running import checked
from tests.waiting import wait_until

LIMIT = 32 * 1024  # bytes of a content


@pytest.fixture
def server(every_transport: Shared) -> Shared:
    return every_transport


async def test_two_people_chat(everywhere: Shared) -> None:
    """A send answers with the message after its commit; both sides get the same message, once, in order."""
    server = everywhere
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    alices, bobs = EventRecorder(), EventRecorder()
    async with (
        server.connect(alice, alices) as a,
        server.connect(bob, bobs) as b,
    ):
        first = await a.invoke("SendMessage", {"conversationId": conversation, "content": "hello 👋"})
        second = await b.invoke("sendmessage", {"conversationId": conversation, "content": "hello yourself"})
        both = [event_of(first), event_of(second)]
        assert (await bobs.until(2))[:2] == (await alices.until(2))[:2] == both
        assert [first["seq"], second["seq"]] == [first["seq"], first["seq"] + 1]
        assert first["content"] == "hello 👋" and first["senderId"] == alice.id and first["status"] == "Sent"
        edited = await a.invoke("EditMessage", first["id"], "hello")
        assert (await bobs.until(1, "MessageChanged"))[0] == event_of(edited)
        assert edited["seq"] == first["seq"] and edited["changedSeq"] > second["seq"]
        deleted = await b.invoke("DeleteMessage", second["id"])
        assert (await alices.until(2, "MessageChanged"))[1] == event_of(deleted)
        assert deleted["deletedAt"] and not deleted["content"]
    assert (await server.history(bob, conversation))[0]["content"] == "hello"
    closed = await wait_until(lambda: [line for line in server.events("connection_closed") if line["user"] == alice.id])
    assert closed[0]["reason"] and closed[0]["seconds"] >= 0
    assert closed[0]["bytes_in"] > 100 and closed[0]["bytes_out"] > 1000


async def test_a_repeated_send_is_one_message(server: Shared) -> None:
    """P2: the same clientMessageId gives the same message back, over hub and REST, at once and later."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    recorder = EventRecorder()
    body = {"conversationId": conversation, "content": "once", "clientMessageId": "c-1"}
    async with server.connect(alice) as a, server.connect(bob, recorder):
        calls = [await a.start("SendMessage", body) for _ in range(5)]
        answers = [await a.result(call) for call in calls]
        async with server.http(alice) as http:
            over_rest = (await http.post("/api/messages", json=body)).json()
        last = await a.invoke("SendMessage", {**body, "clientMessageId": "c-2", "content": "twice"})
        await recorder.until(2)
    assert all(answer["id"] == over_rest["id"] for answer in answers)
    assert [message["id"] for message in recorder.messages] == [over_rest["id"], last["id"]]


async def test_pipelined_sends_keep_their_order(server: Shared) -> None:
    """P3: 100 sends without waiting are committed, completed and delivered in the order of sending."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    recorder = EventRecorder()
    async with server.connect(alice) as a, server.connect(bob, recorder):
        calls = [await a.start("SendMessage", {"conversationId": conversation, "content": str(n)}) for n in range(100)]
        with trio.fail_after(WAIT):
            seqs = [(await a.result(call))["seq"] for call in calls]
        await recorder.until(100)
    assert seqs == list(range(seqs[0], seqs[0] + 100))
    assert [message["content"] for message in recorder.messages] == [str(n) for n in range(100)]


async def test_reactions_hold_nothing_up(server: Shared) -> None:
    """While reactions wait to be committed, later calls of their connection are answered. They are worked on in order,
    each is answered once, with its own refusal where there is one; and those of a connection that has ended count."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    async with server.connect(alice) as a:
        message = (await a.invoke("SendMessage", {"conversationId": conversation, "content": "hello"}))["id"]
        with psycopg.connect(server.database) as held:
            held.execute("SELECT FROM messages WHERE id = %s FOR UPDATE", [message])
            async with server.connect(bob) as gone:
                acts = (("React", ":x:"), ("React", ":y:"), ("Unreact", ":x:"), ("React", "no"), ("React", ":z:"))
                calls = [await a.start(target, message, emoji) for target, emoji in acts]
                await gone.send("React", message, ":x:")
                with trio.fail_after(WAIT):
                    assert await a.invoke("Ping") == {} and await gone.invoke("Ping") == {}
        codes: list[str] = []
        answers = []
        with trio.fail_after(WAIT):
            for call in calls:
                try:
                    answers.append(await a.result(call))
                except HubError as error:
                    codes.append(error.code)

        async def all_count() -> bool:
            shown = (await server.history(alice, conversation))[0]["reactions"]
            found = {one["emoji"]: one["userIds"] for one in shown}
            return found == {":x:": [bob.id], ":y:": [alice.id], ":z:": [alice.id]}

        await wait_until(all_count)
    assert codes == ["invalid_request"] and [answer["id"] for answer in answers] == [message] * 4


async def test_each_refusal_has_its_code(everywhere: Shared) -> None:
    """Each refusal has its code, and the connection goes on."""
    server = everywhere
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


async def test_what_is_too_large(everywhere: Shared) -> None:
    """A content at its limit passes, however long the hub message is by then; one over it, and a call over the limit of
    a hub message, fail with `too_large` and nothing else; past half as much again the connection ends for good."""
    alice = await everywhere.register("alice")
    conversation = await everywhere.direct(alice, await everywhere.register("bob"))
    async with everywhere.connect(alice) as a:
        for content in ('"' * LIMIT, "é" * (LIMIT // 2)):
            sent = await a.invoke("SendMessage", {"conversationId": conversation, "content": content})
            assert sent["content"] == content
        for length in (LIMIT + 1, 150_000):
            with pytest.raises(HubError, match="too_large: "):
                await a.invoke("SendMessage", {"conversationId": conversation, "content": "x" * length})
        assert await a.invoke("Ping") == {}
        with pytest.raises(ClientError):
            await a.invoke("Ping", "x" * 200_000)
        with trio.fail_after(WAIT):
            await a.closed.wait()
        assert a.close_message is not None and not a.close_message.allow_reconnect


async def test_one_limit_of_content(server: Shared) -> None:
    """REST and the hub take the same contents, counted in bytes of UTF-8, for new messages and for edits."""
    alice = await server.register("alice")
    conversation = await server.direct(alice, await server.register("bob"))
    async with server.connect(alice) as a, server.http(alice) as http:
        contents = {
            "é" * (LIMIT // 2): True,
            "é" * (LIMIT // 2) + "a": False,
            "x" * LIMIT: True,
            "x" * (LIMIT + 1): False,
        }
        for content, taken in contents.items():
            body = {"conversationId": conversation, "content": content}
            posted = await http.post("/api/messages", json=body)
            assert posted.status_code == (201 if taken else 413), posted.text
            call = await a.start("SendMessage", body)
            small = checked(await http.post("/api/messages", json={**body, "content": "small"}))
            edit = await a.start("EditMessage", small["id"], content)
            put = await http.put(f"/api/messages/{small['id']}", json={"content": content})
            assert put.status_code == (200 if taken else 413), put.text
            for one in (call, edit):
                if taken:
                    assert (await a.result(one))["content"] == content
                else:
                    with pytest.raises(HubError) as refused:
                        await a.result(one)
                    assert str(refused.value).split("\n")[0] == f"too_large: {posted.json()['detail']}"


async def test_resume_by_cursor(server: Shared) -> None:
    """P4: Sync replays what changed after the cursor, each message once in its final state, then goes on live."""
    alice, bob = await server.register("alice"), await server.register("bob")
    conversation = await server.direct(alice, bob)
    async with server.connect(alice, transport="socket") as a:
        sent = [await a.invoke("SendMessage", {"conversationId": conversation, "content": str(n)}) for n in range(70)]
        await a.invoke("EditMessage", sent[3]["id"], "three")
        cursor = sent[20]["seq"]
        recorder = EventRecorder()
        async with server.connect(bob, recorder, query={"sync": "manual"}) as b:
            await a.invoke("SendMessage", {"conversationId": conversation, "content": "unheard"})
            assert (await b.invoke("Sync", {conversation: cursor}))["resync"] == []
            live = await a.invoke("SendMessage", {"conversationId": conversation, "content": "live"})
            received = await recorder.until(51)
            assert [m["content"] for m in received] == [str(n) for n in range(21, 70)] + ["unheard", "live"]
            assert [m["content"] for m in recorder.of("MessageChanged")] == ["three"]
            joined = await b.invoke("JoinConversation", conversation, live["seq"])
            assert joined["lastSeq"] == live["seq"]
            await b.invoke("LeaveConversation", conversation)
            await a.invoke("SendMessage", {"conversationId": conversation, "content": "not for bob"})
            await b.invoke("Ping")
            assert recorder.messages[-1] == event_of(live)
            late = await b.invoke("Sync", {conversation: 10**9, str(uuid4()): 0})
            assert len(late["resync"]) == 2


async def test_too_far_behind_is_a_resync(server: Shared) -> None:
    """P4: more than 1,000 changes behind is an explicit resync, with live events from the head on."""
    alice, bob, conversation = await server.talk(1100)
    async with server.connect(alice, transport="socket") as a:
        recorder = EventRecorder()
        async with server.connect(bob, recorder, query={"sync": "manual"}) as b:
            synced = await b.invoke("Sync", {conversation: 0})
            assert synced["resync"] == [conversation]
            live = await a.invoke("SendMessage", {"conversationId": conversation, "content": "now"})
            assert synced["heads"] == {conversation: live["seq"] - 1}
            assert await recorder.until(1) == [event_of(live)]


async def test_history_streams_at_the_clients_pace(server: Shared) -> None:
    """StreamHistory gives every message, newest first, and ends early when it is cancelled."""
    alice, _, conversation = await server.talk(120)
    async with server.connect(alice) as a:
        contents = [m["content"] async for m in a.stream("StreamHistory", conversation) if m["type"] == "Text"]
        assert contents == [str(n) for n in reversed(range(120))]
        assert len([m async for m in a.stream("StreamHistory", conversation, None, 7)]) == 7
        items = a.stream("StreamHistory", conversation)
        assert (await anext(items))["content"] == "119"
        await items.aclose()
        assert await a.invoke("Ping") == {}
        with pytest.raises(HubError, match="invalid_request"):
            await anext(a.stream("StreamHistory", conversation, None, 0))


async def test_removal_is_live(server: Shared) -> None:
    """P9: who is removed hears nothing more at once; who is added hears all from then on."""
    alice, bob, carol = [await server.register(name) for name in ("alice", "bob", "carol")]
    group = await server.group(alice, bob)
    bobs, carols = EventRecorder(), EventRecorder()
    async with (
        server.connect(alice) as a,
        server.connect(bob, bobs) as b,
        server.connect(carol, carols) as c,
    ):
        async with server.http(alice) as http:
            assert (await http.delete(f"/api/conversations/{group}/members/{bob.id}")).is_success
            assert (await http.post(f"/api/conversations/{group}/members", json={"userId": carol.id})).is_success
        await bobs.until(1, "ConversationRemoved")
        await carols.until(1, "ConversationChanged")
        said = await a.invoke("SendMessage", {"conversationId": group, "content": "secret"})
        with trio.fail_after(WAIT):
            while event_of(said) not in carols.messages:
                await c.invoke("Ping")
        await b.invoke("Ping")
        assert bobs.messages == []
        with pytest.raises(HubError, match="not_found"):
            await b.invoke("JoinConversation", group)


async def test_deleting_a_user_closes_their_sockets(server: Shared) -> None:
    """P9: a deleted user's open sockets are closed, for good; their token opens no new one."""
    alice = await server.register("alice")
    async with server.connect(alice) as a:
        async with server.http(alice) as http:
            assert (await http.delete(f"/api/users/{alice.id}")).is_success
        with trio.fail_after(WAIT):
            await a.closed.wait()
        assert a.close_message is not None and not a.close_message.allow_reconnect
    try:
        async with server.connect(alice) as again:
            with trio.fail_after(WAIT):
                await again.closed.wait()
            assert again.close_message is not None and not again.close_message.allow_reconnect
    except* ClientError as refused:  # where it negotiates first
        assert "401" in str(refused.exceptions[0])
