"""store.tcp: a host that vanishes without a word is noticed within 10 s by every client of a service."""

import os
import socket
import stat
from contextlib import closing

import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from server.hub.transports.forwarding import Forwarding
from store import tcp
from store.objects.s3 import S3Objects
from store.postgres import migrate
from store.postgres.connection import Connection
from store.redis.client import Redis
from store.redis.connection_owners import ConnectionOwners
from tests.proxy import Proxy
from tests.running import free_port
from tests.store.cluster import Cluster
from tests.store.objects.test_s3 import Handler, serving
from tests.store.proxy import SOCKET
from tests.store.valkey import Valkey, wait_reachable
from tests.store.world import WAIT

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


async def test_postgres(database: str, cluster: Cluster, nursery: trio.Nursery) -> None:
    """Those of the pools and the lanes, and those of `parley migrate`, which are psycopg's own."""
    port = free_port()
    await nursery.start(Proxy(port, cluster.directory / SOCKET).run)
    settings = {**conninfo_to_dict(database), "host": "127.0.0.1", "port": port}
    conninfo = " ".join(f"{name}={value}" for name, value in settings.items())
    conn = await Connection.open(conninfo)
    assert_noticed(port)
    await conn.close()
    with await trio.to_thread.run_sync(migrate._connect, conninfo):
        assert_noticed(port)
    nursery.cancel_scope.cancel()


async def test_redis(valkey: Valkey, nursery: trio.Nursery) -> None:
    """All connections of the client have them."""
    port = free_port()
    await nursery.start(Proxy(port, valkey.socket).run)
    redis = Redis(f"redis://127.0.0.1:{port}", name="test", timeout=WAIT)
    await nursery.start(redis.run)
    await wait_reachable(redis)
    assert_noticed(port)
    nursery.cancel_scope.cancel()


class Answering(Handler):
    def do_GET(self) -> None:  # noqa: N802 http.server calls it so
        self.say(200)


def test_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore knows only the first of them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")

    session = S3Objects("bucket", endpoint="http://127.0.0.1:1")._client._endpoint.http_session
    assert {*tcp.SOCKET_OPTIONS} <= {*session._manager.connection_pool_kw["socket_options"]}


async def test_requests_to_other_instances(redis_url: str, nursery: trio.Nursery) -> None:
    """An answer may take as long as a poll, so that no bound of their own notices it."""
    forwarding = Forwarding(ConnectionOwners(Redis(redis_url, name="test")), lambda: "")
    await nursery.start(forwarding.run, ())
    with serving(Answering) as url:
        await forwarding._http.get(url)
        assert_noticed(int(url.rpartition(":")[2]))
        await forwarding._http.aclose()
    nursery.cancel_scope.cancel()
