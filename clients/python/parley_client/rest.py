"""What goes over REST: lists, pages of history, users, files.

Owns the requests of one user, and when one is repeated. Each that makes something has a key, so that it is done once.
"""

import ssl
import uuid
from collections.abc import Mapping
from typing import Any, TypeVar

import anyio
import httpx

from parley_client.backoff import Backoff
from parley_client.errors import ParleyError
from parley_client.http import ask, open_client
from parley_client.model import decoded
from parley_client.tokens import TokenGiver

ATTEMPTS = 6

T = TypeVar("T")


class Rest:
    """Requests as one user. `url` is that of the server."""

    def __init__(self, url: str, tokens: TokenGiver, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._tokens = tokens
        self.http = open_client(url, ssl_context)

    async def aclose(self) -> None:
        await self.http.aclose()

    async def get(self, path: str, kind: type[T], *, attempts: int = ATTEMPTS, **query: Any) -> T:
        answer = await self.request("GET", path, attempts=attempts, params=_given(query))
        return self._decoded(answer, kind)

    async def post(self, path: str, body: Mapping[str, Any], kind: type[T]) -> T:
        return self._decoded(await self.request("POST", path, json=_given(body), key=str(uuid.uuid4())), kind)

    async def put(self, path: str, body: Mapping[str, Any], kind: type[T]) -> T:
        return self._decoded(await self.request("PUT", path, json=dict(body)), kind)

    async def remove(self, path: str, kind: type[T], **query: Any) -> T:
        """Delete what is answered with what is left."""
        return self._decoded(await self.request("DELETE", path, params=_given(query)), kind)

    async def delete(self, path: str, **query: Any) -> None:
        await self.request("DELETE", path, params=_given(query))

    async def request(
        self, method: str, path: str, *, attempts: int = ATTEMPTS, key: str | None = None, **options: Any
    ) -> httpx.Response:
        """Make a request, again while that may help. Raises ParleyError."""
        backoff, has_renewed = Backoff(), False
        while True:
            if self.http.is_closed:
                raise ParleyError("closed", "the chat was closed")
            token = await self._tokens.current()
            headers = {"Authorization": f"Bearer {token}"}
            if key is not None:
                headers["Idempotency-Key"] = key
            try:
                return await ask(self.http, method, path, headers=headers, **options)
            except ParleyError as error:
                if error.code == "unauthenticated" and self._tokens.can_renew and not has_renewed:
                    has_renewed = True
                    await self._tokens.renew(token)
                    continue
                if not error.is_retryable or backoff.attempts + 1 >= attempts:
                    raise
                wait = backoff.next(error.retry_after)
            await anyio.sleep(wait)

    @staticmethod
    def _decoded(answer: httpx.Response, kind: type[T]) -> T:
        found: T = decoded(answer.content, kind)
        return found


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
