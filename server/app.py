"""`parley serve`: runs one instance, from the first check of PostgreSQL to the end of its drain.

Owns the process around the instance: signals, the service manager, reloading the configuration. `server.assembly`
builds the parts of the instance, `server.instance` runs and drains it.
"""

import os
import time
from collections.abc import Callable, Iterable

import structlog
import trio

from server.assembly.startup import Startup, require_postgres
from server.config.listen_address import parse_listen
from server.config.loading import Hidden
from server.config.settings import Settings
from server.config.trusted_proxies import ANY, UNIX
from server.config.units import SECONDS
from server.instance import STOP_SLACK, Instance
from server.observability.version import version
from server.process.sd_notify import ServiceManager
from server.process.signals import Lifecycle
from server.process.supervisor import PartLost
from server.tracing import open_tracing
from server.transport.sockets import address_of, listen
from store.errors import StoreError, Unfit

FIT_WITHIN = 5 * SECONDS  # for the check of PostgreSQL at the start

log = structlog.get_logger("parley.app")


async def _refuse_unfit(settings: Settings) -> bool:
    """Raise Unfit if PostgreSQL has to be configured differently, its schema migrated, or a clock set.

    Return False if it is out of reach: the instance starts, and waits for it before it is ready.
    """
    with trio.move_on_after(FIT_WITHIN):
        try:
            await require_postgres(settings)
            return True
        except Unfit:
            raise
        except StoreError:
            pass  # the pool logs it, and health reports it
    return False


def report_overridden(hidden: Iterable[Hidden]) -> None:
    """Write a line for each setting that is said in two places: an operator who changes the one that does not count
    would look for the effect in vain."""
    for setting, wins, loses in hidden:
        log.warning("setting_overridden", setting=setting, wins=wins, loses=loses)


def _warn_of_open_registration() -> None:
    log.warning(
        "registration_open",
        reason="anyone who can reach this instance can register users and sign in",
        advice="for development only: set PARLEY_REGISTRATION=oauth and a provider, or closed",
    )


def _warn_of_unknown_addresses() -> None:
    log.warning(
        "addresses_unknown",
        reason="LISTEN is a Unix socket, where clients have no address: all share the limits of one",
        advice="set PARLEY_FORWARDED_ALLOW_IPS=unix to trust the X-Forwarded-For of the proxy",
    )


def _base_url(host: str, port: int, *, is_tls: bool) -> str:
    """Return the address at which this instance is reached; without a port, `host` is the path of a Unix socket."""
    if not port:
        return f"unix:{host}"
    return f"{'https' if is_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


async def serve(
    settings: Settings,
    *,
    reread: Callable[[], Settings] | None = None,
    on_ready: Callable[[str], None] | None = None,
    is_for_development: bool = False,
) -> None:
    """Run one instance until SIGINT or SIGTERM, then drain it; a second signal ends the drain at once.

    At SIGHUP, `reread` loads the configuration again. `on_ready` is called with the base URL. For development the
    caller says that registration is open, where it is.

    Order: PostgreSQL is checked before anything is opened, so that a wrong setup ends the process before a service
    manager regards it as started. The sockets are open before the parts are built, so that a port that is in use
    fails early. `ready` runs once every part has started, every socket accepts, and both services can be used
    (`server.assembly.startup`): only then is the service manager notified, and the objects so far are exempted from
    garbage collection (`server.process.garbage_collector`). The service manager's watchdog is fed throughout the drain;
    its stop timeout is extended when the drain begins. The last line says what became of the connections. Raises
    PartLost after the drain if a part could not be kept running, so that the exit code shows it.
    """
    started = time.monotonic()
    build = version()  # the first call runs git and blocks, so it is made before there are clients
    if settings.registration == "open" and not is_for_development:
        _warn_of_open_registration()
    is_postgres_fit = await _refuse_unfit(settings)
    socks = listen(parse_listen(settings.listen), reuse_port=settings.reuse_port == "on")
    tracing = open_tracing(os.environ, settings.instance or settings.listen)
    instance = Instance(settings, tracing)
    service_manager = ServiceManager.from_environment(
        os.environ, status=lambda: life.status(len(instance.hub.connections), instance.lanes.trouble())
    )

    def reload() -> str:
        difference = instance.apply(reread() if reread is not None else settings)
        log.info("reloaded", changed=difference.changed, needs_restart=difference.needs_restart)
        return str(difference)

    life = Lifecycle(service_manager, reload if reread is not None else None)

    host, port = address_of(socks[0])
    startup = Startup(
        settings,
        instance.redis,
        instance.checks,
        is_postgres_fit=is_postgres_fit,
        waits_for=life.waits_for,
        host=host,
        port=port,
    )

    def ready() -> None:
        url = _base_url(host, port, is_tls=instance.certificate is not None)
        if not port and not {UNIX, ANY} & set(settings.forwarded_allow_ips):
            _warn_of_unknown_addresses()
        seconds = round(time.monotonic() - started, 2)
        log.info("ready", url=url, host=host, port=port, seconds=seconds, version=build)
        instance.garbage.begin()
        life.ready()
        if on_ready is not None:
            on_ready(url)

    async def notify_stopping() -> None:
        await life.stop.wait()
        service_manager.stopping(instance.settings.drain_seconds + STOP_SLACK)

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(life.watch_signals)
            nursery.start_soon(service_manager.run, instance.liveness.verdict)
            nursery.start_soon(notify_stopping)
            await instance.run(socks, stop=life.stop, force=life.force, ready=ready, startup=startup)
            if tracing is not None:
                await tracing.aclose()
            nursery.cancel_scope.cancel()
        log.info("stopped", **instance.end._asdict())
        if instance.supervisor.lost is not None:
            raise PartLost(f"the part {instance.supervisor.lost} could not be kept running; see `part_lost` in the log")
    finally:
        service_manager.close()
        for sock in socks:
            sock.close()
