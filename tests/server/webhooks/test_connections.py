"""server.webhooks.connections: a connection goes only where webhooks may go, whatever a name says, and when."""

import socket
import threading

import httpcore
import pytest
import trio

from server.webhooks.connections import LOOKUPS, GuardedBackend, Refused, resolve
from tests.waiting import wait_until
from tests.webhook_receiver import receiving


class Names:
    """A resolver that answers as it was made to, the last answer for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int, limiter: trio.CapacityLimiter) -> list[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Recording(httpcore.TrioBackend):
    """Says where it was to connect, and connects to nothing."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.away: set[str] = set()

    async def connect_tcp(self, host: str, *args: object, **options: object) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        self.addresses.append(host)
        if host in self.away:
            raise httpcore.ConnectError("away")
        return httpcore.AsyncMockStream([])


def backend(names: Names, *hosts: str) -> tuple[GuardedBackend, Recording]:
    guarded, sockets = GuardedBackend(hosts, names), Recording()
    guarded._sockets = sockets
    return guarded, sockets


async def test_to_the_address_that_was_judged() -> None:
    """The name is looked up once, and the connection goes to its address: what it means a moment later is not asked."""
    names = Names(["8.8.8.8"], ["127.0.0.1"])
    guarded, sockets = backend(names)
    await guarded.connect_tcp("app.example", 443)
    assert sockets.addresses == ["8.8.8.8"] and names.asked == ["app.example"]
    with pytest.raises(Refused):
        await guarded.connect_tcp("app.example", 443)  # each connection looks anew
    assert sockets.addresses == ["8.8.8.8"]


@pytest.mark.parametrize(
    "answers",
    [
        ["10.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["::1", "8.8.8.8"],
        ["169.254.169.254"],
        ["fe80::1%eth0"],
        ["8.8.8.8", "::ffff:10.0.0.1"],
        ["64:ff9b::a00:1"],
        ["2002:7f00:1::"],
        [],
    ],
)
async def test_one_bad_address_is_enough(answers: list[str]) -> None:
    """With one address that is not good, or none, nothing is connected to."""
    guarded, sockets = backend(Names(answers))
    with pytest.raises(Refused):
        await guarded.connect_tcp("lying.example", 443)
    assert sockets.addresses == []


async def test_hosts_that_are_named() -> None:
    """They may be private; another name for the same address may not, and neither is ever sent to metadata."""
    guarded, sockets = backend(Names(["10.0.0.1"]), "inner.example")
    await guarded.connect_tcp("Inner.Example", 80)
    with pytest.raises(Refused):
        await guarded.connect_tcp("other.example", 80)
    assert sockets.addresses == ["10.0.0.1"]
    guarded, sockets = backend(Names(["169.254.169.254"]), "inner.example")
    with pytest.raises(Refused):
        await guarded.connect_tcp("inner.example", 80)
    assert sockets.addresses == []


async def test_the_next_address() -> None:
    """Where one does not answer the next is tried, a few of them; the last error is the answer."""
    guarded, sockets = backend(Names(["8.8.8.8", "8.8.4.4"]))
    sockets.away = {"8.8.8.8"}
    await guarded.connect_tcp("app.example", 443)
    assert sockets.addresses == ["8.8.8.8", "8.8.4.4"]
    many = [f"8.8.8.{number}" for number in range(50)]
    guarded, sockets = backend(Names(many))
    sockets.away = set(many)
    with pytest.raises(httpcore.ConnectError):
        await guarded.connect_tcp("app.example", 443)
    assert sockets.addresses == many[:4]


async def test_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """A name that is not answered for, and addresses that are not, cost so many seconds and no more."""

    async def never(host: str, port: int, limiter: trio.CapacityLimiter) -> list[str]:
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(httpcore.ConnectTimeout):
        await GuardedBackend((), never).connect_tcp("app.example", 443, timeout=3.0)
    assert trio.current_time() <= 4.0


async def test_no_unix_sockets() -> None:
    """None of them is an endpoint."""
    with pytest.raises(Refused):
        await GuardedBackend((), Names([])).connect_unix_socket("/run/docker.sock")


async def test_real_names() -> None:
    """`localhost` is found as this machine, in every form of its address; a name that does not exist is refused."""
    limiter = trio.CapacityLimiter(1)
    assert {"127.0.0.1", "::1"} & set(await resolve("localhost", 80, limiter))
    for host in ("127.0.0.1", "127.1", "2130706433", "0x7f000001"):
        assert await resolve(host, 80, limiter) == ["127.0.0.1"]
    async with receiving() as receiver:
        guarded = GuardedBackend(("localhost",))
        stream = await guarded.connect_tcp("localhost", receiver.port, timeout=60.0)
        assert isinstance(stream.get_extra_info("socket"), trio.socket.SocketType)
        await stream.aclose()
        for host in ("127.0.0.1", "0x7f.1", "0177.0.0.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "localhost."):
            with pytest.raises(Refused):
                await guarded.connect_tcp(host, receiver.port)
        with pytest.raises(Refused):
            await guarded.connect_tcp("none.invalid", receiver.port)
    assert receiver.connections <= 1
    assert socket.getdefaulttimeout() is None


async def test_names_that_are_not_answered_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look-ups that hang take the threads of their endpoint, and none of those that everything else has."""
    answered, hanging = threading.Event(), 0
    real = socket.getaddrinfo

    def look_up(host: object, *more: object, **options: object) -> object:
        nonlocal hanging
        if b"slow" in host if isinstance(host, bytes) else "slow" in str(host):
            hanging += 1
            answered.wait(60)
        return real(host, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    slow, other = GuardedBackend(()), GuardedBackend(("localhost",))
    threads = trio.to_thread.current_default_thread_limiter()

    async def connect() -> None:
        with pytest.raises(httpcore.ConnectTimeout):
            await slow.connect_tcp("slow.example", 443, timeout=0.1)

    try:
        async with receiving() as receiver, trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(connect)
            await wait_until(lambda: hanging >= LOOKUPS)
            stream = await other.connect_tcp("localhost", receiver.port, timeout=60.0)
            await stream.aclose()
            assert threads.borrowed_tokens == 0
        assert hanging == LOOKUPS
    finally:
        answered.set()
