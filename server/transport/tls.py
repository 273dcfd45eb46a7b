"""TLS on the listening port: the certificate, and a TLS socket with the interface of a plain one.

Owns the two files (read again when they change), and the adapter that lets `server.transport.websocket` and the HTTP
side work on either kind of socket: non-blocking, with a `recv` that reads to the last byte, as an edge-triggered
poller requires. OpenSSL does not get the socket: it reads on as long as there are records that it deals with by itself,
such as requests to renegotiate, and a client can send these without end. It is given what came, a little at a time.
"""

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from errno import ECONNABORTED
from pathlib import Path
from socket import SHUT_RD, socket
from typing import Any

import structlog
import trio

from server.config.settings import ConfigError
from server.config.units import SECONDS
from server.transport.step_limit import StepLimit
from store.defects import guard

LOOK_PERIOD = 2 * SECONDS  # between checks of the files; a change is loaded once two checks have seen the same
PIECE = 4096  # bytes that OpenSSL is given at once, and of our records: what it gathers them in stays as large
AT_ONCE = 4  # records that the kernel is given at once
MOST = 512 * 1024  # bytes that OpenSSL is given in one step of work
WITHOUT_CONTENT = 64 * 1024  # bytes of records in a row from which nothing came; a record has 16 KiB (RFC 8446, 5.1)
UNSENT = 64 * 1024  # bytes of its own that wait for the client: alerts, in answer to such records

Stamp = tuple[tuple[int, int, int], ...]  # of both files

_guard = guard("certificate")

log = structlog.get_logger("parley.tls")


def load_context(cert: str, key: str) -> ssl.SSLContext:
    """Load the certificate and its key. Raise ConfigError with a sentence about what is wrong."""
    for name, path in (("TLS_CERT", cert), ("TLS_KEY", key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"{name}: {path}: {error.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # only attackers use it (RFC 8446 has none)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(
            cert, key, password=""
        )  # without one, OpenSSL would prompt for the password of an encrypted key on the tty
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"TLS_KEY: {key} is not the key of the certificate in {cert}") from None
        raise ConfigError(f"TLS_CERT, TLS_KEY: no PEM certificate with its unencrypted key ({error.reason})") from None
    return context


def expiry(cert: str) -> datetime:
    """Return the expiry of the certificate in this file. Raise ConfigError."""
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.load_pem_x509_certificate(Path(cert).read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise ConfigError(f"TLS_CERT: {cert}: {error}") from None


class Certificate:
    """The certificate and key as loaded last. `context` is for new connections; open ones keep theirs."""

    def __init__(self, cert: str, key: str) -> None:
        """Raises ConfigError."""
        self._cert = cert
        self._key = key
        self._loaded = self._seen = self._stamp()
        self.context = load_context(cert, key)
        self._log_loaded()

    def reload(self) -> bool:
        """Read the files again. If they are unusable, log it, keep the loaded ones, and return False."""
        self._loaded = self._seen = self._stamp()
        try:
            self.context = load_context(self._cert, self._key)
            self._log_loaded()
        except ConfigError as error:
            log.error("certificate_not_loaded", reason=str(error), advice="the one before it stays in use")
            return False
        return True

    def look(self) -> None:
        """Reload the files if they have changed, and are not being written any more."""
        stamp, seen = self._stamp(), self._seen
        self._seen = stamp
        if stamp == seen and stamp != self._loaded:
            self.reload()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await trio.sleep(LOOK_PERIOD)
            try:
                self.look()
            except Exception as error:  # the loaded pair stays in use
                _guard.caught(error)

    def _stamp(self) -> Stamp:
        found = []
        for path in (self._cert, self._key):
            try:
                stat = Path(path).stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)

    def _log_loaded(self) -> None:
        end = expiry(self._cert)
        level = log.info if end > datetime.now(UTC) else log.warning
        level("certificate_loaded", file=self._cert, expires=end.isoformat(), expired=end <= datetime.now(UTC))


class TlsSocket:
    """A non-blocking TLS socket with the interface that `server.transport.websocket` uses of a plain one.

    `recv` and `send` raise BlockingIOError if they would wait. `recv` returns fewer bytes than asked for only if none
    are left, in the kernel or in OpenSSL. After `send` has taken a part, the next call must begin with the rest.
    """

    __slots__ = ("_ahead", "_incoming", "_outgoing", "_socket", "_tls", "_unsent", "_without_content", "family")

    def __init__(self, sock: socket, context: ssl.SSLContext) -> None:
        """Take over `sock`, which does not block."""
        self.family = sock.family
        self._socket = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = b""  # encrypted, and not taken by the kernel yet
        self._ahead = False  # the first byte of what is sent next is in it
        self._without_content = 0  # bytes of the records that came since the last one with content

    async def do_handshake(self, steps: StepLimit) -> None:
        """Raise OSError, of which ssl.SSLError is a subclass."""
        is_done = False
        while not is_done:
            try:
                self._tls.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                with suppress(OSError):
                    self._flush()  # what is wrong, for the client
                raise
            while not self._flush():
                await trio.lowlevel.wait_writable(self._socket)
            while not is_done and self._feed() is None:
                await trio.lowlevel.wait_readable(self._socket)
                await steps.wait()
        self._without_content = 0

    def _feed(self) -> int | None:
        """Give OpenSSL a piece of what has come, or the end. Return its size; None if nothing has. Raise OSError."""
        try:
            data = self._socket.recv(PIECE)
        except BlockingIOError:
            return None
        if data:
            self._incoming.write(data)
            self._without_content += len(data)
            if self._without_content > WITHOUT_CONTENT:
                raise ConnectionAbortedError(ECONNABORTED, "too many TLS records without content")
        else:
            self._incoming.write_eof()
        return len(data)

    def recv(self, size: int) -> bytes:
        """Read up to `size` bytes, record by record, until none are left.

        OpenSSL returns one record a call, and may hold data that the kernel does not know of, for which no edge would
        be reported. So this reads on until OpenSSL would wait and the kernel has nothing. An error or an end after some
        data is kept for the next call; an end is reported to the poller, so that there is one. It ends at `MOST`, too:
        only records that hardly have any content are so long.
        """
        chunks: list[bytes] = []
        given = 0
        is_drained = False  # the kernel had less than was asked for: what comes next has an edge of its own
        while size > 0 and given < MOST:
            try:
                chunk = self._read(size)
                if chunk is None:
                    fed = None if is_drained else self._feed()
                    if fed is None:
                        break
                    given += fed
                    is_drained = 0 < fed < PIECE
                    continue
            except OSError:
                if not chunks:
                    raise
                chunk = b""
            if not chunk:
                if not chunks:
                    return b""
                self._end_reading()
                break
            chunks.append(chunk)
            size -= len(chunk)
        if self._outgoing.pending:
            self._reply()
        if not chunks:
            raise BlockingIOError
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _read(self, size: int) -> bytes | None:
        """Return what OpenSSL has by now: some content, nothing at the end, None if it wants more of the client. Raise
        OSError.
        """
        try:
            chunk = self._tls.read(size)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLEOFError:  # without close_notify: whether that matters is the business of what is inside
            return b""
        except ssl.SSLError:
            with suppress(OSError):
                self._flush()  # what is wrong, for the client
            raise
        if chunk:
            self._without_content = 0
        return chunk

    def _reply(self) -> None:
        """Send what OpenSSL says by itself, in answer to what came. Raise OSError if the client does not take it."""
        with suppress(OSError):  # of one that has gone: shown by the next call
            self._flush()
        if len(self._unsent) > UNSENT:
            raise ConnectionAbortedError(ECONNABORTED, "the answers to its TLS records are not read")

    def _end_reading(self) -> None:
        """Let the poller report an end: data and the end arrived together, so no further edge would come."""
        with suppress(OSError):
            self._socket.shutdown(SHUT_RD)

    def send(self, data: bytes | memoryview) -> int:
        """Send a few records at a time, and return how many bytes of `data` were taken.

        What was encrypted is sent, sooner or later. As long as the kernel has not taken all of it, its last byte counts
        as not taken, so that the caller comes back with it.
        """
        if not self._flush():
            raise BlockingIOError
        view = memoryview(data)
        sent = int(self._ahead)
        self._ahead = False
        while sent < len(view):
            records: list[bytes] = []
            while sent < len(view) and len(records) < AT_ONCE:
                sent += self._tls.write(view[sent : sent + PIECE])
                records.append(self._outgoing.read())
            self._unsent = b"".join(records)
            if not self._flush():
                self._ahead = True
                if sent == 1:
                    raise BlockingIOError
                return sent - 1
        return sent

    def _flush(self) -> bool:
        """Send what is encrypted. Return whether the kernel has taken all of it. Raise OSError."""
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]
        return True

    def shutdown(self, how: int) -> None:
        """Shut down the socket. Raise OSError."""
        if how != SHUT_RD:
            self._send_close_notify()
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the socket. Tasks that wait for it get trio.ClosedResourceError."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._send_close_notify()
            self._socket.close()

    def _send_close_notify(self) -> None:
        """Send `close_notify` if possible without waiting, so that the peer sees no truncation (RFC 8446, 6.1)."""
        with suppress(OSError, ValueError):  # OpenSSL waits for the peer's; ValueError: it was sent before
            self._tls.unwrap()
        with suppress(OSError):
            self._flush()

    def fileno(self) -> int:
        return self._socket.fileno()

    def getpeername(self) -> Any:
        return self._socket.getpeername()

    def getsockname(self) -> Any:
        return self._socket.getsockname()

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return self._socket.getsockopt(level, option, size)
