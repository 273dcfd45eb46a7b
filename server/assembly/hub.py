"""Assembles the hub: its methods, the verification of tokens, the timer wheel and the poller of its connections."""

from collections.abc import Callable
from dataclasses import dataclass

from server.assembly.cluster import Cluster
from server.assembly.handlers import Handlers
from server.assembly.stores import Stores
from server.config.rate_limits import RateLimits
from server.config.settings import Settings
from server.hub.dispatch import Dispatcher
from server.hub.methods import HubMethods
from server.hub.server import HubServer
from server.hub.transports.forwarding import Forwarding
from server.hub.transports.http_endpoint import HttpEndpoint
from server.hub.transports.websocket_endpoint import WebSocketEndpoint
from server.identity.access_tokens import Verifier
from server.identity.connection_tokens import ConnectionTokens
from server.identity.jwks import KeySet
from server.identity.subjects import Subjects
from server.transport.epoll import Poller
from server.transport.timer_wheel import TimerWheel
from server.transport.websocket import SocketTasks
from store.redis.connection_owners import ConnectionOwners


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    poller: Poller
    socket_tasks: SocketTasks
    wheel: TimerWheel
    keys: KeySet | None  # of an external issuer
    subjects: Subjects
    verifier: Verifier
    tokens: ConnectionTokens
    server: HubServer
    forwarding: Forwarding
    http_endpoint: HttpEndpoint
    websocket_endpoint: WebSocketEndpoint


def assemble_hub(
    settings: Settings,
    stores: Stores,
    cluster: Cluster,
    handlers: Handlers,
    limits: RateLimits,
    *,
    peer_address: Callable[[], str],
) -> Hub:
    """`peer_address` returns where other instances reach this one: empty until it listens there."""
    poller = Poller()
    socket_tasks = SocketTasks(poller)
    wheel = TimerWheel(poller.settle)
    keys = KeySet(settings.jwks_url) if settings.jwks_url else None
    subjects = Subjects(handlers.provisioning, settings, limits.new_users)
    verifier = Verifier(
        stores.signing, issuer=settings.jwt_issuer, audience=settings.jwt_audience, keys=keys, subjects=subjects
    )
    tokens = ConnectionTokens(stores.signing, stores.redis)
    dispatcher = Dispatcher()
    HubMethods(
        messages=handlers.messages,
        conversations=cluster.conversations,
        reactions=handlers.reactions,
        threads=cluster.threads,
        search=handlers.search,
        receipts=handlers.receipts,
        users=handlers.users,
        presence=cluster.presence,
        connected=cluster.announcer,
        blocks=handlers.blocks,
        reports=handlers.reports,
        ephemeral_events=cluster.ephemeral_events,
        sync=cluster.sync,
        verifier=verifier,
    ).register(dispatcher)
    server = HubServer(
        settings,
        rooms=cluster.rooms,
        ephemeral_events=cluster.ephemeral_events,
        receipts=cluster.receipts,
        flusher=cluster.flusher,
        wheel=wheel,
        dispatcher=dispatcher,
        sync=cluster.sync,
        verifier=verifier,
        tokens=tokens,
        limits=limits,
    )
    forwarding = Forwarding(ConnectionOwners(stores.redis), peer_address)
    return Hub(
        poller=poller,
        socket_tasks=socket_tasks,
        wheel=wheel,
        keys=keys,
        subjects=subjects,
        verifier=verifier,
        tokens=tokens,
        server=server,
        forwarding=forwarding,
        http_endpoint=HttpEndpoint(server, limits.hub_requests, forwarding),
        websocket_endpoint=WebSocketEndpoint(server, poller, socket_tasks),
    )
