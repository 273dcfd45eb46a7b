"""A server that lies: a proxy in front of a real one, which falsifies one thing in each conversation.

Owns its listener and the connections through it. Speaks JSON hubs, and REST as far as the load test uses it.
"""

import json
from collections.abc import Callable
from typing import Any

import trio

from server.protocol import websocket
from server.protocol.http1 import head as http_head
from tests import plain_http

Event = dict[str, Any]
SEPARATOR = b"\x1e"


class Talk:
    """One conversation and its lie; `fooled` is the connection that gets it: the first that is not the sender's."""

    def __init__(self, lie: str) -> None:
        self.lie = lie
        self.fooled: object = None
        self.count = 0
        self.held: list[Event] = []
        self.done = False


class LyingProxy:
    """Each conversation gets one of the `lies` with its first message; `dealt` has the conversation of each lie."""

    def __init__(self, target: str, lies: list[str]) -> None:
        self._target = target
        self._lies = list(lies)
        self._talks: dict[str, Talk] = {}
        self._http = plain_http.client(base_url=target, timeout=60)
        self.port = 0
        self._pages: dict[bytes, Callable[[http_head.Head, list[Event]], None]] = {
            b"/api/messages": self._page,
            b"/api/conversations": self._list,
            b"/api/search/messages": self._search,
        }

    @property
    def dealt(self) -> dict[str, str]:
        return {talk.lie: conversation for conversation, talk in self._talks.items()}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, client: trio.SocketStream) -> None:
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    chunk = await client.receive_some(65536)
                    if not chunk:
                        return
                    data += bytes(chunk)
                raw, _, data = data.partition(b"\r\n\r\n")
                head = http_head.parse_head(raw + b"\r\n\r\n")
                if http_head.is_upgrade(head):
                    await self._hub(client, raw + b"\r\n\r\n")
                    return
                size = int(head.headers.get(b"content-length", b"0"))
                while len(data) < size:
                    data += bytes(await client.receive_some(65536))
                await client.send_all(await self._rest(head, data[:size]))
                data = data[size:]
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(client)

    # -- REST ------------------------------------------------------------------------------------

    async def _rest(self, head: http_head.Head, body: bytes) -> bytes:
        headers = {
            name: head.headers[name.lower().encode()].decode()
            for name in ("Authorization", "Content-Type")
            if name.lower().encode() in head.headers
        }
        answer = await self._http.request(head.method.decode(), head.target.decode(), headers=headers, content=body)
        content = answer.content
        if head.method == b"GET" and head.path in self._pages and answer.status_code == 200:
            page = json.loads(content)
            self._pages[head.path](head, page["items"])
            content = json.dumps(page).encode()
        return b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n" % (answer.status_code, len(content)) + content

    def _list(self, _: http_head.Head, items: list[Event]) -> None:
        for item in items:
            lie = self._lie(item["id"])
            if lie == "count":
                item["unreadCount"] += 1
            elif lie == "settings":
                item["settings"]["archived"] = not item["settings"]["archived"]

    def _search(self, _: http_head.Head, items: list[Event]) -> None:
        items[:] = [item for item in items if self._lie(item["message"]["conversationId"]) != "search"]

    def _lie(self, conversation: str) -> str:
        talk = self._talks.get(conversation)
        return talk.lie if talk is not None else ""

    def _page(self, head: http_head.Head, items: list[Event]) -> None:
        talk = self._talks.get(head.query["conversationid"])
        sent = [item for item in items if item["clientMessageId"]]
        if talk is None or not sent:
            return
        if talk.lie == "missing":
            items.remove(sent[len(sent) // 2])
        elif talk.lie == "phantom":
            items.remove(sent[-1])
        elif talk.lie == "duplicated":
            seq = items[-1]["seq"] + 1
            items.append({**sent[0], "id": "0" * 36, "seq": seq, "changedSeq": seq})
        elif talk.lie == "miscounted":
            sent[0]["reactions"] = [{"emoji": "\N{THUMBS UP SIGN}", "count": 1, "userIds": [sent[0]["senderId"]]}]
        elif talk.lie == "thread":
            sent[0]["thread"] = {"replyCount": 1, "lastReplyAt": "", "participantIds": [sent[0]["senderId"]]}
        elif talk.lie == "mention":
            sent[0]["mentions"] = [sent[0]["senderId"]]
        elif talk.lie == "pin":
            sent[0] |= {"pinnedAt": sent[0]["createdAt"], "pinnedBy": sent[0]["senderId"]}

    # -- the hub ---------------------------------------------------------------------------------

    async def _hub(self, client: trio.SocketStream, head: bytes) -> None:
        host, _, port = self._target.removeprefix("http://").partition(":")
        async with await trio.open_tcp_stream(host, int(port)) as server, trio.open_nursery() as nursery:
            await server.send_all(head)
            nursery.start_soon(self._up, client, server, nursery.cancel_scope)
            try:
                await self._down(server, client)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

    @staticmethod
    async def _up(client: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for chunk in client:
                await server.send_all(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def _down(self, server: trio.SocketStream, client: trio.SocketStream) -> None:
        decoder, head = websocket.Decoder(client=True), b""
        while b"\r\n\r\n" not in head:
            head += bytes(await server.receive_some(65536))
        head, _, rest = head.partition(b"\r\n\r\n")
        await client.send_all(head + b"\r\n\r\n")
        while True:
            for event in decoder.receive(rest):
                if isinstance(event, websocket.Message):
                    await self._forward(client, event.data)
            rest = bytes(await server.receive_some(65536))
            if not rest:
                return

    async def _forward(self, client: trio.SocketStream, data: bytes) -> None:
        out = b""
        for part in data.split(SEPARATOR)[:-1]:
            message = json.loads(part)
            for sent in self._twisted(client, message) if message.get("type") in (1, 3) else [message]:
                out += json.dumps(sent).encode() + SEPARATOR
        if out:
            await client.send_all(websocket.encode(websocket.TEXT, out))

    def _twisted(self, client: object, message: Event) -> list[Event]:
        content = message["arguments"][0] if message.get("arguments") else message.get("result")
        if not isinstance(content, dict) or not content.get("clientMessageId"):
            return [message]
        conversation = content["conversationId"]
        if conversation not in self._talks and self._lies:
            self._talks[conversation] = Talk(self._lies.pop(0))
        talk = self._talks.get(conversation)
        if talk is None:
            return [message]
        if message["type"] == 3:
            if talk.lie == "unanswered" and not talk.done:
                talk.done = True
                return []
            if talk.lie == "restricted" and not talk.done:
                talk.done = True
                return [{"type": 3, "invocationId": message["invocationId"], "error": "muted: You are muted."}]
            return [message]
        talk.fooled = talk.fooled or client
        lie = LIES.get(talk.lie)
        if lie is None or client is not talk.fooled:
            return [message]
        talk.count += 1
        return lie(talk, message)


def event(target: str, *arguments: object) -> Event:
    return {"type": 1, "target": target, "arguments": list(arguments)}


def _with(message: Event, **fields: object) -> Event:
    return {**message, "arguments": [{**message["arguments"][0], **fields}]}


def _order(talk: Talk, message: Event) -> list[Event]:
    if talk.count == 1:
        talk.held.append(message)
        return []
    held, talk.held = talk.held, []
    return [message, *held]


def _receipt(talk: Talk, message: Event) -> list[Event]:
    said = message["arguments"][0]
    update = {"conversationId": said["conversationId"], "userId": said["senderId"], "status": "Read", "at": ""}
    return [
        message,
        event("MessageStatusUpdated", {**update, "seq": 5}),
        event("MessageStatusUpdated", {**update, "seq": 3}),
    ]


def _presence(talk: Talk, message: Event) -> list[Event]:
    update = {
        "userId": message["arguments"][0]["senderId"],
        "status": "Offline",
        "statusText": None,
        "lastSeenAt": None,
    }
    return [message, event("UserStatusChanged", update)]


LIES: dict[str, Callable[[Talk, Event], list[Event]]] = {
    "order": _order,
    "gap": lambda talk, message: [] if talk.count == 2 else [message],
    "repeat": lambda talk, message: [message, message],
    "unseen": lambda talk, message: [] if talk.count > 1 else [message],
    "diverged": lambda talk, message: [_with(message, id="f" * 36)] if talk.count == 2 else [message],
    "altered": lambda talk, message: [_with(message, content=message["arguments"][0]["content"].replace("fox", "cat"))],
    "stranger": lambda talk, message: [message, _with(message, conversationId="e" * 36)],
    "receipt": _receipt,
    "presence": _presence,
}
REST_LIES = (
    *("missing", "phantom", "duplicated", "miscounted", "unanswered"),
    *("mention", "pin", "thread", "count", "settings", "search", "restricted"),
)
ALL = [*LIES, *REST_LIES]
