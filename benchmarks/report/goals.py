"""What the relay set out to reach, and whether a report shows it: each goal is one comparison.

CPU is that of whole process trees, as for peers; what the workers alone used stands beside it.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

EVENT_OVER_NGINX_MAX: Final = 1.15
TLS_EVENT_OVER_NGINX_MAX: Final = 1.4
CALL_OVER_ENVOY_MAX: Final = 1.0
CALL_OVER_PLAIN_MAX: Final = 1 / 3
EVENT_OVER_PLAIN_MAX: Final = 2 / 3
"""Of our workers, over the obvious relay in Python, which only passes bytes on."""
CALL_UNDER_GATEWAYS_MIN: Final = 1.4
ADDED_TTFT_MS_MAX: Final = 5.0
STREAM_KIB_MAX: Final = 16.0
REDIS_PER_CALL_MAX: Final = 0.05
ACCURACY: Final = 0.01
"""Of what a limit admits over a window, once its burst is spent."""
GATEWAYS: Final = ("smg", "sglang-router", "litellm")
"""Those peers that check a key."""

Entries = dict[tuple[str, str], dict[str, Any]]


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One goal. `found`: None = not measured, or not validly."""

    about: str
    bound: float
    found: float | None
    least: bool = False
    beside: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether it is; None where it was not measured."""
        if self.found is None:
            return None
        return self.found >= self.bound if self.least else self.found <= self.bound

    def __str__(self) -> str:
        word = {True: "reached", False: "MISSED", None: "not measured"}[self.reached]
        sign = ">=" if self.least else "<="
        found = "" if self.found is None else f": {self.found:.3g}"
        beside = f" ({self.beside})" if self.beside else ""
        return f"{word}: {self.about} {sign} {self.bound:g}{found}{beside}"


def judge(report: dict[str, Any]) -> list[Goal]:
    """Return every goal with what the report shows of it."""
    entries = {
        (entry["name"], entry["target"]): entry
        for entry in report["scenarios"]
        if entry["valid"] and "rps" in entry
    }
    return list(_goals(entries))


def _goals(entries: Entries) -> Iterator[Goal]:
    for name, bound in (
        ("sse_paced", EVENT_OVER_NGINX_MAX),
        ("sse_paced_tls", TLS_EVENT_OVER_NGINX_MAX),
    ):
        found, beside = _ratio(entries, name, "cpu_us_per_event", "nginx")
        about = f"{name}: CPU of an event over nginx's"
        yield Goal(about=about, bound=bound, found=found, beside=beside)
    for name, field, bound in (
        ("json_closed", "worker_cpu_us_per_request", CALL_OVER_PLAIN_MAX),
        ("sse_paced", "worker_cpu_us_per_event", EVENT_OVER_PLAIN_MAX),
    ):
        found, _ = _ratio(entries, name, field, "plain_aiohttp")
        about = f"{name}: CPU of workers alone over plain aiohttp's"
        yield Goal(about=about, bound=bound, found=found)
    found, beside = _ratio(entries, "json_busy", "cpu_us_per_request", "envoy")
    about = "json_busy: CPU of a call over Envoy's"
    yield Goal(about=about, bound=CALL_OVER_ENVOY_MAX, found=found, beside=beside)
    for gateway in GATEWAYS:
        found, _ = _ratio(entries, "json_busy", "cpu_us_per_request", gateway)
        yield Goal(
            about=f"json_busy: CPU of a call of {gateway} over ours",
            bound=CALL_UNDER_GATEWAYS_MIN,
            found=1 / found if found else None,
            least=True,
        )
    mixed = entries.get(("mixed_30m", "relay"), {})
    added = mixed.get("added_latency_ms", {}).get("p99")
    yield Goal(about="mixed_30m: added TTFT p99, ms", bound=ADDED_TTFT_MS_MAX, found=added)
    redis = mixed.get("redis_ops_per_request")
    about = "mixed_30m: Redis round trips of a call"
    yield Goal(about=about, bound=REDIS_PER_CALL_MAX, found=redis)
    yield Goal(about="mixed_30m: failed calls", bound=0, found=mixed.get("errors"))
    stream = entries.get(("open_streams", "relay"), {}).get("rss_bytes_per_stream")
    about = "open_streams: memory of a stream, KiB"
    yield Goal(about=about, bound=STREAM_KIB_MAX, found=stream / 1024 if stream else None)
    admitted = entries.get(("limit_accuracy", "relay"), {}).get("admitted_ratio")
    about = "limit_accuracy: share by which what is admitted misses the limit"
    missed = abs(admitted - 1) if admitted is not None else None
    yield Goal(about=about, bound=ACCURACY, found=missed)
    missing = [
        abs(entry["log_rows_missing"])
        for (_, target), entry in entries.items()
        if target == "relay" and "log_rows_missing" in entry
    ]
    about = "all scenarios: calls missing in the request log, or twice in it"
    yield Goal(about=about, bound=0, found=sum(missing) if missing else None)
    broken = entries.get(("failover", "relay"), {}).get("errors")
    yield Goal(about="failover: failed calls", bound=0, found=broken)


def _ratio(entries: Entries, name: str, field: str, peer: str) -> tuple[float | None, str]:
    """Return ours over a peer's, and the same of our workers alone, in words."""
    ours, theirs = entries.get((name, "relay"), {}), entries.get((name, peer), {})
    if not ours.get(field) or not theirs.get(field):
        return None, ""
    workers = ours.get(f"worker_{field}") or 0.0
    return ours[field] / theirs[field], f"workers alone {workers / theirs[field]:.2f}"
