"""One running instance: its services, its listeners, and how it drains.

Owns the order of life and death; the parts are built in `server.assembly`. The nurseries say who outlives whom:

    services        database pool, lanes, link to the other instances, flusher, gap repair, wheel, HTTP lifespan
    +- connections  one task per TCP connection
       +- listener  cancelled first: stop accepting, then let the connections go, then the services
"""

import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from server.admin.listener import AdminListener
from server.assembly.cluster import assemble_cluster
from server.assembly.handlers import assemble_handlers
from server.assembly.health import assemble_checks, assemble_liveness
from server.assembly.hub import assemble_hub
from server.assembly.rest import assemble_rest
from server.assembly.stores import assemble_stores
from server.config.checks import require
from server.config.listen_address import parse_listen, parse_peer_listen
from server.config.rate_limits import RateLimits
from server.config.reload import Difference, merge
from server.config.settings import Settings
from server.config.units import DAYS, SECONDS
from server.observability import logs
from server.observability.event_loop_lag import EventLoopLag
from server.process.supervisor import Run, Supervisor
from server.transport.listener import bind, place
from store.defects import guard
from store.errors import StoreError
from store.postgres.partitions import ensure_partitions
from store.postgres.pool import Pool
from store.redis.rate_limits import SharedRateLimits

if TYPE_CHECKING:
    from server.tracing.instance import Tracing

PARTITION_PERIOD = 1 * DAYS / 4  # between looks whether next months' partitions are there
PARTITION_RETRY = 30 * SECONDS
LANES_DRAIN = 10 * SECONDS  # for what was accepted into the lanes before the drain
STOP_SLACK = 30 * SECONDS  # beyond DRAIN_SECONDS: what the rest of the drain may take when everything is slow

log = structlog.get_logger("parley.app")


class Instance:
    """Every part of one instance, wired. What metrics and the admin socket show are attributes here."""

    def __init__(self, settings: Settings, tracing: "Tracing | None" = None) -> None:
        """`tracing`: OpenTelemetry, when it is on. Raises ConfigError."""
        require(settings)
        self.settings = settings
        self.supervisor = Supervisor()
        self.event_loop_lag = EventLoopLag()
        self.stores = stores = assemble_stores(settings)
        self.cluster = cluster = assemble_cluster(settings, stores, tracing)
        self.limits = RateLimits(settings, SharedRateLimits(stores.redis))
        self.handlers = assemble_handlers(settings, stores, cluster, self.limits, current=lambda: self.settings)
        self.hub_parts = hub = assemble_hub(settings, stores, cluster, self.handlers, self.limits)
        self.liveness = assemble_liveness(settings, cluster, self.event_loop_lag)
        self.checks = assemble_checks(stores, cluster, hub, self.supervisor)
        self.rest = rest = assemble_rest(
            settings,
            stores,
            cluster,
            self.handlers,
            hub,
            self.limits,
            checks=self.checks,
            liveness=self.liveness,
            tracing=tracing,
        )
        self.name = cluster.name
        self.pool, self.redis, self.instances = stores.pool, stores.redis, stores.instances
        self.rooms, self.lanes, self.publisher = cluster.rooms, cluster.lanes, cluster.publisher
        self.subscriptions, self.relay, self.membership = cluster.subscriptions, cluster.relay, cluster.membership
        self.transactions, self.receipts = cluster.transactions, cluster.receipts
        self.hub, self.forwarding, self.http_endpoint = hub.server, hub.forwarding, hub.http_endpoint
        self.http, self.listener, self.certificate = rest.http, rest.listener, rest.certificate
        self.requests, self.answers = rest.requests, rest.answers

    @property
    def pools(self) -> dict[str, Pool]:
        return self.stores.pools

    # -- running ----------------------------------------------------------------------------------

    def apply(self, wanted: Settings) -> Difference:
        """Take over what can be changed in a running process. Raises ConfigError."""
        require(wanted)
        self.settings, difference = merge(self.settings, wanted)
        logs.set_level(self.settings.log_level)
        self.limits.configure(self.settings)
        self.stores.signing.replace(self.settings.jwt_key, *self.settings.jwt_old_keys)
        if self.certificate is not None:
            self.certificate.reload()
        return difference

    def services(self) -> Sequence[tuple[str, Run]]:
        """Every task that serves the whole process, by the name of its part, in the order of their start. What one
        member or one party brings about in it is caught by the part's guard (`store.defects`)."""
        found: list[tuple[str, Run]] = [
            ("redis", self.redis.run),
            ("pool", self.pool.run),
            ("export_pool", self.stores.export_pool.run),
            ("lanes", self.lanes.run),
            ("sync", self.cluster.sync.run),
            ("flusher", self.cluster.flusher.run),
            ("wheel", self.hub_parts.wheel.run),
            ("poller", self.hub_parts.poller.run),
            ("repairs", self.rooms.repair.run),
            ("conversation_updates", self.cluster.notifier.run),
            ("ephemeral_events", self.cluster.ephemeral_events.run),
            ("presence", self.cluster.announcer.run),
            ("receipts", self.receipts.run),
            ("membership", self.membership.run),
            ("outbox_relay", self.relay.run),
            ("fallbacks", self.http_endpoint.run),
            ("http", self.http.run),
            ("event_loop_lag", self.event_loop_lag.run),
            ("liveness", self.liveness.run),
            ("partitions", self._keep_partitions),
            ("logs", logs.report_suppressed),
        ]
        if self.stores.read_pool is not None:
            found.append(("read_pool", self.stores.read_pool.run))
        if self.hub_parts.keys is not None:
            found.append(("keys", self.hub_parts.keys.run))
        if self.certificate is not None:
            found.append(("certificate", self.certificate.run))
        return found

    async def run(
        self, socks: Sequence[socket.socket], *, stop: trio.Event, hurry: trio.Event, ready: Callable[[], None]
    ) -> None:
        """Serve `socks` until `stop`, then drain (at once when `hurry` is set), then end. Closes them."""
        async with trio.open_nursery() as services:
            services.start_soon(_pass_on, self.supervisor.give_up, stop)
            for part, run in self.services():
                await services.start(self.supervisor.keep, part, run)
            where, port = place(socks[0])
            name = self.settings.instance or (str(port) if port else Path(where).stem)
            admin = AdminListener(self, self.settings.admin_listen, stop.set, name=name)
            await services.start(self.supervisor.keep, "admin", admin.run)
            shared = isinstance(parse_listen(self.settings.listen), str)
            async with trio.open_nursery() as connections:
                if self.settings.peer_listen:
                    peers = partial(self._listen_to_peers, connections)
                    await connections.start(self.supervisor.keep, "peer_listener", peers)
                async with trio.open_nursery() as listeners:
                    for sock in socks:
                        accept = partial(self.listener.run, sock, connections, shared=shared)
                        await listeners.start(self.supervisor.keep, "listener", accept)
                    ready()
                    await stop.wait()
                    self.hub.draining = True  # not ready from here on
                    listeners.cancel_scope.cancel()
                for sock in socks:
                    self.listener.close(sock, connections)
                async with trio.open_nursery() as drain:
                    drain.start_soon(self._bound, drain.cancel_scope)
                    await self._drain(hurry)
                    drain.cancel_scope.cancel()
                self.http.hang_up()
                connections.cancel_scope.cancel()
            services.cancel_scope.cancel()

    async def _listen_to_peers(
        self, connections: trio.Nursery, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Also during a drain: connections that are still here have requests that come to other instances."""
        where = parse_peer_listen(self.settings.peer_listen)
        assert where is not None  # else it is not called
        sock = bind(where)
        try:
            host, port = place(sock)
            self.forwarding.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            await self.rest.peer_listener.run(sock, connections, task_status=task_status)
        finally:
            sock.close()

    async def _bound(self, drain: trio.CancelScope) -> None:
        """A drain ends by itself; only not when a part is lost, before or while it goes on, on which its clients' time
        limits rest."""
        await self.supervisor.give_up.wait()
        drain.deadline = trio.current_time() + self.settings.drain_seconds + STOP_SLACK

    async def _drain(self, hurry: trio.Event) -> None:
        """Clients are asked to connect elsewhere, what was accepted is committed and answered."""
        seconds = self.settings.drain_seconds
        log.info("draining", connections=len(self.hub.connections), seconds=seconds)
        end = trio.current_time() + seconds
        self.http.retire()
        await self.hub.drain(seconds, hurry)
        async with trio.open_nursery() as nursery:
            # Clients that keep a connection for their next request learn with the answer that they should not.
            nursery.cancel_scope.deadline = end
            nursery.start_soon(_cancel_when, hurry, nursery.cancel_scope)
            await self.listener.wait_empty()
            nursery.cancel_scope.cancel()
        await self.http.stop()
        with trio.move_on_after(self.settings.shutdown_timeout):
            await self.listener.wait_empty()
        with trio.move_on_after(LANES_DRAIN):
            await self.lanes.drain()
            await self.receipts.drain()
            await self.publisher.drain()
        await self.membership.leave(self.settings.presence_grace)

    async def _keep_partitions(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Next months' partitions are made long before they are needed; a failure is only worth a line."""
        task_status.started()
        while True:
            try:
                async with self.pool.connection() as conn:
                    await ensure_partitions(conn, datetime.now(UTC))
            except StoreError as error:
                log.warning("partitions_not_checked", reason=str(error), advice="it is tried again by itself")
                await trio.sleep(PARTITION_RETRY)
            except Exception as error:  # there are months in which to mend it
                guard("partitions").caught(error, "partitions_not_checked")
                await trio.sleep(PARTITION_RETRY)
            else:
                await trio.sleep(PARTITION_PERIOD)


async def _pass_on(event: trio.Event, other: trio.Event) -> None:
    await event.wait()
    other.set()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
