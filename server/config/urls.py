"""Check URLs of services when they are loaded, and say what of one may be shown.

Owns the rules for PostgreSQL, Redis and HTTP. A function that checks returns the text as it is, or raises ValueError
with what is expected: never with a part of the text, which has a password in it. Touches no service.
"""

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import psycopg
from psycopg._conninfo_utils import split_attempts
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from store.redis.tls import is_name_checked
from store.redis.urls import parse as parse_several

HIDDEN = "***"

POSTGRES = (
    "expected postgresql://user:password@host:5432/database, or a key=value string, as libpq reads them; in a URL "
    "write @, /, :, # and % of a password as %40, %2F, %3A, %23 and %25; ports are 1 to 65535"
)
REDIS = (
    "expected redis://, unix://, redis+sentinel:// or redis+cluster://, or with TLS rediss://, rediss+sentinel:// or "
    "rediss+cluster://, such as redis://:password@cache:6379/0; write @, /, :, # and % of a password as %40, %2F, %3A, "
    "%23 and %25; ports are 1 to 65535"
)
HTTP = (
    "expected a URL such as https://issuer.example/path, without a user, a password or a fragment; ports are 1 to 65535"
)
BASE = (
    "expected a URL such as https://chat.example, without a user, a password, a query or a fragment; ports are 1 to "
    "65535"
)

_URL = re.compile(r"([a-z][a-z+]*://)([^/]*)(.*)", re.DOTALL)
_PORT = re.compile(r"[1-9]\d{0,4}")
_HOST = r"(?:\[[^\[\]@]*\]|[^\[\]:@,/?#\s]*)"
_HOSTS = re.compile(rf"{_HOST}(?::\d*)?(?:,{_HOST}(?::\d*)?)*(?:[?#][^@]*)?")
_SECRET_NAME = r"\w*(?:password|secret|scram)\w*"
_SECRET_FIELD = re.compile(rf"([?&]{_SECRET_NAME}=)[^&#]*", re.IGNORECASE)
_SEVERAL = ("redis+sentinel", "redis+cluster", "rediss+sentinel", "rediss+cluster")
_WORDS = {  # what libpq takes for these
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
}
_CERT_REQS = ("none", "optional", "required")


def postgres(text: str) -> str:
    """A libpq URL or key=value string. Empty for none."""
    if text and not _is_postgres(text):
        raise ValueError(POSTGRES)
    return text


def _is_postgres(text: str) -> bool:
    try:
        found = conninfo_to_dict(text)
        list(split_attempts(found))  # as many ports as hosts, or one
    except psycopg.Error:
        return False
    url = _URL.fullmatch(text)
    if url is not None and "@" in url[3].partition("?")[0]:
        return False  # a slash in the password: the rest of it would be the database's name, and shown
    ports = [port for port in str(found.get("port", "")).split(",") if port]
    seconds = str(found.get("connect_timeout", "0"))
    if any(str(found.get(name, words[0])) not in words for name, words in _WORDS.items()):
        return False  # libpq would say so of each attempt to connect, as if the server were away
    return bool(found) and all(_is_port(port) for port in ports) and re.fullmatch(r"-?\d+", seconds) is not None


def redis(text: str) -> str:
    """Empty for none."""
    if text and not _is_redis(text):
        raise ValueError(REDIS)
    return text


def _is_redis(text: str) -> bool:
    url = _URL.fullmatch(text)
    if url is None or "#" in text or "@" in url[3].partition("?")[0] or re.search(r"\s", text):
        return False
    try:
        parts = urlsplit(text)
        if parts.scheme in _SEVERAL:
            addresses = parse_several(text, 6379).addresses
        elif parts.scheme in ("redis", "rediss"):
            addresses = ((parts.hostname or "", 6379 if parts.port is None else parts.port),)
        else:
            return parts.scheme == "unix" and len(parts.path) > 1 and _has_good_query(parts.query)
    except ValueError:
        return False
    is_one = parts.scheme in ("redis", "rediss")
    if is_one and re.fullmatch(r"/?\d*", parts.path) is None:
        return False  # the number of a database
    return all(host and 0 < port < 65536 for host, port in addresses) and _has_good_query(parts.query)


def _has_good_query(query: str) -> bool:
    pairs = parse_qsl(query)
    if ("ssl_cert_reqs", "none") in pairs and any(is_name_checked(dict([pair])) for pair in pairs):
        return False  # of a certificate that is not verified there is no name to check
    return all(
        value.isdecimal() if name == "db" else name != "ssl_cert_reqs" or value in _CERT_REQS for name, value in pairs
    )


def http(text: str) -> str:
    """Empty for none."""
    if text and not _is_http(text):
        raise ValueError(HTTP)
    return text


def base(text: str) -> str:
    """An HTTP URL that is the beginning of others. Empty for none."""
    if text and ("?" in text or not _is_http(text)):
        raise ValueError(BASE)
    return text


def _is_http(text: str) -> bool:
    if re.fullmatch(r"[\x21-\x7e]+", text) is None or "\\" in text:
        return False
    try:
        parts = urlsplit(text)
        is_port = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and is_port and not {"@", "#"} & {*text}


def _is_port(text: str) -> bool:
    return _PORT.fullmatch(text) is not None and int(text) < 65536


def without_password(text: str) -> str:
    """Return what may be shown of the URL of a service: all but secrets, and nothing of a URL that cannot be read."""
    url = _URL.fullmatch(text)
    if url is None:
        return _pairs_without_password(text)
    login, at, hosts = url[2].rpartition("@")
    if "@" in url[3].partition("?")[0] or not _HOSTS.fullmatch(hosts):
        return HIDDEN
    user, colon, _ = login.partition(":")
    shown = f"{url[1]}{user}{f':{HIDDEN}' if colon else ''}{at}{hosts}{url[3]}"
    return _SECRET_FIELD.sub(rf"\g<1>{HIDDEN}", shown)


def _pairs_without_password(text: str) -> str:
    try:
        found = conninfo_to_dict(text)
    except psycopg.Error:
        return HIDDEN
    shown: dict[str, Any] = {name: HIDDEN if re.fullmatch(_SECRET_NAME, name) else found[name] for name in found}
    return make_conninfo("", **shown)


def without_query(text: str) -> str:
    """Return what may be shown of an HTTP URL, whose query may contain a key: nothing of a URL that cannot be read."""
    if not text or not _is_http(text):
        return HIDDEN if text else ""
    start, query, _ = text.partition("?")
    return start + (query and f"?{HIDDEN}")
