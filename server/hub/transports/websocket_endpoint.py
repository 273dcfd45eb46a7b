"""Upgrades at the hub's path: which requests are meant, who may connect, and the WebSocket under a connection.

Owns nothing that lasts: WebSockets belong to the `SocketTasks`. Implements what the listener wants for upgrades
(`server.transport.listener.Upgrades`).
"""

from collections.abc import Callable

from server.config.trusted_proxies import Proxies
from server.hub.connection import HubConnection
from server.hub.server import PATH, HubServer, is_hub
from server.hub.transports.websocket import StatefulWebSocket
from server.protocol.http1 import head as http_head
from server.protocol.http1.head import Head
from server.protocol.signalr.messages import SKIPPED
from server.transport.epoll import Poller
from server.transport.listener import Service
from server.transport.refusal import Refusal, require_upgrade
from server.transport.request_stream import AnySocket
from server.transport.sockets import peer
from server.transport.websocket import Connection, SocketTasks


class WebSocketEndpoint:
    def __init__(self, hub: HubServer, poller: Poller, socket_tasks: SocketTasks) -> None:
        self._hub = hub
        self._poller = poller
        self._socket_tasks = socket_tasks
        self._proxies = Proxies(hub.settings.forwarded_allow_ips)

    def takes(self, head: Head) -> bool:
        """All that are meant: those for another path are refused. A stray header on a REST call means nothing."""
        return is_hub(http_head.plain_path(head.target)) or http_head.asks_to_switch(head)

    async def admit(self, sock: AnySocket, head: Head, rest: bytes, on_ended: Callable[[], None]) -> Service:
        query = head.query
        headers = head.headers
        address = peer(sock)
        try:
            self._hub.require_pace(headers, address)
            if not is_hub(http_head.plain_path(head.target)):
                raise Refusal(404, "not_found", f"There is no WebSocket here but at {PATH}.")
            require_upgrade(head)
            comer = await self._hub.authenticate(query, headers)
        except Refusal as refused:
            given = headers.get(b"x-request-id", b"").decode("latin-1")
            refused.belongs_to(self._proxies.request_id(address, given))
            raise
        stateful = isinstance(comer, HubConnection) or comer.stateful
        transport = (StatefulWebSocket if stateful else Connection)(
            sock,
            self._hub.wheel,
            self._poller,
            self._socket_tasks,
            send_queue_bytes=self._hub.settings.send_queue_bytes,
            max_message=self.max_frame(),
            max_held=self._hub.max_message,
            stall_timeout=self._hub.settings.stall_timeout,
        )
        client = self._hub.client(headers, address)
        connection = await self._hub.connection_for(comer, transport, transport, query, client=client)
        try:
            sock.send(http_head.accept_response(headers[b"sec-websocket-key"]))  # always fits: the buffer is empty
        except OSError as error:
            connection.on_closed(f"connection lost ({error.strerror})")
            raise
        return transport.serve(connection, on_ended, rest, pace=connection.share)

    def max_frame(self) -> int:
        """Several hub messages may share a WebSocket message, so that may be larger than one of them."""
        return int(SKIPPED * self._hub.max_message) + 4096
