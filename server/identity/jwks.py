"""The keys of an identity provider, fetched from its JWKS URL (RFC 7517) and kept fresh.

Owns the cache. An unknown key id causes one refetch, shared by all callers that wait for it, and at most once every
`MIN_INTERVAL`; a background task refreshes in between. While the provider is unreachable its keys stay valid, but not
for longer than `TRUSTED_FOR`, because it may have withdrawn one. Speaks HTTP through httpx, on Trio.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import jwt
import structlog
import trio

from handlers.errors import ChatError
from server.identity import answers
from store import bounded_streams
from store.defects import guard
from store.errors import Unavailable
from store.reasons import cut, reason

REFRESH = 300.0  # seconds between background refreshes
STALE = 3600.0  # seconds after which keys are refetched before use, where no background task refreshes them
TRUSTED_FOR = 24 * 3600.0  # seconds after the last successful fetch; after it none of its keys is valid
MIN_INTERVAL = 10.0  # seconds between refetches caused by tokens
TIMEOUT = 5.0  # seconds for one whole fetch
MAX_SAME = 2  # keys of one id and algorithm that are tried: a key and its successor
MAX_KEYS = 100  # read from one document; the largest providers have about ten
RSA_BITS = range(2048, 16384 + 1)  # RFC 7518, 3.3; OpenSSL verifies with nothing longer
ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})

# In the transport and in the document: either leaves the keys as they are.
_FAULTS = (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, ValueError, KeyError, TypeError, RecursionError)

_guard = guard("jwks")

log = structlog.get_logger("parley.jwks")


class KeySet:
    """Signing keys by key id.

    Key ids should be distinct (RFC 7517, 4.5), but a document may list a key of another type, or a successor, under the
    same one. All of them are kept, up to `MAX_SAME`: the issuer published each, so a token may be signed with any.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._shown = url.partition("?")[0]  # a query may have a key in it
        self._keys: dict[str | None, list[jwt.PyJWK]] = {}
        self._shared: set[str] = set()  # key ids, as logged last, that have too many keys
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._is_away = False  # the last fetch failed
        self._lock = trio.Lock()
        self._tls = httpx.create_ssl_context()  # once: it reads every root certificate

    async def find(self, key_id: str | None, algorithm: object = None) -> Sequence[jwt.PyJWK]:
        """Return the keys with this id, after one refetch if there is none. A token without an id matches a lone key.

        Of several keys only those for `algorithm`, if there are any. Return none if the provider has no such key. Raise
        ChatError("unavailable") if the provider is unreachable, so that this is not known.
        """
        found = self._lookup(key_id)
        if not found or trio.current_time() - self._tried_at > STALE:
            await self._refetch(key_id)
            found = self._lookup(key_id)
        if not found and self._is_away:
            wait = self._tried_at + MIN_INTERVAL - trio.current_time()
            sentence = "The keys of the identity provider are out of reach; try the same request again."
            raise ChatError("unavailable", sentence, retry_after=max(1.0, wait))
        return [key for key in found if key.algorithm_name == algorithm] or found

    def _lookup(self, key_id: str | None) -> Sequence[jwt.PyJWK]:
        self._expire()
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id, ())

    def _expire(self) -> None:
        if self._keys and trio.current_time() - self._fetched_at > TRUSTED_FOR:
            self._keys = {}
            advice = "tokens of this issuer are refused until its keys can be fetched"
            log.error("jwks_expired", url=self._shown, hours=TRUSTED_FOR / 3600, advice=advice)

    async def _refetch(self, key_id: str | None) -> None:
        async with self._lock:
            age = trio.current_time() - self._tried_at
            if age > STALE or (age >= MIN_INTERVAL and not self._lookup(key_id)):
                await self._fetch()

    async def check(self) -> str:
        """Return how many usable keys there are. Raises StoreError with the reason."""
        try:
            keys = await self._load()
        except trio.TooSlowError:
            raise Unavailable(f"no answer within {TIMEOUT:g} s") from None
        except _FAULTS as error:
            raise Unavailable(_why(error)) from None
        if not keys:
            raise Unavailable("there is no usable key in its key set")
        return f"{sum(map(len, keys.values()))} keys"

    async def _load(self) -> dict[str | None, list[jwt.PyJWK]]:
        with trio.fail_after(TIMEOUT):
            body = await self._read()
        return await _parse_all(json.loads(body)["keys"])

    async def _fetch(self) -> None:
        """Replace the keys. A failure leaves them as they are; its beginning and its end are logged."""
        before, self._tried_at = self._tried_at, trio.current_time()
        try:
            self._keys = await self._load()
            self._bound()
        except trio.Cancelled:  # the one who asked has gone: this says nothing of the provider
            self._tried_at = before
            raise
        except _FAULTS as error:
            if not self._is_away:
                log.warning("jwks_unreachable", url=self._shown, reason=_why(error))
            self._is_away = True
        else:
            if self._is_away:
                log.info("jwks_reachable", url=self._shown, keys=sum(map(len, self._keys.values())))
            self._is_away, self._fetched_at = False, self._tried_at

    def _bound(self) -> None:
        """Keep the last `MAX_SAME` keys for one id and algorithm: a token costs a verification with each."""
        shared = set()
        for key_id, found in self._keys.items():
            counts: Counter[str] = Counter()
            for key in reversed(list(found)):
                counts[key.algorithm_name] += 1
                if counts[key.algorithm_name] > MAX_SAME:
                    found.remove(key)
                    shared.add(cut(str(key_id)))
        if shared - self._shared:
            advice = "the provider should give each key an id of its own (RFC 7517, 4.5); the others are not used"
            log.warning("jwks_keys_left_out", url=self._shown, key_ids=sorted(shared)[:5], kept=MAX_SAME, advice=advice)
        self._shared = shared

    async def _read(self) -> bytes:
        async with (
            bounded_streams.open_client(timeout=TIMEOUT, follow_redirects=False, verify=self._tls) as client,
            client.stream("GET", self._url, headers=answers.UNCOMPRESSED) as response,
        ):
            response.raise_for_status()
            return await answers.read(response)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Refresh in the background, so that rotated keys are known before they are needed; soon again while there are
        none, as after a start at which the provider was out of reach."""
        task_status.started()
        while True:
            try:
                async with self._lock:
                    await self._fetch()
                    self._expire()
            except Exception as error:  # the keys stay as they are
                _guard.caught(error, url=self._shown)
            await trio.sleep(REFRESH if self._keys or not self._is_away else MIN_INTERVAL)


async def _parse_all(entries: Any) -> dict[str | None, list[jwt.PyJWK]]:
    """Return the usable keys by key id. Raise TypeError."""
    keys: dict[str | None, list[jwt.PyJWK]] = {}
    for entry in entries[:MAX_KEYS]:
        key = _parse(entry)
        if key is not None:
            keys.setdefault(key.key_id, []).append(key)
        await trio.lowlevel.checkpoint()
    return keys


def _parse(entry: Any) -> jwt.PyJWK | None:
    """Return a signature key of an accepted kind, by its own type and never by the header of a token."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    if "d" in entry or not isinstance(entry.get("kid"), str | None):
        return None  # a private key, published by mistake, which may also take long to load
    try:
        key = jwt.PyJWK.from_dict(entry)
    except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError):  # an invalid key does not affect the others
        return None
    if key.key_type == "RSA" and key.key.key_size not in RSA_BITS:
        return None
    return key if key.algorithm_name in ALGORITHMS else None


def _why(error: Exception) -> str:
    """Return the reason without the URL, which may contain a secret, and which HTTP errors quote."""
    return reason(error) if isinstance(error, httpx.HTTPError) else cut(str(error)) or type(error).__name__
