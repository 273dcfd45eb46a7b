"""REST for signing in and for sessions (docs/rest.md). Owns the routes and the cookie of a sign-in under way.

What providers say is checked in `server.identity.sign_in`, what a session is decided in `handlers.accounts`.
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
from server.rest.operations import IDEMPOTENCY_KEY, PAGE, Answer, done, operation, query
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
    """Where the browser has to go."""

    authorization_url: str


def blueprint(accounts: Accounts, verifier: Verifier, users: Users, sign_in: SignIn, settings: Settings) -> Blueprint:
    routes = Blueprint("auth", __name__, url_prefix="/auth")
    returns = _origins((*settings.allowed_origins, *settings.return_origins))
    loopback = origins.LOOPBACK in settings.return_origins

    @routes.get("/login/<provider>")
    @operation(
        Answer(200, Redirect, "Where to send the browser, for who asks for JSON."),
        Answer(302, None, "To the provider.", ("Location",)),
        parameters=(
            query("returnUrl", {"type": "string", "format": "uri"}, "Where the browser goes when it is signed in."),
            query(
                "codeChallenge",
                {"type": "string", "pattern": f"^{exchange_codes.CHALLENGE}$"},
                "Base64url of the SHA-256 of a secret that the exchange of the code has to show.",
            ),
        ),
        refuses=("not_found", "unauthenticated"),
    )
    @sign_in_route
    async def login(provider: str) -> Response:
        """Begin to sign in with a provider.

        With an access token: let its user sign in with that provider from now on, too.
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
        Answer(303, None, "To the `returnUrl`, with a `code` for /auth/exchange in its query.", ("Location",)),
        parameters=(
            query("state", {"type": "string"}, "As the provider sends it back."),
            query("code", {"type": "string"}, "As the provider makes it."),
        ),
        refuses=("sign_in_failed", "not_found", "conflict", "unauthenticated"),
    )
    @sign_in_route
    async def callback(provider: str) -> Response:
        """Where the provider sends the browser back to."""
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
            raise
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

    def _require_return(url: str) -> str:
        """Only to pages of ours: what signs in goes there. Raises ChatError("invalid_request")."""
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
        parameters=(IDEMPOTENCY_KEY,),
        refuses=("unauthenticated",),
    )
    @sign_in_route
    async def exchange(data: ExchangeRequest) -> Response:
        """Tokens for the code that a browser came back with.

        It is good once, for a minute, and for who has the verifier of the `codeChallenge` that the login was given.
        """
        idempotency_key()
        grant = sign_in.codes.redeem(data.code, data.code_verifier)
        if grant is None:
            raise ChatError("unauthenticated", "The code or its verifier is not good (any more). Sign in again.")
        tokens = await accounts.begin(grant.user_id, client(), parent=grant.session_id, code=grant.id)
        log.info("signed_in", provider=grant.provider, session=str(tokens.session_id))
        return answer(tokens)

    @routes.post("/refresh")
    @operation(
        Answer(200, Tokens, "New tokens of the same session."),
        takes=RefreshRequest,
        parameters=(IDEMPOTENCY_KEY,),
        refuses=("unauthenticated",),
    )
    @sign_in_route
    async def refresh(data: RefreshRequest) -> Response:
        """New tokens for a refresh token, which is spent by that.

        The token itself makes it safe to repeat: the one that was spent last gives the same answer for ten seconds.
        Any other that was spent before ends its session.
        """
        return answer(await accounts.refresh(data.refresh_token, client(), await once()))

    @routes.post("/logout")
    @operation(done("The session is over."), parameters=(IDEMPOTENCY_KEY,), refuses=("conflict",))
    @parting_route
    async def logout() -> Response:
        """End the session that the access token is from. It is over when this is repeated, too."""
        idempotency_key()
        await accounts.logout(caller())
        return nothing()

    @routes.get("/sessions")
    @operation(Answer(200, SessionPage, "A page of sessions, the newest first."), parameters=PAGE)
    async def list_sessions() -> Response:
        """My sessions: where I am signed in."""
        items, following = await accounts.list(caller(), limit(), cursor())
        return page(items, following)

    @routes.delete("/sessions/<id:session_id>")
    @operation(done("Its tokens are void, its connections closed, on every instance."))
    async def revoke(session_id: str) -> Response:
        """End one of my sessions."""
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
        samesite="Lax",  # it comes with the top-level redirect back from the provider, and with nothing else
    )


def _origins(configured: Collection[str]) -> frozenset[str]:
    """Those that are origins, as browsers write them. A wildcard is none: it says who may call, not where tokens go."""
    return frozenset(found for one in configured if (found := origins.origin(one)) is not None)
