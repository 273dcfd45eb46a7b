"""Groups whose members mention each other, pin, mute, read and search, and take back what they wrote."""

from collections import deque
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from loadtest.oracle.mentions import NONE, Named
from loadtest.payloads import Message
from loadtest.scenarios.base import Cast, Common, Scenario, Share, Size, groups_of
from loadtest.scenarios.search import look
from loadtest.virtual_user import VirtualUser

if TYPE_CHECKING:
    from loadtest.world import World

FOR_EVER = "9999-12-31T23:59:59.999Z"
NAMED = 3  # members named in one message, at most
PINNED = 10  # messages in one conversation, about
CHANGES: tuple[dict[str, object], ...] = (
    {"archived": True},
    {"archived": False},
    {"favourite": True},
    {"favourite": False},
    {"notifications": {"mutedUntil": FOR_EVER}},
    {"notifications": {}},
)


class Parameters(Common, frozen=True, kw_only=True):
    MIX = ("writes", "edits", "deletions", "reads", "pins", "settings", "searches")
    members: Annotated[int, Meta(ge=2, description="of each group")] = 20
    groups: Annotated[int, Meta(ge=1, description="groups; no user is in two")] = 10
    writes: Annotated[float, Meta(ge=0, description="weight of messages among the arrivals")] = 40
    edits: Annotated[float, Meta(ge=0, description="weight of edits that change whom a message mentions")] = 5
    deletions: Annotated[float, Meta(ge=0, description="weight of deletions of one's last message")] = 2
    reads: Annotated[float, Meta(ge=0, description="weight of MarkRead")] = 20
    pins: Annotated[float, Meta(ge=0, description="weight of pins, and of pins that are taken away")] = 5
    settings: Annotated[float, Meta(ge=0, description="weight of settings of a conversation")] = 8
    searches: Annotated[float, Meta(ge=0, description="weight of searches")] = 20
    by_name: Annotated[float, Share, Meta(description="part of the messages that mention members by name")] = 0.3
    to_all: Annotated[
        float, Share, Meta(description="part of the messages that mention all, by the groups' owners")
    ] = 0.05
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="arrivals per second, in all")] = 100.0


class Mentions(Scenario):
    name = "mentions"
    stresses = "what counts for one and not for another: mentions, pins, settings and searches, among messages"
    example = "parley loadtest run mentions --dev --members 100 --groups 5 --rate 300"
    Parameters = Parameters

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._pinned: dict[str, deque[Message]] = {}  # by conversation, those of this worker, the first one first

    def cast(self) -> Cast:
        return groups_of(self.parameters.members, self.parameters.groups)

    def act(self, world: "World", due: float) -> None:
        given, rng = self.parameters, world.rng
        virtual_user = rng.choice(world.actors)
        conversation = virtual_user.conversations[0]
        acts = ("write", "edit", "delete", "read", "pin", "set", "search")
        weights = (
            *(given.writes, given.edits, given.deletions, given.reads, given.pins, given.settings),
            given.searches,
        )
        match rng.choices(acts, weights)[0]:
            case "edit" if virtual_user.last is not None:
                virtual_user.edit(due, given.size, self._chosen(world, virtual_user))
            case "delete" if virtual_user.last is not None:
                virtual_user.delete(due)
            case "read":
                virtual_user.mark_read(conversation, virtual_user.seen(conversation), due)
            case "pin" if (owner := self._owner(world, conversation)) is not None and owner.last is not None:
                self._pin(owner, owner.last, due)  # only an admin or the owner may
            case "set":
                virtual_user.set(conversation, rng.choice(CHANGES), due)
            case "search":
                own = virtual_user.last if rng.random() < 0.5 else None
                world.request(lambda: look(world, virtual_user, own, due))
            case _:
                virtual_user.send(conversation, due, given.size, self._chosen(world, virtual_user))

    def _chosen(self, world: "World", virtual_user: VirtualUser) -> Named:
        """Whom a message is to mention."""
        given, rng = self.parameters, world.rng
        members = world.conversations[virtual_user.conversations[0]].members
        chance = rng.random()
        if chance < given.by_name:
            some = rng.sample(members, rng.randint(1, min(NAMED, len(members))))
            return tuple(world.plan.ids[number] for number in some), False
        if chance < given.by_name + given.to_all and virtual_user.number == members[0]:
            return (), True
        return NONE

    def _pin(self, owner: VirtualUser, message: Message, due: float) -> None:
        """Pin it, or take the oldest pin away."""
        pinned = self._pinned.setdefault(message.conversation_id, deque())
        while pinned and pinned[0].id in owner.world.deleted:
            pinned.popleft()
        if pinned and (len(pinned) >= PINNED or message.id == pinned[-1].id):
            owner.pin(pinned.popleft(), due, is_pinned=False)
        else:
            pinned.append(message)
            owner.pin(message, due, is_pinned=True)

    @staticmethod
    def _owner(world: "World", conversation: str) -> VirtualUser | None:
        return world.virtual_users.get(world.conversations[conversation].members[0])
