"""Converts our numbers into metric families of Prometheus: name, kind, help text, labels.

Owns nothing: the metrics themselves are in `sources`. Label values come from sets that the code bounds
(methods, routes, slugs), never from users' texts or ids.
"""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from store.histogram import Histogram

Number = int | float


def gauge(name: str, help_text: str, value: Number) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def counter(name: str, help_text: str, value: Number) -> Metric:
    """`name` ends in `_total`."""
    return CounterMetricFamily(name, help_text, value=value)


def gauges(name: str, help_text: str, label: str, values: Mapping[str, Number]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    return _filled(family, values)


def counters(name: str, help_text: str, label: str, values: Mapping[str, Number]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=[label])
    return _filled(family, values)


def histogram(name: str, help_text: str, values: Histogram) -> Metric:
    return HistogramMetricFamily(name, help_text, buckets=values.cumulative(), sum_value=values.sum)


def histograms(name: str, help_text: str, label: str, values: Iterable[tuple[str, Histogram]]) -> Metric:
    """Histograms by label value; those without an observation are left out."""
    family = HistogramMetricFamily(name, help_text, labels=[label])
    for value, one in values:
        if one.count:
            family.add_metric([value], buckets=one.cumulative(), sum_value=one.sum)
    return family


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, Number]
) -> GaugeMetricFamily | CounterMetricFamily:
    for value, number in values.items():
        family.add_metric([value], number)
    return family
