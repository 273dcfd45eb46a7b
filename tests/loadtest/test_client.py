"""loadtest.client: a connection that cannot be had, or ends, is a ClientError that says where; streams wait."""

import socket
import struct
from contextlib import aclosing
from functools import partial

import pytest
import trio
import trio.testing

from loadtest.client import ClientError, HubClient, open_websocket
from server.protocol import websocket
from server.protocol.signalr.json_codec import JSON

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, and for no time


@pytest.mark.parametrize("end", ["resets", "closes", "answers otherwise"])
async def test_a_server_that_does_not_shake_hands(nursery: trio.Nursery, end: str) -> None:
    """Whatever the server does in place of an answer is a ClientError, and the socket is closed."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if end == "resets":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif end == "answers otherwise":
            await stream.send_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\nnot now")
        await stream.aclose()

    [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    port = listener.socket.getsockname()[1]
    with pytest.raises(ClientError) as caught:
        await open_websocket(f"http://127.0.0.1:{port}/hubs/chat")
    said = {"resets": f"127.0.0.1:{port} ended", "closes": "", "answers otherwise": "503"}[end]
    assert said in str(caught.value)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_stream_that_is_not_taken(nursery: trio.Nursery, leaves: bool) -> None:
    """A caller that is slow gets all of it, and one that left early none: other calls are answered all the same."""
    ours, theirs = trio.testing.memory_stream_pair()
    client = HubClient(ours, JSON, lambda target, arguments: None)
    nursery.start_soon(client.run)

    async def answer(*messages: bytes) -> None:
        await theirs.send_all(b"".join(websocket.encode(websocket.TEXT, message) for message in messages))

    async def ping() -> object:
        call = await client.start("Ping")
        await answer(*JSON.encode_stream_items("1", range(1, 2000)))
        await answer(JSON.encode_void("1"), JSON.encode_completion("2", "pong"))
        return await client.result(call)

    await answer(*JSON.encode_stream_items("1", [0]))
    with trio.fail_after(60):
        async with aclosing(client.stream("StreamHistory")) as stream:
            assert await anext(stream) == 0
            if not leaves:
                assert await ping() == "pong"
                assert [item async for item in stream] == [*range(1, 2000)]
        if leaves:
            assert await ping() == "pong"
    nursery.cancel_scope.cancel()
