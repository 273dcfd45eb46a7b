"""The end of a run: the histories are read by the API, and compared with what was sent and seen.

Owns the paging, and the patience with what is stored and still on its way. One worker audits the conversations of its
own people. The comparison is `loadtest.oracle.reconciliation`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import trio

from loadtest.history_record import write_stored
from loadtest.oracle import invariants
from loadtest.oracle.convergence import Convergence
from loadtest.oracle.reconciliation import Reconciliation
from loadtest.oracle.standing import Newest
from loadtest.oracle.threads import behind
from loadtest.payloads import SYSTEM, Message, MessagePage
from loadtest.rest import RestError

if TYPE_CHECKING:
    from loadtest.virtual_user import VirtualUser
    from loadtest.world import World

PAGE = 200  # messages
THREADS = 10  # of each conversation that are paged
AT_ONCE = 8  # conversations read at once
RETRY_AFTER = 0.5  # seconds: a restarted server may need them
REMOVED = "memberRemoved"  # the event in a System message
POLL = 0.2  # seconds between two looks at whether everybody has everything


class Audit:
    """Made once, at the end. `patience` is how long everybody may take to see what is stored."""

    def __init__(self, world: "World", patience: float) -> None:
        self._world = world
        self._oracle = world.oracle
        self._patience = patience
        self._reconciliation = Reconciliation(
            world.oracle, world.virtual_users, world.reactions, world.pins, world.threads
        )
        self._newest: dict[str, Newest] = {}
        self._removed: dict[str, list[VirtualUser]] = {}  # by conversation: who was removed from it
        for virtual_user in world.virtual_users.values():
            for conversation in virtual_user.removed:
                self._removed.setdefault(conversation, []).append(virtual_user)

    async def run(self) -> None:
        world, limit = self._world, trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for conversation in world.conversations:
                nursery.start_soon(self._conversation, conversation, limit)
        self._reconciliation.missing()
        await Convergence(world, self._patience, self._newest).run()
        self._settled()

    def _settled(self) -> None:
        for virtual_user in self._world.virtual_users.values():
            if virtual_user.record is not None and virtual_user.online:
                for conversation in virtual_user.views:
                    virtual_user.record.settled(conversation)

    async def _conversation(self, conversation: str, limit: trio.CapacityLimiter) -> None:
        async with limit:
            members = self._members(conversation)
            if not self._oracle.ledger(conversation).head and not any(
                virtual_user.acknowledged for virtual_user in members
            ):
                return  # nothing was ever said there
            stored = await self._shown(conversation, members)
            self._oracle.checked["stored messages"] += len(stored)
            if self._world.recording is not None:
                write_stored(self._world.recording, conversation, stored)
            views = (virtual_user.views.get(conversation) for virtual_user in members if virtual_user.online)
            is_whole = len(members) == len(self._world.conversations[conversation].members)
            self._reconciliation.compare(
                conversation, stored, [view for view in views if view is not None], is_whole=is_whole
            )
            for virtual_user in self._removed.get(conversation, ()):
                last = removal(stored, virtual_user.user_id)
                if last is not None:
                    virtual_user.refusals.see_change(conversation, virtual_user.removed[conversation], last)
            newest = self._newest[conversation] = Newest(stored)
            if newest.threads:
                await self._threads(conversation, members[0].person.token, stored, newest)
            if is_whole and conversation in self._world.pins.conversations:
                pins = await self._page(f"/api/conversations/{conversation}/pins", members[0].person.token, limit=PAGE)
                self._world.pins.check_list(conversation, pins.items, stored)

    def _members(self, conversation: str) -> list["VirtualUser"]:
        numbers = self._world.conversations[conversation].members
        return [self._world.virtual_users[number] for number in numbers if number in self._world.virtual_users]

    async def _shown(self, conversation: str, members: list["VirtualUser"]) -> list[Message]:
        """All that is stored, once its roots show their replies, or the patience ends."""
        deadline = trio.current_time() + self._patience
        while True:
            stored = await self._history(conversation, members)
            if not behind(stored) or trio.current_time() > deadline:
                return stored
            await trio.sleep(RETRY_AFTER)

    async def _threads(self, conversation: str, token: str, stored: list[Message], newest: Newest) -> None:
        """The main history, and some of the threads, as members page them."""
        main, at = list[Message](), "0"
        while True:
            page = await self._page("/api/messages", token, limit=PAGE, conversationId=conversation, after=at)
            main += page.items
            if page.next is None:
                break
            at = page.next
        self._world.threads.check_main(conversation, main, stored)
        for root_id in self._world.rng.sample(sorted(newest.threads), min(THREADS, len(newest.threads))):
            listed, after = list[Message](), 0
            while True:
                page = await self._page(f"/api/messages/{root_id}/replies", token, limit=PAGE, after=after)
                listed += page.items
                if page.next is None or not page.items:
                    break
                after = page.items[-1].seq
            self._world.threads.check_replies(root_id, listed, newest.threads[root_id])

    async def _history(self, conversation: str, members: list["VirtualUser"]) -> list[Message]:
        """All of it; what was committed while we were reading or waiting, too."""
        stored: list[Message] = []
        while True:
            after = stored[-1].seq if stored else 0
            query = {"conversationId": conversation, "after": after, "replies": "true"}
            page = await self._page("/api/messages", members[0].person.token, limit=PAGE, **query)
            before = [after, *(message.seq for message in page.items)]
            if any(seq >= following for seq, following in pairwise(before)):
                text = f"the stored messages of {conversation} after {after} come out of order, or again"
                self._oracle.breach(invariants.ORDER, text, conversation=conversation)
                return stored  # paging on might never end
            stored += page.items
            if page.next is None or not page.items:
                head = max((message.changed_seq for message in stored), default=0)
                await self._caught_up(members, conversation, head)
                if not page.items or not self._world.under_way:
                    return stored

    async def _page(self, path: str, token: str, **query: object) -> MessagePage:
        deadline = trio.current_time() + self._patience
        while True:
            try:
                return await self._world.rest.get(path, token, MessagePage, **query)
            except RestError as error:
                if trio.current_time() > deadline or 400 <= error.status < 500:
                    raise
            await trio.sleep(RETRY_AFTER)

    async def _caught_up(self, members: list["VirtualUser"], conversation: str, head: int) -> None:
        """What is stored may still be on its way; then it is late, but not lost."""
        with trio.move_on_after(self._patience):
            while any(
                virtual_user.online and not virtual_user.views[conversation].has(head) for virtual_user in members
            ):
                await trio.sleep(POLL)


def removal(stored: Sequence[Message], user_id: str) -> int | None:
    """The change by which a user was removed last; None: there is none."""
    for message in reversed(stored):
        if message.type == SYSTEM and message.content is not None and user_id in message.content:
            said = msgspec.json.decode(message.content)
            if said.get("event") == REMOVED and said.get("userId") == user_id:
                return message.seq
    return None
