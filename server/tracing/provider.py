"""Exports spans with OpenTelemetry's SDK, which is configured by its own OTEL_* variables.

Owns the provider. Spans go to the SDK's batch processor, which exports from its own thread, so that the event loop
never waits for a collector. Its queue is bounded: if the collector is slow or out of reach, spans are dropped.
"""

import trio
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

SERVICE = "parley"
FLUSH_WITHIN = 5.0  # seconds for the last spans when the process ends


def open_provider(instance: str) -> TracerProvider:
    """Return a provider that exports with OTLP over HTTP, sampled according to OTEL_TRACES_SAMPLER."""
    # What is passed to `create` takes precedence over OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, so the name is
    # passed only if neither sets it.
    own = {"service.instance.id": instance}
    found = Resource.create(own)
    if str(found.attributes.get("service.name", "")).startswith("unknown_service"):
        found = Resource.create({**own, "service.name": SERVICE})
    provider = TracerProvider(resource=found, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


async def close(provider: TracerProvider) -> None:
    """Export the remaining spans within FLUSH_WITHIN, in a thread because the SDK blocks."""
    with trio.move_on_after(2 * FLUSH_WITHIN):
        await trio.to_thread.run_sync(provider.force_flush, int(FLUSH_WITHIN * 1000), abandon_on_cancel=True)
        await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)
