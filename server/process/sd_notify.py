"""Notify the service manager of the state of this process: the protocol of sd_notify(3), and its watchdog.

Owns one datagram socket. Nothing here waits or fails: a notification that the manager does not receive is lost. Without
NOTIFY_SOCKET nothing is sent.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog
import trio

from store.defects import guard

BEATS = 2  # watchdog notifications in one watchdog period, as sd_watchdog_enabled(3) advises
STATUS_PERIOD = 5.0  # seconds between updates of the status, without a watchdog

_guard = guard("sd_notify")

log = structlog.get_logger("parley.sd_notify")


class ServiceManager:
    """Sends notifications. `status` returns the line that `systemctl status` shows, or None for no change."""

    def __init__(
        self,
        address: str | None,
        watchdog_seconds: float | None = None,
        *,
        status: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.watchdog_seconds = watchdog_seconds
        self._status = status
        self._said = ""
        self._sock: socket.socket | None = None
        if address:
            self._address = "\0" + address[1:] if address.startswith("@") else address  # unix(7): the abstract kind
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sock.setblocking(False)

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], status: Callable[[], str | None] = lambda: None
    ) -> "ServiceManager":
        return cls(environ.get("NOTIFY_SOCKET"), _watchdog_seconds(environ), status=status)

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        """Begin a reload, which `ready` ends. Type=notify-reload requires the time (systemd 253)."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, seconds: float) -> None:
        """Begin the shutdown, which takes `seconds`: the manager's own timeout starts after it."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def say(self, status: str) -> None:
        """Send the line that `systemctl status` shows, unless it is the one sent last."""
        if status != self._said:
            self._said = status
            self._send(f"STATUS={status}")

    async def run(self, verdict: Callable[[], str | None]) -> None:
        """Feed the watchdog while `verdict` returns None, and keep the status up to date, until cancelled."""
        if self._sock is None:
            return
        period = self.watchdog_seconds / BEATS if self.watchdog_seconds else STATUS_PERIOD
        while True:
            try:
                complaint = verdict()
            except Exception as error:  # no reason to restart the process
                _guard.caught(error)
                complaint = None
            if complaint is not None:
                log.error(
                    "hung",
                    reason=complaint,
                    advice="the watchdog is not fed, so that the manager restarts this instance",
                )
                self.say(f"hung: {complaint}")
            else:
                if self.watchdog_seconds:
                    self._send("WATCHDOG=1")
                status = self._status()
                if status is not None:
                    self.say(status)
            await trio.sleep(period)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, *lines: str) -> None:
        if self._sock is None:
            return
        try:
            self._sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:  # the manager does not read: service does not depend on it
            log.debug("notification_not_sent", notification=lines[0], reason=error.strerror)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog period; None if there is no watchdog for this process."""
    pid = environ.get("WATCHDOG_PID")
    if pid and pid != str(os.getpid()):
        return None
    period = environ.get("WATCHDOG_USEC", "")
    return int(period) / 1e6 if period.isdecimal() and int(period) > 0 else None
