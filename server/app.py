"""The composition root: builds the process from its parts and runs it until it is told to stop.

Sees everything; nothing imports it but the commands. The nurseries say who outlives whom:

    services        database pool, lanes, link to the other instances, flusher, rooms' repairs, wheel, HTTP lifespan
    +- connections  one task per TCP connection
       +- listener  cancelled first: stop accepting, then let the connections go, then the services
"""

import gc
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
import trio

from handlers.accounts import Accounts
from handlers.conversations import Conversations
from handlers.export import AT_ONCE as EXPORTS_AT_ONCE
from handlers.export import Export
from handlers.files import Files
from handlers.messages import Messages, Queue
from handlers.presence import Presence
from handlers.receipts import Receipts
from handlers.refresh_tokens import RefreshTokens
from handlers.sync import Sync
from handlers.transactions import Commits
from handlers.users import Users
from server.admin.listener import AdminListener
from server.cluster.membership import Link
from server.cluster.outbox_relay import Relay
from server.cluster.publisher import Publisher
from server.cluster.reaper import Reaper
from server.cluster.recovery import Recovery
from server.cluster.subscriptions import Registry
from server.config.checks import require
from server.config.listen_address import parse_listen, parse_peer_listen
from server.config.rate_limits import Limits
from server.config.reload import Difference, merge
from server.config.settings import Settings
from server.config.trusted_proxies import ANY, UNIX, Proxies
from server.config.units import DAYS, SECONDS
from server.fanout.broadcaster import Crier
from server.fanout.change_publisher import Feed
from server.fanout.conversation_updates import Teller
from server.fanout.ephemeral_events import Ephemera
from server.fanout.presence import Announcer
from server.fanout.receipts import ReceiptWriter
from server.fanout.rooms import Rooms
from server.hub import methods
from server.hub.dispatch import Dispatcher
from server.hub.server import HubServer, is_hub
from server.hub.transports.forwarding import Peers
from server.hub.transports.http_endpoint import Fallbacks, route
from server.identity.access_tokens import ACCESS_TTL, ConnectionTokens, Verifier, mint_token, signing_keys
from server.identity.jwks import KeySet
from server.identity.sign_in import SignIn
from server.observability import logs
from server.observability.event_loop_lag import Pulse
from server.observability.liveness import Liveness
from server.observability.version import version
from server.process.sd_notify import Notices
from server.process.signals import Lifecycle
from server.process.supervisor import PartLost, Run, Supervisor
from server.rest.answer_memory import AnswerBudget
from server.rest.app import create_app
from server.rest.case_insensitive import any_case
from server.rest.cors import allow_origins
from server.rest.request_log import traced
from server.rest.request_metrics import Tally
from server.rest.routes.health import Check
from server.rest.upload_backpressure import paced
from server.tracing.provider import open_tracing
from server.transport.epoll import Poller
from server.transport.http import HttpServer
from server.transport.listener import Listener, bind, listen, place
from server.transport.send_queue import Flusher
from server.transport.timer_wheel import Wheel
from server.transport.tls import Certificate
from server.transport.unauthenticated import Strangers
from store.defects import guard
from store.errors import StoreError, Unfit
from store.objects import Objects, open_objects
from store.postgres import sessions
from store.postgres.group_commit import Lanes
from store.postgres.partitions import ensure_partitions
from store.postgres.pool import Pool
from store.postgres.sessions import Connector
from store.receipts import ReceiptStreams
from store.redis.client import Redis
from store.redis.connection_owners import Owners
from store.redis.instances import Instances
from store.redis.rate_limits import Limits as SharedLimits

if TYPE_CHECKING:
    from server.tracing.instance import Tracing

PARTITION_PERIOD = 1 * DAYS / 4  # between looks whether next months' partitions are there
PARTITION_RETRY = 30 * SECONDS
LIVENESS_SLACK = 60 * SECONDS  # without progress, beyond what a statement may take: then the process hangs
FIT_WITHIN = 5 * SECONDS  # for the first look at PostgreSQL
LANES_DRAIN = 10 * SECONDS  # for what was accepted into the lanes before the drain
STOP_SLACK = 30 * SECONDS  # beyond DRAIN_SECONDS: what the rest of the drain may take when everything is slow
APPLICATION = "parley"
# Parts without which no message is accepted or delivered: while one of them is down, the instance is not ready.
ESSENTIAL = frozenset({"pool", "lanes", "sync", "flusher", "wheel", "poller", "http", "listener", "receipts"})

log = structlog.get_logger("parley.app")


class Process:
    """Every part of one instance, wired. The handlers and the lanes publish into `feed`."""

    def __init__(self, settings: Settings, tracing: "Tracing | None" = None) -> None:
        """`tracing`: OpenTelemetry, when it is on."""
        require(settings)
        self.settings = settings
        self.pool = Pool(
            settings.database_url,
            name=APPLICATION,
            size=settings.pool_size,
            statement_timeout=settings.statement_timeout,
        )
        self.export_pool = Pool(
            settings.database_url,
            name=f"{APPLICATION}-exports",
            size=EXPORTS_AT_ONCE,
            statement_timeout=settings.statement_timeout,
        )
        self.read_pool = None
        if settings.read_url:
            self.read_pool = Pool(
                settings.read_url,
                name=f"{APPLICATION}-reads",
                size=settings.pool_size,
                statement_timeout=settings.statement_timeout,
            )
        self.redis = Redis(settings.redis_url, name=APPLICATION)
        self.flusher = Flusher()
        self.poller = Poller()
        self.wheel = Wheel(self.poller.settle)
        self.sync = Sync(self.pool)
        self.name = name = settings.instance or settings.listen
        self.instances = instances = Instances(self.redis)
        self.registry = Registry(instances, grace=settings.presence_grace)
        self.rooms = Rooms(self.sync, self.flusher, self.registry)
        self.publisher = Publisher(instances, self.registry, self.pool)
        self.ephemera = Ephemera(self.rooms, self.publisher, Crier(self.rooms, self.flusher))
        self.feed = (tracing.feed if tracing else Feed)(self.rooms, self.ephemera, self.publisher)
        self.relay = Relay(self.pool, self.registry, self.publisher, self.feed)
        self.lanes = Lanes(
            Connector(
                settings.database_url,
                name=f"{APPLICATION}-lanes",
                statement_timeout=settings.statement_timeout,
                writes=True,
            ),
            count=settings.lanes,
            on_commit=self.feed.publish,
            on_doubt=self.feed.doubt,
            outbox=True,
            on_batch=tracing.sends.committed if tracing else None,
        )
        self.receipts = ReceiptWriter(
            ReceiptStreams(self.redis), self.pool, self.ephemera, consumer=f"{name}~{secrets.token_hex(4)}"
        )
        self.keys = KeySet(settings.jwks_url) if settings.jwks_url else None
        self.signing = signing_keys(settings)
        self.verifier = Verifier(
            self.signing, issuer=settings.jwt_issuer, audience=settings.jwt_audience, keys=self.keys
        )
        self.tokens = ConnectionTokens(self.signing, self.redis)
        self.limits = limits = Limits(settings, SharedLimits(self.redis))
        presence = Presence(self.pool)
        self.announcer = Announcer(presence, instances, self.rooms, self.ephemera)
        self.registry.watcher = self.announcer
        self.commits = commits = Commits(self.pool, self.feed)
        self.requests = Tally()
        conversations = Conversations(self.pool, commits)
        self.teller = self.rooms.teller = Teller(conversations, self.rooms)
        self.rooms.cursors = self.ephemera
        self.link = Link(
            instances,
            self.registry,
            self.publisher,
            Reaper(instances, self.announcer),
            self.feed,
            name=name,
            recovery=Recovery(self.rooms, self.teller, self.sync),
        )
        self.supervisor = Supervisor()
        self.pulse = Pulse()
        self.liveness = self._watched()
        messages = self._messages(self.pool, tracing.queue(self.lanes) if tracing else self.lanes)
        receipts = Receipts(self.pool, self.receipts)
        users = Users(self.pool, commits, self.announcer)
        objects = None
        if settings.objects:
            objects = open_objects(settings.objects, endpoint=settings.s3_endpoint_url, signing=self.signing)
        self.files = self._files(self.pool, objects)
        accounts = self._accounts(self.pool)
        dispatcher = Dispatcher()
        methods.register(
            dispatcher,
            messages=messages,
            receipts=receipts,
            users=users,
            presence=presence,
            connected=self.announcer,
            ephemera=self.ephemera,
            sync=self.sync,
            verifier=self.verifier,
        )
        self.hub = HubServer(
            settings,
            rooms=self.rooms,
            ephemera=self.ephemera,
            receipts=self.receipts,
            flusher=self.flusher,
            wheel=self.wheel,
            poller=self.poller,
            dispatcher=dispatcher,
            sync=self.sync,
            verifier=self.verifier,
            tokens=self.tokens,
            limits=limits,
        )
        self.checks: dict[str, Check] = {
            "postgres": self._check_postgres,
            "lanes": self._check_lanes,
            "redis": self._check_redis,
            "lifecycle": self._check_lifecycle,
            "core": self._check_core,
            "parts": self._check_parts,
        }
        self.answers = AnswerBudget(of_one=settings.max_user_answer_bytes, of_all=settings.max_answer_bytes)
        self.rest = create_app(
            settings,
            answers=self.answers,
            users_handler=users,
            accounts=accounts,
            files_handler=self.files,
            export=self._export(objects),
            objects_store=objects,
            sign_in=SignIn(settings.oauth, self.signing, self.redis),
            conversations_handler=conversations,
            messages_handler=messages,
            receipts_handler=receipts,
            verifier=self.verifier,
            tokens=self.tokens,
            checks=self.checks,
            hangs=self.liveness.verdict,
            limits=limits,
            tally=self.requests,
        )
        self.peers = Peers(Owners(self.redis))
        self.fallbacks = Fallbacks(self.hub, limits.hub_requests, self.peers)
        routed = any_case(route(self.fallbacks, paced(self.answers.released(self.rest))), self.rest.url_map)
        routed = allow_origins(routed, settings.allowed_origins)
        if tracing is not None:
            routed = tracing.requests(routed)
        self.http = HttpServer(traced(routed, Proxies(settings.forwarded_allow_ips)), is_polled=is_hub)
        self.certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        self.listener = Listener(
            self.hub,
            self.http.serve,
            max_connections=settings.max_connections,
            head_timeout=settings.handshake_timeout,
            certificate=self.certificate,
            strangers=Strangers(settings.max_address_strangers, Proxies(settings.forwarded_allow_ips)),
        )
        self.peer_listener = Listener(
            self.hub,
            self.http.serve,
            max_connections=settings.max_connections,
            head_timeout=settings.handshake_timeout,
        )

    def _messages(self, pool: Pool, queue: Queue) -> Messages:
        size = self.settings.max_message_bytes
        return Messages(pool, queue, self.commits, self.limits.sends, max_message_bytes=size, replica=self.read_pool)

    def _accounts(self, pool: Pool) -> Accounts:
        admits = self.settings.registration != "closed"
        return Accounts(pool, self.commits, RefreshTokens(self.signing), self._mint, admits=admits)

    def _files(self, pool: Pool, objects: Objects | None) -> Files:
        return Files(
            pool,
            self.commits,
            objects,
            max_bytes=self.settings.max_upload_bytes,
            quota=self.settings.max_user_storage_bytes,
            types=self.settings.upload_types,
        )

    def _export(self, objects: Objects | None) -> Export:
        """Over connections of its own: an export reads all that a user has, and may not keep others from theirs."""
        pool = self.export_pool
        return Export(
            Users(pool, self.commits, self.announcer),
            self._accounts(pool),
            Conversations(pool, self.commits),
            self._messages(pool, self.lanes),
            self._files(pool, objects),
        )

    def _mint(self, user_id: UUID, session_id: UUID) -> tuple[str, int]:
        return mint_token(self.settings, user_id, session_id=session_id), ACCESS_TTL

    @property
    def pools(self) -> dict[str, Pool]:
        """By what metrics call them. A lane has its connection for good, outside the pool that opens it."""
        reads = {} if self.read_pool is None else {"reads": self.read_pool}
        return {"main": self.pool, "exports": self.export_pool, **reads}

    def _watched(self) -> Liveness:
        liveness = Liveness(self.pulse)
        longest = 2 * self.settings.statement_timeout + LIVENESS_SLACK
        for number in range(self.settings.lanes):
            liveness.watch(f"commit lane {number}", partial(self._lane_progress, number), patience=longest)
        liveness.watch("inbox reader", lambda: self.link.turns, patience=LIVENESS_SLACK)
        return liveness

    def _lane_progress(self, number: int) -> int | None:
        return self.lanes.statistics_each()[number].progress

    # -- health -----------------------------------------------------------------------------------

    async def _check_postgres(self) -> str | None:
        try:
            async with self.pool.connection() as conn:
                await conn.execute("SELECT 1")
        except StoreError as error:
            return str(error) or "out of reach"
        return None

    async def _check_lanes(self) -> str | None:
        return self.lanes.trouble()

    async def _check_redis(self) -> str | None:
        try:
            await self.redis.ping()
        except StoreError as error:
            return str(error) or "out of reach"
        return None if self.link.established else "not registered: other instances are not reached"

    async def _check_lifecycle(self) -> str | None:
        return "draining" if self.hub.draining else None

    async def _check_core(self) -> str | None:
        return self._down(essential=True)

    async def _check_parts(self) -> str | None:
        return self._down(essential=False)

    def _down(self, *, essential: bool) -> str | None:
        down = sorted(part for part in self.supervisor.down if (part in ESSENTIAL) is essential)
        return f"failed, and being started again: {', '.join(down)}" if down else None

    # -- running ----------------------------------------------------------------------------------

    def apply(self, wanted: Settings) -> Difference:
        """Take over what can be changed in a running process. Raises ConfigError."""
        require(wanted)
        self.settings, difference = merge(self.settings, wanted)
        logs.set_level(self.settings.log_level)
        self.limits.configure(self.settings)
        self.signing.replace(self.settings.jwt_key, *self.settings.jwt_old_keys)
        if self.certificate is not None:
            self.certificate.reload()
        return difference

    def services(self) -> Sequence[tuple[str, Run]]:
        """Every task that serves the whole process, by the name of its part, in the order of their start. What one
        member or one party brings about in it is caught by the part's guard (`store.defects`)."""
        found: list[tuple[str, Run]] = [
            ("redis", self.redis.run),
            ("pool", self.pool.run),
            ("export_pool", self.export_pool.run),
            ("lanes", self.lanes.run),
            ("sync", self.sync.run),
            ("flusher", self.flusher.run),
            ("wheel", self.wheel.run),
            ("poller", self.poller.run),
            ("repairs", self.rooms.run_repairs),
            ("teller", self.teller.run),
            ("ephemera", self.ephemera.run),
            ("presence", self.announcer.run),
            ("receipts", self.receipts.run),
            ("link", self.link.run),
            ("relay", self.relay.run),
            ("fallbacks", self.fallbacks.run),
            ("http", self.http.run),
            ("pulse", self.pulse.run),
            ("liveness", self.liveness.run),
            ("partitions", self._keep_partitions),
            ("logs", logs.report_suppressed),
        ]
        if self.read_pool is not None:
            found.append(("read_pool", self.read_pool.run))
        if self.keys is not None:
            found.append(("keys", self.keys.run))
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
            self.peers.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            await self.peer_listener.run(sock, connections, task_status=task_status)
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
        log.info("draining", connections=len(self.hub.sessions), seconds=seconds)
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
        await self.link.leave(self.settings.presence_grace)

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


async def _refuse_unfit(settings: Settings) -> None:
    """Raises Unfit when somebody has to set PostgreSQL up otherwise. One that is away may come back."""
    with trio.move_on_after(FIT_WITHIN):
        try:
            await sessions.check(settings.database_url)
        except Unfit:
            raise
        except StoreError:
            pass  # the pool says so, and health


async def serve(
    settings: Settings,
    *,
    reread: Callable[[], Settings] | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run one instance until SIGINT or SIGTERM; a second one hurries. `on_ready` gets the base URL.

    At SIGHUP `reread` says what the configuration is now.
    """
    started = time.monotonic()
    build = version()  # the first call blocks for git: not later, with clients here
    if settings.registration == "open":
        log.warning(
            "registration_open",
            reason="whoever reaches this instance can make a user and be signed in",
            advice="for development only: set PARLEY_REGISTRATION=oauth and a provider, or closed",
        )
    await _refuse_unfit(settings)
    socks = listen(parse_listen(settings.listen), reuse_port=settings.reuse_port == "on")
    tracing = open_tracing(os.environ, settings.instance or settings.listen)
    process = Process(settings, tracing)
    notices = Notices.from_environment(os.environ)

    def reload() -> str:
        difference = process.apply(reread() if reread is not None else settings)
        log.info("reloaded", changed=difference.changed, needs_restart=difference.needs_restart)
        return str(difference)

    life = Lifecycle(notices, reload if reread is not None else None)
    notices.status = lambda: life.status(len(process.hub.sessions))

    def ready() -> None:
        host, port = place(socks[0])
        scheme = "https" if process.certificate is not None else "http"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" if port else f"unix:{host}"
        if not port and not {UNIX, ANY} & set(settings.forwarded_allow_ips):
            log.warning(
                "addresses_unknown",
                reason="LISTEN is a Unix socket, on which nobody has an address: all clients share the limits of one",
                advice="set PARLEY_FORWARDED_ALLOW_IPS=unix to believe the proxy's X-Forwarded-For",
            )
        seconds = round(time.monotonic() - started, 2)
        log.info("ready", url=url, host=host, port=port, seconds=seconds, version=build)
        gc.collect()
        gc.freeze()  # what is there from the start stays: no collection walks it, which takes 50 ms and more
        life.ready()
        if on_ready is not None:
            on_ready(url)

    async def tell_of_the_end() -> None:
        await life.stop.wait()
        notices.stopping(process.settings.drain_seconds + STOP_SLACK)

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(life.watch_signals)
            nursery.start_soon(notices.run, process.liveness.verdict)
            nursery.start_soon(tell_of_the_end)
            await process.run(socks, stop=life.stop, hurry=life.hurry, ready=ready)
            if tracing is not None:
                await tracing.aclose()
            nursery.cancel_scope.cancel()
        if process.supervisor.lost is not None:
            raise PartLost(f"the part {process.supervisor.lost} could not be kept running; see `part_lost` in the log")
    finally:
        notices.close()
        for sock in socks:
            sock.close()
