"""Tracing with OpenTelemetry, the optional extra `otel`: one trace from a send to its deliveries.

Owns the switch. The rest of the server gets its tracing from `open_tracing`, which imports the modules of this package
only if tracing is switched on: they need the extra, and it costs nothing otherwise.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from server.config.settings import ConfigError
from store.extras import how_to_install

if TYPE_CHECKING:
    from server.tracing.instance import Tracing

SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def is_on(environ: Mapping[str, str]) -> bool:
    """Return True if a collector is configured, and none of the SDK's switches disables tracing."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environ.get(name) for name in SWITCHES)


def open_tracing(environ: Mapping[str, str], instance: str) -> "Tracing | None":
    """Return the tracing of an instance, or None if it is off. Raises ConfigError if the extra is not installed."""
    if not is_on(environ):
        return None
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
        raise ConfigError(f"{SWITCHES[0]} is set, and OpenTelemetry is not installed: {how_to_install('otel')}")
    from server.tracing.instance import Tracing  # noqa: PLC0415
    from server.tracing.provider import open_provider  # noqa: PLC0415

    return Tracing(open_provider(instance))
