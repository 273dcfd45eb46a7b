"""What need not be right at once, but must become so: receipts and presence.

Owns the looking, again and again, until all is as it must be or the patience ends.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from loadtest.oracle import invariants
from loadtest.payloads import Joined, UserStatus

if TYPE_CHECKING:
    from loadtest.virtual_user import Player
    from loadtest.world import Stage

POLL = 0.25  # seconds
CALL = 10.0  # seconds for an answer
ASKED = 200  # users in one GetPresence: the server's limit
ASKING = 50  # players who ask for the presence of others
ONLINE, OFFLINE = "Online", "Offline"


class Convergence:
    def __init__(self, stage: "Stage", patience: float) -> None:
        self._stage = stage
        self._oracle = stage.oracle
        self._patience = patience
        self._deadline = 0.0  # one for all: many that are wrong must not each take the whole patience

    async def run(self) -> None:
        self._deadline = trio.current_time() + self._patience
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receipts)
            nursery.start_soon(self._presence)
            nursery.start_soon(self._told)

    async def _until(self, wrong: "Callable[[], Any]") -> list[tuple["Player", str]]:
        """What `wrong` still finds when the patience ends; nothing, as soon as it finds nothing."""
        while True:
            found: list[tuple[Player, str]] = await wrong()
            if not found or trio.current_time() > self._deadline:
                return found
            await trio.sleep(POLL)

    # -- receipts --------------------------------------------------------------------------------

    async def _receipts(self) -> None:
        """P6: every acknowledged MarkRead is where it was put, or further on, and never past the head."""
        marked: dict[str, list[Player]] = {}
        for player in self._stage.players.values():
            for conversation in player.marked:
                marked.setdefault(conversation, []).append(player)

        for conversation, players in marked.items():
            self._oracle.checked[invariants.RECEIPT] += len(players)

            async def wrong(conversation: str = conversation, players: Sequence["Player"] = players) -> Any:
                joined = await self._ask(players, "JoinConversation", (conversation,), Joined)
                return unanswered(players, "receipts") if joined is None else low(joined, conversation, players)

            for player, text in await self._until(wrong):
                self._oracle.breach(invariants.RECEIPT, text, player=player.number)

    # -- presence --------------------------------------------------------------------------------

    async def _presence(self) -> None:
        """P7: who asks is told the truth about everybody of ours whom she talks with."""
        players = [player for player in self._stage.players.values() if player.online]
        for player in self._stage.rng.sample(players, min(ASKING, len(players))):
            truth = self._truth_for(player)
            self._oracle.checked[invariants.PRESENCE] += len(truth)

            async def wrong(player: "Player" = player, truth: Mapping[str, str] = truth) -> Any:
                found = await self._ask([player], "GetPresence", (list(truth),), list[UserStatus])
                told = {one.user_id: one.status for one in found or ()}
                if found is None:
                    return unanswered([player], "presence")
                return [(player, text) for text in differences(told, truth)]

            for asker, text in await self._until(wrong):
                self._oracle.breach(invariants.PRESENCE, f"p{asker.number} asked: {text}", player=asker.number)

    async def _told(self) -> None:
        """P7: the last thing that was told of somebody is true."""
        truth = self._truth()

        async def wrong() -> Any:
            return [
                (player, text)
                for player in self._stage.players.values()
                if player.online
                for text in differences(player.peers, {user: truth[user] for user in player.peers if user in truth})
            ]

        for player, text in await self._until(wrong):
            self._oracle.breach(invariants.PRESENCE, f"p{player.number} was told: {text}", player=player.number)

    def _truth(self) -> dict[str, str]:
        players = self._stage.players.values()
        return {player.person.id: ONLINE if player.online else OFFLINE for player in players}

    def _truth_for(self, player: "Player") -> dict[str, str]:
        stage = self._stage
        numbers = {number for key in player.conversations for number in stage.conversations[key].members}
        players = [stage.players[number] for number in sorted(numbers) if number in stage.players]
        return {one.person.id: ONLINE if one.online else OFFLINE for one in players[:ASKED]}

    async def _ask(self, players: Sequence["Player"], target: str, arguments: Sequence[object], kind: Any) -> Any:
        """The answer that the first of them who is online gets; None when there is none."""
        asker = next((player for player in players if player.online), None)
        if asker is None:
            return None
        answered, answer = trio.Event(), None

        def done(result: Any) -> None:
            nonlocal answer
            answer = result
            answered.set()

        asker.call(target, arguments, done, kind)
        with trio.move_on_after(CALL):
            await answered.wait()
        return answer


def unanswered(players: Sequence["Player"], what: str) -> list[tuple["Player", str]]:
    """What is not told cannot be true: only who is not there to ask is excused."""
    return [(player, f"nobody told p{player.number} of {what}") for player in players if player.online][:1]


def low(joined: Joined, conversation: str, players: Sequence["Player"]) -> list[tuple["Player", str]]:
    """Whose stored receipt is below what was acknowledged to her, or past the end."""
    stored = {cursor.user_id: cursor.read_seq for cursor in joined.cursors}
    found = []
    for player in players:
        marked, is_at = player.marked[conversation], stored.get(player.person.id, 0)
        if not marked <= is_at <= joined.last_seq:
            text = f"p{player.number} has read up to {is_at} of {conversation}, not {marked} (head {joined.last_seq})"
            found.append((player, text))
    return found


def differences(told: Mapping[str, str], truth: Mapping[str, str]) -> list[str]:
    return [f"{user} is {told.get(user)}, not {status}" for user, status in truth.items() if told.get(user) != status]
