"""The end of a run: what was sent and seen is compared with what the API says is stored.

Owns the paging of histories, and the comparison. One worker audits the conversations of its own people.
"""

from itertools import pairwise
from typing import TYPE_CHECKING

import trio

from loadtest.oracle import contents, promises
from loadtest.oracle.convergence import Convergence
from loadtest.oracle.oracle import Ledger
from loadtest.payloads import Message, MessagePage
from loadtest.rest import RestError

if TYPE_CHECKING:
    from loadtest.player import Player
    from loadtest.stage import Stage

PAGE = 200  # messages
AT_ONCE = 8  # conversations read at once
RETRY_AFTER = 0.5  # seconds: a restarted server may need them
POLL = 0.2  # seconds between two looks at whether everybody has everything


class Audit:
    """Made once, at the end. `patience` is how long everybody may take to see what is stored."""

    def __init__(self, stage: "Stage", patience: float) -> None:
        self._stage = stage
        self._oracle = stage.oracle
        self._patience = patience
        self._found: dict[int, set[int]] = {}  # numbers of stored sends, by player

    async def run(self) -> None:
        stage, limit = self._stage, trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for conversation in stage.conversations:
                nursery.start_soon(self._conversation, conversation, limit)
        self._missing()
        await Convergence(stage, self._patience).run()

    async def _conversation(self, conversation: str, limit: trio.CapacityLimiter) -> None:
        async with limit:
            members = self._members(conversation)
            if not self._oracle.ledger(conversation).head and not any(player.acknowledged for player in members):
                return  # nothing was ever said there
            stored = await self._history(conversation, members)
            self._oracle.checked["stored messages"] += len(stored)
            self._compare(conversation, stored)
            changed = {message.seq: message.changed_seq for message in stored}
            overtaken = Overtaken(stored, self._oracle.ledger(conversation))
            for player in members:
                view = player.views.get(conversation)
                if view is not None and player.online:
                    view.finish(changed, overtaken)

    def _members(self, conversation: str) -> list["Player"]:
        numbers = self._stage.conversations[conversation].members
        return [self._stage.players[number] for number in numbers if number in self._stage.players]

    async def _history(self, conversation: str, members: list["Player"]) -> list[Message]:
        """All of it; what was committed while we were reading or waiting, too."""
        stored: list[Message] = []
        while True:
            after = stored[-1].seq if stored else 0
            page = await self._page(conversation, members[0].person.token, after)
            before = [after, *(message.seq for message in page)]
            if any(seq >= following for seq, following in pairwise(before)):
                text = f"the stored messages of {conversation} after {after} come out of order, or again"
                self._oracle.breach(promises.ORDER, text, conversation=conversation)
                return stored  # paging on might never end
            stored += page
            if len(page) < PAGE:
                head = max((message.changed_seq for message in stored), default=0)
                await self._caught_up(members, conversation, head)
                if not page or not self._stage.under_way:
                    return stored

    async def _page(self, conversation: str, token: str, after: int) -> tuple[Message, ...]:
        deadline = trio.current_time() + self._patience
        while True:
            try:
                query = {"conversationId": conversation, "after": after, "limit": PAGE}
                return (await self._stage.rest.get("/api/messages", token, MessagePage, **query)).items
            except RestError as error:
                if trio.current_time() > deadline or 400 <= error.status < 500:
                    raise
            await trio.sleep(RETRY_AFTER)

    async def _caught_up(self, members: list["Player"], conversation: str, head: int) -> None:
        """What is stored may still be on its way; then it is late, but not lost."""
        with trio.move_on_after(self._patience):
            while any(player.online and not player.views[conversation].has(head) for player in members):
                await trio.sleep(POLL)

    def _compare(self, conversation: str, stored: list[Message]) -> None:
        ledger = self._oracle.ledger(conversation)
        for message in stored:
            self._oracle.read(message, -1)
            if not ledger.agrees(message.changed_seq, message.id):
                text = (
                    f"{message.id} is stored as change {message.changed_seq} of {conversation}; others were seen there"
                )
                self._oracle.breach(promises.DIVERGED, text, conversation=conversation)
            self._stored(conversation, message)
        there = {hash(message.id) for message in stored}
        for seq, shown in enumerate(ledger.ids):
            if shown and shown not in there:
                text = f"the message of change {seq} of {conversation} was seen, but is not stored"
                self._oracle.breach(promises.PHANTOM, text, conversation=conversation)

    def _stored(self, conversation: str, message: Message) -> None:
        """A send of one of ours, or of somebody else's."""
        key = contents.parse_key(self._stage.run, message.client_message_id)
        player = self._stage.players.get(key.player) if key is not None else None
        if key is None or player is None:
            return
        found = self._found.setdefault(key.player, set())
        if key.number in found:
            text = f"send {key.number} of p{key.player} is stored twice, the second time as {message.id}"
            self._oracle.breach(promises.DOUBLED, text, player=key.player)
        found.add(key.number)
        acknowledged = player.acknowledged
        if acknowledged is None or key.number >= len(acknowledged):
            text = f"{message.client_message_id} is stored, but was never sent"
            self._oracle.breach(promises.PHANTOM, text, player=key.player)
        elif acknowledged[key.number] not in (0, hash(message.id)):
            text = f"send {key.number} of p{key.player} was acknowledged as another message than {message.id}"
            self._oracle.breach(promises.MISSING, text, player=key.player)
        if message.sender_id != player.person.id:
            text = f"send {key.number} of p{key.player} is stored as sent by {message.sender_id}"
            self._oracle.breach(promises.ALTERED, text, player=key.player)

    def _missing(self) -> None:
        for player in self._stage.players.values():
            found = self._found.get(player.number, set())
            for number, shown in enumerate(player.acknowledged or ()):
                if shown and number not in found:
                    text = f"send {number} of p{player.number} was acknowledged, but is not stored"
                    self._oracle.breach(promises.MISSING, text, player=player.number)


class Overtaken:
    """Whether a change was replaced by a later one to the same message.

    Where another client saw the change the ledger knows which message it was; else any stored message whose life spans
    the change may have been it.
    """

    def __init__(self, stored: list[Message], ledger: Ledger) -> None:
        self._edited = [(message.seq, message.changed_seq) for message in stored if message.changed_seq > message.seq]
        self._last = {hash(message.id): message.changed_seq for message in stored}
        self._ledger = ledger

    def __call__(self, change: int) -> bool:
        known = self._ledger.ids[change] if change < len(self._ledger.ids) else 0
        if known:
            return self._last.get(known, 0) > change
        return any(seq <= change < changed for seq, changed in self._edited)
