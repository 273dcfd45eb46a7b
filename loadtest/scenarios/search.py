"""People who look for what was written."""

from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta

from loadtest.oracle import contents
from loadtest.oracle.finds import check_finds
from loadtest.payloads import Message, SearchPage
from loadtest.scenarios.base import Cast, Common, Scenario, Share, Size, pairs_of
from loadtest.virtual_user import VirtualUser

if TYPE_CHECKING:
    from loadtest.world import World

SOON = 5.0  # seconds after which a message has to be found


class Parameters(Common, frozen=True, kw_only=True):
    pairs: Annotated[int, Meta(ge=1, description="conversations of two")] = 50
    writes: Annotated[float, Share, Meta(description="part of the arrivals that are messages")] = 0.5
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="searches and messages per second, in all")] = 100.0


class Search(Scenario):
    name = "search"
    stresses = "search: words that are everywhere and words that are rare, among messages"
    example = "parley loadtest run search --dev --rate 200"
    Parameters = Parameters
    judged = "search"

    def cast(self) -> Cast:
        return pairs_of(2 * self.parameters.pairs)

    def act(self, world: "World", due: float) -> None:
        virtual_user = world.rng.choice(world.actors)
        if world.rng.random() < self.parameters.writes or virtual_user.last is None:
            virtual_user.send(virtual_user.conversations[0], due, self.parameters.size)
            return
        own = virtual_user.last if world.rng.random() < 0.5 else None
        world.request(lambda: look(world, virtual_user, own, due))


async def look(world: "World", virtual_user: VirtualUser, own: Message | None, due: float) -> None:
    """For one's own last message by its key, or for words that all have."""
    text, words = "quick fox", ["quick", "fox"]
    if own is not None:
        text, words = f'"{own.client_message_id}"', [str(own.client_message_id)]
    world.note_search()
    gone = frozenset(world.deleted)
    answer = await world.timed("search", due, "GET", f"/api/search/messages?q={quote(text)}", virtual_user)
    page = msgspec.json.decode(answer.body, type=SearchPage)
    found = [hit.message for hit in page.items]
    conversations = virtual_user.conversations
    check_finds(world.oracle, virtual_user.number, found, words=words, conversations=conversations, gone=gone)
    if own is None or own.id in world.deleted or any(message.id == own.id for message in found):
        return
    sent = contents.read_content(own.client_message_id or "", own.content)
    if sent is not None and due - sent > SOON:
        world.recorder.error("search_missed")
