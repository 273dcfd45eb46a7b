"""server.webhooks.sender: one attempt is bounded, whatever the endpoint does."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpcore
import pytest
import trio

from server.observability.version import version
from server.webhooks import sender
from server.webhooks.sender import LEAST, MAX_ANSWER, MAX_WAIT, Outcome, Sender
from tests.certificates import Authority
from tests.plain_http import NO_TLS
from tests.webhook_receiver import OK, Received, Receiver, answer, receiving

SECRET = b"s" * 32
HOSTS = ("127.0.0.1",)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


def make_sender(url: str, *, hosts: tuple[str, ...] = HOSTS, timeout: float = 60.0, connections: int = 2) -> Sender:
    return Sender(url, hosts, tls=NO_TLS, timeout=timeout, connections=connections)


async def post(receiver: Receiver, **options: float) -> Outcome:
    made = make_sender(receiver.url, timeout=options.get("timeout", 60.0))
    try:
        return await made.post([SECRET], "evt_1", b'{"a":1}')
    finally:
        await made.aclose()


async def test_accepted(receiver: Receiver) -> None:
    """Any 2xx is. The request has the body, its type and the headers; the next one uses the same connection."""
    made = make_sender(receiver.url)
    for status in (200, 202, 204):
        receiver.behave = saying(answer(status, body=b"" if status == 204 else b"thanks"))
        assert await made.post([SECRET], "evt_1", b'{"a":1}') == Outcome()
    await made.aclose()
    assert receiver.connections == 1
    [one, *_] = receiver.received
    assert one.body == b'{"a":1}' and one.headers["user-agent"] == f"Parley-Webhooks/{version()}"
    assert one.host == f"127.0.0.1:{receiver.port}"
    assert {"webhook-id", "webhook-timestamp", "webhook-signature", "content-type"} < set(one.headers)
    assert not {"authorization", "cookie", "accept-encoding"} & set(one.headers)


def saying(data: bytes) -> Callable[[Received], Awaitable[bytes]]:
    async def behave(received: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return data

    return behave


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308])
async def test_redirects_are_failures(receiver: Receiver, status: int) -> None:
    """Where they lead is not asked for."""
    async with receiving() as other:
        receiver.behave = saying(answer(status, f"Location: {other.url}"))
        outcome = await post(receiver)
        assert outcome.failure == f"HTTP {status}; redirects are not followed" and not outcome.is_gone
        assert other.connections == 0


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (answer(400), Outcome("HTTP 400")),
        (answer(500, body=b"secret details"), Outcome("HTTP 500")),
        (answer(410), Outcome("HTTP 410", is_gone=True)),
        (answer(429, "Retry-After: 7"), Outcome("HTTP 429", wait=7.0)),
        (answer(503, "Retry-After: 999999999999"), Outcome("HTTP 503", wait=MAX_WAIT)),
        (answer(503, "Retry-After: Fri, 31 Dec 2199 23:59:59 GMT"), Outcome("HTTP 503", wait=MAX_WAIT)),
        (answer(503, "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT"), Outcome("HTTP 503")),
        (answer(503, "Retry-After: soon"), Outcome("HTTP 503")),
        (answer(503, "Retry-After: \xff"), Outcome("HTTP 503")),
        (b"nonsense\r\n\r\n", Outcome("it does not speak HTTP/1.1, or hung up")),
        (b"HTTP/1.1 200", Outcome("it does not speak HTTP/1.1, or hung up")),
        (b"", Outcome("it does not speak HTTP/1.1, or hung up")),
        (b"HTTP/1.1 200 X\r\nA: " + b"a" * 200_000 + b"\r\n\r\n", Outcome("the answer is longer than 65536 bytes")),
    ],
)
async def test_failures(receiver: Receiver, said: bytes, outcome: Outcome) -> None:
    """What is no 2xx is one, with words of ours; how long to wait is believed within bounds."""
    receiver.behave, receiver.last_words = hang_up, said
    assert await post(receiver) == outcome


async def hang(received: Received) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


async def hang_up(received: Received) -> bytes:
    raise ConnectionError


async def test_in_time(receiver: Receiver) -> None:
    """An endpoint that does not answer costs so long and no more."""
    receiver.behave = hang
    assert await post(receiver, timeout=0.2) == Outcome("no answer within 0.2 s")


async def test_long_answers(receiver: Receiver) -> None:
    """Of a long answer a part is read, and its connection is closed; the status counts."""
    receiver.behave = saying(answer(200, body=b"x" * (MAX_ANSWER * 50)))
    made = make_sender(receiver.url)
    for _ in range(2):
        assert await made.post([SECRET], "evt_1", b"{}") == Outcome()
    await made.aclose()
    assert receiver.connections == 2


async def test_where_it_may_not_go(receiver: Receiver) -> None:
    """To a host that is not named, in a private network: refused, and not a byte is sent."""
    made = make_sender(receiver.url, hosts=())
    outcome = await made.post([SECRET], "evt_1", b"{}")
    assert outcome == Outcome("its name leads to this machine itself")
    assert receiver.connections == 0


async def test_nothing_is_read_from_the_environment(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is set there is not used."""
    async with receiving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await post(receiver) == Outcome()
        assert proxy.connections == 0


async def test_a_port_where_no_one_listens() -> None:
    """It is a failure as any other."""
    made = make_sender("http://127.0.0.1:9/")
    assert (await made.post([SECRET], "evt_1", b"{}")).failure


async def test_tls(tmp_path: Path) -> None:
    """The certificate has to be for the name, which the server is asked for, whatever address it was found at."""
    authority = Authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(tmp_path, host="app.example"))
    asked: list[str | None] = []
    context.sni_callback = lambda stream, name, _: asked.append(name)

    async def here(*_: object) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["127.0.0.1"]

    async with receiving(context) as receiver:
        for host, trusted, failure in (
            ("app.example", authority.client, ""),
            ("other.example", authority.client, "TLS: Hostname mismatch"),
            ("app.example", sender_context(), "TLS: "),
        ):
            made = Sender(
                f"https://{host}:{receiver.port}/", (host,), tls=trusted, timeout=60.0, connections=1, resolve=here
            )
            outcome = await made.post([SECRET], "evt_1", b"{}")
            await made.aclose()
            assert outcome.failure.startswith(failure) and bool(outcome.failure) == bool(failure)
    assert asked[0] == "app.example"
    [one] = receiver.received
    assert one.host == f"app.example:{receiver.port}"


def sender_context() -> ssl.SSLContext:
    """Trusts another authority."""
    return Authority("another").client


async def test_many_at_once(receiver: Receiver) -> None:
    """As many connections as it may have, and no more."""
    made = make_sender(receiver.url, connections=3)
    gate = trio.Event()

    async def wait(received: Received) -> bytes:
        await gate.wait()
        return OK

    receiver.behave = wait
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(made.post, [SECRET], "evt_1", b"{}")
        while receiver.under_way < 3:
            await trio.testing.wait_all_tasks_blocked(0.01)
        gate.set()
    await made.aclose()
    assert receiver.most_under_way == 3 and sender.KEPT > 0


@pytest.mark.parametrize("said", [b"HTTP/1.1 102 X\r\n\r\n" * 20_000, b"HTTP/1.1 204 X\r\n" + b"a:b\r\n" * 20_000])
async def test_an_answer_that_does_not_begin(receiver: Receiver, said: bytes) -> None:
    """Interim answers and headers without an end are a failure, when so much of them has come."""
    receiver.behave = saying(said)
    assert "longer than" in (await post(receiver)).failure


async def test_a_body_of_single_bytes(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is accepted by its status, and no more of it is read than of any other body takes as long."""
    chunks: list[bytes] = []
    whole = httpcore.Response.aiter_stream

    async def counted(self: httpcore.Response) -> AsyncIterator[bytes]:
        async for chunk in whole(self):
            chunks.append(chunk)
            yield chunk

    monkeypatch.setattr(httpcore.Response, "aiter_stream", counted)
    receiver.behave = saying(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 8000)
    assert await post(receiver) == Outcome()
    assert len(chunks) <= MAX_ANSWER // LEAST + 1
