"""One running instance: starts its services and listeners, and drains them.

Owns the order of start and end; `server.assembly` builds the parts. Inner nurseries end before outer ones:

    services        database pool, lanes, membership, flusher, gap repair, timer wheel, HTTP lifespan
    +- connections  one task per TCP connection, but for idle WebSockets: these have a common owner
       +- listener  cancelled first: stop accepting, then end the connections, then the services
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog
import trio

from server.admin.listener import AdminListener
from server.assembly.cluster import assemble_cluster
from server.assembly.handlers import assemble_handlers
from server.assembly.health import assemble_checks, assemble_liveness
from server.assembly.hub import assemble_hub
from server.assembly.rest import assemble_rest
from server.assembly.startup import Startup
from server.assembly.stores import assemble_stores
from server.config.checks import require
from server.config.listen_address import parse_listen, parse_peer_listen
from server.config.rate_limits import RateLimits
from server.config.reload import Difference, merge
from server.config.settings import Settings
from server.config.units import DAYS, SECONDS
from server.observability import logs
from server.observability.event_loop_lag import EventLoopLag
from server.observability.health_checks import HealthChecks
from server.process.garbage_collector import GarbageCollector
from server.process.supervisor import Run, Supervisor
from server.rest.routes.health import CHECK_TIMEOUT
from server.transport.sockets import address_of, bind
from store.defects import guard
from store.errors import StoreError
from store.postgres.partitions import ensure_partitions
from store.postgres.pool import Pool
from store.redis.rate_limits import SharedRateLimits

if TYPE_CHECKING:
    from server.tracing.instance import Tracing

PARTITION_PERIOD = 1 * DAYS / 4  # between checks for the partitions of the next months
PARTITION_RETRY = 30 * SECONDS
LANES_DRAIN = 10 * SECONDS  # for what was accepted into the lanes before the drain
STOP_SLACK = 30 * SECONDS  # beyond DRAIN_SECONDS, for the rest of a drain in which everything is slow

log = structlog.get_logger("parley.app")


class End(NamedTuple):
    """What became of the connections when this instance drained, and in how many seconds."""

    seconds: float
    moved: int
    lost: int


class Instance:
    """The parts of one instance. Its attributes are what metrics and the admin socket read."""

    def __init__(self, settings: Settings, tracing: "Tracing | None" = None) -> None:
        """`tracing` is None if it is switched off. Raises ConfigError."""
        require(settings)
        self.settings = settings
        self.supervisor = Supervisor()
        self.event_loop_lag = EventLoopLag()
        self.garbage = GarbageCollector()
        self.stores = stores = assemble_stores(
            settings, on_other_history=self._compare_rooms, on_no_room=self._suspect_disk
        )
        self.cluster = cluster = assemble_cluster(settings, stores, tracing)
        self.limits = RateLimits(settings, SharedRateLimits(stores.redis))
        self.handlers = assemble_handlers(settings, stores, cluster, self.limits, current=lambda: self.settings)
        self.end = End(0.0, 0, 0)
        self.peer_address = ""  # where other instances reach this one, once it listens there
        self.hub_parts = hub = assemble_hub(
            settings, stores, cluster, self.handlers, self.limits, peer_address=lambda: self.peer_address
        )
        self.liveness = assemble_liveness(settings, cluster, self.event_loop_lag)
        self.health = HealthChecks(CHECK_TIMEOUT)
        self.checks = assemble_checks(stores, cluster, hub, self.supervisor, self.health)
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
        self.timelines, self.clock = stores.timelines, stores.clock
        self.damage, self.objects = stores.damage, stores.objects
        self.rooms, self.lanes, self.publisher = cluster.rooms, cluster.lanes, cluster.publisher
        self.subscriptions, self.relay, self.membership = cluster.subscriptions, cluster.relay, cluster.membership
        self.transactions, self.receipts = cluster.transactions, cluster.receipts
        self.reactions, self.api_keys = self.handlers.reactions, self.handlers.api_keys
        self.blocks, self.reports = self.handlers.blocks, self.handlers.reports
        self.threads, self.subjects = cluster.threads, hub.subjects
        self.search_indexer, self.webhooks = cluster.search_indexer, cluster.webhooks
        self.hub, self.forwarding, self.http_endpoint = hub.server, hub.forwarding, hub.http_endpoint
        self.http, self.listener, self.certificate = rest.http, rest.listener, rest.certificate
        self.requests, self.answers = rest.requests, rest.answers

    @property
    def pools(self) -> dict[str, Pool]:
        return self.stores.pools

    def _compare_rooms(self) -> None:
        """PostgreSQL may have another history than the rooms have delivered."""
        self.rooms.history.suspect_all()

    def _suspect_disk(self) -> None:
        """A statement met a full disk: the lanes find out whether messages would, too, and health says so."""
        self.lanes.suspect_disk()

    # -- running ----------------------------------------------------------------------------------

    def apply(self, wanted: Settings) -> Difference:
        """Apply the settings that can change in a running process; return what changed and what needs a restart.

        Raises ConfigError.
        """
        require(wanted)
        self.settings, difference = merge(self.settings, wanted)
        logs.set_level(self.settings.log_level)
        self.limits.configure(self.settings)
        self.stores.signing.replace(self.settings.jwt_key, *self.settings.jwt_old_keys)
        if self.certificate is not None:
            self.certificate.reload()
        return difference

    def services(self) -> Sequence[tuple[str, Run]]:
        """Return the task of each part that serves the whole process, in the order in which they start.

        Errors in the work for a single user or connection are caught by the part's guard (`store.defects`), so that a
        part ends only if it cannot work for anyone.
        """
        found: list[tuple[str, Run]] = [
            ("redis", self.redis.run),
            ("timelines", self.timelines.run),
            ("pool", self.pool.run),
            ("clock", self.clock.run),
            ("export_pool", self.stores.export_pool.run),
            ("search_pool", self.stores.search_pool.run),
            ("webhook_pool", self.stores.webhook_pool.run),
            ("lanes", self.lanes.run),
            ("reactions", self.reactions.run),
            ("threads", self.threads.run),
            ("api_keys", self.api_keys.run),
            ("batch_loader", self.cluster.sync.run),
            ("flusher", self.cluster.flusher.run),
            ("timer_wheel", self.hub_parts.wheel.run),
            ("poller", self.hub_parts.poller.run),
            ("gap_repair", self.rooms.repair.run),
            ("history_check", self.rooms.history.run),
            ("conversation_updates", self.cluster.notifier.run),
            ("thread_updates", self.cluster.thread_notifier.run),
            ("ephemeral_events", self.cluster.ephemeral_events.run),
            ("presence", self.cluster.announcer.run),
            ("receipts", self.receipts.run),
            ("membership", self.membership.run),
            ("outbox_relay", self.relay.run),
            ("search_indexer", self.search_indexer.run),
            ("webhooks", self.webhooks.run),
            ("http_endpoint", self.http_endpoint.run),
            ("http", self.http.run),
            ("event_loop_lag", self.event_loop_lag.run),
            ("garbage", self.garbage.run),
            ("liveness", self.liveness.run),
            ("health_checks", self.health.run),
            ("partitions", self._keep_partitions),
            ("logs", logs.report_suppressed),
        ]
        if self.stores.read_pool is not None:
            found.append(("read_pool", self.stores.read_pool.run))
        if self.hub_parts.keys is not None:
            found.append(("jwks", self.hub_parts.keys.run))
        if self.certificate is not None:
            found.append(("certificate", self.certificate.run))
        return found

    async def run(
        self,
        socks: Sequence[socket.socket],
        *,
        stop: trio.Event,
        force: trio.Event,
        ready: Callable[[], None],
        startup: Startup | None = None,
    ) -> None:
        """Serve `socks` until `stop`, then drain (at once when `force` is set), then end. Closes the sockets.

        Starting: each part is awaited before the next one starts, and the listeners come last, so a client is accepted
        only when everything that it needs is running. `ready` is called after that, and when `startup`, if it is given,
        has found that both services can be used; raises Unfit if one has to be set up otherwise. While one is out of
        reach, a socket of our own is served, so that health can be asked; one that siblings share is left to them until
        messages can be accepted.

        Ending: `draining` is set first, so that readiness fails and balancers send clients elsewhere; then no more
        connections are accepted; then `_drain` gives clients and accepted work their time. Connections that are left
        are cut, and the services are cancelled last, since connections and the drain depend on them. If the supervisor
        gives a part up, it sets `stop`, and the drain has a deadline: clients' time limits may depend on that part.
        """
        async with trio.open_nursery() as services:
            services.start_soon(_pass_on, self.supervisor.give_up, stop)
            for part, run in self.services():
                await services.start(self.supervisor.keep, part, run)
            where, port = address_of(socks[0])
            name = self.settings.instance or (str(port) if port else Path(where).stem)
            admin = AdminListener(self, self.settings.admin_listen, stop.set, name=name)
            await services.start(self.supervisor.keep, "admin", admin.run)
            shared = isinstance(parse_listen(self.settings.listen), str)
            async with trio.open_nursery() as connections:
                await connections.start(self.supervisor.keep, "websockets", self.hub_parts.socket_tasks.run)
                if self.settings.peer_listen:
                    peers = partial(self._listen_to_peers, connections)
                    await connections.start(self.supervisor.keep, "peer_listener", peers)
                async with trio.open_nursery() as listeners:
                    if startup is not None:
                        await _unless(stop, startup.refuse_unfit)
                        if shared:
                            await _unless(stop, startup.until_messages_are_accepted)
                    for sock in socks:
                        accept = partial(self.listener.run, sock, connections, shared=shared)
                        await listeners.start(self.supervisor.keep, "listener", accept)
                    if startup is not None:
                        await _unless(stop, startup.until_ready)
                    if not stop.is_set():
                        ready()
                    await stop.wait()
                    stopped_at = trio.current_time()
                    self.hub.begin_drain()
                    listeners.cancel_scope.cancel()
                for sock in socks:
                    self.listener.close(sock, connections)
                async with trio.open_nursery() as drain:
                    drain.start_soon(self._bound, drain.cancel_scope)
                    await self._drain(force)
                    drain.cancel_scope.cancel()
                self.http.hang_up()
                cut = self.listener.open  # requests that took longer than they were given
                connections.cancel_scope.cancel()
            seconds = round(trio.current_time() - stopped_at, 2)
            self.end = End(seconds, moved=self.hub.moved, lost=self.hub.lost + cut)
            services.cancel_scope.cancel()

    async def _listen_to_peers(
        self, connections: trio.Nursery, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve other instances, which forward requests of connections that are here. Continues during a drain."""
        where = parse_peer_listen(self.settings.peer_listen)
        assert where is not None  # it is called only if the setting is not empty
        sock = bind(where)
        try:
            host, port = address_of(sock)
            self.peer_address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            await self.rest.peer_listener.run(sock, connections, task_status=task_status)
        finally:
            sock.close()

    async def _bound(self, drain: trio.CancelScope) -> None:
        """Set a deadline for the drain when a part is lost, as its own time limits may depend on that part."""
        await self.supervisor.give_up.wait()
        drain.deadline = trio.current_time() + self.settings.drain_seconds + STOP_SLACK

    async def _drain(self, force: trio.Event) -> None:
        """Ask clients to connect elsewhere; commit and answer what was accepted; leave the cluster.

        The order follows the flow of a message, so that no step produces work for one that is finished:

        1. From now on, each HTTP answer is the last one of its connection.
        2. Hub connections are closed, spread over `drain_seconds`, so that not all clients reconnect at once.
        3. HTTP connections have what remains of `drain_seconds`. Then idle ones are closed, and requests in progress
           have `shutdown_timeout`.
        4. What the lanes have accepted is committed, receipts are written, changes are published: LANES_DRAIN for all.
        5. The instance leaves. Its users count as online for `presence_grace`, in which they may reconnect elsewhere.

        Guaranteed: a message that was answered is committed; that never depends on the drain. What is committed and
        cannot be published in time stays in the outbox, for the relay of another instance. Not guaranteed: an answer
        for a message that is still in a lane after LANES_DRAIN; its client repeats it with the same clientMessageId.
        """
        seconds = self.settings.drain_seconds
        log.info("draining", connections=len(self.hub.connections), seconds=seconds)
        end = trio.current_time() + seconds
        self.http.retire()
        await self.hub.drain(seconds, force)
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = end
            nursery.start_soon(_cancel_when, force, nursery.cancel_scope)
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
        """Create the partitions of the next months. A failure is logged only, as there are months to correct it."""
        task_status.started()
        while True:
            try:
                async with self.pool.connection() as conn:
                    await ensure_partitions(conn, datetime.now(UTC))
            except StoreError as error:
                log.warning("partitions_not_checked", reason=str(error), advice="it is tried again by itself")
                await trio.sleep(PARTITION_RETRY)
            except Exception as error:  # as above
                guard("partitions").caught(error, "partitions_not_checked")
                await trio.sleep(PARTITION_RETRY)
            else:
                await trio.sleep(PARTITION_PERIOD)


async def _unless(stop: trio.Event, wait: Callable[[], Awaitable[None]]) -> None:
    """Wait, unless `stop` is set first. Raises what `wait` does."""
    failure: StoreError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when, stop, nursery.cancel_scope)
        try:
            await wait()
        except StoreError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _pass_on(event: trio.Event, other: trio.Event) -> None:
    await event.wait()
    other.set()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
