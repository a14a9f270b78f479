"""What the workers counted, as Prometheus reads it.

The workers' files are read when somebody asks, so a scrape costs the data plane nothing. Labels are
names of the catalog and codes of ours; a key, an address or a request id is never one of them.
Counters are summed over all workers; gauges carry the worker they are true of.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from relay.compiled import is_compiled
from relay.store.metrics import HistogramCounts, WorkerMetrics, is_fresh, read_all

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


Reduce = Callable[[Iterable[float]], float]


class Family(NamedTuple):
    """A metric: its name for Prometheus, its meaning, its labels, and how many counts are one."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    counts_each: int = 1


COUNTERS: Final = {
    "requests": Family(
        "relay_requests", "Calls answered; code is the status class.", ("line", "endpoint", "code")
    ),
    "tokens": Family("relay_tokens", "Tokens used by answered calls.", ("type",)),
    "prompt_tokens": Family(
        "relay_prompt_tokens",
        "Input tokens of calls long enough for a provider's prompt cache.",
        ("line", "channel", "model"),
    ),
    "cached_tokens": Family(
        "relay_prompt_cached_tokens",
        "Input tokens of these that were read from a provider's prompt cache.",
        ("line", "channel", "model"),
    ),
    "upstream_errors": Family(
        "relay_upstream_errors", "Upstream attempts that failed.", ("channel", "reason")
    ),
    "limited": Family("relay_limited", "Calls refused by a limit.", ("line", "scope", "exhausted")),
    "refused": Family(
        "relay_door_refused",
        "Connections and requests refused by their address, or in overload.",
        ("rule",),
    ),
    "line_tokens": Family(
        "relay_line_tokens", "Tokens used by limited calls, cached input left out.", ("line",)
    ),
    "limiter_fallback_ms": Family(
        "relay_limiter_fallback_seconds",
        "Time that limits lived on the workers' shares: Redis could not be asked.",
        counts_each=1_000,
    ),
    "limiter_flights": Family("relay_limiter_flights", "Round trips to Redis for limits."),
    "limiter_losses": Family("relay_limiter_losses", "How often a worker lost its Redis."),
    "attempts": Family("relay_attempts", "Upstream attempts started."),
    "client_gone": Family("relay_client_gone", "Calls whose client hung up before the end."),
    "disputed_claims": Family(
        "relay_disputed_claims", "Answers claiming more tokens than can be.", ("channel",)
    ),
    "translated": Family(
        "relay_translated", "Calls that a channel of another dialect was asked.", ("way",)
    ),
    "truncated": Family("relay_truncated", "Streams ended by an error event after their start."),
    "unlogged": Family(
        "relay_unlogged_refusals", "Refused calls beyond those of an account that get a row."
    ),
    "splices": Family(
        "relay_splices",
        "Broken streams of lines that splice, by how they were carried on or why not.",
        ("line", "reason"),
    ),
    "bytes_out": Family("relay_sent_bytes", "Payload bytes sent to clients."),
    "events": Family("relay_events", "Stream events sent to clients."),
}
HISTOGRAMS: Final = {
    "ttft": Family("relay_ttfb_seconds", "From a call's arrival to its first byte out."),
    "overhead": Family(
        "relay_overhead_seconds", "From a request's arrival until a channel is asked."
    ),
}
GAUGES: Final[dict[str, tuple[Family, Reduce]]] = {
    "inflight": (Family("relay_inflight", "Calls under way."), sum),
    "connections": (Family("relay_connections", "Client connections open."), sum),
    "loop_lag_seconds": (Family("relay_loop_lag_seconds", "How late the last tick came."), max),
    "resident_memory_bytes": (Family("relay_resident_memory_bytes", "Memory in use."), sum),
    "tasks": (Family("relay_tasks", "Tasks under way; a stream that runs by itself is none."), sum),
    "snapshot_age_seconds": (
        Family("relay_snapshot_age_seconds", "Since the catalog was last known to be newest."),
        max,
    ),
    "journal_healthy": (Family("relay_journal_healthy", "0: no new paid work is taken."), min),
    "limiter_lost": (Family("relay_limiter_lost", "1: limits live on this worker's share."), max),
    "credit_leased_usd": (
        Family("relay_credit_leased_usd", "Credit that may be spent without asking Postgres."),
        sum,
    ),
    "credit_waiting": (Family("relay_credit_waiting", "Calls that wait for credit."), sum),
    "credit_age_seconds": (
        Family("relay_credit_age_seconds", "Since Postgres last answered about credit."),
        max,
    ),
    "draining": (Family("relay_draining", "1: takes no new connections."), max),
}
"""How two generations on one slot are put together stands beside each."""


class WorkerCollector(Collector):
    """Reads the workers' files for each scrape.

    Args:
        directory: Where the workers publish.
        own_gauges: What the control process knows itself: full name -> value.
        others: Whose metrics are shown as well.
        now_s: Seconds since 1970; a gauge of a worker that went silent is not shown.
    """

    def __init__(
        self,
        directory: Path,
        own_gauges: Callable[[], dict[str, float]],
        now_s: Callable[[], float],
        others: Sequence[Collector] = (),
    ) -> None:
        self._directory = directory
        self._own_gauges = own_gauges
        self._now_s = now_s
        self._others = others

    def collect(self) -> Iterator[Metric]:
        """Return all metric families as they stand."""
        found = read_all(self._directory)
        everyone = [published for slot in found.values() for published in slot]
        now_s = self._now_s()
        fresh = {slot: [p for p in ones if is_fresh(p, now_s)] for slot, ones in found.items()}
        for name, family in COUNTERS.items():
            yield _counter(family, _sum_counters(name, everyone))
        for name, family in HISTOGRAMS.items():
            yield _histogram(family, [p.histograms[name] for p in everyone if name in p.histograms])
        for name, (family, reduce) in GAUGES.items():
            yield _gauge(name, family, reduce, fresh)
        for name, value in self._own_gauges().items():
            yield GaugeMetricFamily(name, "Of the control process.", value=value)
        for other in self._others:
            yield from other.collect()
        yield InfoMetricFamily(
            "relay_build",
            "What is running.",
            value={
                "version": version("relay"),
                "python": platform.python_version(),
                "compiled": "yes" if is_compiled() else "no",
            },
        )


def render(collector: Collector) -> bytes:
    """Return the text of one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _sum_counters(name: str, everyone: list[WorkerMetrics]) -> dict[tuple[str, ...], int]:
    total: dict[tuple[str, ...], int] = {}
    for published in everyone:
        for labels, count in published.counters.get(name, {}).items():
            total[labels] = total.get(labels, 0) + count
    return total


def _counter(family: Family, total: dict[tuple[str, ...], int]) -> Metric:
    metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for labels, count in sorted(total.items()):
        metric.add_metric(labels, count / family.counts_each)
    return metric


def _histogram(family: Family, parts: list[HistogramCounts]) -> Metric:
    """Return the sum of `parts` in cumulative buckets, seconds; the newest bounds are in force."""
    metric = HistogramMetricFamily(family.name, family.help)
    if parts:
        bounds_us = parts[0].bounds_us
        same = [part for part in parts if part.bounds_us == bounds_us]
        counts = [sum(column) for column in zip(*(part.counts for part in same), strict=True)]
        edges = [*(f"{bound / 1e6:g}" for bound in bounds_us), "+Inf"]
        buckets = [(edge, sum(counts[: at + 1])) for at, edge in enumerate(edges)]
        metric.add_metric([], buckets, sum(part.sum_us for part in same) / 1e6)
    return metric


def _gauge(
    name: str, family: Family, reduce: Reduce, found: dict[str, list[WorkerMetrics]]
) -> Metric:
    metric = GaugeMetricFamily(family.name, family.help, labels=("worker",))
    for slot, generations in found.items():
        values = [p.gauges[name] for p in generations if name in p.gauges]
        if values:
            metric.add_metric([slot.removeprefix("worker-")], reduce(values))
    return metric
