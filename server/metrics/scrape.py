"""Builds one answer to Prometheus: reads everything, and encodes it as text.

Owns the order: first what needs waiting (the census, Redis, PostgreSQL), then all other metrics in one pass without
waiting.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from server.metrics.census import take_census
from server.metrics.sources import Parts, families
from store.errors import StoreError

WITHIN = 1.0  # seconds; a scrape leaves out what Redis or PostgreSQL has not answered by then


T = TypeVar("T")


class _Read(Collector):
    """The metrics that were read for one scrape."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def scrape(parts: Parts, accept: str = "") -> tuple[bytes, str]:
    """Return (body, content type) in the format that `accept` requests.

    The census comes first because it yields to the event loop; the other metrics are then read without a break, so
    that they are of one moment. The two may differ by the duration of the census and of the questions. Never raises
    StoreError: without Redis, or PostgreSQL, the scrape has fewer metrics.
    """
    census = await take_census(parts.hub.connections)
    waiting = await _asked(parts.receipts.count_waiting)
    backlog = await _asked(parts.reports.backlog)
    registry = CollectorRegistry()
    registry.register(_Read(families(parts, census, waiting, backlog)))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


async def _asked(question: Callable[[], Awaitable[T]]) -> T | None:
    with trio.move_on_after(WITHIN):
        try:
            return await question()
        except StoreError:
            pass
    return None
