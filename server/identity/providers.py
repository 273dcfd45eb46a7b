"""Identity providers: build authorization requests, and verify the identity of the user who returns.

Owns the requests to a provider, and every check of its answers (OpenID Connect Core 3.1.3.7, Discovery 4.3, RFC 9207).
Speaks HTTP through httpx, on Trio. Text from a provider is never passed on to clients or logged as it is.
"""

import re
import time
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import httpx
import jwt
import msgspec
import trio

from handlers.errors import ChatError
from handlers.model import Identity
from handlers.text_rules import is_text
from server.config.settings import OAuthProvider
from server.identity import answers, jwts
from server.identity.jwks import KeySet
from server.identity.sign_in_state import Attempt
from store.bounded_streams import open_client

TIMEOUT = 10.0  # seconds for one request to a provider
DISCOVERY_AGE = 3600.0  # seconds a provider's metadata is kept
LEEWAY = 60  # seconds of clock difference to a provider that are tolerated
MAX_SUBJECT = 255  # characters (OpenID Connect Core 2)


# In the transport, and in the answer.
_FAULTS = (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError, ValueError, RecursionError, trio.TooSlowError)


class Provider(Protocol):
    """One configured provider."""

    name: str

    async def authorization_url(self, attempt: Attempt) -> str:
        """Return the URL to redirect the browser to. Raise ChatError("unavailable")."""

    async def identify(self, attempt: Attempt, code: str, issuer: str | None) -> Identity:
        """Return the identity for `code`. `issuer`: as in the callback (RFC 9207). Raise ChatError."""

    async def check(self) -> str:
        """Ask the provider what can be asked without a user, and say what was found. Raise ChatError, StoreError."""


def make_provider(config: OAuthProvider) -> Provider:
    return OpenIdProvider(config) if config.issuer else OAuth2Provider(config)


def failed(sentence: str) -> ChatError:
    return ChatError("sign_in_failed", sentence)


class Web:
    """Makes requests to one provider, bounded in time and size, without following redirects."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tls = httpx.create_ssl_context()

    async def json(self, method: str, url: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object. Raise ChatError("unavailable") if there is none."""
        headers = {"Accept": "application/json", **answers.UNCOMPRESSED, **options.pop("headers", {})}
        try:
            with trio.fail_after(TIMEOUT):
                async with open_client(timeout=TIMEOUT, follow_redirects=False, verify=self._tls) as client:
                    async with client.stream(method, url, headers=headers, **options) as response:
                        found = msgspec.json.decode(await answers.read(response))
        except _FAULTS:
            raise self._away() from None
        if response.status_code >= 500 or not isinstance(found, dict):
            raise self._away()
        return response.status_code, found

    def _away(self) -> ChatError:
        return ChatError("unavailable", f"The identity provider {self._name} is out of reach; try again.")


class Metadata(msgspec.Struct, frozen=True):
    """The required part of a provider's discovery document."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class OpenIdProvider:
    """A provider that speaks OpenID Connect."""

    def __init__(self, config: OAuthProvider) -> None:
        self.name = config.name
        self._config = config
        self._web = Web(config.name)
        self._lock = trio.Lock()
        self._metadata: Metadata | None = None
        self._read_at = float("-inf")
        self._failures = 0  # of discovery
        self._keys: dict[str, KeySet] = {}

    async def authorization_url(self, attempt: Attempt) -> str:
        metadata = await self._discover()
        return _with_query(metadata.authorization_endpoint, _query(self._config, attempt, nonce=attempt.nonce))

    async def identify(self, attempt: Attempt, code: str, issuer: str | None) -> Identity:
        metadata = await self._discover()
        if issuer is not None and issuer != metadata.issuer:
            raise failed("The answer is from another provider than the one that was asked.")
        basic = "client_secret_basic" in metadata.token_endpoint_auth_methods_supported
        granted = await _exchange(self._web, self._config, metadata.token_endpoint, attempt, code, basic=basic)
        token = granted.get("id_token")
        if not isinstance(token, str):
            raise failed("The provider gave no id token.")
        return _identity(self.name, await self._verify(token, attempt, metadata))

    async def check(self) -> str:
        return await KeySet((await self._discover()).jwks_uri).check()

    async def _discover(self) -> Metadata:
        """Return the metadata. Tasks that wait while another one's request fails share its failure."""
        failures = self._failures
        async with self._lock:
            if self._failures != failures:
                raise ChatError("unavailable", f"The identity provider {self.name} is out of reach; try again.")
            try:
                return await self._refreshed()
            except ChatError:
                self._failures += 1
                raise

    async def _refreshed(self) -> Metadata:
        if self._metadata is None or trio.current_time() - self._read_at > DISCOVERY_AGE:
            url = self._config.issuer.rstrip("/") + "/.well-known/openid-configuration"
            status, found = await self._web.json("GET", url)
            try:
                metadata = msgspec.convert(found, Metadata)
            except msgspec.ValidationError:
                metadata = None
            if status != 200 or metadata is None or not _is_url(metadata.authorization_endpoint):
                raise ChatError("unavailable", f"The identity provider {self.name} does not publish its configuration.")
            if metadata.issuer.rstrip("/") != self._config.issuer.rstrip("/"):
                raise failed("The provider calls itself by another name than the configured one.")
            self._metadata, self._read_at = metadata, trio.current_time()
        return self._metadata

    async def _verify(self, token: str, attempt: Attempt, metadata: Metadata) -> dict[str, Any]:
        """Return the claims of a valid id token. Raise ChatError.

        The key comes from the provider's JWKS, and the algorithm from the key's own type. Signature, audience, issuer
        and dates are checked by PyJWT; the nonce and the rest by `_check`.
        """
        keys = self._keys.get(metadata.jwks_uri)
        if keys is None:
            keys = self._keys[metadata.jwks_uri] = KeySet(metadata.jwks_uri)
        try:
            header = jwts.header(token)
            if not jwts.is_of_kind(header, jwts.ID_TOKENS):
                raise failed("The id token of the provider is a token of another kind.")
            found = await keys.find(header.get("kid"), header.get("alg"))
            if not found:
                raise failed("The id token is signed with an unknown key.")
            claims = jwts.decode(
                token,
                [(key, key.algorithm_name) for key in found],
                audience=self._config.client_id,
                issuer=metadata.issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise failed(f"The id token is not acceptable ({type(error).__name__}).") from None
        _check(claims, attempt, self._config.client_id)
        return claims


def _check(claims: dict[str, Any], attempt: Attempt, client_id: str) -> None:
    """Check what no library checks (OpenID Connect Core 3.1.3.7, 4 to 11). Raise ChatError."""
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", None if several else client_id) != client_id:
        raise failed("The id token was made for another party.")
    if claims.get("nonce") != attempt.nonce:
        raise failed("The id token is not from this sign-in (wrong nonce).")
    subject = claims["sub"]
    is_one = isinstance(subject, str) and 0 < len(subject) <= MAX_SUBJECT and "\0" not in subject and is_text(subject)
    if not is_one:
        raise failed("The id token does not name the user.")
    if claims["iat"] > time.time() + LEEWAY:
        raise failed("The id token is from the future.")


class OAuth2Provider:
    """A provider with OAuth 2.0 only, as GitHub: its API returns the identity for the access token."""

    def __init__(self, config: OAuthProvider) -> None:
        self.name = config.name
        self._config = config
        self._web = Web(config.name)

    async def authorization_url(self, attempt: Attempt) -> str:
        return _with_query(self._config.authorize_url, _query(self._config, attempt))

    async def identify(self, attempt: Attempt, code: str, issuer: str | None) -> Identity:
        granted = await _exchange(self._web, self._config, self._config.token_url, attempt, code, basic=False)
        token = granted.get("access_token")
        if not isinstance(token, str):
            raise failed("The provider refused the code.")
        status, found = await self._web.json("GET", self._config.user_url, headers={"Authorization": f"Bearer {token}"})
        subject = _subject(found.get("id"))
        if status != 200 or subject is None:
            raise failed("The provider does not name the user.")
        return Identity(
            provider=self.name,
            subject=subject,
            username=_text(found.get("login")),
            name=_text(found.get("name")),
            picture=_text(found.get("avatar_url")),
        )

    async def check(self) -> str:
        status, _ = await self._web.json("GET", self._config.user_url)
        return f"answers (HTTP {status} without a token)"


def _query(config: OAuthProvider, attempt: Attempt, **more: str) -> dict[str, str]:
    return {
        "response_type": "code",
        "client_id": config.client_id,
        "redirect_uri": attempt.redirect_uri,
        "scope": config.scopes,
        "state": attempt.state,
        "code_challenge": attempt.challenge,
        "code_challenge_method": "S256",
        **more,
    }


def _is_url(text: str) -> bool:
    """Whether a browser may be sent there: it stands in a header, and a page may open it."""
    try:
        urlsplit(text)
    except ValueError:
        return False
    return re.fullmatch(r"https?://[!-~]+", text) is not None


def _with_query(url: str, query: dict[str, str]) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(query))))))


async def _exchange(
    web: Web, config: OAuthProvider, url: str, attempt: Attempt, code: str, *, basic: bool
) -> dict[str, Any]:
    """Return the token response for `code` (RFC 6749, 4.1.3). Raise ChatError."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": attempt.redirect_uri,
        "code_verifier": attempt.verifier,
    }
    options: dict[str, Any] = {}
    if config.client_secret and basic:
        options["auth"] = (quote(config.client_id, safe=""), quote(config.client_secret, safe=""))  # RFC 6749, 2.3.1
    else:
        form["client_id"] = config.client_id
        if config.client_secret:
            form["client_secret"] = str(config.client_secret)
    status, found = await web.json("POST", url, data=form, **options)
    if status != 200 or "error" in found:
        said = re.sub(r"[^a-z_]", "", str(found.get("error", "")))[:40] or "no reason given"
        raise failed(f"The provider refused the code ({said}).")
    return found


def _identity(provider: str, claims: dict[str, Any]) -> Identity:
    return Identity(
        provider=provider,
        subject=claims["sub"],
        username=_text(claims.get("preferred_username") or claims.get("nickname")),
        name=_text(claims.get("name")),
        email=_text(claims.get("email")) if claims.get("email_verified") is True else None,
        picture=_text(claims.get("picture")),
    )


def _subject(value: Any) -> str | None:
    """An id as text; None for what is none. A null, a flag or an empty list would be the same user for everybody."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    text = str(value)
    return text if re.fullmatch(r"[\x21-\x7e]{1,255}", text) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
