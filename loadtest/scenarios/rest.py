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
from loadtest.virtual_user import VirtualUser

if TYPE_CHECKING:
    from loadtest.world import World

Call = Callable[["World", VirtualUser, float], Awaitable[None]]


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

    def act(self, world: "World", due: float) -> None:
        call = world.rng.choices(CALLS, WEIGHTS)[0]
        virtual_user = world.rng.choice(world.actors)
        if call is post_message:
            world.request(lambda: post_message(world, virtual_user, due, self.parameters.size))
        else:
            world.request(lambda: call(world, virtual_user, due))


async def get_messages(world: "World", virtual_user: VirtualUser, due: float) -> None:
    query = f"?conversationId={virtual_user.conversations[0]}&limit=50"
    await world.timed("get_messages", due, "GET", f"/api/messages{query}", virtual_user)


async def list_conversations(world: "World", virtual_user: VirtualUser, due: float) -> None:
    await world.timed("list_conversations", due, "GET", "/api/conversations?limit=20", virtual_user)


async def get_conversation(world: "World", virtual_user: VirtualUser, due: float) -> None:
    await world.timed(
        "get_conversation", due, "GET", f"/api/conversations/{virtual_user.conversations[0]}", virtual_user
    )


async def get_me(world: "World", virtual_user: VirtualUser, due: float) -> None:
    await world.timed("get_me", due, "GET", "/api/users/me", virtual_user)


async def search_users(world: "World", virtual_user: VirtualUser, due: float) -> None:
    await world.timed("search_users", due, "GET", f"/api/users?q={world.run}&limit=20", virtual_user)


async def post_message(world: "World", virtual_user: VirtualUser, due: float, size: int = 100) -> None:
    """Over REST; if it fails it is repeated over the hub, with the same clientMessageId."""
    send = virtual_user.draft(virtual_user.conversations[0], due, size)
    call = virtual_user.sending(send)
    try:
        message = await world.rest.post("/api/messages", virtual_user.person.token, send.body, Message)
    except RestError as error:
        world.recorder.error(f"rest_{error.code}")
        virtual_user.repeat(send)
        return
    world.recorder.record("post_message", due)
    virtual_user.acknowledge(send, message, call)


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

    def act(self, world: "World", due: float) -> None:
        virtual_user = world.rng.choice(world.actors)
        world.request(lambda: self._upload(world, virtual_user, due))

    async def _upload(self, world: "World", virtual_user: VirtualUser, due: float) -> None:
        data = world.rng.randbytes(self.parameters.bytes // 2).hex().encode() or b"0"
        name = f"{world.run}-{secrets.token_hex(4)}.txt"
        stored = await world.upload("upload", due, name, data, virtual_user)
        world.oracle.checked[invariants.ALTERED] += 1
        if stored.size != len(data) or stored.sha256 != hashlib.sha256(data).hexdigest():
            text = f"{name} of {len(data)} bytes was stored as {stored.size} bytes, {stored.sha256}"
            world.oracle.breach(invariants.ALTERED, text, virtual_user=virtual_user.number)
        begun = world.now()
        link = await world.rest.get("/api/files/presigned-url", virtual_user.person.token, Link, fileKey=stored.key)
        path = link.url.partition(world.origin.authority)[2]
        if not path:
            return  # the store's own address: not ours to load
        answer = await world.timed("download", begun, "GET", path, virtual_user)
        if answer.body != data:
            text = f"{name} came back as {len(answer.body)} bytes that are not what was uploaded"
            world.oracle.breach(invariants.ALTERED, text, virtual_user=virtual_user.number)
