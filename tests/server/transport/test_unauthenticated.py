"""server.transport.unauthenticated: the number of unauthenticated connections of an address is limited."""

import trio

from loadtest.client import connect
from server.config.trusted_proxies import Proxies
from server.transport.unauthenticated import Stranger, UnauthenticatedConnections
from tests.site import open_site
from tests.waiting import wait_until

WAIT = 60.0


def test_counted_by_address() -> None:
    """Connections count once each, until they end or are authenticated; proxies and Unix sockets do not count."""
    strangers = UnauthenticatedConnections(2, Proxies(["10.0.0.0/8"]))
    one, two, three = (Stranger(strangers, "192.0.2.1") for _ in range(3))
    assert one.enter() and one.enter() and two.enter() and not three.enter()
    assert Stranger(strangers, "192.0.2.2").enter()
    assert all(Stranger(strangers, address).enter() for address in ("10.1.2.3", "") for _ in range(9))
    one.leave()
    one.leave()
    assert three.enter() and not one.enter()
    two.answered()
    one.answered()  # it was known before: it is not refused any more
    assert strangers.counts == {"192.0.2.1": 3, "192.0.2.2": 1}
    for each in (one, two, three):
        each.leave()
    assert list(strangers.counts) == ["192.0.2.2"]


def test_counted_behind_a_proxy() -> None:
    """A proxy's connection counts as its client's during a request, and each client has its own limit."""
    strangers = UnauthenticatedConnections(2, Proxies(["10.0.0.0/8"]))
    one, two, three, four = (Stranger(strangers, "10.1.2.3") for _ in range(4))
    said = {b"x-forwarded-for": b"6.6.6.6, 192.0.2.1"}
    assert all(each.enter() for each in (one, two, three, four)) and not strangers.counts
    assert one.ask(said) and two.ask(said) and not three.ask(said)
    assert three.ask({b"x-forwarded-for": b"192.0.2.2"}) and four.ask({})
    assert strangers.counts == {"192.0.2.1": 2, "192.0.2.2": 1}
    two.answered()
    three.leave()
    assert strangers.counts == {"192.0.2.1": 1} and four.ask(said)
    for each in (one, two, three, four):
        each.leave()
    assert not strangers.counts
    direct = Stranger(strangers, "192.0.2.1")
    assert direct.ask(said) and direct.enter() and strangers.counts == {"192.0.2.1": 1}


async def test_clients_of_a_proxy(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A limited number of one client's requests without a token may be in progress, first or later in a connection.
    Connections that the proxy keeps open do not count, and other clients are served."""
    async with open_site(
        database, redis_url, nursery, max_address_strangers=2, forwarded_allow_ips=("127.0.0.1",)
    ) as site:
        strangers = site.process.listener.strangers
        port = int(site.url.rpartition(":")[2])

        def request(client: str) -> bytes:
            return b"POST /api/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n" + (
                f"X-Forwarded-For: {client}\r\n\r\n".encode()
            )

        async def status(stream: trio.SocketStream) -> bytes:
            with trio.fail_after(WAIT):
                said = b""
                while not said.endswith(b"}"):  # of a problem
                    said += bytes(await stream.receive_some(4096))
            return said.split(b" ")[1]

        pooled = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(4)]
        for stream in pooled:
            await stream.send_all(request("192.0.2.7") + b"{}")
            assert await status(stream) == b"400"
        await wait_until(lambda: not strangers.counts)
        for stream in pooled[:2]:
            await stream.send_all(request("192.0.2.7"))
        await wait_until(lambda: strangers.counts["192.0.2.7"] >= 2)
        new = await trio.open_tcp_stream("127.0.0.1", port)
        for stream in (new, pooled[2]):
            await stream.send_all(request("192.0.2.7") + b"{}")
            assert await status(stream) == b"429"
        await pooled[3].send_all(request("192.0.2.8") + b"{}")
        assert await status(pooled[3]) == b"400"
        await pooled[0].send_all(b"{}")
        assert await status(pooled[0]) == b"400"
        for stream in (*pooled, new):
            await stream.aclose()
        await wait_until(lambda: not strangers.counts)


async def test_idle_sockets_of_one_address(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A connection over the limit is refused with 429; a client with a token is admitted all the while."""
    async with open_site(database, redis_url, nursery, max_address_strangers=4) as site:
        _, token = await site.user("alice")
        await site.http.aclose()  # its connection is kept alive: one of them
        strangers = site.process.listener.strangers
        await wait_until(lambda: not strangers.counts)
        port = int(site.url.rpartition(":")[2])
        idle = []
        for number in range(4):
            idle.append(await trio.open_tcp_stream("127.0.0.1", port))
            await idle[-1].send_all(b"GET" if number % 2 else b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(WAIT):
            await wait_until(lambda: strangers.counts["127.0.0.1"] >= 4)
            refused = await trio.open_tcp_stream("127.0.0.1", port)
            await refused.send_all(b"GET")
            answer = bytes(await refused.receive_some(4096))
        assert answer.startswith(b"HTTP/1.1 429 ") and b"Retry-After: 5" in answer
        async with connect(f"{site.url}/hubs/chat", token) as hub:
            assert await hub.invoke("Ping") == {}
            assert strangers.counts["127.0.0.1"] == 4
        for stream in (*idle, refused):
            await stream.aclose()
        await wait_until(lambda: not strangers.counts)
