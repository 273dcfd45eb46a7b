"""FastAPI on uvicorn and uvloop + asyncpg: direct messages, each committed before it is answered and delivered.

Arguments: port, directory of PostgreSQL's socket, database, directory of the SQL.
"""

import asyncio
import json
import sys
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

port, host, database, sql = sys.argv[1:5]
SEND = Path(sql, "send.sql").read_text()
AGAIN = Path(sql, "again.sql").read_text()

pool: Any = None
rooms: dict[int, set[Any]] = defaultdict(set)
tasks: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global pool
    async with asyncpg.create_pool(host=host, port=5432, user="postgres", database=database, max_size=10) as pool:
        yield


async def commit(user: int, message: dict[str, Any]) -> Any:
    conversation, mark = message["conversationId"], uuid.UUID(message["clientMessageId"])
    try:
        return await pool.fetchrow(SEND, conversation, user, uuid.uuid4(), mark, message["content"])
    except asyncpg.UniqueViolationError:
        return await pool.fetchrow(AGAIN, user, mark)


async def send(socket: Any, user: int, message: dict[str, Any]) -> None:
    row = await commit(user, message)
    if row is None:
        await socket.send_text(json.dumps({"type": "error", "ack": message["ack"]}))
        return
    whole = {
        "id": str(row["id"]),
        "conversationId": message["conversationId"],
        "seq": row["seq"],
        "senderId": user,
        "content": message["content"],
        "clientMessageId": message["clientMessageId"],
        "createdAt": row["created_at"].isoformat(),
    }
    await socket.send_text(json.dumps({"type": "ack", "ack": message["ack"], "message": whole}))
    event = json.dumps({"type": "message", "message": whole})
    for other in list(rooms[message["conversationId"]]):
        await other.send_text(event)


async def chat(socket: WebSocket) -> None:
    await socket.accept()
    user = int(socket.query_params["user"])
    mine = [row[0] for row in await pool.fetch("select conversation_id from members where user_id = $1", user)]
    for conversation in mine:
        rooms[conversation].add(socket)
    await socket.send_text('{"type": "ready"}')
    try:
        while True:
            task = asyncio.create_task(send(socket, user, json.loads(await socket.receive_text())))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    except WebSocketDisconnect:
        pass
    finally:
        for conversation in mine:
            rooms[conversation].discard(socket)


app = FastAPI(lifespan=lifespan)
app.add_api_websocket_route("/ws", chat)
HOUR = 3600.0  # pings are put off: they would be counted as deliveries
uvicorn.run(app, host="127.0.0.1", port=int(port), loop="uvloop", ws_ping_interval=HOUR, log_level="error")
