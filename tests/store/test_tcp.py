"""store.tcp: a host that vanishes without a word is noticed within 10 s by every client of a service."""

import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from server.hub.transports import forwarding
from server.hub.transports.forwarding import Forwarding
from store import tcp
from store.errors import RedisUnavailable, Unavailable
from store.objects.s3 import S3Objects
from store.postgres import connection, migrate
from store.postgres.connection import Connection
from store.postgres.sessions import Connector
from store.redis import client, sentinel
from store.redis import cluster as redis_cluster
from store.redis.client import Redis
from store.redis.connection_owners import ConnectionOwners
from store.redis.sentinel import Group
from store.redis.urls import Address
from tests.certificates import Authority
from tests.proxy import Proxy
from tests.running import free_port
from tests.store.cluster import Cluster
from tests.store.objects.test_s3 import Handler, serving
from tests.store.proxy import SOCKET
from tests.store.redis_groups import PLAIN, SLOTS, Server
from tests.store.valkey import Valkey
from tests.store.world import WAIT, fetch_value
from tests.waiting import wait_until

NOTICED_WITHIN = 10.0  # seconds; promised in docs/operations.md


def assert_noticed(port: int) -> None:
    """Of each socket of this process that is connected to this port, by the kernel's rules: a quiet connection ends
    after the probes, one with something under way after the user timeout; what is sent just before a quiet one would
    have ended has that time for itself."""
    found = 0
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
        except OSError:
            continue  # the list's own descriptor
        with closing(socket.socket(fileno=os.dup(number))) as sock:
            try:
                is_it = sock.family == socket.AF_INET and sock.getpeername()[1] == port
            except OSError:
                continue  # it is not connected
            if is_it:
                found += 1
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
                idle, interval, count, user = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
                assert user > 0
                assert idle + interval * count + user / 1000 <= NOTICED_WITHIN
    assert found


def test_figures() -> None:
    """What the documents promise is what the figures give."""
    assert tcp.VANISHED_WITHIN <= NOTICED_WITHIN


# -- PostgreSQL -----------------------------------------------------------------------------------


async def test_postgres(database: str, cluster: Cluster, nursery: trio.Nursery) -> None:
    """Those of the pools and the lanes, and those of `parley migrate`, which are psycopg's own."""
    port = free_port()
    await nursery.start(Proxy(port, cluster.directory / SOCKET).run)
    conninfo = make_conninfo(database, host="127.0.0.1", port=port)
    conn = await Connection.open(conninfo)
    assert_noticed(port)
    await conn.close()
    with await trio.to_thread.run_sync(migrate._connect, conninfo):
        assert_noticed(port)
    nursery.cancel_scope.cancel()


@pytest.fixture
def conninfo_on_tcp() -> Iterator[str]:
    """Of a PostgreSQL that is reached over TCP all the way: on a Unix socket it has none of these settings."""
    postgres = Cluster("127.0.0.1", port=free_port())
    try:
        postgres.start()
        yield make_conninfo(postgres.dsn(), host="127.0.0.1")
    finally:
        postgres.close()


async def test_postgres_notices_us(conninfo_on_tcp: str) -> None:
    """The server's side of a session: an instance that vanished in a transaction does not keep its locks for hours."""
    names = "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout"
    query = "SELECT setting FROM pg_settings WHERE name = %s"
    conn = await Connector(conninfo_on_tcp, name="test").connect()
    idle, interval, count, user = [int(str(await fetch_value(conn, query, name))) for name in names]
    assert user > 0
    assert idle + interval * count + user / 1000 <= NOTICED_WITHIN
    with await trio.to_thread.run_sync(migrate._connect, conninfo_on_tcp) as migrating:
        found = [migrating.execute(query, [name]).fetchone() for name in names]
    assert found == [(str(value),) for value in (idle, interval, count, user)]
    await conn.close()


# -- Redis ----------------------------------------------------------------------------------------


async def use(url: str, nursery: trio.Nursery) -> None:
    """Let a client of this URL do something of each kind, and keep the connections that it made for that."""
    redis = Redis(url, name="test", timeout=WAIT)
    await nursery.start(redis.run)

    async def is_answered() -> bool:
        await redis.ping()
        await redis.for_each("abc", lambda pipe, key: pipe.set(key, "1"))
        return True

    await wait_until(is_answered, despite=Unavailable)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{port}", "redis+sentinel://127.0.0.1:1/parley"])
async def test_redis(valkey: Valkey, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A single server, and a primary that Sentinel names."""
    port = free_port()

    async def find_primary(group: Group) -> Address:
        return "127.0.0.1", port

    monkeypatch.setattr(sentinel, "find_primary", find_primary)
    await nursery.start(Proxy(port, valkey.socket).run)
    await use(url.format(port=port), nursery)
    assert_noticed(port)
    nursery.cancel_scope.cancel()


async def test_redis_over_tls(valkey: Valkey, tmp_path: Path, nursery: trio.Nursery) -> None:
    """The options are those of the connection below."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority().issue(tmp_path))

    async def carry(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
        while data := await source.receive_some(65536):
            await sink.send_all(data)

    async def serve(encrypted: trio.abc.Stream) -> None:
        plain = await trio.open_unix_socket(str(valkey.socket))
        async with encrypted, plain, trio.open_nursery() as both:
            both.start_soon(carry, encrypted, plain)
            both.start_soon(carry, plain, encrypted)

    [listener] = await nursery.start(partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1"))
    port = listener.transport_listener.socket.getsockname()[1]
    await use(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none", nursery)
    assert_noticed(port)
    nursery.cancel_scope.cancel()


async def test_redis_cluster(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Each node's connections; one that has all slots is enough of a Cluster for that."""
    node = Server(tmp_path / "node", *PLAIN, "--cluster-enabled", "yes")
    try:
        assert node.ask("CLUSTER", "ADDSLOTSRANGE", "0", str(SLOTS - 1)) == b"+OK\r\n"
        await use(f"redis+cluster://127.0.0.1:{node.port}", nursery)
        assert_noticed(node.port)
    finally:
        nursery.cancel_scope.cancel()
        node.close()


# -- HTTP -----------------------------------------------------------------------------------------


class Answering(Handler):
    def do_HEAD(self) -> None:  # noqa: N802 http.server calls it so
        self.say(200)


def test_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection of the store's own client, which botocore gives SO_KEEPALIVE at most."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with serving(Answering) as url:
        s3 = S3Objects("bucket", endpoint=url)._client
        s3.head_bucket(Bucket="bucket")
        assert_noticed(urlsplit(url).port or 0)
        s3.close()


# -- names ----------------------------------------------------------------------------------------


class Silent(trio.abc.HostnameResolver):
    """A name server that has vanished."""

    async def getaddrinfo(self, *asked: object, **how: object) -> list[Any]:
        return await trio.sleep_forever()

    async def getnameinfo(self, *asked: object) -> tuple[str, str]:
        return await trio.sleep_forever()


SHORT = 0.1  # seconds, in place of those that there are for connecting


async def test_a_name_of_postgres(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up a name has the time that connecting has; of several hosts, the next one has its turn after that."""
    trio.socket.set_custom_hostname_resolver(Silent())
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", SHORT)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_OF_SEVERAL", SHORT)
    with trio.fail_after(WAIT):
        with pytest.raises(psycopg.OperationalError, match=r"cannot resolve 'db\.example': no answer within 0\.1 s"):
            await Connection.open("host=db.example user=postgres")
        found = await Connection.open(cluster.dsn(), host=f"db.example,{cluster.directory}")
    await found.close()


@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel", "redis+cluster"])
async def test_a_name_of_redis(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Redis is out of reach then, and the first attempt ends."""
    trio.socket.set_custom_hostname_resolver(Silent())
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", SHORT)
    monkeypatch.setattr(sentinel, "ASK", SHORT)
    monkeypatch.setattr(redis_cluster, "ASK", SHORT)
    redis = Redis(f"{scheme}://redis.example", name="test", timeout=WAIT)
    with trio.fail_after(WAIT):
        await nursery.start(redis.run)
    with pytest.raises(RedisUnavailable):
        await redis.ping()
    nursery.cancel_scope.cancel()


async def test_a_name_of_another_instance(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may take as long as a poll, looking up a name may not."""
    trio.socket.set_custom_hostname_resolver(Silent())
    monkeypatch.setattr(forwarding, "CONNECT_TIMEOUT", SHORT)
    handed = Forwarding(ConnectionOwners(Redis("redis://127.0.0.1:1", name="test")), lambda: "")
    await nursery.start(handed.run, ())
    with trio.fail_after(WAIT), pytest.raises(httpx.ConnectTimeout):
        await handed._http.get("http://instance.example/")
    nursery.cancel_scope.cancel()
