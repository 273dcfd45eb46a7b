"""The REST side as one Quart-Trio app: blueprints, authentication, OpenAPI, errors.

Owns what all routes share. The handlers are passed in.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from quart import Response, g, request
from quart_trio import QuartTrio

from handlers.accounts import Accounts
from handlers.api_keys import ApiKeys, is_key
from handlers.blocks import Blocks
from handlers.conversations import Conversations
from handlers.errors import ChatError
from handlers.export import Export
from handlers.files import Files
from handlers.groups import Groups
from handlers.member_moderation import MemberModeration
from handlers.messages import Messages
from handlers.model import Caller
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
from server.config.trusted_proxies import Proxies, limited_as
from server.identity.access_tokens import Verifier
from server.identity.connection_tokens import ConnectionTokens
from server.identity.sign_in import SignIn
from server.observability.health_checks import Check
from server.rest import converters, key_access, openapi, problems
from server.rest.answer_memory import AnswerBudget
from server.rest.asgi import RequestConnection
from server.rest.request_log import TRACE, Trace, current_trace, template
from server.rest.request_metrics import RequestMetrics
from server.rest.requests import ESCAPED, MAX_BODY, address, bearer, check_query, defers_standing, owes_standing
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
from server.transport.unauthenticated import known
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
    turns = answers.turns
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

    @app.before_request
    async def authenticate() -> None:
        """Apply rate limits, and require the access token of an existing user unless the route is open.

        The order matters. A request without a valid token is counted against its address, one with a valid token
        against its user only, so that users behind one address do not share a limit. The address counts as
        authenticated (`known`) as soon as the token is verified. The turn is taken before PostgreSQL is asked whether
        the user still exists, because that needs a connection of the pool. Routes that upload take no turn: they last
        as long as their client takes, and have a rate limit of their own.
        """
        request, g = _here()
        trace: Trace | None = request.scope.get(TRACE)
        if trace is not None and request.url_rule is not None:
            trace.route = template(request.url_rule.rule)
        g.began = time.perf_counter()
        view = app.view_functions.get(request.endpoint or "")
        if view is None or getattr(view, "open_route", False):
            limits.requests.require(origin())
            if getattr(view, "sign_in_route", False):
                await limits.sign_ins.require(origin())
            return
        try:
            token = bearer()
            found = None if is_key(token) else await verifier.verify(token)
        except ChatError:
            limits.requests.require(origin())  # so that guessing tokens is limited, too
            raise
        takes_turn = not getattr(view, "upload_route", False)
        if found is None:
            g.caller = await accept_key(token, takes_turn=takes_turn)
        else:
            g.caller = found
            known(request.scope)
            if trace is not None:
                trace.user = str(found.user_id)
            limits.requests.require(str(found.user_id))
            if takes_turn:
                await turns.take(request.scope, str(found.user_id))
            if not getattr(view, "parting_route", False) and not defers_standing(view):
                await users_handler.require(found)
        if getattr(view, "upload_route", False):
            await limits.uploads.require(str(g.caller.user_id))
        if found is not None:
            g.count_additions = partial(count_additions, str(found.user_id))
        if getattr(view, "join_route", False):
            await limits.joins.require(str(g.caller.user_id))

    async def count_additions(user_id: str, number: int) -> None:
        await limits.additions.require(user_id, cost=number)

    def origin() -> str:
        """The key under which the client's address is limited."""
        return limited_as(address())

    async def accept_key(token: str, *, takes_turn: bool) -> Caller:
        """Return for whom a request with an API key is made. The same order: limits and turns are the key's.

        That a key is asked for in PostgreSQL is counted against the address, so that guessing keys is limited.
        """
        scope = cast(dict[str, Any], request.scope)
        g.grant = grant = await api_keys.verify(token, lambda: limits.requests.require(origin()))
        known(scope)
        trace = current_trace()
        if trace is not None:
            trace.key = str(grant.id)
        limits.key_requests.require(grant.id)
        assert request.url_rule is not None  # it has a view
        needed = key_access.require(grant, request.method, template(request.url_rule.rule))
        if takes_turn:
            await turns.take(scope, f"key {grant.id}")
        user_id = await key_access.find_user(grant, needed, provisioning_handler)
        if trace is not None and user_id != key_access.NO_USER:
            trace.user = str(user_id)
        return Caller(user_id, math.inf)

    @app.before_request
    async def read_query() -> None:
        try:
            check_query()
        except ChatError:
            if owes_standing():
                await users_handler.require(g.caller)
            raise

    @app.after_request
    async def harden(response: Response) -> Response:
        request, g = _here()
        let_in()
        turns.end(request.scope)
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


def _here() -> tuple[Any, Any]:
    """The current request and its `g` themselves: each look-up through Quart's proxies of them counts."""
    return request._get_current_object(), g._get_current_object()  # type: ignore[attr-defined]
