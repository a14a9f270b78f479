"""Sends spans and metrics to a collector, from threads of the control process.

    shipper --> take --> a bounded queue --> thread --> POST /v1/traces, /v1/metrics

A collector that is slow or gone costs spans, which are counted and said, and nothing else: the log
in Postgres is what is true. opentelemetry's packages are imported here and nowhere else, and only
where a collector is named; they are an extra of the package (`relay[otlp]`).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from relay.control.otlp.figures import Examples, to_metrics
from relay.control.otlp.spans import to_spans
from relay.records import CallEnd

CALLS_MAX: Final = 20_000
"""That wait to be sent: some seconds of a busy host."""
BATCH_MAX: Final = 500
SPANS_S: Final = 2.0
METRICS_S: Final = 15.0
ANSWER_S: Final = 5.0

_log = logging.getLogger(__name__)


class OtlpExporter:
    """Exports while it runs.

    Args:
        url: Of the collector, below which /v1/traces and /v1/metrics are.
        headers: Sent with each request: who we are, for a collector that asks.
        host: Names this host among others.
        collector: What /metrics shows.
        wall_s: Seconds since 1970.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        host: str,
        collector: Collector,
        wall_s: Callable[[], float],
    ) -> None:
        session = requests.Session()
        session.trust_env = False
        stem, given = url.rstrip("/"), dict(headers)
        self._spans = OTLPSpanExporter(
            f"{stem}/v1/traces", headers=given, timeout=ANSWER_S, session=session
        )
        self._metrics = OTLPMetricExporter(
            f"{stem}/v1/metrics", headers=given, timeout=ANSWER_S, session=session
        )
        self._resource = Resource({"service.name": "relay", "service.instance.id": host})
        self._collector = collector
        self._wall_s = wall_s
        self._since_ns = int(wall_s() * 1e9)
        self._calls: deque[CallEnd] = deque()
        self._examples = Examples()
        self.dropped = 0
        """Calls of which no span was sent."""
        self._failing = False

    async def run(self) -> None:
        """Send for ever: spans every SPANS_S, metrics every METRICS_S."""
        looks = 0
        while True:
            await asyncio.sleep(SPANS_S)
            await asyncio.to_thread(self._send_spans)
            looks += 1
            if looks * SPANS_S >= METRICS_S:
                looks = 0
                await self._send_figures()

    async def flush(self) -> None:
        """Send what is there, once."""
        await asyncio.to_thread(self._send_spans)
        await self._send_figures()

    def take(self, ends: Sequence[CallEnd]) -> None:
        """Take calls that are in the log; never waits."""
        room = CALLS_MAX - len(self._calls)
        self._calls.extend(ends[:room])
        self.dropped += max(len(ends) - room, 0)

    def _send_spans(self) -> None:
        while self._calls:
            ends = [self._calls.popleft() for _ in range(min(BATCH_MAX, len(self._calls)))]
            self._examples.take(ends)
            sent = self._spans.export(to_spans(ends, self._resource))
            if not self._note(good=sent is SpanExportResult.SUCCESS):
                self.dropped += len(ends)
                return

    async def _send_figures(self) -> None:
        """Look in the loop, where all that is looked at lives; send in a thread."""
        await asyncio.to_thread(self._send_metrics, list(self._collector.collect()))

    def _send_metrics(self, families: list[Metric]) -> None:
        now_ns = int(self._wall_s() * 1e9)
        found = to_metrics(families, self._resource, self._examples, self._since_ns, now_ns)
        self._note(good=self._metrics.export(found) is MetricExportResult.SUCCESS)

    def _note(self, *, good: bool) -> bool:
        """Say once that the collector does not take what it is sent, and once that it does."""
        if good == self._failing:
            self._failing = not good
            if good:
                _log.warning("the collector takes telemetry again", extra={"count": self.dropped})
            else:
                _log.warning("the collector does not take telemetry")
        return good
