"""loadtest.client: a connection that cannot be had, or ends, is a ClientError that says where."""

import socket
import struct
from functools import partial

import pytest
import trio

from loadtest.client import ClientError, open_websocket

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
