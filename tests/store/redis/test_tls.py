"""rediss+sentinel:// and rediss+cluster://: every connection is over TLS, and who is not known is not spoken to.

The servers at hand have no TLS, so a proxy has it for them, at the address that they are said to have.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from store.errors import Unavailable
from store.redis import client, tls
from store.redis.client import Redis
from tests.certificates import Authority
from tests.store.redis_groups import PLAIN, SERVICE, SLOTS, Server
from tests.store.valkey import wait_reachable
from tests.waiting import block_until

pytestmark = pytest.mark.services  # processes of their own


class Secured:
    """A server behind TLS. `said` are ports that it names, and those that clients reach in their place."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = 0
        self.said: dict[int, int] = {}
        self.connections = 0

    async def run(self, context: ssl.SSLContext, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            listen = partial(trio.serve_ssl_over_tcp, self._serve, 0, context, host="127.0.0.1")
            [listener] = await nursery.start(listen)
            self.port = listener.transport_listener.socket.getsockname()[1]
            task_status.started()

    async def _serve(self, encrypted: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await encrypted.do_handshake()
            plain = await trio.open_tcp_stream("127.0.0.1", self.server.port)
            self.connections += 1
            async with encrypted, plain, trio.open_nursery() as both:
                both.start_soon(self._carry, encrypted, plain, both.cancel_scope)
                both.start_soon(self._carry, plain, encrypted, both.cancel_scope)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client did not like the certificate, or has gone

    async def _carry(self, source: trio.abc.Stream, sink: trio.abc.Stream, end: trio.CancelScope) -> None:
        while data := bytes(await source.receive_some(65536)):
            for said, meant in self.said.items():
                data = data.replace(
                    b"\r\n$%d\r\n%d\r\n" % (len(str(said)), said), b"\r\n$%d\r\n%d\r\n" % (len(str(meant)), meant)
                )
            await sink.send_all(data)
        end.cancel()


@asynccontextmanager
async def secured(directory: Path, *servers: Server) -> AsyncIterator[tuple[list[Secured], str]]:
    """The servers behind TLS, and the place of the authority's certificate."""
    authority = Authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(directory))
    place = directory / "authority.pem"
    place.write_text(authority.pem)
    try:
        async with trio.open_nursery() as nursery:
            found = [Secured(server) for server in servers]
            for one in found:
                await nursery.start(one.run, context)
            yield found, str(place)
            nursery.cancel_scope.cancel()
    finally:
        for server in servers:
            server.close()


async def use(url: str, key: str = "claimed") -> None:
    """A write, and a look at what was written."""
    async with trio.open_nursery() as nursery:
        redis = Redis(url, name="test")
        await nursery.start(redis.run)
        await wait_reachable(redis)
        assert await redis.claim(key, 60)
        assert not await redis.claim(key, 60)
        nursery.cancel_scope.cancel()


async def refused(url: str) -> None:
    """No connection comes about."""
    with pytest.raises((*client.FAILURES, Unavailable, ExceptionGroup)):
        async with client.connect(url, name="test") as found:
            await found.ping()


async def test_sentinel(tmp_path: Path) -> None:
    """The sentinels and the primary that they name, both over TLS; of an authority that is not trusted, none."""
    primary, sentinel = Server(tmp_path / "primary", *PLAIN), Server(tmp_path / "sentinel", "--sentinel")
    sentinel.ask("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", str(primary.port), "1")
    async with secured(tmp_path, primary, sentinel) as ([to_primary, to_sentinel], authority):
        to_sentinel.said = {primary.port: to_primary.port}
        url = f"rediss+sentinel://127.0.0.1:{to_sentinel.port}/{SERVICE}"
        await use(f"{url}?ssl_ca_certs={authority}&ssl_check_hostname=true")
        assert to_primary.connections and to_sentinel.connections
        await use(f"{url}?ssl_cert_reqs=none", "another")
        await refused(url)


async def test_cluster(tmp_path: Path) -> None:
    """The nodes that are named and those that these name, over TLS; of an authority that is not trusted, none."""
    node = Server(tmp_path / "node", *PLAIN, "--cluster-enabled", "yes")
    assert node.ask("CLUSTER", "ADDSLOTSRANGE", "0", str(SLOTS - 1)) == b"+OK\r\n"
    async with secured(tmp_path, node) as ([to_node], authority):
        node.ask("CONFIG", "SET", "cluster-announce-port", str(to_node.port))
        block_until(lambda: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"))
        url = f"rediss+cluster://127.0.0.1:{to_node.port}"
        await use(f"{url}?ssl_ca_certs={authority}")
        assert to_node.connections > 1
        await refused(url)


@pytest.mark.parametrize(
    ("given", "is_checked"),
    [(None, False), ("", False), ("0", False), ("False", False), ("no", False)]
    + [(yes, True) for yes in ("true", "1", "YES", "t", "y", "on")],
)
def test_the_name(given: str | None, is_checked: bool) -> None:
    """The name in a certificate is checked where it is asked for, in each way that rediss:// takes; chains always."""
    [context] = tls.options({} if given is None else {"ssl_check_hostname": given}).values()
    assert context.check_hostname is is_checked and context.verify_mode is ssl.CERT_REQUIRED
