"""server.config.checks: settings that do not go together, and what serving needs."""

from dataclasses import replace
from pathlib import Path

import pytest

from server.config.checks import faults_of, require
from server.config.loading import load
from server.config.settings import ConfigError, Settings

KEY = "k" * 32


def test_what_serving_needs() -> None:
    """`serve` requires a database, Redis, a way to verify tokens, and REGISTRATION."""
    with pytest.raises(ConfigError, match=r"DATABASE_URL(.|\n)*REDIS_URL(.|\n)*REGISTRATION(.|\n)*JWT_KEY or JWKS_URL"):
        require(Settings())
    given = {"database_url": "postgresql://x", "redis_url": "redis://x", "jwt_key": KEY}
    with pytest.raises(ConfigError, match=r"^REGISTRATION: required"):
        require(load({}, None, **given))
    require(load({}, None, **given, registration="closed"))


def test_connection_tokens_need_a_key() -> None:
    """Keys of another issuer check access tokens; what this service signs itself needs a key of its own."""
    given = {"database_url": "postgresql://x", "redis_url": "redis://x", "jwks_url": "https://issuer/keys"}
    settings = load({}, None, **given, registration="closed")
    with pytest.raises(ConfigError, match=r"^JWT_KEY: required with JWKS_URL"):
        require(settings)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"send_queue_bytes": 65536}, "SEND_QUEUE_BYTES: expected at least four times MAX_MESSAGE_BYTES"),
        ({"listen": "fd://http", "reuse_port": "on"}, "REUSE_PORT: is for host:port"),
        (
            {"max_upload_bytes": 1 << 30, "max_user_storage_bytes": 1 << 20},
            "MAX_UPLOAD_BYTES: expected at most MAX_USER",
        ),
        ({"max_user_answer_bytes": 1 << 30}, "MAX_USER_ANSWER_BYTES: expected at most MAX_ANSWER_BYTES"),
        ({"s3_endpoint_url": "https://minio", "objects": "file:///x"}, "S3_ENDPOINT_URL: OBJECTS is no s3://bucket"),
        ({"peer_listen": "127.0.0.1:5000"}, "PEER_LISTEN: the address is that of LISTEN"),
        ({"admin_listen": ("auto", "127.0.0.1:5000")}, "ADMIN_LISTEN: the address is that of LISTEN"),
        ({"registration": "oauth"}, "REGISTRATION: oauth needs a provider"),
        ({"tls_cert": "cert.pem"}, "TLS_CERT and TLS_KEY: both or neither"),
        ({"web": "on", "allowed_origins": ("https://app.example",)}, "WEB: the page may not connect"),
    ],
)
def test_what_does_not_go_together(given: dict[str, object], fault: str, tmp_path: Path) -> None:
    """Each fault is found when settings are loaded, too."""
    [found] = faults_of(replace(Settings(), **given))  # type: ignore[arg-type]  # names are from the table above
    assert found.startswith(fault)
    with pytest.raises(ConfigError, match=fault):
        load({}, None, **given)


def test_a_default_contradicts_nothing() -> None:
    """A quota below the default of the largest file, and a total below that of one user, may be set alone."""
    load({}, None, max_user_storage_bytes="1MiB", max_answer_bytes="1MiB")


def test_tokens_of_an_issuer_are_enough() -> None:
    """REGISTRATION=oauth needs no provider where tokens make users."""
    assert faults_of(replace(Settings(), registration="oauth", jit_users="on")) == []
