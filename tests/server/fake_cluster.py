"""A single instance, for tests of its rooms."""

from collections.abc import Collection, Iterable
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

    async def want_many(self, conversation_ids: Collection[bytes]) -> None:
        await self.want_rooms(UUID(bytes=one) for one in conversation_ids)

    async def want_user(self, user_id: UUID) -> None:
        self.users.add(user_id)
        await trio.lowlevel.checkpoint()

    def drop_room(self, conversation_id: UUID) -> None:
        self.rooms.discard(conversation_id)

    def drop_many(self, conversation_ids: Collection[bytes]) -> None:
        for one in conversation_ids:
            self.drop_room(UUID(bytes=one))

    def drop_user(self, user_id: UUID) -> None:
        self.users.discard(user_id)
