"""Assembles the REST application with its ASGI wrappers, and the listeners that serve it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quart_trio import QuartTrio

from server.assembly.cluster import Cluster
from server.assembly.handlers import Handlers
from server.assembly.hub import Hub
from server.assembly.stores import Stores
from server.config.rate_limits import RateLimits
from server.config.settings import Settings
from server.config.trusted_proxies import Proxies
from server.hub.server import is_hub
from server.hub.transports.http_endpoint import route
from server.identity.sign_in import SignIn
from server.observability.health_checks import Check
from server.observability.liveness import Liveness
from server.rest.answer_memory import AnswerBudget
from server.rest.app import create_app
from server.rest.case_insensitive import any_case
from server.rest.cors import allow_origins
from server.rest.request_log import traced
from server.rest.request_metrics import RequestMetrics
from server.rest.upload_backpressure import paced
from server.transport.http import HttpServer
from server.transport.listener import Listener
from server.transport.tls import Certificate
from server.transport.unauthenticated import UnauthenticatedConnections
from server.web import routes as web

if TYPE_CHECKING:
    from server.tracing.instance import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    app: QuartTrio
    requests: RequestMetrics
    answers: AnswerBudget
    http: HttpServer
    certificate: Certificate | None
    listener: Listener
    peer_listener: Listener  # for other instances


def assemble_rest(
    settings: Settings,
    stores: Stores,
    cluster: Cluster,
    handlers: Handlers,
    hub: Hub,
    limits: RateLimits,
    *,
    checks: Mapping[str, Check],
    liveness: Liveness,
    tracing: "Tracing | None",
) -> Rest:
    requests = RequestMetrics()
    answers = AnswerBudget(of_one=settings.max_user_answer_bytes, of_all=settings.max_answer_bytes)
    app = create_app(
        settings,
        answers=answers,
        users_handler=handlers.users,
        accounts=handlers.accounts,
        provisioning_handler=handlers.provisioning,
        api_keys=handlers.api_keys,
        files_handler=handlers.files,
        blocks_handler=handlers.blocks,
        reports_handler=handlers.reports,
        member_moderation_handler=handlers.member_moderation,
        export=handlers.export,
        objects_store=stores.objects,
        sign_in=SignIn(settings.oauth, stores.signing, stores.redis),
        conversations_handler=cluster.conversations,
        groups_handler=handlers.groups,
        messages_handler=handlers.messages,
        moderation_handler=handlers.moderation,
        reactions_handler=handlers.reactions,
        threads_handler=cluster.threads,
        search_handler=handlers.search,
        receipts_handler=handlers.receipts,
        webhooks_handler=handlers.webhooks,
        verifier=hub.verifier,
        tokens=hub.tokens,
        checks=checks,
        hangs=liveness.verdict,
        limits=limits,
        request_metrics=requests,
    )
    web.install(app, settings)
    proxies = Proxies(settings.forwarded_allow_ips)
    routed = any_case(route(hub.http_endpoint, paced(answers.released(app))), app.url_map)
    routed = allow_origins(routed, settings.allowed_origins)
    if tracing is not None:
        routed = tracing.requests(routed)
    http = HttpServer(traced(routed, proxies), is_polled=is_hub)
    certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None

    def listener(certificate: Certificate | None, strangers: UnauthenticatedConnections | None) -> Listener:
        return Listener(
            hub.websocket_endpoint,
            http.serve,
            max_connections=settings.max_connections,
            head_timeout=settings.handshake_timeout,
            certificate=certificate,
            strangers=strangers,
        )

    return Rest(
        app=app,
        requests=requests,
        answers=answers,
        http=http,
        certificate=certificate,
        listener=listener(certificate, UnauthenticatedConnections(settings.max_address_strangers, proxies)),
        peer_listener=listener(None, None),
    )
