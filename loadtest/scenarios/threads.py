"""Groups that talk in threads: replies, some in the conversation as well, and who follows and reads them."""

from collections import deque
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from loadtest.oracle.mentions import NONE, Named
from loadtest.payloads import Message
from loadtest.scenarios.base import Cast, Common, Scenario, Share, Size, groups_of
from loadtest.virtual_user import VirtualUser

if TYPE_CHECKING:
    from loadtest.world import World


class Parameters(Common, frozen=True, kw_only=True):
    MIX = ("writes", "replies", "deletions", "follows", "marks", "reads", "pages")
    members: Annotated[int, Meta(ge=2, description="of each group")] = 100
    groups: Annotated[int, Meta(ge=1, description="groups; no user is in two")] = 4
    threads: Annotated[int, Meta(ge=1, description="threads of a group that are replied to, those that began last")] = 5
    writes: Annotated[float, Meta(ge=0, description="weight of messages that may become roots, among the arrivals")] = 5
    replies: Annotated[float, Meta(ge=0, description="weight of replies")] = 70
    deletions: Annotated[float, Meta(ge=0, description="weight of deletions of one's last reply")] = 3
    follows: Annotated[float, Meta(ge=0, description="weight of FollowThread and UnfollowThread")] = 5
    marks: Annotated[float, Meta(ge=0, description="weight of MarkThreadRead")] = 15
    reads: Annotated[float, Meta(ge=0, description="weight of MarkRead")] = 5
    pages: Annotated[float, Meta(ge=0, description="weight of pages of the main history")] = 2
    also: Annotated[float, Share, Meta(description="part of the replies that are in the conversation as well")] = 0.1
    by_name: Annotated[float, Share, Meta(description="part of the replies that mention a member by name")] = 0.1
    page: Annotated[int, Meta(ge=1, le=10000, description="messages in a page of the history")] = 50
    size: Size = 100
    rate: Annotated[float, Meta(ge=0, description="arrivals per second, in all")] = 200.0


class Threads(Scenario):
    name = "threads"
    stresses = "a thread-heavy group: replies to few roots, counted exactly, ten changes of a root a second at most"
    example = "parley loadtest run threads --dev --members 1000 --groups 1 --rate 500"
    Parameters = Parameters

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self._roots: dict[str, deque[Message]] = {}  # by conversation, those of this worker, the first one first

    def cast(self) -> Cast:
        return groups_of(self.parameters.members, self.parameters.groups)

    def act(self, world: "World", due: float) -> None:
        given, rng = self.parameters, world.rng
        virtual_user = rng.choice(world.actors)
        conversation = virtual_user.conversations[0]
        roots = self._roots.setdefault(conversation, deque(maxlen=given.threads))
        last = virtual_user.last
        if last is not None and last.thread_id is None and last not in roots:
            roots.append(last)
        acts = ("write", "reply", "delete", "follow", "mark", "read", "page")
        weights = (
            *(given.writes, given.replies, given.deletions, given.follows, given.marks, given.reads),
            given.pages,
        )
        match rng.choices(acts, weights)[0]:
            case "reply" if roots:
                named = self._chosen(world, virtual_user)
                virtual_user.reply(rng.choice(roots), due, given.size, named, also=rng.random() < given.also)
            case "delete" if last is not None and last.thread_id is not None:
                virtual_user.delete(due)
            case "follow" if roots:
                virtual_user.follow(rng.choice(roots), due, is_following=rng.random() < 0.5)
            case "mark" if roots:
                virtual_user.mark_thread_read(rng.choice(roots), virtual_user.seen(conversation), due)
            case "read":
                virtual_user.mark_read(conversation, virtual_user.seen(conversation), due)
            case "page":
                virtual_user.read_history(conversation, due, given.page)
            case "write":
                virtual_user.send(conversation, due, given.size)
            case _ if not roots:
                virtual_user.send(conversation, due, given.size)
            case _:
                virtual_user.reply(rng.choice(roots), due, given.size)

    def _chosen(self, world: "World", virtual_user: VirtualUser) -> Named:
        """Whom a reply is to mention."""
        if world.rng.random() >= self.parameters.by_name:
            return NONE
        members = world.conversations[virtual_user.conversations[0]].members
        return (world.plan.ids[world.rng.choice(members)],), False
