"""OpenTelemetry, for those who install it (`pip install parley[otel]`): one trace from a send to its deliveries.

Nothing else of the server imports this package unless it is switched on, and nothing in it runs unless it is.
"""
