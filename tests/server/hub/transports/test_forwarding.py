"""server.hub.transports.forwarding: requests on their way to another instance."""

import socket

import trio

from server.hub.transports.forwarding import VANISHED_WITHIN, Forwarding
from store.redis.client import Redis
from store.redis.connection_owners import ConnectionOwners


async def test_a_host_that_vanishes_is_noticed(nursery: trio.Nursery) -> None:
    """While an answer is awaited (a poll takes 90 s), the kernel asks whether the other host is there: the connection
    ends within VANISHED_WITHIN without it."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await trio.sleep_forever()

    listeners = await nursery.start(trio.serve_tcp, serve, 0)
    port = listeners[0].socket.getsockname()[1]
    forwarding = Forwarding(ConnectionOwners(Redis("redis://127.0.0.1:1", name="test")), lambda: "")
    await nursery.start(forwarding.run, ())
    request = forwarding._http.build_request("GET", f"http://127.0.0.1:{port}/")
    response = await forwarding._http.send(request, stream=True)
    sock = response.extensions["network_stream"].get_extra_info("socket")

    def option(name: int) -> int:
        return int(sock.getsockopt(socket.IPPROTO_TCP, name))

    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    probes = option(socket.TCP_KEEPINTVL) * option(socket.TCP_KEEPCNT)
    assert option(socket.TCP_KEEPIDLE) + probes <= VANISHED_WITHIN
    assert option(socket.TCP_USER_TIMEOUT) == 1000 * VANISHED_WITHIN
    await response.aclose()
    nursery.cancel_scope.cancel()
