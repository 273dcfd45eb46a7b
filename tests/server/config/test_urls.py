"""server.config.urls: a URL of a service is read when it is loaded, and no message or repr has its password."""

import traceback
from typing import Any

import psycopg
import pytest

from server.config.declaration import HTTP_URL, SERVICE_URL, settings_of
from server.config.loading import load
from server.config.settings import ConfigError, OAuthProvider, Settings
from store.errors import Unfit
from store.postgres.connection import Connection
from store.postgres.sessions import Connector
from store.reasons import reason

SECRET = "S3CRET"
POSTGRES = ["database_url", "read_url"]
BASES = ["public_url", "s3_endpoint_url"]

GOOD = {
    "database_url": [
        "",
        f"postgresql://parley:{SECRET}@db/parley",
        f"postgres://parley:{SECRET}@db1,db2:5433/parley?target_session_attrs=read-write",
        "postgresql:///parley?host=/run/postgresql&user=a@b",
        "postgresql://parley@[::1]:5432/parley",
        f"host=db password='{SECRET} \\'x' user=parley",
        "host=/run/postgresql dbname=parley",
    ],
    "redis_url": [
        "",
        "redis://cache",
        f"redis://:{SECRET}@cache:6379/2",
        f"rediss://user:{SECRET}%2F@[::1]:6380?ssl_cert_reqs=none",
        f"unix:///run/redis.sock?db=1&password={SECRET}",
        f"redis+sentinel://:{SECRET}@one:26379,two/service?db=1",
        "redis+cluster://one:7000,two:7001",
        f"rediss+sentinel://:{SECRET}@one:26379,[::1]/service?db=1&ssl_ca_certs=/etc/ca.pem",
        f"rediss+cluster://us:{SECRET}@one:7000,two:7001?ssl_cert_reqs=none",
        "rediss://cache?ssl_cert_reqs=none&ssl_check_hostname=false",
        "rediss+cluster://one?ssl_check_hostname=true",
    ],
    "jwks_url": ["", "https://issuer.example/keys?tenant=7", "http://127.0.0.1:8080/jwks"],
    "public_url": ["", "https://chat.example/under", "http://[::1]:5000"],
}
BAD = {
    "database_url": [
        f"postgres:/parley:{SECRET}@db/parley",
        f"postgresql//parley:{SECRET}@db/parley",
        f"postgresql://parley:x/{SECRET}@db/parley",
        f"postgresql://parley:1/{SECRET}@db/parley",
        f"postgresql://parley:{SECRET}@db:port/parley",
        f"postgresql://parley:{SECRET}@db:99999/parley",
        f"host=db1,db2,db3 port=1,2 password={SECRET}",
        f"postgresql://parley:%zz{SECRET}@db/parley",
        f"redis://:{SECRET}@cache",
        f"https://parley:{SECRET}@db/parley?sslmode=require",
        f"host=db pasword={SECRET}",
        f"host=db password={SECRET} connect_timeout=soon",
        f"{SECRET}",
        " ",
    ],
    "redis_url": [
        "localhost:6379",
        "cache",
        f"redis:/:{SECRET}@cache",
        f"redis://:{SECRET}",
        f"redis://:1/{SECRET}@cache",
        f"redis://:1#{SECRET}@cache",
        f"redis://:1?{SECRET}@cache",
        f"redis://:{SECRET}@cache:port",
        f"redis://:{SECRET}@cache:99999",
        f"redis://:{SECRET}@cache/none",
        f"redis://:{SECRET}@cache?db=none",
        f"redis://:{SECRET}@[cache",
        f"redis+sentinel://:{SECRET}@one:port/service",
        f"redis+cluster://:{SECRET}@",
        f"rediss+cluster://:{SECRET}@one?ssl_cert_reqs=perhaps",
        f"rediss+cluster://:{SECRET}@one?ssl_cert_reqs=required&ssl_cert_reqs=perhaps",
        f"rediss+sentinel://:{SECRET}@one?ssl_cert_reqs=none&ssl_check_hostname=true",
        f"redis+tls://:{SECRET}@one",
        "unix://",
        f"postgresql://parley:{SECRET}@db/parley",
    ],
    "jwks_url": [
        "issuer.example/keys",
        f"https://us:{SECRET}@issuer.example/keys",
        "https://",
        "https://[x",
        "https://issuer:port/keys",
        "ftp://issuer.example",
        "https://issuer.example/keys\nX: y",
        "https://issuer.example/#keys",
    ],
    "public_url": ["chat.example", f"https://chat.example?key={SECRET}", f"https://us:{SECRET}@chat.example"],
}
GOOD["read_url"], BAD["read_url"] = GOOD["database_url"], BAD["database_url"]
GOOD["s3_endpoint_url"], BAD["s3_endpoint_url"] = GOOD["public_url"], BAD["public_url"]


def test_every_url_is_here() -> None:
    """A setting whose name or kind says that it is a URL is checked when it is loaded, those of providers too."""
    for declared in (settings_of(Settings), settings_of(OAuthProvider)):
        urls = {name for name, each in declared.items() if each.kind in (SERVICE_URL, HTTP_URL) or "url" in name}
        assert all(declared[name].then and declared[name].kind in (SERVICE_URL, HTTP_URL) for name in urls)
        assert declared is settings_of(OAuthProvider) or urls == GOOD.keys() == BAD.keys()
    assert settings_of(OAuthProvider)["issuer"].then


@pytest.mark.parametrize("name", GOOD)
def test_what_is_accepted(name: str) -> None:
    """As it is written, and shown without its secrets."""
    for url in GOOD[name]:
        settings = load({}, None, **{name: url})
        assert getattr(settings, name) == url and SECRET not in repr(settings), url


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str) -> None:
    """In one line that names the setting and what is expected, and quotes nothing of what was given."""
    for url in BAD[name]:
        with pytest.raises(ConfigError) as caught:
            load({}, None, **{name: url})
        said = str(caught.value)
        assert said.startswith(f"{name.upper()}: expected ") and "\n" not in said, url
        assert SECRET not in "".join(traceback.format_exception(caught.value)), url
        declared = settings_of(Settings)[name]
        assert SECRET not in str(declared.redact(url)), "what cannot be read is hidden whole"


@pytest.mark.parametrize("field", ["issuer", "authorize_url", "token_url", "user_url"])
def test_urls_of_a_provider(field: str) -> None:
    """They are named as the setting is."""
    given = dict.fromkeys(("authorize_url", "token_url", "user_url"), "https://x.example") | {"client_id": "us"}
    load({}, None, oauth={"iam": given})
    for url in BAD["jwks_url"]:
        with pytest.raises(ConfigError, match=f"^OAUTH_IAM_{field.upper()}: expected a URL such as"):
            load({}, None, oauth={"iam": {**given, field: url}})


@pytest.mark.parametrize("origin", ["https://[x", f"https://us:{SECRET}@x", f"https://us:{SECRET}@[x"])
def test_origins(origin: str) -> None:
    """What looks like an origin with a password is not quoted."""
    with pytest.raises(ConfigError, match=r"^ALLOWED_ORIGINS: .* origin: ") as caught:
        load({}, None, allowed_origins=origin)
    assert SECRET not in str(caught.value)


async def test_what_psycopg_says_of_a_connection_string() -> None:
    """It quotes it; a reason does not, and a connector gives up instead of trying again."""
    url = f"postgres:/parley:{SECRET}@db/parley"
    with pytest.raises(psycopg.ProgrammingError, match=SECRET) as caught:
        await Connection.open(url)
    assert SECRET not in reason(caught.value)
    with pytest.raises(Unfit, match="cannot be read") as refused:
        await Connector(url, name="test").connect()
    said: Any = traceback.format_exception(refused.value)
    assert SECRET not in "".join(said)
