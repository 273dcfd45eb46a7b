"""A single instance, for tests of its rooms."""

from collections.abc import Iterable
from uuid import UUID

import trio


class FakeCluster:
    """`server.fanout.room.Subscriptions`: records what is wanted, and takes a scheduler step like the real one."""

    def __init__(self) -> None:
        self.rooms: set[UUID] = set()
        self.users: set[UUID] = set()

    async def want_rooms(self, conversation_ids: Iterable[UUID]) -> None:
        self.rooms.update(conversation_ids)
        await trio.lowlevel.checkpoint()

    async def want_user(self, user_id: UUID) -> None:
        self.users.add(user_id)
        await trio.lowlevel.checkpoint()

    def drop_room(self, conversation_id: UUID) -> None:
        self.rooms.discard(conversation_id)

    def drop_user(self, user_id: UUID) -> None:
        self.users.discard(user_id)
