"""The REST side: a mix of what an app asks for, and files."""

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from loadtest.oracle import invariants
from loadtest.payloads import Link, Message
from loadtest.rest import RestError
from loadtest.scenarios.base import Cast, Common, Scenario, Size, pairs_of
from loadtest.virtual_user import Player

if TYPE_CHECKING:
    from loadtest.world import Stage

Call = Callable[["Stage", Player, float], Awaitable[None]]


class Parameters(Common, frozen=True, kw_only=True):
    pairs: Annotated[int, Meta(ge=1, description="conversations of two")] = 50
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="requests per second, in all")] = 100.0


class RestMix(Scenario):
    name = "rest"
    stresses = "REST: conversations, pages, profiles, searches, and messages posted"
    example = "parley loadtest run rest --dev --rate 200"
    Parameters = Parameters
    judged = "get_messages"

    def cast(self) -> Cast:
        return pairs_of(2 * self.parameters.pairs)

    def act(self, stage: "Stage", due: float) -> None:
        call = stage.rng.choices(CALLS, WEIGHTS)[0]
        player = stage.rng.choice(stage.actors)
        if call is post_message:
            stage.request(lambda: post_message(stage, player, due, self.parameters.size))
        else:
            stage.request(lambda: call(stage, player, due))


async def get_messages(stage: "Stage", player: Player, due: float) -> None:
    query = f"?conversationId={player.conversations[0]}&limit=50"
    await stage.timed("get_messages", due, "GET", f"/api/messages{query}", player)


async def list_conversations(stage: "Stage", player: Player, due: float) -> None:
    await stage.timed("list_conversations", due, "GET", "/api/conversations?limit=20", player)


async def get_conversation(stage: "Stage", player: Player, due: float) -> None:
    await stage.timed("get_conversation", due, "GET", f"/api/conversations/{player.conversations[0]}", player)


async def get_me(stage: "Stage", player: Player, due: float) -> None:
    await stage.timed("get_me", due, "GET", "/api/users/me", player)


async def search_users(stage: "Stage", player: Player, due: float) -> None:
    await stage.timed("search_users", due, "GET", f"/api/users?q={stage.run}&limit=20", player)


async def post_message(stage: "Stage", player: Player, due: float, size: int = 100) -> None:
    """Over REST; if it fails it is repeated over the hub, with the same clientMessageId."""
    send = player.draft(player.conversations[0], due, size)
    try:
        message = await stage.rest.post("/api/messages", player.person.token, send.body, Message)
    except RestError as error:
        stage.meter.error(f"rest_{error.code}")
        player.repeat(send)
        return
    stage.meter.record("post_message", due)
    player.acknowledge(send, message)


CALLS: list[Any] = [get_messages, list_conversations, get_conversation, get_me, search_users, post_message]
WEIGHTS = [30, 20, 15, 10, 5, 20]


class FilesParameters(Common, frozen=True, kw_only=True):
    people: Annotated[int, Meta(ge=2, description="who upload, in pairs")] = 20
    bytes: Annotated[int, Meta(ge=1, description="of a file")] = 100_000
    rate: Annotated[float, Meta(ge=0, description="uploads per second, in all")] = 10.0


class Files(Scenario):
    name = "files"
    stresses = "uploads, streamed to the object store, and read back byte for byte"
    example = "parley loadtest run files --dev --rate 20 --bytes 1000000"
    Parameters = FilesParameters
    judged = "upload"

    def cast(self) -> Cast:
        return pairs_of(self.parameters.people)

    def act(self, stage: "Stage", due: float) -> None:
        player = stage.rng.choice(stage.actors)
        stage.request(lambda: self._upload(stage, player, due))

    async def _upload(self, stage: "Stage", player: Player, due: float) -> None:
        data = stage.rng.randbytes(self.parameters.bytes // 2).hex().encode() or b"0"
        name = f"{stage.run}-{secrets.token_hex(4)}.txt"
        stored = await stage.upload("upload", due, name, data, player)
        stage.oracle.checked[invariants.ALTERED] += 1
        if stored.size != len(data) or stored.sha256 != hashlib.sha256(data).hexdigest():
            text = f"{name} of {len(data)} bytes was stored as {stored.size} bytes, {stored.sha256}"
            stage.oracle.breach(invariants.ALTERED, text, player=player.number)
        begun = stage.now()
        link = await stage.rest.get("/api/files/presigned-url", player.person.token, Link, fileKey=stored.key)
        path = link.url.partition(stage.origin.authority)[2]
        if not path:
            return  # the store's own address: not ours to load
        answer = await stage.timed("download", begun, "GET", path, player)
        if answer.body != data:
            text = f"{name} came back as {len(answer.body)} bytes that are not what was uploaded"
            stage.oracle.breach(invariants.ALTERED, text, player=player.number)
