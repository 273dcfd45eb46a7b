"""The connection path without a hub, with trio-websocket as an independent peer."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio_websocket

from server.protocol import websocket
from tests.echo_server import EchoServer
from tests.waiting import wait_until

WAIT = 60.0


@pytest.fixture
async def port(nursery: trio.Nursery) -> AsyncIterator[int]:
    server = EchoServer(broadcast=True)
    yield await nursery.start(server.run, 0)
    await wait_until(lambda: not server.connections)  # each ends by itself when its client is gone


async def test_an_independent_peer(port: int) -> None:
    """Text, binary, empty and large messages, ping and close satisfy trio-websocket."""
    async with trio_websocket.open_websocket("127.0.0.1", port, "/", use_ssl=False, max_message_size=2**24) as client:
        for message in ("hello 👋", b"\x00\xff", "", "x" * 2**20, b"y" * (2**20 + 1)):
            await client.send_message(message)
            with trio.fail_after(WAIT):
                assert await client.get_message() == message
        with trio.fail_after(WAIT):
            await client.ping(b"are you there?")
            await client.aclose(1000, "bye")
        assert client.closed is not None and client.closed.code == 1000


async def test_ten_mebibytes_in_fragments(port: int) -> None:
    """Group 9: a large message in many frames and odd pieces comes back whole."""
    stream = await _open(port)
    payload = bytes(range(256)) * 4096 * 10
    frames = b"".join(
        websocket.encode_masked(
            websocket.BINARY if start == 0 else websocket.CONT,
            payload[start : start + 65000],
            fin=start + 65000 >= len(payload),
        )
        for start in range(0, len(payload), 65000)
    )
    decoder = websocket.Decoder(client=True)
    got: list[websocket.Event] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, frames)
        with trio.fail_after(60):
            while not got:
                got += decoder.receive(bytes(await stream.receive_some(262144)))
    assert got == [websocket.Message(payload, binary=True)]
    await stream.aclose()


async def test_byte_by_byte(port: int) -> None:
    """Octets that arrive one by one make the same messages; after the close handshake the server ends TCP."""
    stream = await _open(port)
    data = (
        websocket.encode_masked(websocket.TEXT, b"one")
        + websocket.encode_masked(websocket.PING, b"p")
        + websocket.encode_masked(websocket.CLOSE, websocket.close_payload(1001, "leaving"))
    )
    for index in range(len(data)):
        await stream.send_all(data[index : index + 1])
    decoder, got = websocket.Decoder(client=True), list[websocket.Event]()
    with trio.fail_after(WAIT):
        while chunk := await stream.receive_some(65536):
            got += decoder.receive(bytes(chunk))
    assert got == [websocket.Message(b"one", binary=False), websocket.Pong(b"p"), websocket.Close(1001, "")]
    await stream.aclose()


async def test_violation_is_answered_and_affects_no_other(port: int) -> None:
    """A violator gets what was sent before, then a Close with the code; the others are not affected."""
    async with trio_websocket.open_websocket("127.0.0.1", port, "/", use_ssl=False) as other:
        stream = await _open(port)
        await stream.send_all(websocket.encode_masked(websocket.TEXT, b"fine") + b"\xff\xff" + b"junk" * 1000)
        decoder, got = websocket.Decoder(client=True), list[websocket.Event]()
        with trio.fail_after(WAIT):
            while not any(isinstance(event, websocket.Close) for event in got):
                got += decoder.receive(bytes(await stream.receive_some(65536)))
        assert got[0] == websocket.Message(b"fine", binary=False)
        assert isinstance(got[1], websocket.Close) and got[1].code == 1002 and got[1].reason
        await stream.aclose()
        await other.send_message("still here")
        with trio.fail_after(WAIT):
            assert await other.get_message() == "still here"


async def test_broadcast_does_not_wait_for_a_sleeper(port: int) -> None:
    """A reader that sleeps delays no other: these get each message at once, and it gets them in order later."""
    sleeper = await _open(port)
    async with trio_websocket.open_websocket("127.0.0.1", port, "/", use_ssl=False) as client:
        big = "B" + "x" * 200_000
        for _ in range(40):
            await client.send_message(big)
            with trio.fail_after(WAIT):
                assert await client.get_message() == big
    decoder, got = websocket.Decoder(client=True), list[websocket.Event]()
    with trio.fail_after(WAIT):
        while len(got) < 40:
            got += decoder.receive(bytes(await sleeper.receive_some(262144)))
    assert got == [websocket.Message(big.encode(), binary=False)] * 40
    await sleeper.aclose()


async def _open(port: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = b""
    with trio.fail_after(WAIT):
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some(1)
    assert answer.startswith(b"HTTP/1.1 101")
    return stream
