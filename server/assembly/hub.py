"""The hub: its methods, who may connect, and what times and watches its connections."""

from dataclasses import dataclass

from server.assembly.cluster import Cluster
from server.assembly.handlers import Handlers
from server.assembly.stores import Stores
from server.config.rate_limits import Limits
from server.config.settings import Settings
from server.hub import methods
from server.hub.dispatch import Dispatcher
from server.hub.server import HubServer
from server.hub.transports.forwarding import Peers
from server.hub.transports.http_endpoint import Fallbacks
from server.identity.access_tokens import ConnectionTokens, Verifier
from server.identity.jwks import KeySet
from server.transport.epoll import Poller
from server.transport.timer_wheel import Wheel
from store.redis.connection_owners import Owners


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    poller: Poller
    wheel: Wheel
    keys: KeySet | None  # of another issuer
    verifier: Verifier
    tokens: ConnectionTokens
    server: HubServer
    peers: Peers
    fallbacks: Fallbacks


def assemble_hub(settings: Settings, stores: Stores, cluster: Cluster, handlers: Handlers, limits: Limits) -> Hub:
    poller = Poller()
    wheel = Wheel(poller.settle)
    keys = KeySet(settings.jwks_url) if settings.jwks_url else None
    verifier = Verifier(stores.signing, issuer=settings.jwt_issuer, audience=settings.jwt_audience, keys=keys)
    tokens = ConnectionTokens(stores.signing, stores.redis)
    dispatcher = Dispatcher()
    methods.register(
        dispatcher,
        messages=handlers.messages,
        receipts=handlers.receipts,
        users=handlers.users,
        presence=cluster.presence,
        connected=cluster.announcer,
        ephemera=cluster.ephemera,
        sync=cluster.sync,
        verifier=verifier,
    )
    server = HubServer(
        settings,
        rooms=cluster.rooms,
        ephemera=cluster.ephemera,
        receipts=cluster.receipts,
        flusher=cluster.flusher,
        wheel=wheel,
        poller=poller,
        dispatcher=dispatcher,
        sync=cluster.sync,
        verifier=verifier,
        tokens=tokens,
        limits=limits,
    )
    peers = Peers(Owners(stores.redis))
    return Hub(
        poller=poller,
        wheel=wheel,
        keys=keys,
        verifier=verifier,
        tokens=tokens,
        server=server,
        peers=peers,
        fallbacks=Fallbacks(server, limits.hub_requests, peers),
    )
