"""The keys of an identity provider, fetched from its JWKS URL (RFC 7517) and kept fresh.

Owns the cache. A key id not seen before triggers one refetch, shared by all who wait for it and at most
every `MIN_INTERVAL`; between times a background task refreshes. While the provider is away its keys stay good, but
not for longer than `TRUSTED_FOR`: one that it withdrew meanwhile must end. Speaks HTTP through httpx, on Trio.
"""

import json
from typing import Any

import httpx
import jwt
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from handlers.errors import ChatError
from store.defects import guard
from store.reasons import cut, reason

REFRESH = 300.0  # seconds between background refreshes
STALE = 3600.0  # seconds after which they are asked for anew before they are used, where nobody refreshes them
TRUSTED_FOR = 24 * 3600.0  # seconds after the last successful fetch; past it no key of theirs is good
MIN_INTERVAL = 10.0  # seconds between refetches that tokens can cause
TIMEOUT = 5.0  # seconds for one fetch, all in all
MAX_BYTES = 1024 * 1024
MAX_KEYS = 100  # of one document that are looked at; the largest providers have about ten
RSA_BITS = range(2048, 16384 + 1)  # RFC 7518, 3.3; OpenSSL verifies with nothing longer
ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})

# Of the way to the provider, and of what it sent: whatever that is, it costs no more than the keys that were in it.
_FAULTS = (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, ValueError, KeyError, TypeError, RecursionError)

_guard = guard("keys")

log = structlog.get_logger("parley.jwks")


class KeySet:
    """Signing keys by key id."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._is_away = False  # the last fetch failed
        self._lock = trio.Lock()
        self._tls = httpx.create_ssl_context()  # once: it reads every root certificate

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key, refetching at most once for one not known. A token without a key id fits a lone key.

        None when the provider has no such key; while it is away nobody can tell: raises ChatError("unavailable").
        """
        key = self._lookup(key_id)
        if key is None or trio.current_time() - self._tried_at > STALE:
            await self._refetch(key_id)
            key = self._lookup(key_id)
        if key is None and self._is_away:
            wait = self._tried_at + MIN_INTERVAL - trio.current_time()
            sentence = "The keys of the identity provider are out of reach; try the same request again."
            raise ChatError("unavailable", sentence, retry_after=max(1.0, wait))
        return key

    def _lookup(self, key_id: str | None) -> jwt.PyJWK | None:
        self._expire()
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    def _expire(self) -> None:
        if self._keys and trio.current_time() - self._fetched_at > TRUSTED_FOR:
            self._keys = {}
            advice = "tokens of this issuer are refused until its keys can be fetched"
            log.error("jwks_expired", url=self._url, hours=TRUSTED_FOR / 3600, advice=advice)

    async def _refetch(self, key_id: str | None) -> None:
        async with self._lock:
            age = trio.current_time() - self._tried_at
            if age > STALE or (age >= MIN_INTERVAL and self._lookup(key_id) is None):
                await self._fetch()

    async def _fetch(self) -> None:
        """Replace the keys. A failure leaves the ones we have. The log has a line when they go away or come back."""
        self._tried_at = trio.current_time()
        try:
            with trio.fail_after(TIMEOUT):
                body = await self._read()
            self._keys = await _parse_all(json.loads(body)["keys"])
        except _FAULTS as error:
            if not self._is_away:
                log.warning("jwks_unreachable", url=self._url, reason=_why(error))
            self._is_away = True
        else:
            if self._is_away:
                log.info("jwks_reachable", url=self._url, keys=len(self._keys))
            self._is_away, self._fetched_at = False, self._tried_at

    async def _read(self) -> bytes:
        body = b""
        async with (
            httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False, verify=self._tls) as client,
            client.stream("GET", self._url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            response.raise_for_status()
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise ValueError("the key set is compressed, which was not asked for")  # it may unfold without end
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError("the key set is too large")
        return body

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Refresh in the background, so that rotated keys are known before they are needed."""
        task_status.started()
        while True:
            try:
                async with self._lock:
                    await self._fetch()
                    self._expire()
            except Exception as error:  # the keys that we have stay good
                _guard.caught(error, url=self._url)
            await trio.sleep(REFRESH)


async def _parse_all(entries: Any) -> dict[str | None, jwt.PyJWK]:
    """By key id. Raises TypeError."""
    keys = {}
    for entry in entries[:MAX_KEYS]:
        key = _parse(entry)
        if key is not None:
            keys[key.key_id] = key
        await trio.lowlevel.checkpoint()
    return keys


def _parse(entry: Any) -> jwt.PyJWK | None:
    """A signature key of a kind we accept, by its own type and never by what a token says."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    if "d" in entry or not isinstance(entry.get("kid"), str | None):
        return None  # a private key is nobody's to publish, and may take long to work out
    try:
        key = jwt.PyJWK.from_dict(entry)
    except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError):  # one key that is none does not cost the others
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size not in RSA_BITS:
        return None
    return key if key.algorithm_name in ALGORITHMS else None


def _why(error: Exception) -> str:
    """HTTP errors quote the URL, which may have a key in it."""
    return reason(error) if isinstance(error, httpx.HTTPError) else cut(str(error)) or type(error).__name__
