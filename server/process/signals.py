"""React to signals, and notify the service manager of the life cycle.

Owns the two events that end a process (`stop` begins its drain, `force` cuts it short) and the order of notifications.
SIGTERM and SIGINT set `stop`, and a second one `force`; SIGHUP reloads the configuration.
"""

import signal
from collections.abc import Callable

import structlog
import trio

from server.config.settings import ConfigError
from server.process.sd_notify import ServiceManager
from store.defects import guard

RELOADED_SHOWN = 60.0  # seconds for which the status shows what a reload did

_guard = guard("signals")

log = structlog.get_logger("parley.lifecycle")


class Lifecycle:
    """The life cycle of a process. `reload` applies the current configuration, and returns what has changed."""

    def __init__(self, service_manager: ServiceManager, reload: Callable[[], str] | None = None) -> None:
        self.stop, self.force = trio.Event(), trio.Event()
        self._service_manager = service_manager
        self._reload = reload
        self._is_ready = False
        self._missing = ""  # what it waits for before it is ready
        self._reloaded = ""
        self._shown_until = 0.0

    def ready(self) -> None:
        self._is_ready = True
        self._service_manager.ready()
        self._service_manager.say(self.status(0))

    def waits_for(self, missing: str) -> None:
        """Show what the start waits for; nothing: it goes on."""
        self._missing = missing
        self._service_manager.say(self.status(0))

    def status(self, connections: int, trouble: str | None = None) -> str:
        """Return one line for `systemctl status`. `trouble`: why no message is accepted now."""
        if not self._is_ready and not self.stop.is_set():
            return f"starting: waits for {self._missing}" if self._missing else "starting"
        doing = "draining" if self.stop.is_set() else "serving"
        after = f"; reloaded, {self._reloaded}" if trio.current_time() < self._shown_until else ""
        however = f"; not ready: {trouble}" if trouble else ""
        return f"{doing}: {connections} connections{however}{after}"

    async def watch_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if self._reload else [])]
        with trio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    self.reload()
                    continue
                (self.force if self.stop.is_set() else self.stop).set()
                log.info("signal", name=signal.Signals(number).name, force=self.force.is_set())

    def reload(self) -> None:
        """Reload the configuration. If that fails, log it, and keep what was configured before."""
        if self._reload is None:
            return
        if self._is_ready:
            self._service_manager.reloading()
        try:
            self._reloaded = self._reload()
        except ConfigError as error:
            self._reloaded = "refused: the configuration cannot be used"
            log.error("reload_refused", reason=str(error), advice="what was configured before stays in use")
        except Exception as error:
            self._reloaded = f"failed, reference {_guard.caught(error, 'reload_failed')}"
        self._shown_until = trio.current_time() + RELOADED_SHOWN
        if self._is_ready:
            self._service_manager.ready()
