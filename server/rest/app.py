"""The REST side as one Quart-Trio app: its settings, its blueprints, and what is done before and after each view.

Owns the list of blueprints. The handlers are passed in. `server.rest.authentication` says who may go on to a view.
"""

import time
from collections.abc import Callable, Mapping

from quart import Response, request
from quart_trio import QuartTrio

from handlers.accounts import Accounts
from handlers.api_keys import ApiKeys
from handlers.blocks import Blocks
from handlers.conversations import Conversations
from handlers.errors import ChatError
from handlers.export import Export
from handlers.files import Files
from handlers.groups import Groups
from handlers.member_moderation import MemberModeration
from handlers.messages import Messages
from handlers.moderation import Moderation
from handlers.provisioning import Provisioning
from handlers.reactions import Reactions
from handlers.receipts import Receipts
from handlers.reports import Reports
from handlers.search import Search
from handlers.threads import Threads
from handlers.users import Users
from handlers.webhooks import Webhooks
from server.config.rate_limits import RateLimits
from server.config.settings import Settings
from server.config.trusted_proxies import Proxies
from server.identity.access_tokens import Verifier
from server.identity.connection_tokens import ConnectionTokens
from server.identity.sign_in import SignIn
from server.observability.health_checks import Check
from server.rest import converters, openapi, problems
from server.rest.answer_memory import AnswerBudget
from server.rest.asgi import RequestConnection
from server.rest.authentication import Authentication, here, origin
from server.rest.request_log import TRACE, Trace
from server.rest.request_metrics import RequestMetrics
from server.rest.requests import ESCAPED, MAX_BODY
from server.rest.routes import (
    audit,
    auth,
    blocks,
    conversations,
    docs,
    files,
    groups,
    health,
    member_moderation,
    mentions,
    messages,
    moderation,
    negotiate,
    pins,
    provisioning,
    reactions,
    reports,
    search,
    signed_urls,
    threads,
    users,
    webhooks,
)
from server.rest.upload_backpressure import PacedRequest, let_in
from store.objects import Objects
from store.objects.directory import DirectoryObjects

BODY_TIMEOUT = 30.0  # seconds for a whole JSON body; a slow one costs one request, not the process


def create_app(
    settings: Settings,
    *,
    users_handler: Users,
    accounts: Accounts,
    provisioning_handler: Provisioning,
    api_keys: ApiKeys,
    sign_in: SignIn,
    conversations_handler: Conversations,
    groups_handler: Groups,
    messages_handler: Messages,
    moderation_handler: Moderation,
    reactions_handler: Reactions,
    threads_handler: Threads,
    search_handler: Search,
    receipts_handler: Receipts,
    webhooks_handler: Webhooks,
    files_handler: Files,
    blocks_handler: Blocks,
    reports_handler: Reports,
    member_moderation_handler: MemberModeration,
    export: Export,
    objects_store: Objects | None,
    verifier: Verifier,
    tokens: ConnectionTokens,
    checks: Mapping[str, Check],
    hangs: Callable[[], str | None],
    limits: RateLimits,
    request_metrics: RequestMetrics,
    answers: AnswerBudget,
) -> QuartTrio:
    app = QuartTrio("server.rest", static_folder=None)
    app.asgi_http_class = RequestConnection
    app.request_class = PacedRequest
    app.config["MAX_CONTENT_LENGTH"] = max(MAX_BODY, ESCAPED * settings.max_message_bytes)
    app.config["PUBLIC_URL"] = settings.public_url.rstrip("/")
    app.config["PROXIES"] = Proxies(settings.forwarded_allow_ips)
    app.config["BODY_TIMEOUT"] = BODY_TIMEOUT
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.strict_slashes = False
    converters.install(app.url_map)
    described = openapi.install(app, settings)
    app.register_blueprint(users.blueprint(users_handler, conversations_handler, accounts, export, verifier, settings))
    app.register_blueprint(provisioning.blueprint(provisioning_handler, accounts, users_handler))
    app.register_blueprint(blocks.blueprint(blocks_handler))
    app.register_blueprint(reports.blueprint(reports_handler))
    app.register_blueprint(member_moderation.blueprint(member_moderation_handler))
    app.register_blueprint(moderation.blueprint(moderation_handler))
    app.register_blueprint(audit.blueprint(moderation_handler))
    app.register_blueprint(auth.blueprint(accounts, verifier, users_handler, sign_in, settings))
    app.register_blueprint(conversations.blueprint(conversations_handler))
    app.register_blueprint(groups.blueprint(groups_handler))
    app.register_blueprint(messages.blueprint(messages_handler, receipts_handler))
    app.register_blueprint(reactions.blueprint(reactions_handler))
    app.register_blueprint(threads.blueprint(threads_handler))
    app.register_blueprint(pins.blueprint(messages_handler))
    app.register_blueprint(search.blueprint(search_handler))
    app.register_blueprint(mentions.blueprint(messages_handler))
    app.register_blueprint(webhooks.blueprint(webhooks_handler))
    app.register_blueprint(files.blueprint(files_handler, settings.max_upload_bytes))
    if isinstance(objects_store, DirectoryObjects):
        app.register_blueprint(signed_urls.blueprint(objects_store))
    app.register_blueprint(negotiate.blueprint(verifier, users_handler, tokens, settings.allowed_origins))
    app.register_blueprint(health.blueprint(checks, hangs))
    app.register_blueprint(docs.blueprint(described))
    problems.install(app)

    authentication = Authentication(
        limits,
        answers.turns,
        verifier=verifier,
        api_keys=api_keys,
        users=users_handler,
        provisioning=provisioning_handler,
    )

    @app.before_request
    async def authenticate() -> None:
        await authentication.admit(app.view_functions.get(request.endpoint or ""))

    @app.before_request
    async def read_query() -> None:
        await authentication.check_query()

    @app.after_request
    async def harden(response: Response) -> Response:
        request, g = here()
        let_in()
        answers.turns.end(request.scope)
        trace: Trace | None = request.scope.get(TRACE)
        holder = trace.user if trace is not None and trace.user else origin()
        try:
            answers.take(request.scope, holder, response)
        except ChatError as error:
            response = await problems.on_chat_error(error)
        request_metrics.count(
            request.endpoint, response.status_code, time.perf_counter() - g.get("began", time.perf_counter())
        )
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return app
