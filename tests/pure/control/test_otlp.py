"""Goal: a collector of OpenTelemetry hears of every call and every metric, and of no content.

Method: a collector that takes what it is sent and reads it with OpenTelemetry's own messages; calls
are handed to the exporter as the shipper does.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from relay.control.otlp.exporter import CALLS_MAX, OtlpExporter
from relay.records import CallEnd, FailedTry
from tests.local_app import serve_app
from tests.pure.control.ended import ended

REQUEST_ID = bytes(range(16))


class Told:
    """What the collector was told."""

    def __init__(self) -> None:
        self.traces = ExportTraceServiceRequest()
        self.metrics = ExportMetricsServiceRequest()
        self.headers: dict[str, str] = {}
        self.status = 200

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.status == 200:
            self.headers = dict(request.headers)
            told = self.traces if request.path.endswith("/v1/traces") else self.metrics
            told.MergeFromString(_unpacked(request, body))
        return web.Response(status=self.status, content_type="application/x-protobuf")


def _unpacked(request: web.Request, body: bytes) -> bytes:
    assert request.headers.get("content-encoding", "identity") == "identity"
    return body


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Told, str]]:
    told = Told()
    app = web.Application()
    app.router.add_post("/{path:.*}", told.take)
    async with serve_app(app) as port:
        yield told, f"http://127.0.0.1:{port}"


class Figures(Collector):
    """A counter, a gauge, and the histogram that has examples."""

    def collect(self) -> Iterator[Metric]:
        counter = CounterMetricFamily("relay_requests", "Calls.", labels=("line",))
        counter.add_metric(["town"], 7)
        yield counter
        yield GaugeMetricFamily("relay_inflight", "Under way.", value=3)
        histogram = HistogramMetricFamily("relay_ttfb_seconds", "To the first byte.")
        histogram.add_metric([], [("0.1", 2), ("1", 5), ("+Inf", 6)], 4.5)
        yield histogram


def exporter_to(url: str) -> OtlpExporter:
    return OtlpExporter(url, {"x-key": "ours"}, "host-1", Figures(), lambda: 1_800_000_000.0)


def call(**fields: object) -> CallEnd:
    told = {"request_id": REQUEST_ID, "time_us": 2_000_000, "total_us": 1_500_000}
    return ended(**{**told, "ttft_us": 500_000, "model": "m", **fields})


async def test_each_call_is_a_span_and_each_failed_attempt_one_within_it() -> None:
    lost = FailedTry(channel_id=4, outcome="refused", status=503, asked_us=100_000, took_us=50_000)
    async with collecting() as (told, url):
        exporter = exporter_to(url)
        exporter.take([call(status=200, tries=(lost,)), call(status=502, request_id=b"x" * 16)])
        await exporter.flush()
    [resource] = told.traces.resource_spans
    [scope] = resource.scope_spans
    served, attempt, failed = scope.spans
    assert served.trace_id == REQUEST_ID, "one is found by the other"
    assert (served.start_time_unix_nano, served.end_time_unix_nano) == (500_000_000, 2_000_000_000)
    assert [event.time_unix_nano for event in served.events] == [1_000_000_000]
    assert attempt.parent_span_id == served.span_id != attempt.span_id
    assert attempt.start_time_unix_nano == 600_000_000
    assert (served.status.code, attempt.status.code, failed.status.code) == (0, 2, 2)
    assert told.headers["x-key"] == "ours"
    shown = str(told.traces)
    assert "192.0.2.1" not in shown, "no address of a client"
    assert {"service.instance.id", "service.name"} <= {a.key for a in resource.resource.attributes}


async def test_metrics_are_what_prometheus_is_told_with_calls_as_examples() -> None:
    async with collecting() as (told, url):
        exporter = exporter_to(url)
        exporter.take([call()])
        await exporter.flush()
    [scope] = told.metrics.resource_metrics[0].scope_metrics
    found = {metric.name: metric for metric in scope.metrics}
    [counter] = found["relay_requests"].sum.data_points
    assert counter.as_double == 7 and found["relay_requests"].sum.is_monotonic
    assert [p.as_double for p in found["relay_inflight"].gauge.data_points] == [3]
    [histogram] = found["relay_ttfb_seconds"].histogram.data_points
    assert (list(histogram.bucket_counts), list(histogram.explicit_bounds)) == (
        [2, 3, 1],
        [0.1, 1.0],
    )
    [example] = histogram.exemplars
    assert (example.as_double, example.trace_id) == (0.5, REQUEST_ID)


async def test_a_collector_that_is_gone_costs_spans_and_nobody_waits() -> None:
    exporter = exporter_to("http://127.0.0.1:9")
    exporter.take([call()] * (CALLS_MAX + 5))
    assert exporter.dropped == 5
