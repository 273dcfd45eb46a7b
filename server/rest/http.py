"""HTTP for everything that is no raw WebSocket: Hypercorn's Trio server, one connection at a time.

Owns Hypercorn's configuration and the app's lifespan. The listener hands connections in; Hypercorn parses
them again from their first byte, so it also serves upgrades that come later on a kept-alive connection.
"""

import logging

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState, LifespanState

from server.listener import PrefixedStream

KEEP_ALIVE = 75.0  # seconds an idle HTTP connection is kept: longer than most balancers keep theirs
READ_TIMEOUT = 80  # seconds without a byte from the client while we want one
MAX_FRAME = 256 * 1024  # bytes of a WebSocket message on the compatibility path


class HttpServer:
    """Serves HTTP connections with `app`."""

    def __init__(self, app: ASGIFramework) -> None:
        self._config = Config()
        self._config.keep_alive_timeout = KEEP_ALIVE
        self._config.read_timeout = READ_TIMEOUT
        self._config.websocket_max_message_size = MAX_FRAME
        self._config.errorlog = logging.getLogger("hypercorn.error")
        self._config.include_server_header = False
        self._app = ASGIWrapper(app)
        self._context = WorkerContext(None)
        self._state: LifespanState = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The app's lifespan: started when its start-up hooks are done, shut down when cancelled."""
        lifespan = Lifespan(self._app, self._config, self._state)
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            task_status.started()
            await trio.sleep_forever()

    async def serve(self, stream: PrefixedStream) -> None:
        await TCPServer(self._app, self._config, self._context, ConnectionState(self._state.copy()), stream)  # type: ignore[arg-type]

    async def stop(self) -> None:
        """Idle connections end now, the others after the request that they serve."""
        await self._context.terminated.set()
