"""What /metrics said twice becomes what happened between: the figures of `relay top`. Pure.

text -> Scrape;  two Scrapes and the seconds between -> Frame
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

STATES: Final = {0: "in service", 1: "half-open", 2: "open"}
ALL_MODELS: Final = "*"
HALF: Final = 0.5
TAIL: Final = 0.99

Labels = tuple[tuple[str, str], ...]


class Scrape(msgspec.Struct, frozen=True):
    """One reading: (sample, labels) -> value."""

    samples: Mapping[tuple[str, Labels], float]

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return a sample's values summed by one of its labels."""
        found: dict[str, float] = {}
        for (sample, labels), value in self.samples.items():
            if sample == name:
                key = dict(labels).get(label, "")
                found[key] = found.get(key, 0.0) + value
        return found

    def total(self, name: str, **wanted: str) -> float:
        """Return the sum of a sample over all labels but those wanted."""
        return sum(
            value
            for (sample, labels), value in self.samples.items()
            if sample == name and wanted.items() <= dict(labels).items()
        )


class LineFigures(msgspec.Struct, frozen=True):
    """A line: calls and tokens a second, refusals and errors a second."""

    line: str
    calls_per_s: float
    tokens_per_minute: float
    limited_per_s: float
    errors_per_s: float


class ChannelFigures(msgspec.Struct, frozen=True):
    """A channel: its state, the models in trouble, failed attempts a second by reason."""

    channel: str
    state: str
    models_in_trouble: int
    failures_per_s: float
    reason: str


class WorkerFigures(msgspec.Struct, frozen=True):
    """A worker now."""

    worker: str
    calls: int
    connections: int
    loop_lag_ms: float
    memory_mib: int


class Frame(msgspec.Struct, frozen=True):
    """What one look shows. None: nothing happened that could be measured."""

    calls_per_s: float
    events_per_s: float
    tokens_per_minute: float
    errors_per_s: float
    limited_per_s: float
    calls_under_way: int
    connections: int
    loop_lag_ms_max: float
    first_byte_ms: tuple[float, float] | None
    """Half of the calls, and 99 of 100, were at most this slow: bounds of buckets."""
    overhead_ms: tuple[float, float] | None
    log_lag_bytes: int
    limiter_lost_workers: int
    lines: list[LineFigures]
    channels: list[ChannelFigures]
    workers: list[WorkerFigures]


def read_scrape(text: str) -> Scrape:
    """Return what /metrics answered."""
    return Scrape(
        {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


def compare(before: Scrape, now: Scrape, took_s: float) -> Frame:
    """Return what happened between two readings, and how things stand at the second."""
    return Frame(
        calls_per_s=_rate(before, now, "relay_requests_total", took_s),
        events_per_s=_rate(before, now, "relay_events_total", took_s),
        tokens_per_minute=60 * _rate(before, now, "relay_tokens_total", took_s),
        errors_per_s=_rate(before, now, "relay_requests_total", took_s, code="5xx"),
        limited_per_s=_rate(before, now, "relay_limited_total", took_s),
        calls_under_way=round(now.total("relay_inflight")),
        connections=round(now.total("relay_connections")),
        loop_lag_ms_max=1000 * max(now.by("relay_loop_lag_seconds", "worker").values(), default=0),
        first_byte_ms=_quantiles(before, now, "relay_ttfb_seconds_bucket"),
        overhead_ms=_quantiles(before, now, "relay_overhead_seconds_bucket"),
        log_lag_bytes=round(now.total("relay_log_lag_bytes")),
        limiter_lost_workers=round(now.total("relay_limiter_lost")),
        lines=_lines(before, now, took_s),
        channels=_channels(before, now, took_s),
        workers=_workers(now),
    )


def _rate(before: Scrape, now: Scrape, name: str, took_s: float, **wanted: str) -> float:
    """Return a counter's growth a second; a counter that fell began again."""
    was, is_now = before.total(name, **wanted), now.total(name, **wanted)
    return (is_now - was if is_now >= was else is_now) / took_s


def _lines(before: Scrape, now: Scrape, took_s: float) -> list[LineFigures]:
    names = {name for name in now.by("relay_requests_total", "line") if name}
    found = [
        LineFigures(
            name,
            _rate(before, now, "relay_requests_total", took_s, line=name),
            60 * _rate(before, now, "relay_line_tokens_total", took_s, line=name),
            _rate(before, now, "relay_limited_total", took_s, line=name),
            _rate(before, now, "relay_requests_total", took_s, line=name, code="5xx"),
        )
        for name in names
    ]
    return sorted(found, key=lambda line: (-line.calls_per_s, line.line))


def _channels(before: Scrape, now: Scrape, took_s: float) -> list[ChannelFigures]:
    states = {
        (labels["channel"], labels["model"]): value
        for (sample, pairs), value in now.samples.items()
        if sample == "relay_channel_state" and (labels := dict(pairs))
    }
    names = {channel for channel, _ in states}
    names |= set(now.by("relay_upstream_errors_total", "channel"))
    found = []
    for name in sorted(names):
        whole = states.get((name, ALL_MODELS))
        troubled = sum(
            1 for (channel, model), value in states.items()
            if channel == name and model != ALL_MODELS and value
        )  # fmt: skip
        found.append(
            ChannelFigures(
                name,
                "unknown" if whole is None else STATES.get(round(whole), "unknown"),
                troubled,
                _rate(before, now, "relay_upstream_errors_total", took_s, channel=name),
                _worst_reason(before, now, name),
            )
        )
    return sorted(found, key=lambda one: (one.state == STATES[0], -one.failures_per_s, one.channel))


def _worst_reason(before: Scrape, now: Scrape, channel: str) -> str:
    grown = {
        dict(labels)["reason"]: value - before.samples.get((sample, labels), 0.0)
        for (sample, labels), value in now.samples.items()
        if sample == "relay_upstream_errors_total" and dict(labels)["channel"] == channel
    }
    worst = max(grown, key=lambda reason: grown[reason], default="")
    return worst if grown.get(worst, 0.0) > 0 else ""


def _workers(now: Scrape) -> list[WorkerFigures]:
    calls = now.by("relay_inflight", "worker")
    connections = now.by("relay_connections", "worker")
    lags = now.by("relay_loop_lag_seconds", "worker")
    memory = now.by("relay_resident_memory_bytes", "worker")
    return [
        WorkerFigures(
            worker,
            round(calls[worker]),
            round(connections.get(worker, 0)),
            1000 * lags.get(worker, 0.0),
            round(memory.get(worker, 0) / 1024**2),
        )
        for worker in sorted(calls, key=lambda name: (len(name), name))
    ]


def _quantiles(before: Scrape, now: Scrape, bucket: str) -> tuple[float, float] | None:
    """Return the bounds, in milliseconds, that half and 99 % of the observations lie within."""
    was, is_now = before.by(bucket, "le"), now.by(bucket, "le")
    grown = sorted((float(edge), count - was.get(edge, 0.0)) for edge, count in is_now.items())
    total = grown[-1][1] if grown else 0.0
    if total <= 0:
        return None
    return _bound(grown, HALF * total), _bound(grown, TAIL * total)


def _bound(grown: Iterable[tuple[float, float]], wanted: float) -> float:
    return 1000 * next(edge for edge, count in grown if count >= wanted)
