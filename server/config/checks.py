"""What concerns several settings at once, and what `parley serve` cannot start without.

Owns these rules; what one setting may be is declared with it, in `server.config.settings`. Touches nothing.
"""

from server.config.settings import ConfigError, Settings


def faults_of(settings: Settings) -> list[str]:
    """Sentences about settings that do not go together."""
    faults = []
    if settings.outbox_bytes < 2 * settings.max_message_bytes:
        faults.append("OUTBOX_BYTES: expected at least twice MAX_MESSAGE_BYTES, or one message may never fit")
    if settings.registration == "oauth" and not settings.oauth:
        faults.append("REGISTRATION: oauth needs a provider: OAUTH_<NAME>_CLIENT_ID and so on")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        faults.append("TLS_CERT and TLS_KEY: both or neither")
    return faults


def require(settings: Settings) -> None:
    """Raise ConfigError for what `parley serve` cannot start without."""
    faults = []
    if not settings.database_url:
        faults.append("DATABASE_URL: required, for example postgresql://parley@db/parley")
    if not settings.redis_url:
        faults.append("REDIS_URL: required, for example redis://localhost:6379")
    if not settings.registration:
        faults.append("REGISTRATION: required: open (for development), oauth (by a provider) or closed (no new users)")
    if not (settings.jwt_key or settings.jwks_url):
        faults.append("JWT_KEY or JWKS_URL: one of them is required, or no token can be checked")
    if settings.jwks_url and not settings.jwt_key:
        faults.append("JWT_KEY: required with JWKS_URL too; connection tokens are signed with it")
    if faults:
        raise ConfigError("\n".join(faults))
