"""Check combinations of settings, and the settings that `parley serve` requires.

Owns these rules; the rules of a single setting are declared with it, in `server.config.settings`. Touches nothing.
"""

from urllib.parse import urlsplit

from server.config.admin_address import TcpAddress
from server.config.admin_address import parse as parse_admin_listen
from server.config.listen_address import parse_listen, parse_peer_listen
from server.config.origins import origin
from server.config.settings import ConfigError, Settings


def faults_of(settings: Settings) -> list[str]:
    """Return a sentence about each invalid combination of settings."""
    faults = []
    if settings.send_queue_bytes < 4 * settings.max_message_bytes:
        faults.append("SEND_QUEUE_BYTES: expected at least four times MAX_MESSAGE_BYTES, or one message may never fit")
    if settings.registration == "oauth" and not settings.oauth and settings.jit_users == "off":
        faults.append(
            "REGISTRATION: oauth needs a provider: OAUTH_<NAME>_CLIENT_ID and so on; "
            "or JIT_USERS = on, if your own issuer (JWKS_URL) signs the tokens"
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        faults.append("TLS_CERT and TLS_KEY: both or neither")
    if settings.reuse_port == "on" and isinstance(parse_listen(settings.listen), str):
        faults.append("REUSE_PORT: is for host:port; sockets that are handed over (LISTEN = fd://) are shared already")
    # To lower what is shared alone is no contradiction: the default of the other one was not said.
    if settings.max_user_storage_bytes < settings.max_upload_bytes != Settings.max_upload_bytes:
        faults.append("MAX_UPLOAD_BYTES: expected at most MAX_USER_STORAGE_BYTES, or no such file is ever taken")
    if settings.max_answer_bytes < settings.max_user_answer_bytes != Settings.max_user_answer_bytes:
        faults.append("MAX_USER_ANSWER_BYTES: expected at most MAX_ANSWER_BYTES, which all users share")
    if settings.s3_endpoint_url and settings.objects and not settings.objects.startswith("s3:"):
        faults.append("S3_ENDPOINT_URL: OBJECTS is no s3://bucket")
    faults.extend(_twice(settings))
    if settings.web == "on" and settings.allowed_origins and _site(settings.public_url) not in settings.allowed_origins:
        faults.append("WEB: the page may not connect, as the origin of PUBLIC_URL is not among the ALLOWED_ORIGINS")
    return faults


def _twice(settings: Settings) -> list[str]:
    """Return a sentence about each address that two listeners of one instance would have."""
    listen = parse_listen(settings.listen)
    taken = {} if isinstance(listen, str) else {listen: "LISTEN"}
    faults = []
    others = [("PEER_LISTEN", parse_peer_listen(settings.peer_listen))]
    for text in settings.admin_listen:
        address = parse_admin_listen(text)
        others.append(("ADMIN_LISTEN", (address.host, address.port) if isinstance(address, TcpAddress) else None))
    for name, where in others:
        if where is None or not where[1]:
            continue  # a socket's path, or a free port
        if where in taken:
            faults.append(f"{name}: the address is that of {taken[where]}; expected one of its own")
        taken[where] = name
    return faults


def _site(url: str) -> str | None:
    parts = urlsplit(url)
    return origin(f"{parts.scheme}://{parts.netloc}")


def require(settings: Settings) -> None:
    """Raise ConfigError if a setting that `parley serve` requires is missing."""
    faults = []
    if not settings.database_url:
        faults.append("DATABASE_URL: required, for example postgresql://parley@db/parley")
    if not settings.redis_url:
        faults.append("REDIS_URL: required, for example redis://localhost:6379")
    if not settings.registration:
        faults.append(
            "REGISTRATION: required: open (for development), oauth (by a provider), or closed (no new users, but those "
            "that JIT_USERS and API keys make)"
        )
    if not (settings.jwt_key or settings.jwks_url):
        faults.append("JWT_KEY or JWKS_URL: one of them is required, or no token can be checked")
    if settings.jwks_url and not settings.jwt_key:
        faults.append("JWT_KEY: required with JWKS_URL too; connection tokens are signed with it")
    if faults:
        raise ConfigError("\n".join(faults))
