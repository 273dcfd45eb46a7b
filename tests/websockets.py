"""A raw WebSocket in a test, served until it ends."""

import trio

from server.transport.websocket import Connection, Endpoint, Pace


async def serve(connection: Connection, endpoint: Endpoint, pace: Pace | None = None) -> None:
    ended = trio.Event()
    if await connection.serve(endpoint, ended.set, pace=pace):
        await ended.wait()
