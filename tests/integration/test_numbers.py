"""Numbers of any size from clients: each costs its sender an error that says so, and others nothing."""

from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
import trio

from loadtest.client import ClientError, HubError
from server.protocol import websocket
from tests.event_recorder import WAIT
from tests.integration.conftest import Shared

HUGE: tuple[Any, ...] = (2**63, 2**64 - 1, -(2**63) - 1, 2**64, 10**30, -(10**30), 1e30, True, "5", None)


async def code_of(client: Any, target: str, *arguments: Any) -> str:
    with trio.fail_after(WAIT):
        try:
            await client.invoke(target, *arguments)
        except HubError as error:
            return error.code
    return ""


async def test_seqs_that_no_conversation_has(every_transport: Shared) -> None:
    """Refused where they are decoded, in every method that takes one; the largest that fits counts as the head."""
    alice, bob = await every_transport.register("alice"), await every_transport.register("bob")
    conversation = await every_transport.direct(alice, bob)
    async with every_transport.connect(alice) as a, every_transport.connect(bob) as b:
        await a.invoke("SendMessage", {"conversationId": conversation, "content": "hello"})
        for value in HUGE:
            if every_transport.protocol == "messagepack" and type(value) is int and not -(2**63) <= value < 2**64:
                continue  # it cannot be said
            for target in ("MarkRead", "MarkDelivered"):
                assert await code_of(b, target, conversation, value) == "invalid_request", (target, value)
            assert await code_of(b, "Sync", {conversation: value}) == "invalid_request", value
            if value is not None:
                assert await code_of(b, "JoinConversation", conversation, value) == "invalid_request", value
        for target in ("MarkRead", "MarkDelivered"):
            assert await code_of(b, target, conversation, -1) == "invalid_cursor"
            assert await code_of(b, target, conversation, 2**63 - 1) == ""
            assert await code_of(b, target, str(uuid4()), 2**63 - 1) == "not_found"
        assert await code_of(b, "JoinConversation", conversation, 2**63 - 1) == ""
        assert await a.invoke("Ping") == {}
    async with every_transport.http(alice) as http:
        shown = (await http.get(f"/api/conversations/{conversation}")).json()
        [cursor] = [member["readSeq"] for member in shown["members"] if member["userId"] == bob.id]
        assert cursor <= shown["lastSeq"]


@pytest.mark.parametrize("number", ["1" + "0" * 30, "1" + "0" * 4999, "-1", "9223372036854775808", "1e400"])
async def test_counters_of_stateful_reconnect(shared: Shared, number: str) -> None:
    """An Ack or a Sequence that no counter reaches ends its own connection at most."""
    alice = await shared.register("alice")
    async with shared.connect(alice) as other:
        for kind in (8, 9):
            async with shared.connect(alice) as client:
                said = b'{"type":%d,"sequenceId":%b}\x1e' % (kind, number.encode())
                await client.send_raw(websocket.encode_masked(websocket.TEXT, said))
                with suppress(ClientError):
                    await client.invoke("Ping")  # the connection has come to it, or ended
        assert await other.invoke("Ping") == {}
