"""`POST /hubs/chat/negotiate`: gives a client its connection id and the transports (SignalR TransportProtocols).

Owns the route. The connection token is signed, short-lived and single-use, so that any instance can accept the
connection and no access token has to be part of a URL.
"""

from typing import Any, cast

from msgspec import UNSET, UnsetType
from quart import Blueprint, Response, request

from handlers import text_rules
from handlers.errors import ChatError
from handlers.users import Users
from server.hub.server import PATH
from server.identity.access_tokens import Verifier, presented
from server.identity.connection_tokens import ConnectionTokens
from server.rest.operations import UNUSED_KEY, Answer, operation, query
from server.rest.request_log import current_trace
from server.rest.requests import answer, bearer, idempotency_key, open_route
from server.transport.unauthenticated import known
from store.model import Wire

MAX_VERSION = 1
ANY_VERSION = 2**31 - 1  # clients may support later ones
TRANSPORTS = (
    {"transport": "WebSockets", "transferFormats": ["Text", "Binary"]},
    {"transport": "ServerSentEvents", "transferFormats": ["Text"]},
    {"transport": "LongPolling", "transferFormats": ["Text", "Binary"]},
)


class Transport(Wire, frozen=True):
    transport: str
    transfer_formats: tuple[str, ...]


class Negotiation(Wire, frozen=True):
    """The answer. The secret is `connectionToken` from version 1 on, and `connectionId` in version 0."""

    negotiate_version: int | UnsetType = UNSET
    connection_id: str | UnsetType = UNSET
    connection_token: str | UnsetType = UNSET
    available_transports: tuple[Transport, ...] | UnsetType = UNSET
    use_stateful_reconnect: bool | UnsetType = UNSET
    error: str | UnsetType = UNSET


def blueprint(
    verifier: Verifier, users: Users, tokens: ConnectionTokens, allowed_origins: tuple[str, ...]
) -> Blueprint:
    routes = Blueprint("hub", __name__)

    @routes.post(f"{PATH}/negotiate")
    @operation(
        Answer(200, Negotiation, "The token and transports to connect with, or, in `error`, why there are none."),
        parameters=(
            query("negotiateVersion", {"type": "string"}, "The highest version that the client supports."),
            query("useStatefulReconnect", {"type": "string"}, "`true` if the client supports stateful reconnect."),
            UNUSED_KEY,
        ),
        refuses=("forbidden",),
        takes_token_in_query=True,
    )
    @open_route  # authenticated here: browsers may have to put the token into the query
    async def negotiate() -> Response:
        """Get a token for a connection to the hub.

        Nothing is stored, so each request gets another token, with or without an Idempotency-Key.
        """
        idempotency_key()
        origin = request.headers.get("Origin", "")
        if origin and allowed_origins and origin not in allowed_origins:
            raise ChatError("forbidden", "Connections from this origin are not allowed.")
        query = {name.lower(): value for name, value in request.args.items()}
        in_query = query.get("access_token", "")
        caller = await verifier.verify(presented(request.headers.get("Authorization", ""), in_query) or bearer())
        known(cast(dict[str, Any], request.scope))
        if (trace := current_trace()) is not None:
            trace.user = str(caller.user_id)
        await users.require(caller)
        version = _version(query.get("negotiateversion"))
        if version is None:
            return answer({"error": "The requested negotiateVersion is not an integer of 0 or more."})
        stateful = query.get("usestatefulreconnect", "").lower() == "true" and version > 0
        connection_id, token = tokens.issue(caller, stateful=stateful)
        reply: dict[str, Any] = {"negotiateVersion": version, "availableTransports": TRANSPORTS}
        if stateful:
            reply["useStatefulReconnect"] = True  # only if requested: clients fail if it comes unrequested
        if version == 0:
            return answer({**reply, "connectionId": token})  # what a version 0 client sends back as `id`
        return answer({**reply, "connectionId": connection_id, "connectionToken": token})

    return routes


def _version(text: str | None) -> int | None:
    """Return the highest version that both sides support, or None if the parameter is not a version."""
    if text is None:
        return 0
    version = text_rules.whole_number(text, 0, ANY_VERSION)
    return None if version is None else min(version, MAX_VERSION)
