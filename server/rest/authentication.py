"""Who makes a request, and whether it may be made now: tokens and API keys, rate limits, turns.

Owns the order of these checks before each view. A request without a valid token is counted against its address, one
with a valid token only against its user, so that users behind one address do not share a limit. The address counts as
authenticated (`known`) as soon as the token is verified. The turn is taken before PostgreSQL is asked whether the user
still exists, because that needs a connection of the pool. Touches Quart's request and `g`, where views find the caller.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from quart import g, request

from handlers.api_keys import ApiKeys, is_key
from handlers.errors import ChatError
from handlers.model import Caller
from handlers.provisioning import Provisioning
from handlers.users import Users
from server.config.rate_limits import RateLimits
from server.config.trusted_proxies import limited_as
from server.identity.access_tokens import Verifier
from server.rest import key_access
from server.rest.request_log import TRACE, Trace, current_trace, template
from server.rest.requests import address, bearer, check_query, defers_standing, owes_standing
from server.rest.turns import Turns
from server.transport.unauthenticated import known

View = Callable[..., Any]


class Authentication:
    """The checks of one app."""

    def __init__(
        self,
        limits: RateLimits,
        turns: Turns,
        *,
        verifier: Verifier,
        api_keys: ApiKeys,
        users: Users,
        provisioning: Provisioning,
    ) -> None:
        self._limits = limits
        self._turns = turns
        self._verifier = verifier
        self._api_keys = api_keys
        self._users = users
        self._provisioning = provisioning

    async def admit(self, view: View | None) -> None:
        """Let the current request go on to its view, None if it has none. Raises ChatError.

        Unless the route is open, `g.caller` is the caller afterwards. Routes that upload take no turn: they last as
        long as their client takes, and have a rate limit of their own.
        """
        request, g = here()
        trace: Trace | None = request.scope.get(TRACE)
        if trace is not None and request.url_rule is not None:
            trace.route = template(request.url_rule.rule)
        g.began = time.perf_counter()
        if view is None or getattr(view, "open_route", False):
            self._limits.requests.require(origin())
            if getattr(view, "sign_in_route", False):
                await self._limits.sign_ins.require(origin())
            return
        try:
            token = bearer()
            found = None if is_key(token) else await self._verifier.verify(token)
        except ChatError:
            self._limits.requests.require(origin())  # so that guessing tokens is limited, too
            raise
        takes_turn = not getattr(view, "upload_route", False)
        if found is None:
            g.caller = await self._accept_key(token, takes_turn=takes_turn)
        else:
            g.caller = found
            known(request.scope)
            if trace is not None:
                trace.user = str(found.user_id)
            self._limits.requests.require(str(found.user_id))
            if takes_turn:
                await self._turns.take(request.scope, str(found.user_id))
            if not getattr(view, "parting_route", False) and not defers_standing(view):
                await self._users.require(found)
            g.count_additions = partial(self._count_additions, str(found.user_id))
        if not takes_turn:
            await self._limits.uploads.require(str(g.caller.user_id))
        if getattr(view, "join_route", False):
            await self._limits.joins.require(str(g.caller.user_id))

    async def check_query(self) -> None:
        """Refuse a query that is not UTF-8. A caller who may not act is refused for that first."""
        try:
            check_query()
        except ChatError:
            if owes_standing():
                await self._users.require(g.caller)
            raise

    async def _count_additions(self, user_id: str, number: int) -> None:
        await self._limits.additions.require(user_id, cost=number)

    async def _accept_key(self, token: str, *, takes_turn: bool) -> Caller:
        """Return for whom a request with an API key is made. Limits and turns are the key's, in the same order.

        A look-up of a key in PostgreSQL is counted against the address, so that guessing keys is limited.
        """
        scope = cast(dict[str, Any], request.scope)
        g.grant = grant = await self._api_keys.verify(token, lambda: self._limits.requests.require(origin()))
        known(scope)
        trace = current_trace()
        if trace is not None:
            trace.key = str(grant.id)
        self._limits.key_requests.require(grant.id)
        assert request.url_rule is not None  # it has a view
        needed = key_access.require(grant, request.method, template(request.url_rule.rule))
        if takes_turn:
            await self._turns.take(scope, f"key {grant.id}")
        user_id = await key_access.find_user(grant, needed, self._provisioning)
        if trace is not None and user_id != key_access.NO_USER:
            trace.user = str(user_id)
        return Caller(user_id, math.inf)


def origin() -> str:
    """Return the key under which the client's address is limited."""
    return limited_as(address())


def here() -> tuple[Any, Any]:
    """Return the current request and its `g` themselves: each look-up through Quart's proxies of them costs time."""
    return request._get_current_object(), g._get_current_object()  # type: ignore[attr-defined]
