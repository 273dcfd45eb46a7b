"""REST for signing in and for sessions (docs/rest.md). Owns the routes and the cookie of a sign-in under way.

`server.identity.sign_in` checks the answers of providers; `handlers.accounts` begins and ends sessions.
"""

from collections.abc import Collection
from urllib.parse import urlencode

import structlog
from quart import Blueprint, Response, request

from handlers.accounts import Accounts
from handlers.errors import ChatError
from handlers.model import ExchangeRequest, Identity, RefreshRequest, Tokens
from handlers.users import Users
from server.config import origins
from server.config.settings import Settings
from server.identity import exchange_codes
from server.identity import sign_in_state as attempts
from server.identity.access_tokens import Verifier
from server.identity.providers import failed
from server.identity.sign_in import SignIn
from server.identity.sign_in_state import Attempt
from server.rest.operations import IDEMPOTENCY_KEY, PAGE, UNUSED_KEY, Answer, done, operation, query
from server.rest.requests import (
    answer,
    base_url,
    bearer,
    caller,
    client,
    cursor,
    idempotency_key,
    limit,
    nothing,
    once,
    page,
    parting_route,
    path_id,
    sign_in_route,
)
from store.model import Session, Wire

CALLBACK = "/auth/callback/"

log = structlog.get_logger("parley.sign_in")


class SessionPage(Wire, frozen=True):
    items: tuple[Session, ...]
    next: str | None


class Redirect(Wire, frozen=True):
    """The URL that the browser has to open."""

    authorization_url: str


def blueprint(accounts: Accounts, verifier: Verifier, users: Users, sign_in: SignIn, settings: Settings) -> Blueprint:
    routes = Blueprint("auth", __name__, url_prefix="/auth")
    returns = _origins((*settings.allowed_origins, *settings.return_origins))
    loopback = origins.LOOPBACK in settings.return_origins

    @routes.get("/login/<provider>")
    @operation(
        Answer(200, Redirect, "The URL to send the browser to, if the request accepts JSON."),
        Answer(302, None, "To the provider.", ("Location",)),
        parameters=(
            query(
                "returnUrl",
                {"type": "string", "format": "uri"},
                "The page to which the browser returns after signing in.",
            ),
            query(
                "codeChallenge",
                {"type": "string", "pattern": f"^{exchange_codes.CHALLENGE}$"},
                "The base64url-encoded SHA-256 of a secret, which the exchange of the code has to present.",
            ),
        ),
        refuses=("not_found", "unauthenticated", "banned", "sign_in_failed"),
    )
    @sign_in_route
    async def login(provider: str) -> Response:
        """Begin to sign in with a provider.

        With an access token, link the provider's account to the token's user, who can then sign in with it, too.
        """
        found = sign_in.find(provider)
        goal, challenge = request.args.get("returnUrl", ""), request.args.get("codeChallenge", "")
        if goal:
            goal = _require_return(goal)
        if challenge and not exchange_codes.is_challenge(challenge):
            sentence = "43 characters of base64url: a SHA-256"
            raise ChatError("invalid_request", f"The codeChallenge is {sentence}.", errors={"codeChallenge": sentence})
        known = await verifier.verify(bearer()) if "Authorization" in request.headers else None
        if known is not None:
            await users.require(known)
        attempt = attempts.begin(
            provider, f"{base_url()}{CALLBACK}{provider}", return_url=goal, challenge=challenge, caller=known
        )
        url = await found.authorization_url(attempt)
        if request.accept_mimetypes.best == "application/json":
            response = answer(Redirect(url))
        else:
            response = Response("", status=302, headers={"Location": url})
        _set_cookie(response, attempt, sign_in.sealer.seal(attempt), attempts.TTL)
        return response

    @routes.get("/callback/<provider>")
    @operation(
        Answer(200, Tokens, "The tokens of a new session."),
        Answer(
            303,
            None,
            "To the `returnUrl`, with a `code` for /auth/exchange in its query; or with an `error`, if the request "
            "prefers HTML.",
            ("Location",),
        ),
        parameters=(
            query("state", {"type": "string"}, "The `state` that the provider returns unchanged."),
            query("code", {"type": "string"}, "The authorization code from the provider."),
        ),
        refuses=("sign_in_failed", "registration_closed", "not_found", "conflict", "unauthenticated", "banned"),
    )
    @sign_in_route
    async def callback(provider: str) -> Response:
        """Finish a sign-in: the provider redirects the browser to this URL."""
        sign_in.find(provider)
        state = request.args.get("state", "")
        attempt = sign_in.sealer.open(request.cookies.get(attempts.cookie_name(state), ""))
        try:
            if attempt is None or attempt.provider != provider:
                raise failed("This sign-in was not begun in this browser, or it took too long.")
            identity = await sign_in.finish(attempt, state, request.args)
            response = await _finish(attempt, identity)
        except ChatError as error:
            log.warning("sign_in_failed", provider=provider, code=error.code, reason=error.sentence)
            goal = _return_of_failure(attempt)
            if not goal:
                raise
            response = Response(
                "", status=303, headers={"Location": origins.with_query(goal, urlencode({"error": error.code}))}
            )
            if attempt is None:
                return response
        _set_cookie(response, attempt, "", 0)
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    async def _finish(attempt: Attempt, identity: Identity) -> Response:
        if attempt.link_to is None:
            user_id = await accounts.sign_in(identity)
        else:
            user_id = attempt.link_to
            await accounts.link(user_id, identity, session_id=attempt.session_id)
        if not attempt.return_url or settings.return_with == "fragment":
            tokens = await accounts.begin(user_id, client(), parent=attempt.session_id)
            log.info("signed_in", provider=attempt.provider, session=str(tokens.session_id))
        if not attempt.return_url:
            return answer(tokens)
        if settings.return_with == "fragment":
            fields = {"accessToken": tokens.access_token, "refreshToken": tokens.refresh_token}
            goal = f"{attempt.return_url}#{urlencode({**fields, 'expiresIn': tokens.expires_in})}"
        else:
            grant = exchange_codes.Grant(
                user_id, attempt.provider, session_id=attempt.session_id, challenge=attempt.challenge_of_app
            )
            goal = origins.with_query(attempt.return_url, urlencode({"code": sign_in.codes.issue(grant)}))
        return Response("", status=303, headers={"Location": goal})

    def _return_of_failure(attempt: Attempt | None) -> str:
        """Return the page that a person comes back to when they are not signed in; "" for one who can read a problem.

        Without an attempt, which the browser has lost by now, it is the server's own page, where there is one.
        """
        if request.accept_mimetypes.best_match(("application/json", "text/html")) != "text/html":
            return ""
        if attempt is None:
            return "/" if settings.web == "on" else ""
        return attempt.return_url

    def _require_return(url: str) -> str:
        """Check that a returnUrl is of an allowed origin, as codes or tokens are sent there.

        Raises ChatError("invalid_request").
        """
        ours = origins.origin(base_url())
        allowed = returns | {ours} if ours is not None else returns
        goal = origins.checked(url, allowed, loopback=loopback)
        if goal is None:
            raise ChatError(
                "invalid_request", "The returnUrl is of an origin that is not allowed.", errors={"returnUrl": "origin"}
            )
        return goal

    @routes.post("/exchange")
    @operation(
        Answer(200, Tokens, "The tokens of a new session."),
        takes=ExchangeRequest,
        parameters=(UNUSED_KEY,),
        refuses=("unauthenticated", "banned"),
    )
    @sign_in_route
    async def exchange(data: ExchangeRequest) -> Response:
        """Exchange the code with which a browser returned for tokens.

        A code is valid once, for one minute, and only together with the verifier of the login's `codeChallenge`.
        """
        idempotency_key()
        grant = sign_in.codes.redeem(data.code, data.code_verifier)
        if grant is None:
            raise ChatError(
                "unauthenticated", "The code or its verifier is not valid, or the code has expired. Sign in again."
            )
        tokens = await accounts.begin(grant.user_id, client(), parent=grant.session_id, code=grant.id)
        log.info("signed_in", provider=grant.provider, session=str(tokens.session_id))
        return answer(tokens)

    @routes.post("/refresh")
    @operation(
        Answer(200, Tokens, "New tokens of the same session."),
        takes=RefreshRequest,
        parameters=(IDEMPOTENCY_KEY,),
        refuses=("unauthenticated", "banned"),
    )
    @sign_in_route
    async def refresh(data: RefreshRequest) -> Response:
        """Exchange a refresh token for new tokens. It can be used once.

        The request is safe to repeat: the token that was used last gets the same answer for ten seconds. Using any
        earlier token ends the session.
        """
        return answer(await accounts.refresh(data.refresh_token, client(), await once()))

    @routes.post("/logout")
    @operation(done("The session is over."), parameters=(UNUSED_KEY,), refuses=("conflict",))
    @parting_route
    async def logout() -> Response:
        """End the session of the access token. Safe to repeat."""
        idempotency_key()
        await accounts.logout(caller())
        return nothing()

    @routes.get("/sessions")
    @operation(Answer(200, SessionPage, "A page of sessions, the newest first."), parameters=PAGE)
    async def list_sessions() -> Response:
        """List the caller's sessions."""
        items, following = await accounts.list(caller(), limit(), cursor())
        return page(items, following)

    @routes.delete("/sessions/<id:session_id>")
    @operation(done("The session is over; its connections are closed on every instance."))
    async def revoke(session_id: str) -> Response:
        """End one of the caller's sessions."""
        await accounts.revoke(caller(), path_id(session_id))
        return nothing()

    return routes


def _set_cookie(response: Response, attempt: Attempt, value: str, max_age: int) -> None:
    response.set_cookie(
        attempts.cookie_name(attempt.state),
        value,
        max_age=max_age,
        path=CALLBACK + attempt.provider,
        secure=attempt.redirect_uri.startswith("https:"),
        httponly=True,
        samesite="Lax",  # sent with the top-level redirect from the provider, and with no other cross-site request
    )


def _origins(configured: Collection[str]) -> frozenset[str]:
    """Return the configured values that are origins, as browsers write them.

    A wildcard is not one: it allows calls from any page, which does not mean that tokens may be sent to any page.
    """
    return frozenset(found for one in configured if (found := origins.origin(one)) is not None)
