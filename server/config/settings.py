"""Every setting of an instance: typed, frozen, with its unit and the reason for its default.

Owns reading and checking them (environment `PARLEY_*`, and a TOML file with the same names in lower
case; the environment wins). Touches the environment and one file. Secrets never appear in a repr,
an error or a log line.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit, urlunsplit

import msgspec

from handlers.rate_limits import Rate
from server.config.admin_address import AUTO
from server.config.admin_address import parse as parse_admin
from server.config.origins import LOOPBACK, origin
from server.config.trusted_proxies import ANY, Proxies, browser_origin

SECONDS = 1.0
DAYS = 86400.0
KIB = 1024
MIB = 1024 * KIB

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_DURATION_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)?", re.IGNORECASE)
_SIZE_UNITS = {"b": 1, "kib": KIB, "mib": MIB, "gib": 1024 * MIB}

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
SECRETS = frozenset({"jwt_key", "jwt_old_keys", "database_url", "read_url", "redis_url"})
FILES = frozenset({"tls_cert", "tls_key"})  # settings that name a file: a credential of that name is the file itself


class ConfigError(Exception):
    """The configuration cannot be used. The message names every fault, one a line."""


class Secret(str):
    """A string that does not show itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class OAuthProvider(msgspec.Struct, frozen=True, kw_only=True):
    """An identity provider: one that speaks OpenID Connect has an `issuer`, any other OAuth 2.0 the three URLs."""

    name: str
    client_id: str
    client_secret: Secret = Secret("")  # empty: a public client, by PKCE alone
    issuer: str = ""
    scopes: str = "openid profile email"
    authorize_url: str = ""
    token_url: str = ""
    user_url: str = ""  # answers who the user is, as JSON with an `id`


OAUTH_DEFAULTS = {
    "google": {"issuer": "https://accounts.google.com"},
    "github": {
        "authorize_url": "https://github.com/login/oauth/authorize",
        "token_url": "https://github.com/login/oauth/access_token",
        "user_url": "https://api.github.com/user",
        "scopes": "read:user",
    },
}
CREDENTIAL_PREFIX = "parley_"
_DESCRIPTOR = re.compile(r"[A-Za-z0-9_.-]*")
_OBJECTS = re.compile(r"s3://[^/]+(/.*)?$|file:///.")
_OAUTH = re.compile(r"oauth_([a-z0-9]+)_(\w+)")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are seconds, sizes bytes. Written as numbers or with a unit: `15m`, `32KiB`."""

    listen: str = "127.0.0.1:5000"  # host:port, or fd://, fd://NAME, fd://N: sockets inherited from systemd
    reuse_port: str = "off"  # on | off: several instances share LISTEN, the kernel spreads connections (SO_REUSEPORT)
    database_url: str = ""  # libpq URL or key=value string
    read_url: str = ""  # a replica for history; empty: the primary
    redis_url: str = ""
    jwt_key: str = ""  # HS256, at least 32 bytes
    jwt_old_keys: tuple[str, ...] = ()  # accepted too, never signed with: for an exchange of keys. One a line
    jwks_url: str = ""  # RS256, ES256, EdDSA
    jwt_issuer: str = "ChatBackend"
    jwt_audience: str = "ChatBackendUsers"
    registration: str = ""  # open | oauth | closed; `serve` wants it said: who can become a user is no accident
    oauth: tuple[OAuthProvider, ...] = ()  # from OAUTH_<PROVIDER>_<FIELD>
    objects: str = ""  # s3://bucket or file:///dir
    s3_endpoint_url: str = ""  # empty: Amazon's
    upload_types: tuple[str, ...] = UPLOAD_TYPES  # content types that may be uploaded, as the content itself shows
    peer_listen: str = "127.0.0.1:0"  # host:port where other instances reach this one; empty: they do not
    admin_listen: tuple[str, ...] = (AUTO,)  # Unix sockets for `parley inspect`, host:port for Prometheus; empty: none
    instance: str = ""  # a name for logs; empty: host and port
    max_connections: int = 15_000  # sockets; below the usual limit of 20,000 descriptors
    max_address_strangers: int = 1000  # sockets of one address that have shown no token and wait for their client
    max_user_connections: int = 50  # over the hub, of one user to this instance; many tabs and devices
    outbox_bytes: int = 256 * KIB  # what one connection may have unsent in this process
    max_user_answer_bytes: int = 8 * MIB  # of REST answers that one user (or address without one) has not read yet
    max_answer_bytes: int = 64 * MIB  # of all users together; as Python holds them it is about twice that
    max_message_bytes: int = 32 * KIB  # SignalR's default
    max_upload_bytes: int = 100 * MIB
    max_user_storage_bytes: int = 10 * 1024 * MIB  # of all files of one user, announced ones included
    # Of browsers' upgrades and REST: https://chat.example.com. Empty, or with `*`: any (tokens are not cookies).
    allowed_origins: tuple[str, ...] = ()
    # Besides ALLOWED_ORIGINS, where a browser may go when it has signed in; `loopback`: any port of its own machine.
    return_origins: tuple[str, ...] = ()
    return_with: str = "code"  # code | fragment: what it takes there; tokens in a fragment stay in its history
    public_url: str = ""  # as clients reach us, for links we hand out; empty: from the request
    # Proxies whose X-Forwarded-* are believed: addresses, networks, `unix` for who comes by a Unix socket, `*` for all.
    forwarded_allow_ips: tuple[str, ...] = ()
    tls_cert: str = ""  # PEM files; with both, LISTEN speaks TLS. Read again when they change
    tls_key: str = ""
    retention_days: int = 365
    drain_seconds: float = 10 * SECONDS
    log_format: str = "json"  # json | console
    log_level: str = "info"
    rate_limits: str = "on"  # on | off
    # Token buckets, as count/time: so many at once, refilled over that time.
    rate_connects: Rate = Rate(300, 10 * SECONDS)  # of one address, to this instance; offices share addresses
    rate_user_connects: Rate = Rate(60, 60 * SECONDS)  # of one user, to this instance
    rate_invocations: Rate = Rate(400, 10 * SECONDS)  # of one connection; a Sync, say, counts for 20 calls
    rate_user_invocations: Rate = Rate(2000, 10 * SECONDS)  # of all connections of one user to this instance
    rate_sends: Rate = Rate(200, 10 * SECONDS)  # messages, edits and deletions of one user, on this instance
    rate_requests: Rate = Rate(600, 10 * SECONDS)  # REST calls of one user (or address without one), to this instance
    rate_uploads: Rate = Rate(60, 60 * SECONDS)  # of one user, on all instances together
    rate_sign_ins: Rate = Rate(60, 60 * SECONDS)  # and registrations and refreshes of one address, on all together
    pool_size: int = 8  # connections to PostgreSQL besides the lanes'
    lanes: int = 2  # group-commit queues; more only help when commits wait for a slow disk
    handshake_timeout: float = 15 * SECONDS  # SignalR's default, for the request head as well
    keepalive: float = 15 * SECONDS  # SignalR's default
    client_timeout: float = 30 * SECONDS  # SignalR's default; only for clients that ping
    stall_timeout: float = 20 * SECONDS  # without the client taking a byte
    statement_timeout: float = 10 * SECONDS
    presence_grace: float = (
        5 * SECONDS
    )  # a user counts as online so long after her last connection: reloads do not show
    shutdown_timeout: float = 5 * SECONDS  # for what is under way after the drain

    def __repr__(self) -> str:
        shown = {name: redact(name, getattr(self, name)) for name in self.__struct_fields__}
        return "Settings(" + ", ".join(f"{name}={value!r}" for name, value in shown.items()) + ")"

    __str__ = __repr__


def redact(name: str, value: object) -> object:
    """`value` as it may be shown: keys hidden, URLs without their password."""
    if name not in SECRETS or not value:
        return value
    if name in ("jwt_key", "jwt_old_keys"):
        return "***"
    text = re.sub(r"(password\s*=\s*)('[^']*'|\S+)", r"\1***", str(value))
    parts = urlsplit(text)
    if parts.password is None:
        return text
    netloc = parts.netloc.replace(f":{parts.password}@", ":***@")
    return urlunsplit(parts._replace(netloc=netloc))


def duration(text: str | int | float) -> float:
    """Seconds. Accepts a number, or one with ms, s, m, h or d."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return float(text)
    match = _DURATION.fullmatch(str(text).strip())
    if match is None:
        raise ValueError("expected a duration such as 15, 15s, 5m or 1h")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def size(text: str | int) -> int:
    """Bytes. Accepts a number, or one with KiB, MiB or GiB."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise ValueError("expected a size such as 32768, 32KiB or 100MiB")
    return int(match[1]) * _SIZE_UNITS[(match[2] or "B").lower()]


def rate(text: str | Rate) -> Rate:
    """So many in so long: `60/1m`."""
    if isinstance(text, Rate):
        return text
    count, _, period = str(text).partition("/")
    try:
        found = Rate(int(count), duration(period))
    except ValueError:
        found = Rate(0, 0)
    if found.count < 1 or found.seconds <= 0:
        raise ValueError("expected a rate such as 60/1m")
    return found


def load(environ: Mapping[str, str], file: Path | None = None, **overrides: Any) -> Settings:
    """The settings of an instance. `overrides` win over the environment, that over credentials, these over the file.

    Raises ConfigError with every fault found, not only the first.
    """
    faults: list[str] = []
    raw: dict[str, Any] = {}
    known = Settings.__struct_fields__
    for name, value in _file(file, faults).items():
        _take(name, value, known, str(file), name, raw, faults)
    _take_credentials(environ.get("CREDENTIALS_DIRECTORY"), raw, faults)
    for variable, value in environ.items():
        if variable.startswith("PARLEY_"):
            name = variable.removeprefix("PARLEY_").lower()
            _take(name, value, known, "the environment", variable, raw, faults)
    raw.update(overrides)
    values: dict[str, Any] = {}
    for name, value in raw.items():
        try:
            values[name] = _convert(name, value)
        except ValueError as error:
            faults.append(f"{name.upper()}: {error}")
    if not faults:
        settings = Settings(**values)
        faults = _check(settings)
    if faults:
        raise ConfigError("\n".join(faults))
    return settings


def _file(file: Path | None, faults: list[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        faults.append(f"{file}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append(f"{file}: {error}")
    return {}


def _take_credentials(directory: str | None, raw: dict[str, Any], faults: list[str]) -> None:
    """What systemd hands over (LoadCredential=): files named like settings, with `parley_` before or without.

    Others may be meant for somebody else; but not what begins like ours.
    """
    if not directory:
        return
    known = Settings.__struct_fields__
    try:
        for path in sorted(Path(directory).iterdir()):
            name = path.name.lower().removeprefix(CREDENTIAL_PREFIX)
            if name in FILES:
                raw[name] = str(path)
            elif name in known or _OAUTH.fullmatch(name) or path.name.lower().startswith(CREDENTIAL_PREFIX):
                _take(name, path.read_text().strip(), known, directory, path.name, raw, faults)
    except OSError as error:
        faults.append(f"{error.filename}: {error.strerror}")
    except UnicodeDecodeError:
        faults.append(f"{directory}: a credential is not text")


def _take(
    name: str, value: Any, known: tuple[str, ...], source: str, shown: str, raw: dict[str, Any], faults: list[str]
) -> None:
    match = _OAUTH.fullmatch(name)
    if match is not None and match[2] in OAuthProvider.__struct_fields__[1:]:
        raw.setdefault("oauth", {}).setdefault(match[1], {})[match[2]] = value
        return
    if name in known and name != "oauth":
        raw[name] = value
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0].upper() if shown.isupper() else near[0]}?" if near else ""
    faults.append(f"{shown}: there is no such setting (in {source}){hint}")


def _convert(name: str, value: Any) -> Any:
    """One value to the type of its field, with an error that says what is expected (never what was given)."""
    kind = Settings.__annotations__[name]
    if name == "oauth" and isinstance(value, dict):
        return tuple(_provider(provider, fields) for provider, fields in sorted(value.items()))
    if kind is float:
        return duration(value)
    if kind is Rate:
        return rate(value)
    if kind is int:
        if name.endswith("_bytes"):
            return size(value)
        try:
            return int(value)
        except (TypeError, ValueError):
            raise ValueError("expected a whole number") from None
    if get_args(kind):
        items = value.split("\n" if name in SECRETS else ",") if isinstance(value, str) else value
        found = (str(item).strip() for item in items)
        values = tuple(Secret(item) if name in SECRETS else item for item in found if item)
        return _origins(values) if name == "allowed_origins" else values
    if not isinstance(value, str):
        raise ValueError("expected text")
    return Secret(value) if name in SECRETS else value


def _origins(given: tuple[str, ...]) -> tuple[str, ...]:
    """As browsers send them; none when any may come. Raises ValueError."""
    found = tuple(dict.fromkeys(browser_origin(each) for each in given if each != ANY))
    return () if ANY in given else found


def _provider(name: str, given: Mapping[str, Any]) -> OAuthProvider:
    fields = {**OAUTH_DEFAULTS.get(name, {}), **given}
    wrong = [field for field, value in fields.items() if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{name.upper()}_{wrong[0].upper()}: expected text")
    if not fields.get("client_id"):
        raise ValueError(f"{name.upper()}_CLIENT_ID: required")
    others = ("authorize_url", "token_url", "user_url")
    if not fields.get("issuer") and not all(fields.get(field) for field in others):
        raise ValueError(f"{name.upper()}_ISSUER: required (or, without OpenID Connect, {', '.join(others).upper()})")
    for field in ("issuer", *others):
        parts = urlsplit(fields.get(field, ""))
        if parts.scheme != "https" and fields.get(field) and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError(f"{name.upper()}_{field.upper()}: expected an https URL")
    return OAuthProvider(name=name, **{**fields, "client_secret": Secret(fields.get("client_secret", ""))})


def _check(settings: Settings) -> list[str]:
    """What the fields' types do not say."""
    faults = []
    if settings.jwt_key and len(settings.jwt_key.encode()) < MIN_KEY_BYTES:
        faults.append(f"JWT_KEY: expected at least {MIN_KEY_BYTES} bytes (RFC 7518, 3.2)")
    if any(len(key.encode()) < MIN_KEY_BYTES for key in settings.jwt_old_keys):
        faults.append(f"JWT_OLD_KEYS: expected keys of at least {MIN_KEY_BYTES} bytes, one a line")
    if settings.outbox_bytes < 2 * settings.max_message_bytes:
        faults.append("OUTBOX_BYTES: expected at least twice MAX_MESSAGE_BYTES, or one message may never fit")
    if settings.registration == "oauth" and not settings.oauth:
        faults.append("REGISTRATION: oauth needs a provider: OAUTH_<NAME>_CLIENT_ID and so on")
    for one in settings.return_origins:
        if one != LOOPBACK and origin(one) is None:
            faults.append(f"RETURN_ORIGINS: expected origins such as https://app.example, or {LOOPBACK}")
    if settings.retention_days < 7:
        faults.append("RETENTION_DAYS: expected at least 7: so long a clientMessageId stands for its message")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        faults.append("TLS_CERT and TLS_KEY: both or neither")
    for name, allowed in (
        ("registration", ("", "open", "oauth", "closed")),
        ("return_with", ("code", "fragment")),
        ("log_format", ("json", "console")),
        ("log_level", ("debug", "info", "warning", "error")),
        ("rate_limits", ("on", "off")),
        ("reuse_port", ("on", "off")),
    ):
        if getattr(settings, name) not in allowed:
            faults.append(f"{name.upper()}: expected one of {', '.join(filter(None, allowed))}")
    for name in (
        "max_connections",
        "max_address_strangers",
        "max_user_connections",
        "max_user_answer_bytes",
        "max_answer_bytes",
        "max_message_bytes",
        "max_user_storage_bytes",
        "pool_size",
        "lanes",
    ):
        if getattr(settings, name) < 1:
            faults.append(f"{name.upper()}: expected at least 1")
    for name in ("handshake_timeout", "keepalive", "client_timeout", "stall_timeout", "statement_timeout"):
        if getattr(settings, name) <= 0:
            faults.append(f"{name.upper()}: expected more than 0")
    try:
        Proxies(settings.forwarded_allow_ips)
    except ValueError as error:
        faults.append(f"FORWARDED_ALLOW_IPS: {error}")
    if settings.objects and not _OBJECTS.match(settings.objects):
        faults.append("OBJECTS: expected s3://bucket or file:///directory")
    for address in settings.admin_listen:
        try:
            parse_admin(address)
        except ValueError as error:
            faults.append(f"ADMIN_LISTEN: {error}")
    try:
        parse_listen(settings.listen)
    except ValueError as error:
        faults.append(f"LISTEN: {error}")
    try:
        parse_peer_listen(settings.peer_listen)
    except ValueError as error:
        faults.append(f"PEER_LISTEN: {error}")
    return faults


def require(settings: Settings) -> None:
    """What `parley serve` cannot start without. Raises ConfigError."""
    faults = []
    if not settings.database_url:
        faults.append("DATABASE_URL: required, for example postgresql://parley@db/parley")
    if not settings.redis_url:
        faults.append("REDIS_URL: required, for example redis://localhost:6379")
    if not settings.registration:
        faults.append("REGISTRATION: required: open (for development), oauth (by a provider) or closed (nobody new)")
    if not (settings.jwt_key or settings.jwks_url):
        faults.append("JWT_KEY or JWKS_URL: one of them is required, or no token can be checked")
    if settings.jwks_url and not settings.jwt_key:
        faults.append("JWT_KEY: required with JWKS_URL too; connection tokens are signed with it")
    if faults:
        raise ConfigError("\n".join(faults))


def parse_listen(text: str) -> tuple[str, int] | str:
    """(host, port), or which of the sockets that the service manager hands over: see
    `server.transport.socket_activation`."""
    if text.startswith("fd://"):
        if not _DESCRIPTOR.fullmatch(text[5:]):
            raise ValueError("expected fd://, fd://NAME of a socket handed over, or fd://N of a descriptor")
        return text[5:]
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected host:port or fd://")
    return host.strip("[]") or "0.0.0.0", int(port)


def parse_peer_listen(text: str) -> tuple[str, int] | None:
    """Where one instance is reached by others; None for nowhere. They are told this address, so it must be one."""
    if not text:
        return None
    where = parse_listen(text)
    if isinstance(where, str) or where[0] in ("0.0.0.0", "::"):
        raise ValueError("expected host:port, of an address at which the other instances reach this one")
    return where
