"""server.config.loading: where settings come from, which wins, and what is said about mistakes."""

from pathlib import Path
from typing import Any

import pytest

from server.config.loading import Hidden, load, locate
from server.config.settings import ConfigError

KEY = "k" * 32


def test_environment_wins_over_file_and_both_over_defaults(tmp_path: Path) -> None:
    """The environment wins over the file, the file over the defaults; units are understood in both."""
    file = tmp_path / "parley.toml"
    file.write_text('max_connections = 5\nkeepalive = "20s"\nallowed_origins = ["https://a", "https://b"]\n')
    settings = load({"PARLEY_MAX_CONNECTIONS": "7", "PARLEY_SEND_QUEUE_BYTES": "1MiB", "HOME": "/"}, file)
    assert (settings.max_connections, settings.keepalive, settings.send_queue_bytes) == (7, 20.0, 1024 * 1024)
    assert settings.allowed_origins == ("https://a", "https://b") and settings.lanes == 1


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"PARLEY_DATABSE_URL": "x"}, "PARLEY_DATABSE_URL: there is no such setting.*did you mean DATABASE_URL"),
        ({"PARLEY_OAUTH": "x"}, "PARLEY_OAUTH: there is no such setting"),
        ({"PARLEY_LANES": "two"}, "LANES: expected a whole number"),
        ({"PARLEY_LANES": "0"}, "LANES: expected 1 to 64"),
        ({"PARLEY_MAX_MESSAGE_BYTES": "3"}, "MAX_MESSAGE_BYTES: expected 256 to 1MiB"),
        ({"PARLEY_MAX_MESSAGE_BYTES": "2MiB"}, "MAX_MESSAGE_BYTES: expected 256 to 1MiB"),
        ({"PARLEY_WEBHOOK_RETRY_TIME": "1y"}, "WEBHOOK_RETRY_TIME: expected a duration"),
        ({"PARLEY_WEBHOOK_RETRY_TIME": "31d"}, "WEBHOOK_RETRY_TIME: expected more than 0, at most 30d"),
        ({"PARLEY_LISTEN": "127.0.0.1:65536"}, "LISTEN: expected host:port, with a port from 0 .* to 65535"),
        ({"PARLEY_ADMIN_LISTEN": "127.0.0.1:65530+12"}, "ADMIN_LISTEN: expected .* with a port up to 65535"),
        ({"PARLEY_REDIS_URL": "redis://cache:70000"}, "REDIS_URL: expected .*; ports are 1 to 65535"),
        ({"PARLEY_DATABASE_URL": "postgresql://db:0/x"}, "DATABASE_URL: expected .*; ports are 1 to 65535"),
        ({"PARLEY_KEEPALIVE": "soon"}, "KEEPALIVE: expected a duration"),
        ({"PARLEY_KEEPALIVE": "0"}, "KEEPALIVE: expected more than 0, at most 10m"),
        ({"PARLEY_SEND_QUEUE_BYTES": "4 parsecs"}, "SEND_QUEUE_BYTES: expected a size"),
        ({"PARLEY_SEND_QUEUE_BYTES": "64KiB"}, "SEND_QUEUE_BYTES: expected at least four times"),
        ({"PARLEY_JWT_KEY": "short"}, "JWT_KEY: expected at least 32 bytes"),
        ({"PARLEY_JWT_OLD_KEYS": f"{KEY}\nshort"}, "JWT_OLD_KEYS: expected at least 32 bytes"),
        ({"PARLEY_LISTEN": "nowhere"}, "LISTEN: expected host:port"),
        ({"PARLEY_LISTEN": "x:99999"}, "LISTEN: expected host:port"),
        ({"PARLEY_PEER_LISTEN": "0.0.0.0:1"}, "PEER_LISTEN: expected host:port, of an address"),
        ({"PARLEY_ADMIN_LISTEN": "auto,nowhere"}, "ADMIN_LISTEN: expected `auto`, an absolute path, or host:port"),
        ({"PARLEY_OBJECTS": "ftp://x"}, "OBJECTS: expected s3://bucket"),
        ({"PARLEY_OBJECTS": "s3://"}, "OBJECTS: expected s3://bucket"),
        ({"PARLEY_RETURN_ORIGINS": "loopback,app"}, "RETURN_ORIGINS: expected origins"),
        ({"PARLEY_FORWARDED_ALLOW_IPS": "balancer"}, "FORWARDED_ALLOW_IPS: "),
        ({"PARLEY_RETENTION_DAYS": "6"}, "RETENTION_DAYS: expected 7 to 36500: so long a clientMessageId"),
        ({"PARLEY_LOG_FORMAT": "xml"}, "LOG_FORMAT: expected one of json, console"),
        ({"PARLEY_RATE_LIMITS": "maybe"}, "RATE_LIMITS: expected one of"),
        ({"PARLEY_OAUTH_IAM_ISSUER": "https://iam"}, "^OAUTH_IAM_CLIENT_ID: required"),
        ({"PARLEY_OAUTH_IAM_CLIENT_ID": "us"}, "^OAUTH_IAM_ISSUER: required"),
        (
            {"PARLEY_OAUTH_IAM_CLIENT_ID": "us", "PARLEY_OAUTH_IAM_ISSUER": "http://iam"},
            "^OAUTH_IAM_ISSUER: expected an https URL",
        ),
        (
            {"PARLEY_OAUTH_IAM_CLIENT_ID": "us", "PARLEY_OAUTH_IAM_ISSUER": "https://[x"},
            "^OAUTH_IAM_ISSUER: expected a URL such as",
        ),
    ],
)
def test_faults_are_named(environ: dict[str, str], sentence: str) -> None:
    """Each fault names its setting and what is expected, never what was given."""
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(environ)
    assert "short" not in str(caught.value) and "parsecs" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("lanes = 2.7", "LANES: expected a whole number"),
        ("lanes = true", "LANES: expected a whole number"),
        ("max_upload_bytes = -1", "MAX_UPLOAD_BYTES: expected 1 to 5GiB"),
        ("drain_seconds = -1", "DRAIN_SECONDS: expected 0 to 1h"),
        ("keepalive = inf", "KEEPALIVE: expected a duration"),
        ("keepalive = nan", "KEEPALIVE: expected a duration"),
        ("allowed_origins = 5", "ALLOWED_ORIGINS: expected a list"),
        ("allowed_origins = [5]", "ALLOWED_ORIGINS: expected a list"),
        ("instance = 5", "INSTANCE: expected text"),
        ("oauth_iam_client_id = 5", "OAUTH_IAM_CLIENT_ID: expected text"),
        ("oauth = {}", "oauth: there is no such setting"),
    ],
)
def test_types_of_a_file(tmp_path: Path, line: str, sentence: str) -> None:
    """TOML has types, and a value of the wrong one is a fault, not something close to it."""
    file = tmp_path / "parley.toml"
    file.write_text(line)
    with pytest.raises(ConfigError, match=sentence):
        load({}, file)


def test_all_faults_at_once(tmp_path: Path) -> None:
    """Five faults are found by one start: unknown names, values, and bounds."""
    file = tmp_path / "parley.toml"
    file.write_text("lanes = 'x'\nnonsense = 1\nretention_days = 1\n")
    with pytest.raises(ConfigError) as caught:
        load({"PARLEY_POOL_SIZE": "y", "PARLEY_LOG_LEVEL": "loud"}, file)
    assert str(caught.value).count("\n") == 4
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match=str(missing)):
            load({}, missing)


def test_providers() -> None:
    """Each gets its settings by its name; what is known of GitHub need not be said."""
    given: dict[str, Any] = {
        "PARLEY_OAUTH_IAM_CLIENT_ID": "us",
        "PARLEY_OAUTH_IAM_ISSUER": "http://localhost:9000",
        "PARLEY_OAUTH_GITHUB_CLIENT_ID": "them",
    }
    github, iam = load(given).oauth
    assert (github.name, github.client_id, github.scopes) == ("github", "them", "read:user")
    assert (iam.name, iam.issuer, iam.scopes) == ("iam", "http://localhost:9000", "openid profile email")


def test_credentials(tmp_path: Path) -> None:
    """What systemd hands over in files: below the environment, above the file; with our prefix or without; a
    certificate is the file itself; what is meant for others is passed over, a slip of ours is not."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name, text in {
        "jwt_key": KEY + "\n",
        "parley_jwt_old_keys": f"{KEY}, one\n{KEY} two\n",
        "parley_redis_url": "redis://credential",
        "database_url": "postgresql://credential",
        "tls_cert": "-----BEGIN",
        "parley_tls_key": "-----BEGIN",
        "parley_oauth_github_client_secret": "geheim",
        "aws": "[default]",
    }.items():
        (credentials / name).write_text(text)
    file = tmp_path / "parley.toml"
    file.write_text('redis_url = "redis://file"\nlanes = 3\noauth_github_client_id = "us"\n')
    environ = {"CREDENTIALS_DIRECTORY": str(credentials), "PARLEY_DATABASE_URL": "postgresql://environment"}
    settings = load(environ, file)
    assert (settings.jwt_key, settings.jwt_old_keys) == (KEY, (f"{KEY}, one", f"{KEY} two"))
    assert (settings.redis_url, settings.database_url) == ("redis://credential", "postgresql://environment")
    assert settings.tls_cert == str(credentials / "tls_cert") and settings.lanes == 3
    assert (settings.oauth[0].client_id, settings.oauth[0].client_secret) == ("us", "geheim")
    assert KEY not in repr(settings)
    (credentials / "parley_jwt_kye").write_text(KEY)
    with pytest.raises(ConfigError, match=r"parley_jwt_kye: there is no such setting.*did you mean jwt_key"):
        load(environ, file)
    with pytest.raises(ConfigError, match="nowhere"):
        load({"CREDENTIALS_DIRECTORY": str(tmp_path / "nowhere")})


def test_where_settings_come_from(tmp_path: Path) -> None:
    """The variable, the credential, or the line of the file that counts; what it wins over, if that says something
    else; and the place of each fault."""
    credentials, file = tmp_path / "credentials", tmp_path / "parley.toml"
    credentials.mkdir()
    (credentials / "redis_url").write_text("redis://cache")
    file.write_text(
        '# lanes = 1\n\nlanes = 3\n"keepalive" = "60s"\nredis_url = "redis://old"\npool_size = "x"\nlane = 1\n'
        "[zoo]\nlions = 1\n"
    )
    environ = {"PARLEY_LANES": "4", "PARLEY_KEEPALIVE": "1m", "CREDENTIALS_DIRECTORY": str(credentials)}
    found, hidden = locate(environ, file)
    redis = str(credentials / "redis_url")
    assert found == {
        "lanes": "PARLEY_LANES",
        "keepalive": "PARLEY_KEEPALIVE",
        "redis_url": redis,
        "pool_size": f"{file}:6",
    }
    assert hidden == (
        Hidden("REDIS_URL", wins=redis, loses=f"{file}:5"),
        Hidden("LANES", wins="PARLEY_LANES", loses=f"{file}:3"),
    )
    with pytest.raises(ConfigError) as caught:
        load(environ, file)
    assert str(caught.value).splitlines() == [
        f"lane: there is no such setting (in {file}:7); did you mean lanes?",
        f"zoo: there is no such setting (in {file}:8)",
        f"POOL_SIZE: expected a whole number ({file}:6)",
    ]
    with pytest.raises(ConfigError, match=r"SEND_QUEUE_BYTES: expected at least four .* \(PARLEY_SEND_QUEUE_BYTES\)$"):
        load({"PARLEY_SEND_QUEUE_BYTES": "64KiB"})
