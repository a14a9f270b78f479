"""What /metrics says, as OpenTelemetry's data model has it; histograms with exemplars of calls.

A bucket's exemplar is the call that fell into it last, by its request id. Counters are cumulative
since the exporter began: a restart of a worker does not set them back, as it does not at /metrics.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, Final

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from prometheus_client.core import Metric as Family

from relay.control.otlp.spans import NS_PER_US, SCOPE, trace_id
from relay.records import CallEnd

CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
TTFB: Final = "relay_ttfb_seconds"
US_PER_S: Final = 1_000_000


class Examples:
    """The call that fell last into each bucket of the time to a first byte."""

    def __init__(self) -> None:
        self._last: dict[int, CallEnd] = {}

    def take(self, ends: Iterable[CallEnd]) -> None:
        """Note calls; bounded, for each power of two has one."""
        for end in ends:
            if end.ttft_us:
                self._last[end.ttft_us.bit_length()] = end

    def of(self, bounds: Sequence[float]) -> list[Exemplar]:
        """Return at most one for each bucket."""
        found = {bisect_left(bounds, end.ttft_us / US_PER_S): end for end in self._last.values()}
        return [
            Exemplar(
                {},
                end.ttft_us / US_PER_S,
                end.time_us * NS_PER_US,
                int.from_bytes(end.request_id[8:], "big"),
                trace_id(end.request_id),
            )
            for end in found.values()
        ]


def to_metrics(
    families: Iterable[Family], resource: Resource, examples: Examples, since_ns: int, now_ns: int
) -> MetricsData:
    """Return all families as they stand at `now_ns`; counters began at `since_ns`."""
    metrics = [
        Metric(family.name, family.documentation, "", points)
        for family in families
        if (points := _points(family, examples, since_ns, now_ns)) is not None
    ]
    scope = ScopeMetrics(SCOPE, metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _points(family: Family, examples: Examples, since_ns: int, now_ns: int) -> Any:
    match family.type:
        case "counter":
            found = [
                NumberDataPoint(sample.labels, since_ns, now_ns, float(sample.value))
                for sample in family.samples
                if sample.name.endswith("_total")
            ]
            return Sum(found, CUMULATIVE, is_monotonic=True)
        case "gauge":
            return Gauge(
                [
                    NumberDataPoint(s.labels, since_ns, now_ns, float(s.value))
                    for s in family.samples
                ]
            )
        case "histogram" if family.samples:
            return Histogram([_histogram(family, examples, since_ns, now_ns)], CUMULATIVE)
    return None


def _histogram(
    family: Family, examples: Examples, since_ns: int, now_ns: int
) -> HistogramDataPoint:
    """Return the one series that a histogram of ours has."""
    edges = [sample for sample in family.samples if sample.name.endswith("_bucket")]
    bounds = [float(sample.labels["le"]) for sample in edges[:-1]]
    upto = [int(sample.value) for sample in edges]
    counts = [after - before for before, after in zip([0, *upto[:-1]], upto, strict=True)]
    total = next((s.value for s in family.samples if s.name.endswith("_sum")), 0.0)
    return HistogramDataPoint(
        attributes={},
        start_time_unix_nano=since_ns,
        time_unix_nano=now_ns,
        count=upto[-1],
        sum=total,
        bucket_counts=counts,
        explicit_bounds=bounds,
        min=0.0,
        max=0.0,
        exemplars=examples.of(bounds) if family.name == TTFB else [],
    )
