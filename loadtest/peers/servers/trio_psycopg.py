"""trio-websocket + psycopg in threads: direct messages, each committed before it is answered and delivered.

psycopg's own async connections are for asyncio, so on Trio the usual way is a thread for each query under way.
Arguments: port, directory of PostgreSQL's socket, database, directory of the SQL.
"""

import json
import sys
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

import psycopg
import trio
from trio_websocket import ConnectionClosed, serve_websocket

port, host, database, sql = sys.argv[1:5]
SEND = Path(sql, "send.sql").read_bytes()
AGAIN = Path(sql, "again.sql").read_bytes()
MINE = b"select conversation_id from members where user_id = $1"
POOL = 10

rooms: dict[int, set[Any]] = defaultdict(set)
lend, pool = trio.open_memory_channel[Any](POOL)


async def query(statement: bytes, *values: object) -> list[Any]:
    connection = await pool.receive()
    try:
        return await trio.to_thread.run_sync(run, connection, statement, values)
    finally:
        lend.send_nowait(connection)


def run(connection: Any, statement: bytes, values: tuple[object, ...]) -> list[Any]:
    rows: list[Any] = connection.execute(statement, values, prepare=True).fetchall()
    return rows


async def commit(user: int, message: dict[str, Any]) -> list[Any]:
    conversation, mark = message["conversationId"], uuid.UUID(message["clientMessageId"])
    try:
        return await query(SEND, conversation, user, uuid.uuid4(), mark, message["content"])
    except psycopg.errors.UniqueViolation:
        return await query(AGAIN, user, mark)


async def send(socket: Any, user: int, message: dict[str, Any]) -> None:
    rows = await commit(user, message)
    try:
        if not rows:
            await socket.send_message(json.dumps({"type": "error", "ack": message["ack"]}))
            return
        whole = {
            "id": str(rows[0][0]),
            "conversationId": message["conversationId"],
            "seq": rows[0][1],
            "senderId": user,
            "content": message["content"],
            "clientMessageId": message["clientMessageId"],
            "createdAt": rows[0][2].isoformat(),
        }
        await socket.send_message(json.dumps({"type": "ack", "ack": message["ack"], "message": whole}))
    except ConnectionClosed:
        return
    event = json.dumps({"type": "message", "message": whole})
    for other in list(rooms[message["conversationId"]]):
        try:
            await other.send_message(event)
        except ConnectionClosed:
            continue


async def chat(request: Any) -> None:
    socket = await request.accept()
    user = int(request.path.rpartition("user=")[2])
    mine = [row[0] for row in await query(MINE, user)]
    for conversation in mine:
        rooms[conversation].add(socket)
    try:
        async with trio.open_nursery() as nursery:
            await socket.send_message('{"type": "ready"}')
            while True:
                nursery.start_soon(send, socket, user, json.loads(await socket.get_message()))
    except* ConnectionClosed:
        pass
    finally:
        for conversation in mine:
            rooms[conversation].discard(socket)


async def main() -> None:
    for _ in range(POOL):
        connection = psycopg.connect(
            host=host, port=5432, user="postgres", dbname=database, autocommit=True, cursor_factory=psycopg.RawCursor
        )
        lend.send_nowait(connection)
    await serve_websocket(chat, "127.0.0.1", int(port), None)


trio.run(main)
