"""TLS on the listening port: the certificate, and a TLS socket with the interface of a plain one.

Owns the two files (read again when they change), and the adapter that lets `server.transport.websocket` and the HTTP
side work on either kind of socket: non-blocking, with a `recv` that reads to the last byte, as an edge-triggered
poller requires.
"""

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from socket import SHUT_RD, socket
from typing import Any

import structlog
import trio

from server.config.settings import ConfigError
from server.config.units import SECONDS
from store.defects import guard

LOOK_PERIOD = 2 * SECONDS  # between checks of the files; a change is loaded once two checks have seen the same
RECORD = 16384  # bytes of the longest TLS record (RFC 8446, 5.1)

_MUST_WAIT = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)
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

    __slots__ = ("_socket", "family")

    def __init__(self, sock: socket, context: ssl.SSLContext) -> None:
        """Take over `sock`. Raise OSError."""
        self.family = sock.family
        self._socket = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    async def do_handshake(self) -> None:
        """Raise OSError, of which ssl.SSLError is a subclass."""
        while True:
            try:
                self._socket.do_handshake()
                return
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._socket)

    def recv(self, size: int) -> bytes:
        """Read up to `size` bytes, record by record, until none are left.

        OpenSSL returns one record a call, and may hold decrypted data that the kernel does not know of, for which no
        edge would be reported. So this reads on until OpenSSL would wait. An error or an end after some data is kept
        for the next call; an end is reported to the poller, so that there is one.
        """
        chunks: list[bytes] = []
        while size > 0:
            try:
                chunk = self._socket.recv(size)
            except _MUST_WAIT:
                if not chunks:
                    raise BlockingIOError from None
                break
            except OSError:
                if not chunks:
                    raise
                chunk = b""
            if not chunk:
                if chunks:
                    self._end_reading()
                break
            chunks.append(chunk)
            size -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _end_reading(self) -> None:
        """Let the poller report an end: data and the end arrived together, so no further edge would come."""
        with suppress(OSError):
            socket.shutdown(self._socket, SHUT_RD)

    def send(self, data: bytes | memoryview) -> int:
        """Send record by record, so that the number of bytes taken is known."""
        view = memoryview(data)
        sent = 0
        try:
            while sent < len(view):
                sent += self._socket.send(view[sent : sent + RECORD])
        except _MUST_WAIT:
            if not sent:
                raise BlockingIOError from None
        return sent

    def shutdown(self, how: int) -> None:
        """Shut down the socket. Raise OSError."""
        if how != SHUT_RD:
            self._send_close_notify()
        socket.shutdown(self._socket, how)

    def close(self) -> None:
        """Close the socket. Tasks that wait for it get trio.ClosedResourceError."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._send_close_notify()
            self._socket.close()

    def _send_close_notify(self) -> None:
        """Send `close_notify` if possible without waiting, so that the peer sees no truncation (RFC 8446, 6.1)."""
        with suppress(OSError, ValueError):  # ValueError: it was sent before
            self._socket.unwrap()

    def fileno(self) -> int:
        return self._socket.fileno()

    def getpeername(self) -> Any:
        return self._socket.getpeername()

    def getsockname(self) -> Any:
        return self._socket.getsockname()

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return self._socket.getsockopt(level, option, size)
