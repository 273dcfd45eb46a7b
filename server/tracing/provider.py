"""Exports spans with OpenTelemetry's SDK, which is configured by its own OTEL_* variables.

Owns the provider. Spans go to the SDK's batch processor, which exports from its own thread, so that the event loop
never waits for a collector. Its queue is bounded: if the collector is slow or out of reach, spans are dropped.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import trio

from server.config.settings import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from server.tracing.instance import Tracing

SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE = "parley"
FLUSH_WITHIN = 5.0  # seconds for the last spans when the process ends


def is_on(environ: Mapping[str, str]) -> bool:
    """Return True if a collector is configured, and none of the SDK's switches disables tracing."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environ.get(name) for name in SWITCHES)


def open_provider(instance: str) -> "TracerProvider":
    """Return a provider that exports with OTLP over HTTP, sampled according to OTEL_TRACES_SAMPLER.

    Raises ConfigError if the extra is not installed.
    """
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
        raise ConfigError(f"{SWITCHES[0]} is set, and OpenTelemetry is not installed: pip install 'parley[otel]'")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    # What is passed to `create` takes precedence over OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, so the name is
    # passed only if neither sets it.
    own = {"service.instance.id": instance}
    found = Resource.create(own)
    if str(found.attributes.get("service.name", "")).startswith("unknown_service"):
        found = Resource.create({**own, "service.name": SERVICE})
    provider = TracerProvider(resource=found, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def open_tracing(environ: Mapping[str, str], instance: str) -> "Tracing | None":
    """Return the tracing of an instance, or None if it is off. Raises ConfigError."""
    if not is_on(environ):
        return None
    provider = open_provider(instance)
    from server.tracing.instance import Tracing  # noqa: PLC0415 - it needs the extra

    return Tracing(provider)


async def close(provider: "TracerProvider") -> None:
    """Export the remaining spans within FLUSH_WITHIN, in a thread because the SDK blocks."""
    with trio.move_on_after(2 * FLUSH_WITHIN):
        await trio.to_thread.run_sync(provider.force_flush, int(FLUSH_WITHIN * 1000), abandon_on_cancel=True)
        await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)
