"""server.transport.tls: the same service over TLS, changed certificates, and peers that do not speak TLS."""

import hmac
import json
import os
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_websocket
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from structlog.testing import capture_logs

from loadtest.client import ClientError, connect, open_websocket
from server.config.settings import ConfigError
from server.protocol import websocket
from server.transport.step_limit import StepLimit
from server.transport.tls import PIECE, Certificate, TlsSocket
from tests.certificates import Authority
from tests.echo_server import EchoServer
from tests.site import Site, open_site
from tests.waiting import wait_until

WAIT = 60.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@asynccontextmanager
async def secure_site(
    authority: Authority, directory: Path, database: str, redis_url: str, nursery: trio.Nursery, **options: Any
) -> AsyncIterator[Site]:
    cert, key = authority.issue(directory)
    options |= {"tls_cert": cert, "tls_key": key}
    async with open_site(database, redis_url, nursery, tls=authority.client, **options) as site:
        yield site


async def test_everything_over_tls(
    authority: Authority, tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery
) -> None:
    """REST works over https, and the hub over wss with our client and an independent one; links are https; a client
    that does not trust the certificate refuses it."""
    objects = f"file://{tmp_path}/objects"
    async with secure_site(authority, tmp_path, database, redis_url, nursery, objects=objects) as site:
        (_, a), (bob, b) = await site.user("alice"), await site.user("bob")
        made = await site.call(
            "POST", "/api/conversations", {"type": "Direct", "memberIds": [bob]}, token=a, status=201
        )
        heard = trio.Event()
        hub = f"wss://{site.url.removeprefix('https://')}/hubs/chat"

        def on_event(target: str, arguments: object) -> None:
            if target == "ReceiveMessage":
                heard.set()

        async with (
            connect(hub, a, tls=authority.client, protocol="messagepack") as sender,
            connect(hub, b, tls=authority.client, on_event=on_event),
        ):
            sent = await sender.invoke("SendMessage", {"conversationId": made["id"], "content": "x" * 30_000})
            assert len(sent["content"]) == 30_000
            with trio.fail_after(WAIT):
                await heard.wait()

        headers = [(b"Authorization", f"Bearer {b}".encode())]
        async with trio_websocket.open_websocket_url(hub, authority.client, extra_headers=headers) as client:
            await client.send_message('{"protocol":"json","version":1}\x1e{"type":6}\x1e')
            with trio.fail_after(WAIT):
                assert await client.get_message() == "{}\x1e"

        file = {"name": "a.txt", "contentType": "text/plain", "size": 5}
        link = await site.call("POST", "/api/files/presign", file, token=a, status=201)
        assert link["uploadUrl"].startswith(site.url)

        with pytest.raises(ClientError, match="no TLS"):
            await open_websocket(hub, a, tls=Authority("somebody else").client)


async def test_bulk_in_both_directions(authority: Authority, tmp_path: Path, nursery: trio.Nursery) -> None:
    """Data beyond the kernel's buffer and a TLS record reaches readers that pause, complete and without a stall."""
    echo = EchoServer(broadcast=False, certificate=Certificate(*authority.issue(tmp_path)))
    port = await nursery.start(echo.run, 0)

    async def talk(number: int) -> None:
        stream = await open_websocket(f"wss://127.0.0.1:{port}/", tls=authority.client)
        decoder = websocket.Decoder(client=True, max_message=2**24)
        payloads = [os.urandom(size) for size in (1, 16383, 16384, 16385, 2**22, 100_000, number)]

        async def send() -> None:
            for payload in payloads:
                await stream.send_all(websocket.encode_masked(websocket.BINARY, payload))

        async with stream, trio.open_nursery() as talking:
            talking.start_soon(send)
            await trio.testing.wait_all_tasks_blocked(0.05)  # the server's answers pile up
            got: list[bytes] = []
            while len(got) < len(payloads):
                events = decoder.receive(bytes(await stream.receive_some(3000 + 65536 * (number % 2))))
                got += [event.data for event in events if isinstance(event, websocket.Message)]
            assert got == payloads

    with trio.fail_after(WAIT):
        async with trio.open_nursery() as talks:
            for number in range(4):
                talks.start_soon(talk, number)
        await wait_until(lambda: not echo.connections)


async def test_a_new_certificate(
    authority: Authority, tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery
) -> None:
    """Changed files apply to new connections; open ones go on. Files that are incomplete, missing or do not match have
    no effect, and are logged once."""
    async with secure_site(authority, tmp_path, database, redis_url, nursery) as site:
        certificate = site.process.certificate
        assert certificate is not None
        _, token = await site.user("alice")
        first = await _shown(site, authority)
        async with connect(f"{site.url}/hubs/chat", token, tls=authority.client) as old:
            with capture_logs() as lines:
                (tmp_path / "cert.pem").write_bytes((tmp_path / "cert.pem").read_bytes()[:100])
                for _ in range(4):
                    certificate.look()
                (tmp_path / "key.pem").unlink()
                for _ in range(4):
                    certificate.look()
            assert [line["event"] for line in lines] == ["certificate_not_loaded"] * 2
            assert await _shown(site, authority) == first
            authority.issue(tmp_path)
            certificate.look()
            assert await _shown(site, authority) == first, "it may still be being written"
            certificate.look()
            assert await _shown(site, authority) not in (first, b"")
            assert await old.invoke("Ping") == {}
        assert certificate.reload()


async def test_peers_that_do_not_speak_tls(
    authority: Authority, tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery
) -> None:
    """Peers that send plain HTTP or noise, or nothing, or leave half-way are disconnected, with a line at debug level;
    others are not affected."""
    with capture_logs() as lines:
        async with secure_site(authority, tmp_path, database, redis_url, nursery, handshake_timeout="0.5") as site:
            hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(100)
            for data, leaves in (
                (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", False),
                (os.urandom(500), False),
                (hello, False),  # and then nothing
                (hello, True),
                (b"\x16", False),
            ):
                stream = await site.open_tcp()
                await stream.send_all(data)
                if leaves:
                    await stream.send_eof()
                with trio.fail_after(WAIT):
                    try:
                        while await stream.receive_some(1000):
                            pass
                    except trio.BrokenResourceError:
                        pass
                await stream.aclose()
            slow = trio.SSLStream(await site.open_tcp(), authority.client, server_hostname="127.0.0.1")
            await slow.send_all(b"GET / HT")  # the deadline is for handshake and head together
            with trio.fail_after(WAIT):
                assert b" 408 " in await slow.receive_some(1000)
            await trio.aclose_forcefully(slow)
            assert (await site.http.get("/health/live")).status_code == 200
    failed = [line for line in lines if line["event"] == "tls_failed"]
    assert [line["log_level"] for line in failed] == ["debug"] * 5
    assert failed[0]["reason"] == "HTTP_REQUEST"
    assert not [line for line in lines if line["log_level"] in ("error", "critical")]


def test_files_that_cannot_be_used(authority: Authority, tmp_path: Path) -> None:
    """Unusable files are refused at start with the file and the reason; there is no prompt for an encrypted key."""
    cert, key = authority.issue(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, foreign = authority.issue(other)
    for files, reason in (
        ((f"{tmp_path}/none.pem", key), "TLS_CERT: .*No such file"),
        ((cert, str(tmp_path)), "TLS_KEY: .*Is a directory"),
        ((cert, foreign), "is not the key of"),
        ((key, key), "no PEM certificate"),
        ((cert, cert), "no PEM certificate"),
    ):
        with pytest.raises(ConfigError, match=reason):
            Certificate(*files)


async def _shown(site: Site, authority: Authority) -> bytes:
    """Return the certificate that a new connection gets."""
    stream = trio.SSLStream(await site.open_tcp(), authority.client, server_hostname="127.0.0.1")
    await stream.do_handshake()
    found = stream.getpeercert(binary_form=True)
    await trio.aclose_forcefully(stream)
    assert isinstance(found, bytes)
    return found


async def test_a_slow_reader_over_tls(
    authority: Authority, tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery
) -> None:
    """P8 over TLS: a client that stops reading lags, delays no other, and gets everything when it reads again."""
    limits = {"send_queue_bytes": "64KiB", "max_message_bytes": "8KiB"}
    async with secure_site(authority, tmp_path, database, redis_url, nursery, **limits) as site:
        (_, a), (bob, b) = await site.user("alice"), await site.user("bob")
        body = {"type": "Direct", "memberIds": [bob]}
        made = await site.call("POST", "/api/conversations", body, token=a, status=201)
        hub = f"{site.url}/hubs/chat"
        slow = await open_websocket(hub, b, tls=authority.client)
        decoder = websocket.Decoder(client=True)
        await slow.send_all(websocket.encode_masked(websocket.TEXT, b'{"protocol":"json","version":1}\x1e'))
        assert b"{}" in await slow.receive_some(1000)
        sent: list[int] = []
        seqs: list[int] = []
        text = b""
        with capture_logs() as lines, trio.fail_after(60):
            async with connect(hub, a, tls=authority.client) as alice:
                message = {"conversationId": made["id"], "content": "x" * 7000}
                while not any(line["event"] == "lagging" for line in lines):
                    calls = [await alice.start("SendMessage", message) for _ in range(32)]
                    sent += [(await alice.result(call))["seq"] for call in calls]
            while len(seqs) < len(sent):
                for event in decoder.receive(bytes(await slow.receive_some(65536))):
                    assert isinstance(event, websocket.Message)
                    text += event.data
                *whole, text = text.split(b"\x1e")
                messages = [json.loads(line) for line in whole]
                seqs += [one["arguments"][0]["seq"] for one in messages if one.get("target") == "ReceiveMessage"]
        assert seqs == sent
        await trio.aclose_forcefully(slow)


class Client:
    """A client of TLS on a socket of its own, in a thread. `talk` begins when it has shaken hands."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")
        self.heard = b""  # in the handshake

    def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                self.sock.sendall(self.outgoing.read())
                return
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                data = self.sock.recv(65536)
                self.heard += data
                self.incoming.write(data)

    def read(self, size: int) -> bytes:
        """What comes next, `size` bytes of the wire at once; nothing at the end."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                data = self.sock.recv(size)
                if not data:
                    return b""
                self.incoming.write(data)


@asynccontextmanager
async def talking(
    authority: Authority, directory: Path, talk: Callable[[Client], None], context: ssl.SSLContext | None = None
) -> AsyncIterator[TlsSocket]:
    """A TLS socket whose client does this, in a thread."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    ours.setblocking(False)
    served = TlsSocket(ours, Certificate(*authority.issue(directory)).context)
    client = Client(context or authority.client, theirs)

    def live() -> None:
        try:
            client.shake_hands()
            talk(client)
        except OSError:
            pass  # it was cut off
        finally:
            theirs.close()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with trio.fail_after(WAIT):
            await served.do_handshake(StepLimit())
            yield served
    finally:
        served.close()
        await trio.to_thread.run_sync(thread.join)


async def receive(served: TlsSocket) -> bytes:
    while True:
        try:
            return served.recv(16384)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(served)


def requests_to_renegotiate(client: Client, directory: Path, size: int) -> bytes:
    """So many bytes of records of TLS 1.2 with a ClientHello each, as short as one can be."""
    _, client_random, master = (directory / "keys").read_text().split()[-3:]
    seed = b"key expansion" + client.heard[11:43] + bytes.fromhex(client_random)
    block = link = b""
    while len(block) < 40:
        link = hmac.digest(bytes.fromhex(master), link or seed, "sha256")
        block += hmac.digest(bytes.fromhex(master), link + seed, "sha256")
    cipher, salt = AESGCM(block[:16]), block[32:36]
    hello = b"\x01\0\0\0"
    records = []
    for number in range(1, size // 33 + 1):  # the client's Finished was record 0
        at = number.to_bytes(8)
        sealed = cipher.encrypt(salt + at, hello, at + b"\x16\x03\x03\0\x04")
        records.append(b"\x16\x03\x03" + (8 + len(sealed)).to_bytes(2) + at + sealed)
    return b"".join(records)


async def test_requests_to_renegotiate(authority: Authority, tmp_path: Path) -> None:
    """A client that asks for nothing but another handshake, again and again, is cut off soon: OpenSSL would read on
    as long as it does, and this process would do nothing else."""
    size, taken = 8 * 1024 * 1024, 0
    context = ssl.create_default_context(cafile=None)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
    context.keylog_filename = str(tmp_path / "keys")

    def talk(client: Client) -> None:
        nonlocal taken
        client.sock.sendall(client.outgoing.read())
        asked = requests_to_renegotiate(client, tmp_path, size)
        for start in range(0, len(asked), 4096):
            client.sock.sendall(asked[start : start + 4096])
            taken += 4096

    async with talking(authority, tmp_path, talk, context) as served:
        with pytest.raises(OSError, match="without content"):
            await receive(served)
    assert taken < size // 8


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_many_small_records(authority: Authority, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A client that sends byte by byte is read to its last one, and so is what it says when it leaves at once."""
    data = os.urandom(20_000)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version

    def talk(client: Client) -> None:
        for at in range(len(data)):
            client.tls.write(data[at : at + 1])
            if at % 100 == 0:
                client.sock.sendall(client.outgoing.read())
        client.sock.sendall(client.outgoing.read())
        client.sock.shutdown(socket.SHUT_WR)
        while client.sock.recv(4096):  # session tickets: what is not read makes a reset of the end
            pass

    found = b""
    async with talking(authority, tmp_path, talk, context) as served:
        while chunk := await receive(served):
            found += chunk
    assert found == data


async def test_the_kernel_takes_parts(authority: Authority, tmp_path: Path) -> None:
    """However little of what is sent the kernel takes, and however little is sent at once, all of it comes, once."""
    data, found = os.urandom(400_000), b""
    dice = random.Random(1)

    def talk(client: Client) -> None:
        nonlocal found
        while chunk := client.read(700):
            found += chunk

    async with talking(authority, tmp_path, talk) as served:
        sent = blocked = 0
        while sent < len(data):
            size = dice.choice([1, 2, 100, PIECE, PIECE + 1, 50_000])
            view = memoryview(data)[sent : sent + size]
            while view:
                try:
                    taken = served.send(view)
                except BlockingIOError:
                    blocked += 1
                    await trio.lowlevel.wait_writable(served)
                    continue
                view = view[taken:]
            sent = min(len(data), sent + size)
        assert blocked
        served.shutdown(socket.SHUT_WR)
        await wait_until(lambda: len(found) == len(data))
    assert found == data
