"""`parley chat`: two people chatting in terminals, over the same hub that every client uses.

Owns the small conversation with the server that this takes (find or make the users, open the direct
conversation) and the printing of what is said. A client of the public API and nothing else.
"""

import sys
from typing import Any

import httpx
import trio

from loadtest.client import ClientError, connect
from server.protocol import terminal

HUB = "/hubs/chat"
INDENT = "\n    "  # before a message's further lines, so that none passes for somebody's message
RECENT = 20  # messages shown first


def run(url: str, user: str, other: str, say: tuple[str, ...], token: str | None) -> None:
    """Chat until end of input, or only `say` something and leave."""
    trio.run(_run, url.rstrip("/"), user, other, say, token)


async def _run(url: str, user: str, other: str, say: tuple[str, ...], token: str | None) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=10) as http:
        try:
            token = token or await _sign_up(http, user)
            http.headers["Authorization"] = f"Bearer {token}"
            peer = await _find(http, other) or await _register(http, other)
            answer = await http.post("/api/conversations", json={"type": "Direct", "memberIds": [peer["id"]]})
            conversation = _checked(answer)
        except httpx.TransportError as error:
            raise ClientError(f"cannot reach {url}: {error or type(error).__name__}") from None
        query = {"conversationId": conversation["id"], "limit": RECENT}
        recent = _checked(await http.get("/api/messages", params=query))["items"]
    shown: set[str] = set()

    def show(message: dict[str, Any]) -> None:
        if (
            message["conversationId"] == conversation["id"]
            and message["type"] != "System"
            and message["id"] not in shown
        ):
            shown.add(message["id"])
            who = other if message["senderId"] == peer["id"] else user
            text = terminal.shown(message["content"]).replace("\n", INDENT) or "(deleted)"
            terminal.echo(f"{terminal.line(who)}: {text}")

    def on_event(target: str, arguments: list[Any]) -> None:
        if target == "ReceiveMessage":
            show(arguments[0])

    for message in reversed(recent):
        show(message)
    async with connect(f"{url}{HUB}", token, on_event=on_event) as hub:
        if say:
            for text in say:
                await _send(hub, conversation["id"], text)
            return
        terminal.echo(f"chatting with {other}; end with Ctrl-D", err=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_closed, hub)
            async for line in trio.wrap_file(sys.stdin):
                if line.strip():
                    await _send(hub, conversation["id"], line.rstrip("\n"))
            nursery.cancel_scope.cancel()


async def _send(hub: Any, conversation_id: str, text: str) -> None:
    await hub.invoke("SendMessage", {"conversationId": conversation_id, "content": text})


async def _until_closed(hub: Any) -> None:
    await hub.closed.wait()
    reason = hub.close_message.error if hub.close_message else None
    raise ClientError(reason or "the server closed the connection")


async def _sign_up(http: httpx.AsyncClient, username: str) -> str:
    token = (await _register(http, username)).get("accessToken")
    if not token:
        raise ClientError("this server does not register people openly; give --token")
    return str(token)


async def _register(http: httpx.AsyncClient, username: str) -> dict[str, Any]:
    answer = await http.post("/api/users", json={"username": username})
    if answer.status_code == 409:
        raise ClientError(f"{username} exists already; give --token, or --data of the `parley dev` it lives in")
    return _checked(answer)


async def _find(http: httpx.AsyncClient, username: str) -> dict[str, Any] | None:
    found = _checked(await http.get("/api/users", params={"q": username}))["items"]
    return next((user for user in found if user["username"].casefold() == username.casefold()), None)


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        try:
            raise ClientError(answer.json()["detail"])
        except (ValueError, KeyError):
            raise ClientError(f"the server answered {answer.status_code}") from None
    body: dict[str, Any] = answer.json()
    return body
