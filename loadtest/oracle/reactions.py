"""The reactions of all clients of this worker, and what the messages show of them.

Owns what each client has acknowledged, by message and emoji. An act that was never answered may be done or not, and
late: from then on nothing is known of it. What is stored must be what is known, to the number.
"""

from collections.abc import Mapping

from loadtest.oracle import invariants
from loadtest.oracle.oracle import Oracle
from loadtest.payloads import Message

SHOWN = 10  # users named with each kind


class Reactions:
    __slots__ = ("_oracle", "_users")

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        # By message and emoji: of each user whether theirs is there; None: not known.
        self._users: dict[str, dict[str, dict[str, bool | None]]] = {}

    def holds(self, message_id: str, emoji: str, user_id: str) -> bool | None:
        return self._users.get(message_id, {}).get(emoji, {}).get(user_id, False)

    def ask(self, message_id: str, emoji: str, user_id: str) -> None:
        """It is asked for, or taken back: until the answer it may be either."""
        self._users.setdefault(message_id, {}).setdefault(emoji, {})[user_id] = None

    def answer(self, message_id: str, emoji: str, user_id: str, *, is_there: bool) -> None:
        """It was answered so; or refused, and is as it was."""
        self._users[message_id][emoji][user_id] = is_there

    def check(self, stored: Message) -> None:
        """A stored message shows what was acknowledged: of each kind as many, and of those the first ten."""
        known = self._users.get(stored.id, {})
        if stored.deleted_at is not None or not (known or stored.reactions):
            return
        self._oracle.checked[invariants.MISCOUNTED] += 1
        shown = {one.emoji: one for one in stored.reactions}
        for emoji in {*known, *shown}:
            users: Mapping[str, bool | None] = known.get(emoji, {})
            there = {user_id for user_id, is_there in users.items() if is_there}
            perhaps = {user_id for user_id, is_there in users.items() if is_there is None}
            found = shown.get(emoji)
            count, named = (found.count, found.user_ids) if found else (0, ())
            is_right = len(there) <= count <= len(there) + len(perhaps)
            if not is_right or len(named) != min(count, SHOWN) or not set(named) <= there | perhaps:
                text = (
                    f"{stored.id} shows {emoji} {count} times; {len(there)} are there, and perhaps {len(perhaps)} more"
                )
                self._oracle.breach(invariants.MISCOUNTED, text, conversation=stored.conversation_id)
