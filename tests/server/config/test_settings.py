"""server.config.settings: every setting typed, checked, and silent about secrets."""

import re
from pathlib import Path

import pytest

from server.config.settings import ConfigError, Settings, duration, load, parse_listen, redact, require, size

KEY = "k" * 32


def test_environment_wins_over_file_and_both_over_defaults(tmp_path: Path) -> None:
    """The environment wins over the file, the file over the defaults; units are understood in both."""
    file = tmp_path / "parley.toml"
    file.write_text('max_connections = 5\nkeepalive = "20s"\nallowed_origins = ["https://a", "https://b"]\n')
    settings = load({"PARLEY_MAX_CONNECTIONS": "7", "PARLEY_OUTBOX_BYTES": "1MiB", "HOME": "/"}, file)
    assert (settings.max_connections, settings.keepalive, settings.outbox_bytes) == (7, 20.0, 1024 * 1024)
    assert settings.allowed_origins == ("https://a", "https://b") and settings.lanes == 2
    with pytest.raises(AttributeError):
        settings.lanes = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"PARLEY_DATABSE_URL": "x"}, "PARLEY_DATABSE_URL: there is no such setting.*did you mean DATABASE_URL"),
        ({"PARLEY_LANES": "two"}, "LANES: expected a whole number"),
        ({"PARLEY_LANES": "0"}, "LANES: expected at least 1"),
        ({"PARLEY_KEEPALIVE": "soon"}, "KEEPALIVE: expected a duration"),
        ({"PARLEY_KEEPALIVE": "0"}, "KEEPALIVE: expected more than 0"),
        ({"PARLEY_OUTBOX_BYTES": "4 parsecs"}, "OUTBOX_BYTES: expected a size"),
        ({"PARLEY_OUTBOX_BYTES": "1KiB"}, "OUTBOX_BYTES: expected at least twice"),
        ({"PARLEY_JWT_KEY": "short"}, "JWT_KEY: expected at least 32 bytes"),
        ({"PARLEY_LISTEN": "nowhere"}, "LISTEN: expected host:port"),
        ({"PARLEY_LISTEN": "x:99999"}, "LISTEN: expected host:port"),
        ({"PARLEY_LOG_FORMAT": "xml"}, "LOG_FORMAT: expected one of json, console"),
        ({"PARLEY_RATE_LIMITS": "maybe"}, "RATE_LIMITS: expected one of"),
    ],
)
def test_faults_are_named(environ: dict[str, str], sentence: str) -> None:
    """Each fault names its setting and what is expected, never what was given."""
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(environ)
    assert "short" not in str(caught.value) and "parsecs" not in str(caught.value)


def test_all_faults_at_once(tmp_path: Path) -> None:
    """Nobody has to start five times to find five faults."""
    file = tmp_path / "parley.toml"
    file.write_text("lanes = 'x'\nnonsense = 1\n")
    with pytest.raises(ConfigError) as caught:
        load({"PARLEY_POOL_SIZE": "y"}, file)
    assert str(caught.value).count("\n") == 2
    for missing in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match=str(missing)):
            load({}, missing)


def test_what_serving_needs() -> None:
    """Without database, Redis, a way to check tokens, or a word on who may register, nothing is served."""
    with pytest.raises(ConfigError, match=r"DATABASE_URL(.|\n)*REDIS_URL(.|\n)*REGISTRATION(.|\n)*JWT_KEY or JWKS_URL"):
        require(load({}))
    given = {"database_url": "postgresql://x", "redis_url": "redis://x", "jwt_key": KEY}
    with pytest.raises(ConfigError, match=r"^REGISTRATION: required"):
        require(load({}, None, **given))
    require(load({}, None, **given, registration="closed"))


def test_secrets_do_not_show() -> None:
    """No repr of the settings has a key or a password in it."""
    settings = load(
        {},
        None,
        jwt_key="geheim" * 8,
        database_url="postgresql://parley:geheim@db/parley",
        read_url="host=db password='geheim' user=x",
        redis_url="redis://:geheim@cache:6379",
    )
    shown = f"{settings} {settings!r} {settings.jwt_key!r} {settings.database_url!r}"
    assert "geheim" not in shown and "cache:6379" in shown
    assert "geheim" not in str(redact("redis_url", settings.redis_url))


def test_units() -> None:
    """Durations in seconds, sizes in bytes, however they are written."""
    assert [duration(text) for text in ("15", "1.5s", "250ms", "5m", "2h", "1d", 3)] == [
        15,
        1.5,
        0.25,
        300,
        7200,
        86400,
        3,
    ]
    assert [size(text) for text in ("1", "2 KiB", "3mib", "1GiB", 9)] == [1, 2048, 3 << 20, 1 << 30, 9]
    assert [parse_listen(text) for text in (":5000", "[::1]:80", "h:1", "fd://3", "fd://", "fd://http")] == [
        ("0.0.0.0", 5000),
        ("::1", 80),
        ("h", 1),
        "3",
        "",
        "http",
    ]
    for call, text in ((duration, "-1"), (duration, "x"), (size, "1.5KiB"), (size, "-1")):
        with pytest.raises(ValueError, match="expected"):
            call(text)


def test_every_setting_is_documented() -> None:
    """The README's table has them all."""
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    missing = [name for name in Settings.__struct_fields__ if f"`{name.upper()}" not in readme]
    assert not missing


def test_what_one_user_may_cost_is_documented() -> None:
    """docs/operations.md has every bound that may be set, with its default as it is; and no other one."""
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    section = page.split("## What one user may cost\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| [^|]+ \| `([A-Z_]+)` \| ([^|]+) \|", section, re.MULTILINE))
    bounds = [name for name in Settings.__struct_fields__ if name.startswith(("max_", "rate_"))] + ["outbox_bytes"]
    assert sorted(rows) == sorted(name.upper() for name in bounds)
    given = load({f"PARLEY_{name}": default for name, default in rows.items()})
    assert given == Settings(), "a default in the table is another one"


def test_credentials(tmp_path: Path) -> None:
    """What systemd hands over in files: below the environment, above the file; with our prefix or without; a
    certificate is the file itself; what is meant for others is none of our business, a slip of ours is."""
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
