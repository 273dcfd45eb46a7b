"""What goes over REST: lists, pages of history, users, files.

Owns the HTTP client, and when a request is repeated. Each that makes something has a key, so that it is done once.
"""

import ssl
import uuid
from collections.abc import Mapping
from typing import Any, TypeVar

import anyio
import httpx
import msgspec

from parley_client.backoff import Backoff
from parley_client.errors import ParleyError, from_response
from parley_client.tokens import TokenGiver

TIMEOUT = 30.0  # seconds for each step of a request
ATTEMPTS = 6

T = TypeVar("T")


class Rest:
    """Requests as one user. `url` is that of the server."""

    def __init__(self, url: str, tokens: TokenGiver, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._tokens = tokens
        self.http = httpx.AsyncClient(
            base_url=url, timeout=TIMEOUT, verify=ssl_context if ssl_context is not None else True
        )

    async def aclose(self) -> None:
        await self.http.aclose()

    async def get(self, path: str, kind: type[T], *, attempts: int = ATTEMPTS, **query: Any) -> T:
        return self._decoded(await self.request("GET", path, attempts=attempts, params=_given(query)), kind)

    async def post(self, path: str, body: Mapping[str, Any], kind: type[T]) -> T:
        return self._decoded(await self.request("POST", path, json=_given(body), key=str(uuid.uuid4())), kind)

    async def put(self, path: str, body: Mapping[str, Any], kind: type[T]) -> T:
        return self._decoded(await self.request("PUT", path, json=dict(body)), kind)

    async def delete(self, path: str, **query: Any) -> None:
        await self.request("DELETE", path, params=_given(query))

    async def request(
        self, method: str, path: str, *, attempts: int = ATTEMPTS, key: str | None = None, **options: Any
    ) -> httpx.Response:
        """Make a request, again while that may help. Raises ParleyError."""
        backoff, has_renewed = Backoff(), False
        while True:
            token = await self._tokens.current()
            headers = {"Authorization": f"Bearer {token}"}
            if key is not None:
                headers["Idempotency-Key"] = key
            try:
                answer = await self.http.request(method, path, headers=headers, **options)
                if answer.is_success:
                    return answer
                error = from_response(answer.status_code, answer.headers, answer.content)
            except httpx.TransportError as fault:
                error = ParleyError("network", f"{self.http.base_url}: {fault or type(fault).__name__}")
            except httpx.InvalidURL as fault:
                raise ParleyError("invalid_request", f"{self.http.base_url}: {fault}") from None
            if error.code == "unauthenticated" and self._tokens.can_renew and not has_renewed:
                has_renewed = True
                await self._tokens.renew(token)
                continue
            if not error.is_retryable or backoff.attempts + 1 >= attempts:
                raise error
            await anyio.sleep(backoff.next(error.retry_after))

    @staticmethod
    def _decoded(answer: httpx.Response, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise ParleyError("internal", f"the server answered what is not understood: {error}") from None


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
