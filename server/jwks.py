"""The keys of an identity provider, fetched from its JWKS URL (RFC 7517) and kept fresh.

Owns the cache. A key id not seen before triggers one refetch, shared by all who wait for it and at most
every `MIN_INTERVAL`; between times a background task refreshes. Speaks HTTP through httpx, on Trio.
"""

import json
from typing import Any

import httpx
import jwt
import structlog
import trio

from handlers.errors import ChatError

REFRESH = 300.0  # seconds between background refreshes
MAX_AGE = 3600.0  # seconds after which the keys are fetched anew before they are used: revoked ones are gone then
MIN_INTERVAL = 10.0  # seconds between refetches that unknown key ids can cause
TIMEOUT = 5.0  # seconds for one fetch, all in all
MAX_BYTES = 1024 * 1024
ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})

log = structlog.get_logger("parley.jwks")


class KeySet:
    """Signing keys by key id."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._lock = trio.Lock()
        self._tls = httpx.create_ssl_context()  # once: it reads every root certificate

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key, refetching at most once for one not known. A token without a key id fits a lone key."""
        if trio.current_time() - self._fetched_at > MAX_AGE:
            self._keys = {}
        key = self._lookup(key_id)
        if key is None:
            await self._refetch(key_id)
            key = self._lookup(key_id)
        return key

    def _lookup(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _refetch(self, key_id: str | None) -> None:
        async with self._lock:
            if self._lookup(key_id) is None and trio.current_time() - self._fetched_at >= MIN_INTERVAL:
                await self._fetch()

    async def _fetch(self) -> None:
        """Replace the keys. A failure is logged and leaves the ones we have."""
        self._fetched_at = trio.current_time()
        try:
            with trio.fail_after(TIMEOUT):
                body = await self._read()
            entries = json.loads(body)["keys"]
            self._keys = {key.key_id: key for key in map(_parse, entries) if key is not None}
        except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, ValueError, KeyError, TypeError) as error:
            log.warning("jwks_unreachable", url=self._url, reason=str(error) or type(error).__name__)
            if not self._keys:
                raise ChatError("unavailable", "The keys of the identity provider are out of reach.") from None

    async def _read(self) -> bytes:
        body = b""
        async with (
            httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False, verify=self._tls) as client,
            client.stream("GET", self._url) as response,
        ):
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError("the key set is too large")
        return body

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Refresh in the background, so that rotated keys are known before they are needed."""
        task_status.started()
        while True:
            async with self._lock:
                try:
                    await self._fetch()
                except ChatError:
                    pass  # logged; requests try again by themselves
            await trio.sleep(REFRESH)


def _parse(entry: Any) -> jwt.PyJWK | None:
    """A signature key of a kind we accept, by its own type and never by what a token says."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    try:
        key = jwt.PyJWK.from_dict(entry)
    except jwt.PyJWTError:
        return None
    return key if key.algorithm_name in ALGORITHMS else None
