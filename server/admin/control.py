"""The actions of an operator on a running instance: end connections, change the log level, drain it.

Owns no state; acts on the parts of the instance.
"""

import time
from collections.abc import Callable, Iterable
from typing import Protocol
from uuid import UUID

import structlog

from handlers.errors import ChatError
from handlers.text_rules import is_text
from server.admin.schemas import InstanceView, Killed, Status
from server.admin.snapshots import renewed_ago
from server.cluster.publisher import Publisher
from server.cluster.subscriptions import Subscriptions
from server.config.declaration import settings_of
from server.config.settings import Settings
from server.fanout.rooms import Rooms
from server.hub.server import HubServer
from server.observability import logs
from server.observability.liveness import Liveness
from server.observability.version import version
from store.postgres.pool import Pool
from store.postgres.users import fetch_user_by_name
from store.redis.inbox_entries import killing_of
from store.redis.instances import Instances

KILLED = "unavailable: An operator has ended this connection; connect again."

log = structlog.get_logger("parley.admin")


class Parts(Protocol):
    """The parts of an instance that operators act on (`server.instance.Instance`)."""

    name: str
    settings: Settings
    hub: HubServer
    rooms: Rooms
    pool: Pool
    publisher: Publisher
    subscriptions: Subscriptions
    instances: Instances
    liveness: Liveness


class Control:
    def __init__(self, parts: Parts, drain: Callable[[], None], *, pid: int) -> None:
        self._parts = parts
        self._drain = drain
        self._pid = pid
        self._began = time.monotonic()

    # -- asking -----------------------------------------------------------------------------------

    def status(self) -> Status:
        parts = self._parts
        return Status(
            name=parts.name,
            instance=parts.subscriptions.instance,
            pid=self._pid,
            version=version(),
            seconds=round(time.monotonic() - self._began, 1),
            connections=len(parts.hub.connections),
            draining=parts.hub.draining,
            hangs=parts.liveness.verdict(),
        )

    def list_settings(self) -> dict[str, str]:
        """Return the settings that are not as they are by default, as they are written. What may be secret is left out,
        and so are providers, which are no texts."""
        settings = self._parts.settings
        return {
            name.upper(): declared.kind.show(value)
            for name, declared in settings_of(Settings).items()
            if declared.kind.redact is None and (value := getattr(settings, name)) != declared.default
        }

    async def list_instances(self) -> list[InstanceView]:
        """Return all instances that are registered in Redis. Raises Unavailable."""
        mine = self._parts.subscriptions.instance
        return [
            InstanceView(
                instance=known.instance,
                alive=known.alive,
                seconds=renewed_ago(known.renewed_at),
                users=known.users,
                rooms=known.rooms,
                this=known.instance == mine,
            )
            for known in await self._parts.instances.list_all()
        ]

    async def find_user(self, id_or_name: str) -> UUID:
        """Return the id of a user. Raises ChatError if no user has that name, StoreError."""
        try:
            return UUID(id_or_name)
        except ValueError:
            pass
        user = None
        if is_text(id_or_name) and "\0" not in id_or_name:  # PostgreSQL refuses such texts
            async with self._parts.pool.connection() as conn:
                user = await fetch_user_by_name(conn, id_or_name)
        if user is None:
            raise ChatError("not_found", f"There is no user {id_or_name!r}.")
        return user.id

    # -- doing ------------------------------------------------------------------------------------

    def kill(self, connection_id: str) -> None:
        """End one connection of this instance; its client may connect again. Raises ChatError."""
        connection = next((one for one in self._parts.hub.connections if one.connection_id == connection_id), None)
        if connection is None:
            raise ChatError("not_found", "There is no such connection on this instance.")
        log.warning("connection_killed", connection=connection_id, user=str(connection.user_id))
        connection.end(KILLED, allow_reconnect=True)

    async def kill_user(self, user_id: UUID) -> Killed:
        """End every connection of a user, on every instance. Raises Unavailable.

        The user's sessions are not ended: with a valid token they may connect again. Connections here end before this
        returns; other instances get the message through their inboxes, and end theirs when they read it. While this
        instance is not registered in Redis only the connections here are ended, which `registered` in the answer shows.
        One that is cut off from Redis ends its connections when it is back: it is noted before the user's instances are
        looked up, so that one that registers meanwhile has found the note, or is found. Both come before anything is
        ended here, so that if Redis fails the operator may repeat it.
        """
        here = len(self._parts.rooms.connections_of(user_id))
        disconnection = killing_of(user_id)
        mine = self._parts.subscriptions.instance
        others: Iterable[str] = ()
        if mine:
            await self._parts.instances.note_killed(user_id)
            _, present = await self._parts.instances.list_interested((), (user_id,))
            others = (name for name in present[user_id] if name != mine)
            self._parts.publisher.send((disconnection,))
        log.warning("user_killed", user=str(user_id), connections=here)
        self._parts.rooms.disconnect(disconnection)
        return Killed(user_id, here, sorted(others), bool(mine))

    def set_log_level(self, level: str) -> None:
        """Change the level from which events are logged. Raises ChatError."""
        if level not in logs.LEVELS:
            raise ChatError("invalid_request", f"The level is one of {', '.join(logs.LEVELS)}.")
        logs.set_level(level)
        log.warning("log_level", level=level)

    def drain(self) -> None:
        """Begin to drain, as SIGTERM does: clients reconnect elsewhere, accepted messages are committed."""
        log.info("drain_asked")
        self._drain()
