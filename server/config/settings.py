"""All settings of an instance: each field declares the default, the bounds, the reload, and the purpose of one.

Owns the declarations, and nothing else has to be changed for a new one: loading (`server.config.loading`), the reload
list, `parley serve --help` and docs/settings.md (`make docs`) read them. Rules for several settings are in
`server.config.checks`. Touches nothing; a secret does not appear in a repr.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handlers.rate_limits import Rate
from handlers.webhook_urls import is_host
from server.config import admin_address, urls
from server.config.declaration import (
    COUNT,
    DURATION,
    FILE,
    HTTP_URL,
    KEY,
    KEYS,
    RATE,
    SERVICE_URL,
    SIZE,
    TEXT,
    TEXTS,
    Secret,
    Section,
    accepted_by,
    settings_of,
)
from server.config.listen_address import parse_listen, parse_peer_listen
from server.config.origins import LOOPBACK, origin
from server.config.trusted_proxies import ANY, Proxies, browser_origin
from server.config.units import DAYS, GIB, HOURS, KIB, MIB, MINUTES, SECONDS
from store.objects import EXAMPLES as OBJECT_STORES
from store.objects import scheme_of

MIN_KEY_BYTES = 32  # HS256 wants a key as long as its hash (RFC 7518, 3.2)
UPLOAD_TYPES = (
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "audio/mpeg",
    "audio/mp4",
    "audio/ogg",
    "audio/wav",
    "video/mp4",
    "video/webm",
    "application/pdf",
    "application/zip",
    "text/plain",
)
ON_OFF = ("on", "off")


class ConfigError(Exception):
    """The configuration cannot be used. The message names every fault, one a line."""


def _long_enough(keys: Any) -> Any:
    for key in (keys,) if isinstance(keys, str) else keys:
        if key and len(key.encode()) < MIN_KEY_BYTES:
            raise ValueError(f"expected at least {MIN_KEY_BYTES} bytes in each key (RFC 7518, 3.2)")
    return keys


def _browser_origins(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return origins as browsers send them; none if all are allowed."""
    found = tuple(dict.fromkeys(browser_origin(each) for each in given if each != ANY))
    return () if ANY in given else found


def _return_origin(text: str) -> None:
    if text != LOOPBACK and origin(text) is None:
        raise ValueError(f"expected origins such as https://app.example, or {LOOPBACK}")


def _object_store(text: str) -> str:
    if text:
        scheme_of(text)
    return text


def _hosts(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return hosts as URLs have them, without the brackets of IPv6."""
    for host in given:
        if not is_host(host):
            raise ValueError("expected names or addresses, such as receiver.internal, without a port")
    return tuple(host.strip("[]").lower() for host in given)


def _proxies(given: tuple[str, ...]) -> tuple[str, ...]:
    Proxies(given)
    return given


OAUTH = Section("Identity providers")


@dataclass(frozen=True, kw_only=True)
class OAuthProvider:
    """An identity provider: one that speaks OpenID Connect has an `issuer`, any other OAuth 2.0 the three URLs."""

    name: str
    client_id: str = OAUTH.setting(TEXT, "", "The id that the provider gave to this service.", shown_default="required")
    client_secret: Secret = OAUTH.setting(
        KEY, Secret(""), "The secret that belongs to it.", shown_default="none: a public client, by PKCE alone"
    )
    issuer: str = OAUTH.setting(
        HTTP_URL,
        "",
        "The issuer of a provider that speaks OpenID Connect: the rest is found by discovery.",
        then=urls.base,
    )
    scopes: str = OAUTH.setting(TEXT, "openid profile email", "What is asked for.")
    authorize_url: str = OAUTH.setting(
        HTTP_URL, "", "Where browsers go, of a provider without OpenID Connect.", then=urls.http
    )
    token_url: str = OAUTH.setting(HTTP_URL, "", "Where codes are exchanged, of such a provider.", then=urls.http)
    user_url: str = OAUTH.setting(
        HTTP_URL, "", "What says who the user is, as JSON with an `id`, of such a provider.", then=urls.http
    )


OAUTH_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "google": {"issuer": "https://accounts.google.com"},
    "github": {
        "authorize_url": "https://github.com/login/oauth/authorize",
        "token_url": "https://github.com/login/oauth/access_token",
        "user_url": "https://api.github.com/user",
        "scopes": "read:user",
    },
}

LISTENING = Section("Addresses, proxies, TLS")
SERVICES = Section("PostgreSQL and Redis")
SIGN_IN = Section("Tokens and sign-in")
FILES = Section("Files")
BOUNDS = Section("Bounds of connections and memory")
RATES = Section("Rate limits")
TIMEOUTS = Section("Timeouts of connections")
WEBHOOKS = Section("Webhooks")
OPERATION = Section("Stopping, log, retention")


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Durations are seconds, sizes bytes. Written as numbers or with a unit: `15m`, `32KiB`."""

    listen: str = LISTENING.setting(
        TEXT,
        "127.0.0.1:5000",
        "Address to listen on: host:port, or sockets that systemd hands over.",
        more="Inherited sockets, also Unix sockets, are `fd://` (all of them), `fd://NAME` or `fd://N`.",
        then=accepted_by(parse_listen),
    )
    reuse_port: str = LISTENING.setting(
        TEXT,
        "off",
        "`on`: several instances share one host:port, and the kernel spreads connections over them (SO_REUSEPORT).",
        choices=ON_OFF,
    )
    public_url: str = LISTENING.setting(
        HTTP_URL,
        "",
        "How clients reach the service, for the links it hands out.",
        shown_default="from the request",
        then=urls.base,
    )
    allowed_origins: tuple[str, ...] = LISTENING.setting(
        TEXTS,
        (),
        "Origins from which browsers may connect and call REST, such as `https://chat.example.com`; `*` is any.",
        more="Any may by default, because a token is not a cookie: no page can make a browser send it.",
        shown_default="any",
        then=_browser_origins,
    )
    web: str = LISTENING.setting(
        TEXT,
        "off",
        "`on`: the chat page is at `/`, for people with a browser; `parley dev` has it on.",
        more="It is a client as any other, and can do no more than the API allows. Without it a browser is shown "
        "where the documentation is.",
        choices=ON_OFF,
    )
    forwarded_allow_ips: tuple[str, ...] = LISTENING.setting(
        TEXTS,
        (),
        "Proxies whose `X-Forwarded-*` and `X-Request-Id` are believed: addresses, networks, `unix`, or `*` for any.",
        more="`unix` is every peer on a Unix socket: connections there have no address, and without it all clients "
        "share the limits of one.",
        shown_default="none",
        then=_proxies,
    )
    tls_cert: str = LISTENING.setting(
        FILE,
        "",
        "Certificate and chain, PEM; with `TLS_KEY`, `LISTEN` speaks TLS.",
        more="Read again when it changes.",
    )
    tls_key: str = LISTENING.setting(FILE, "", "Key of the certificate, PEM.", more="Read again when it changes.")
    peer_listen: str = LISTENING.setting(
        TEXT,
        "127.0.0.1:0",
        "host:port where other instances reach this one, for requests of event streams and polls; empty: nowhere.",
        more="Plain HTTP, for a private network.",
        then=accepted_by(parse_peer_listen),
    )
    admin_listen: tuple[str, ...] = LISTENING.setting(
        TEXTS,
        (admin_address.AUTO,),
        "Unix sockets for `parley inspect` (`auto`: one in the runtime directory), host:port for Prometheus.",
        more="A port may be a sum: `127.0.0.1:9100+12` is 9112. See [monitoring](monitoring.md).",
        then=accepted_by(admin_address.parse),
    )
    instance: str = LISTENING.setting(
        TEXT, "", "A name for this instance in logs and traces.", shown_default="host and port"
    )

    database_url: str = SERVICES.setting(
        SERVICE_URL,
        "",
        "PostgreSQL 15 or newer, as a libpq URL or key=value string.",
        more="PostgreSQL itself: no pooler in transaction mode.",
        shown_default="required",
        then=urls.postgres,
    )
    read_url: str = SERVICES.setting(
        SERVICE_URL,
        "",
        "A replica: history is read from it where it is as new as the primary.",
        shown_default="the primary",
        then=urls.postgres,
    )
    redis_url: str = SERVICES.setting(
        SERVICE_URL,
        "",
        "Redis 7 or Valkey: `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://`.",
        more="Sentinels, or nodes of a Cluster, are separated by commas: name several. With TLS: `rediss+sentinel://`, "
        "`rediss+cluster://`; `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs` (`none`: nothing is "
        "verified) and `ssl_check_hostname` (`true`: the name, too) in the query, as with `rediss://`.",
        shown_default="required",
        then=urls.redis,
    )
    pool_size: int = SERVICES.setting(
        COUNT,
        8,
        "Connections to PostgreSQL beside those of the lanes and two of exports; as many again to `READ_URL`.",
        minimum=1,
        maximum=1000,
    )
    lanes: int = SERVICES.setting(
        COUNT,
        1,
        "Group-commit queues, with one connection to PostgreSQL each; a spare one helps while there is little to do.",
        more="One makes the largest batches, which cost least. More only help when commits wait for a slow disk.",
        minimum=1,
        maximum=64,
    )
    statement_timeout: float = SERVICES.setting(
        DURATION,
        10 * SECONDS,
        "The longest that one SQL statement may take.",
        above=0,
        maximum=1 * HOURS,
    )

    jwt_key: str = SIGN_IN.setting(
        KEY,
        "",
        f"HS256 key of at least {MIN_KEY_BYTES} bytes, the same on every instance.",
        shown_default="required",
        reloadable=True,
        then=_long_enough,
    )
    jwt_old_keys: tuple[str, ...] = SIGN_IN.setting(
        KEYS,
        (),
        "Keys that are accepted but not signed with, one a line.",
        more="They are there to [exchange the key](operations.md#exchange-the-jwt-key) unnoticed.",
        shown_default="none",
        reloadable=True,
        then=_long_enough,
    )
    jwks_url: str = SIGN_IN.setting(
        HTTP_URL,
        "",
        "Keys of an issuer of RS256, ES256 or EdDSA tokens.",
        more="They are good for 24 h after the last time they could be fetched.",
        shown_default="none",
        then=urls.http,
    )
    jwt_issuer: str = SIGN_IN.setting(TEXT, "ChatBackend", "The issuer that tokens must name.")
    jwt_audience: str = SIGN_IN.setting(TEXT, "ChatBackendUsers", "The audience that tokens must name.")
    registration: str = SIGN_IN.setting(
        TEXT,
        "",
        "Who can become a user: `open`, `oauth` (who signs in with a provider) or `closed`.",
        more="`open`: registering signs in, for development (`parley dev` sets it). `closed`: no new users, except by "
        "an administrator or an [API key](own-users.md). `JIT_USERS` makes users besides, of tokens of your issuer. "
        "There is no default: who can become a user should be no accident.",
        shown_default="required",
        choices=("open", "oauth", "closed"),
    )
    jit_users: str = SIGN_IN.setting(
        TEXT,
        "off",
        "`on`: a valid token of a subject that is no user's yet makes the user, with the subject as their external id.",
        more="For applications whose own issuer signs the tokens, by `JWKS_URL`: [own users](own-users.md).",
        choices=ON_OFF,
    )
    jit_username_claim: str = SIGN_IN.setting(
        TEXT, "preferred_username", "The claim that such a user's username is made of; empty: none."
    )
    jit_name_claim: str = SIGN_IN.setting(TEXT, "name", "The claim with their display name; empty: none.")
    jit_email_claim: str = SIGN_IN.setting(
        TEXT, "email", "The claim with their email, which only they see; empty: none."
    )
    jit_picture_claim: str = SIGN_IN.setting(
        TEXT, "picture", "The claim with the https URL of their picture; empty: none."
    )
    oauth: tuple[OAuthProvider, ...] = ()  # from OAUTH_<PROVIDER>_<FIELD>, declared by `OAuthProvider`
    return_origins: tuple[str, ...] = SIGN_IN.setting(
        TEXTS,
        (),
        "Where browsers may go when they have signed in, besides `ALLOWED_ORIGINS`.",
        more="`loopback` is any port of their own machine.",
        shown_default="none",
        then=accepted_by(_return_origin),
    )
    return_with: str = SIGN_IN.setting(
        TEXT,
        "code",
        "What they take there: a `code` for `POST /auth/exchange`, or the tokens themselves in the `fragment`.",
        more="Tokens in a fragment stay in the history of the browser.",
        choices=("code", "fragment"),
    )

    objects: str = FILES.setting(
        TEXT,
        "",
        f"Where files are: {OBJECT_STORES}.",
        shown_default="none: no files",
        then=_object_store,
    )
    s3_endpoint_url: str = FILES.setting(
        HTTP_URL,
        "",
        "Address of an S3 that is not Amazon's.",
        more="Its keys and region are read as boto3 reads them (`AWS_*`), and from `AWS_REGION`.",
        shown_default="Amazon's",
        then=urls.base,
    )
    upload_types: tuple[str, ...] = FILES.setting(
        TEXTS, UPLOAD_TYPES, "Content types that may be uploaded; the content decides."
    )
    max_upload_bytes: int = FILES.setting(
        SIZE,
        100 * MIB,
        "The largest file.",
        minimum=1,
        maximum=5 * GIB,
    )
    max_user_storage_bytes: int = FILES.setting(
        SIZE, 10 * GIB, "All files of one user, uploads that were announced included.", minimum=1
    )

    max_connections: int = BOUNDS.setting(
        COUNT,
        15_000,
        "Sockets of this instance; past it 503 with Retry-After.",
        more="The default stays below the usual limit of 20,000 descriptors.",
        minimum=1,
        maximum=1_000_000,
    )
    max_address_strangers: int = BOUNDS.setting(
        COUNT,
        1000,
        "Connections of one address that wait for their client and have shown no token; past it 429.",
        more="They have sent no request yet, or are HTTP connections kept alive. Behind a proxy in "
        "`FORWARDED_ALLOW_IPS` it is requests under way of one client; what the proxy keeps open is not counted.",
        minimum=1,
        maximum=1_000_000,
    )
    max_user_connections: int = BOUNDS.setting(
        COUNT,
        50,
        "Hub connections of one user to this instance; one more is refused with 429.",
        minimum=1,
        maximum=1_000_000,
    )
    max_user_conversations: int = BOUNDS.setting(
        COUNT,
        10_000,
        "Conversations of one user, with those to which others have added them; with as many they begin and join no "
        "more. Others add them to groups up to nine tenths of it.",
        more="Each of their connections is attached to all of them.",
        minimum=1,
        maximum=1_000_000,
    )
    send_queue_bytes: int = BOUNDS.setting(
        SIZE,
        256 * KIB,
        "What one connection may have unsent.",
        minimum=16 * KIB,
        maximum=64 * MIB,
    )
    max_user_answer_bytes: int = BOUNDS.setting(
        SIZE, 8 * MIB, "REST answers of one user (or address without one) that wait to be read; then 429.", minimum=1
    )
    max_answer_bytes: int = BOUNDS.setting(
        SIZE,
        64 * MIB,
        "REST answers of all users that wait to be read; then 503.",
        more="As Python holds them they take about twice that.",
        minimum=1,
    )
    max_message_bytes: int = BOUNDS.setting(
        SIZE,
        32 * KIB,
        "The content of one message, in UTF-8, over the hub and REST alike.",
        more="A hub message may have four times that, less 2 KiB, and at most half of `SEND_QUEUE_BYTES`.",
        minimum=256,
        maximum=1 * MIB,
    )

    mention_all_members: int = BOUNDS.setting(
        COUNT,
        100,
        "Members of a conversation up to which each of them may mention all; in a larger one its admins and owners.",
        minimum=0,
        maximum=1_000_000,
    )

    rate_limits: str = RATES.setting(
        TEXT,
        "on",
        "`off` for conformance and load runs only.",
        more="With limits on, reading what one user sends over WebSockets also takes at most a fifth of the time of an "
        "instance; beyond that it is read later.",
        choices=ON_OFF,
        reloadable=True,
    )
    rate_connects: Rate = RATES.setting(
        RATE,
        Rate(300, 10 * SECONDS),
        "New connections of one address, to each instance; offices share addresses.",
        reloadable=True,
    )
    rate_user_connects: Rate = RATES.setting(
        RATE,
        Rate(60, MINUTES),
        "New connections of one user (resumed ones, too), to each instance.",
        reloadable=True,
    )
    rate_invocations: Rate = RATES.setting(
        RATE,
        Rate(400, 10 * SECONDS),
        "Hub invocations of one connection, by what they cost.",
        more="A `Sync` counts for 20 calls, `StreamHistory`, `SearchMessages` and "
        "`GetPresence` for 10, `GetUnread` for 5, "
        "`JoinConversation` for 2.",
        reloadable=True,
    )
    rate_user_invocations: Rate = RATES.setting(
        RATE,
        Rate(2000, 10 * SECONDS),
        "Hub invocations of all connections of one user to one instance, by what they cost.",
        reloadable=True,
    )
    rate_sends: Rate = RATES.setting(
        RATE,
        Rate(200, 10 * SECONDS),
        "Messages, edits, deletions and reactions of one user, on each instance.",
        reloadable=True,
    )
    rate_searches: Rate = RATES.setting(
        RATE,
        Rate(60, 10 * SECONDS),
        "Searches of one user for messages, on each instance, over the hub and REST alike.",
        reloadable=True,
    )
    rate_reports: Rate = RATES.setting(
        RATE,
        Rate(20, 60 * MINUTES),
        "Reports of one user, on each instance, over the hub and REST alike.",
        reloadable=True,
    )
    rate_requests: Rate = RATES.setting(
        RATE,
        Rate(600, 10 * SECONDS),
        "REST calls of one user, or of one address without a token, to each instance.",
        reloadable=True,
    )
    rate_key_requests: Rate = RATES.setting(
        RATE,
        Rate(3000, 10 * SECONDS),
        "REST calls with one API key, to each instance.",
        more="They are not counted for the users whom it acts for, but for what these send, upload and join.",
        reloadable=True,
    )
    rate_new_users: Rate = RATES.setting(
        RATE,
        Rate(300, 10 * SECONDS),
        "Users that are made of tokens (`JIT_USERS`), on each instance.",
        reloadable=True,
    )
    rate_uploads: Rate = RATES.setting(
        RATE, Rate(60, MINUTES), "Uploads of one user, on all instances together.", reloadable=True
    )
    rate_additions: Rate = RATES.setting(
        RATE,
        Rate(20_000, HOURS),
        "Users whom one user adds to conversations, and conversations that they begin, on all instances together.",
        more="A conversation counts as one for each user with whom it begins, and at least as one; with more users than"
        " that it begins when nothing of the limit is used. Not what is done for them with an API key.",
        reloadable=True,
    )
    rate_joins: Rate = RATES.setting(
        RATE, Rate(30, MINUTES), "Attempts of one user to join groups, on all instances together.", reloadable=True
    )
    rate_sign_ins: Rate = RATES.setting(
        RATE,
        Rate(60, MINUTES),
        "Sign-ins, refreshes and registrations of one address, on all instances together.",
        reloadable=True,
    )

    handshake_timeout: float = TIMEOUTS.setting(
        DURATION,
        15 * SECONDS,
        "For the request head, the TLS and the hub handshake; SignalR has this default.",
        above=0,
        maximum=10 * MINUTES,
    )
    keepalive: float = TIMEOUTS.setting(
        DURATION,
        15 * SECONDS,
        "A ping is sent after so long without anything else; SignalR has this default.",
        above=0,
        maximum=10 * MINUTES,
    )
    client_timeout: float = TIMEOUTS.setting(
        DURATION,
        30 * SECONDS,
        "A client is gone after so long without a sign of it, if it pings; SignalR has this default.",
        above=0,
        maximum=1 * HOURS,
    )
    stall_timeout: float = TIMEOUTS.setting(
        DURATION,
        20 * SECONDS,
        "A client is gone after so long without taking a byte that waits for it.",
        above=0,
        maximum=1 * HOURS,
    )
    presence_grace: float = TIMEOUTS.setting(
        DURATION,
        5 * SECONDS,
        "A user counts as online so long after their last connection, so that a reload does not show.",
        minimum=0,
        maximum=1 * HOURS,
    )

    webhook_hosts: tuple[str, ...] = WEBHOOKS.setting(
        TEXTS,
        (),
        "Hosts to which webhooks may go also where their addresses are private, and by plain http.",
        more="Names or addresses, without a port, such as `receiver.internal`; `localhost` for development. See "
        "[webhooks](webhooks.md#where-they-go).",
        shown_default="none",
        then=_hosts,
    )
    webhook_concurrency: int = WEBHOOKS.setting(
        COUNT,
        8,
        "Deliveries to one endpoint at once, each of another conversation.",
        minimum=1,
        maximum=1000,
    )
    webhook_timeout: float = WEBHOOKS.setting(
        DURATION,
        15 * SECONDS,
        "The longest that one delivery may take, with its answer.",
        above=0,
        maximum=10 * MINUTES,
    )
    webhook_retry_time: float = WEBHOOKS.setting(
        DURATION,
        1 * DAYS,
        "For so long a delivery that fails is repeated; then it is a dead letter.",
        more="An endpoint that has accepted nothing for as long is disabled.",
        above=0,
        maximum=30 * DAYS,
    )
    webhook_unread_delay: float = WEBHOOKS.setting(
        DURATION,
        5 * SECONDS,
        "After so long a message that a member without a connection has not read is `user.offline_with_unread`.",
        minimum=1 * SECONDS,
        maximum=60 * MINUTES,
    )

    drain_seconds: float = OPERATION.setting(
        DURATION,
        10 * SECONDS,
        "The time over which a stopping instance sends its clients away.",
        minimum=0,
        reloadable=True,
        maximum=1 * HOURS,
    )
    shutdown_timeout: float = OPERATION.setting(
        DURATION,
        5 * SECONDS,
        "For what is under way after the drain.",
        minimum=0,
        reloadable=True,
        maximum=1 * HOURS,
    )
    log_format: str = OPERATION.setting(
        TEXT, "json", "`json` or `console`.", more="See [the log](monitoring.md#the-log).", choices=("json", "console")
    )
    log_level: str = OPERATION.setting(
        TEXT,
        "info",
        "`debug`, `info`, `warning` or `error`.",
        choices=("debug", "info", "warning", "error"),
        reloadable=True,
    )
    retention_days: int = OPERATION.setting(
        COUNT,
        365,
        "`parley purge` drops months of messages that are older, with their files.",
        more="Never this month and the last.",
        minimum=7,
        because="so long a clientMessageId stands for its message",
        maximum=36_500,
    )
    audit_retention_days: int = OPERATION.setting(
        COUNT,
        365,
        "`parley purge` removes entries of the audit log, and reports, that are older.",
        minimum=1,
        maximum=36_500,
    )

    def __repr__(self) -> str:
        shown = {name: redact(name, getattr(self, name)) for name in self.__dataclass_fields__}
        return "Settings(" + ", ".join(f"{name}={value!r}" for name, value in shown.items()) + ")"


def redact(name: str, value: object) -> object:
    """Return the value of a setting without secrets: keys hidden, URLs without their password."""
    declared = settings_of(Settings).get(name)
    return value if declared is None else declared.redact(value)
