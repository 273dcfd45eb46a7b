"""Access tokens: where they come from, and until when one is good.

Owns the application's way of giving tokens, and the session of a refresh token. What a token says of itself is only
read to renew it in time; it is the server's to check.
"""

import base64
import binascii
import inspect
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
import httpx
import msgspec

from parley_client.errors import ParleyError, from_response
from parley_client.http import TIMEOUT, ask, open_client, server_url
from parley_client.model import Tokens, decoded

TokenSource: TypeAlias = "str | Callable[[], str] | Callable[[], Awaitable[str]]"
MARGIN = 60.0  # seconds before its end at which a token is renewed, or a fifth of its life if that is less


NEW = 300.0  # seconds for which a token is good that has ended, and does not say when it began


class _Claims(msgspec.Struct):
    exp: float | None = None
    iat: float | None = None


def expires_at(token: str, now: float) -> float | None:
    """Return when a JWT that was just given ends, by this clock, in seconds since 1970; None if it does not say.

    If it has ended already, or is to begin, the clock is wrong: it is as good as new.
    """
    try:
        body = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=_Claims)
    except (IndexError, binascii.Error, ValueError, msgspec.MsgspecError):
        return None
    if claims.exp is None:
        return None
    left = claims.exp - now
    life = max(left, NEW) if claims.iat is None else claims.exp - claims.iat
    return now + (left if 0 < left <= life else life)


class TokenGiver:
    """The token that is in use, and the next one when that is needed."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._token: str | None = _checked(source) if isinstance(source, str) else None
        self._ends: float | None = None  # seconds since 1970, by this clock
        self._lock: anyio.Lock | None = None
        self.can_renew = not isinstance(source, str)

    @property
    def newest(self) -> str | None:
        """The one that was given last."""
        return self._token

    async def current(self) -> str:
        """Return the token in use, or a new one where there is none or it has ended."""
        token = self._token
        if token is None or (self._ends is not None and self._ends <= time.time()):
            return await self.renew(token)
        return token

    async def renew(self, old: str | None) -> str:
        """Ask the application for another token than this one. Several that ask at once share the answer."""
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            if self._token is not None and (self._token != old or not self.can_renew):
                return self._token
            if not callable(self._source):
                return _checked(self._source)
            try:
                found = self._source()
                self._token = _checked(await found if inspect.isawaitable(found) else str(found))
                self._ends = expires_at(self._token, time.time())
            except httpx.HTTPStatusError as error:  # by `raise_for_status`
                raise from_response(error.response.status_code, error.response.headers, b"") from error
            except (OSError, httpx.RequestError) as error:
                raise ParleyError(
                    "network", f"no access token could be had: {error or type(error).__name__}"
                ) from error
            return self._token

    def seconds_left(self) -> float | None:
        """Return the seconds until the token should be renewed; None: it need not be, or cannot."""
        if self._ends is None:
            return None
        left = self._ends - time.time()
        return max(0.0, left - min(MARGIN, left / 5))


def _checked(token: str) -> str:
    """Return a token as it can be shown: without the line break of the file it was read from. Raises ParleyError."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ParleyError("unauthenticated", "this is no access token: it is empty, or has what no token has")
    return token


class Session:
    """Access tokens of a sign-in session, from its refresh token: `token=Session(url, refresh_token)`.

    Each refresh gives a new refresh token, which the application keeps (`on_refresh`) to go on in its next process.
    """

    def __init__(
        self,
        url: str,
        refresh_token: str,
        *,
        on_refresh: Callable[[str], object] | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._url = server_url(url)
        self._on_refresh = on_refresh
        self._ssl_context = ssl_context
        self.refresh_token = refresh_token

    async def __call__(self) -> str:
        # To its end, also when it is cancelled: the old refresh token is of no use when the server has given a new one.
        with anyio.move_on_after(TIMEOUT, shield=True):
            async with open_client(self._url, self._ssl_context) as http:
                answer = await ask(http, "POST", "/auth/refresh", json={"refreshToken": self.refresh_token})
                tokens: Tokens = decoded(answer.content, Tokens)
                self.refresh_token = tokens.refresh_token
                if self._on_refresh is not None:
                    self._on_refresh(tokens.refresh_token)
            return tokens.access_token
        raise ParleyError("network", f"{self._url} does not answer in time")
