"""server.strangers: who says nothing of who it is takes a bounded number of places."""

import trio

from loadtest.client import connect
from server.addresses import Proxies
from server.strangers import Stranger, Strangers
from tests.server.rest.conftest import open_site

WAIT = 60.0


def test_counted_by_address() -> None:
    """Up to the bound, each once; who has left, or is known, makes room; proxies and Unix sockets are not counted."""
    strangers = Strangers(2, Proxies(["10.0.0.0/8"]))
    one, two, three = (Stranger(strangers, "192.0.2.1") for _ in range(3))
    assert one.enter() and one.enter() and two.enter() and not three.enter()
    assert Stranger(strangers, "192.0.2.2").enter()
    assert all(Stranger(strangers, address).enter() for address in ("10.1.2.3", "") for _ in range(9))
    one.leave()
    one.leave()
    assert three.enter() and not one.enter()
    two.begin()
    one.begin()  # it was known before: it is not refused any more
    assert strangers.counts == {"192.0.2.1": 3, "192.0.2.2": 1}
    for each in (one, two, three):
        each.leave()
    assert list(strangers.counts) == ["192.0.2.2"]


async def test_idle_sockets_of_one_address(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """One more than it may have is refused with 429; a client that says who it is is let in all the while."""
    async with open_site(database, redis_url, nursery, max_address_strangers=4) as site:
        _, token = await site.user("alice")
        await site.http.aclose()  # its connection is kept alive: one of them
        strangers = site.process.listener.strangers
        with trio.fail_after(WAIT):
            while strangers.counts:
                await trio.sleep(0.01)
        port = int(site.url.rpartition(":")[2])
        idle = []
        for number in range(4):
            idle.append(await trio.open_tcp_stream("127.0.0.1", port))
            await idle[-1].send_all(b"GET" if number % 2 else b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(WAIT):
            while strangers.counts["127.0.0.1"] < 4:
                await trio.sleep(0.01)
            refused = await trio.open_tcp_stream("127.0.0.1", port)
            await refused.send_all(b"GET")
            answer = bytes(await refused.receive_some(4096))
        assert answer.startswith(b"HTTP/1.1 429 ") and b"Retry-After: 5" in answer
        async with connect(f"{site.url}/hubs/chat", token) as hub:
            assert await hub.invoke("Ping") == {}
            assert strangers.counts["127.0.0.1"] == 4
        for stream in (*idle, refused):
            await stream.aclose()
        with trio.fail_after(WAIT):
            while strangers.counts:
                await trio.sleep(0.01)
