"""Builds one answer to Prometheus: reads everything, and encodes it as text.

Owns the order: first what needs waiting (the census, Redis), then all other metrics in one pass without waiting.
"""

from collections.abc import Iterable

import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from server.fanout.receipts import ReceiptWriter
from server.metrics.census import take_census
from server.metrics.sources import Parts, families
from store.errors import StoreError

REDIS_WITHIN = 1.0  # seconds; a scrape leaves out what Redis has not answered by then


class _Read(Collector):
    """The metrics that were read for one scrape."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def scrape(parts: Parts, accept: str = "") -> tuple[bytes, str]:
    """Return (body, content type) in the format that `accept` requests.

    The census comes first because it yields to the event loop; the other metrics are then read without a break, so
    that they are of one moment. The two may differ by the duration of the census and of the question to Redis. Never
    raises StoreError: without Redis the scrape has one metric less.
    """
    census = await take_census(parts.hub.connections)
    waiting = await _receipts_waiting(parts.receipts)
    registry = CollectorRegistry()
    registry.register(_Read(families(parts, census, waiting)))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


async def _receipts_waiting(receipts: ReceiptWriter) -> int | None:
    with trio.move_on_after(REDIS_WITHIN):
        try:
            return await receipts.count_waiting()
        except StoreError:
            pass
    return None
