"""Tracing with OpenTelemetry, an optional extra (`pip install parley[otel]`): one trace from a send to its deliveries.

The rest of the server imports this package only if tracing is switched on, so it costs nothing otherwise.
"""
