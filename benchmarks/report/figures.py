"""From what a run counted to the figures of a report: pure arithmetic, and whether to believe them.

Field names are those of the project's contract; where that is silent, aiperf's (request_latency,
time_to_first_token, inter_chunk_latency, output_token_throughput).
"""

import statistics
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from benchmarks.load.job import Merged
from benchmarks.targets.redis_counters import RedisCounters

LAG_MS_MAX: Final = 1.0
"""At p99, of starts after their intended time. The figure that has to be believed is an added
latency of some milliseconds at p99: a generator a millisecond late would be a fifth of it."""
GENERATOR_SHARE_MAX: Final = 0.8
"""Of one core: beyond it a generator's own queue begins to show in what it measures."""
UPSTREAM_SHARE_MAX: Final = 0.8
LOAD_CORES_SHARE_MAX: Final = 0.95
"""Of all cores that generators and upstreams have, everything on them counted."""
BUSY_SHARE_MIN: Final = 0.9
"""Of the target's cores: then it is the target that is at its limit."""
CLOSED_SHARE_MIN: Final = 0.5
"""Of its cores a target uses itself in a closed loop: one that idles more pays for waking up."""
RATE_SHARE_MIN: Final = 0.98
"""Below this share of the offered rate a target is saturated."""

PERCENTILES: Final = ("p50", "p90", "p99", "p99_9", "p99_99")
_MS: Final = 1000.0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What the processes of a run used in its window.

    `tree_s`, `carriers_s`: CPU seconds of the target's whole tree, and of the processes in it that
    carry traffic. `upstream_share`: of one core. `load_cores_share`: how busy the cores of
    generators and upstreams were. `one_core`: they were the target's own.
    None = not known: the target is not on this machine.
    """

    window_s: float
    tree_s: float | None = None
    carriers_s: float | None = None
    upstream_share: float | None = None
    load_cores_share: float = 0.0
    target_cores_share: float | None = None
    target_cores: int = 1
    one_core: bool = False
    rss_bytes: int | None = None
    redis: RedisCounters | None = None


def derive(seen: Merged, used: Usage, *, offered_rps: float, streams: bool) -> dict[str, Any]:
    """Return the figures of one run.

    `offered_rps`: 0 for a closed loop. `streams`: whether answers are event streams.
    """
    window_s = used.window_s
    errors = sum(seen.errors.values())
    figures: dict[str, Any] = {
        "rps": seen.done / window_s,
        "offered_rps": offered_rps,
        "events_per_s": seen.events / window_s,
        "tokens_per_min": 60 * (seen.prompt_tokens + seen.completion_tokens) / window_s,
        "output_token_throughput": seen.completion_tokens / window_s,
        "cpu_us_per_request": _per(used.tree_s, seen.done),
        "cpu_us_per_event": _per(used.tree_s, seen.events),
        "worker_cpu_us_per_request": _per(used.carriers_s, seen.done),
        "worker_cpu_us_per_event": _per(used.carriers_s, seen.events),
        "target_cpu_share": None if used.tree_s is None else used.tree_s / window_s,
        "target_cores_share": used.target_cores_share,
        "request_latency_ms": seen.latency.summarise(_MS),
        "ttft_ms": seen.ttft.summarise(_MS) if streams else seen.latency.summarise(_MS),
        "inter_chunk_latency_ms": seen.gap.summarise(_MS) if streams else None,
        "added_latency_ms": dict.fromkeys(PERCENTILES),
        "asked": seen.asked,
        "measured": seen.started,
        "errors": errors,
        "errors_by_kind": seen.errors,
        "open_streams": seen.open_streams,
        "rss_mib": None if used.rss_bytes is None else used.rss_bytes / 2**20,
        "generator_lag_ms": _lag(seen),
        "generator_cpu_shares": seen.cpu_shares,
        "upstream_cpu_share": used.upstream_share,
        "load_cores_share": used.load_cores_share,
    }
    if used.redis is not None and seen.done:
        figures["redis_ops_per_request"] = used.redis.reads / seen.done
        figures["redis_commands_per_request"] = used.redis.commands / seen.done
        figures["redis_scripts_per_request"] = used.redis.scripts / seen.done
    reasons = doubts(seen, used, offered_rps=offered_rps)
    figures["saturated"] = bool(offered_rps) and _completed(seen) < RATE_SHARE_MIN
    if not offered_rps:
        figures["load_limited"] = _load_limits(seen, used)
    figures["valid"] = not reasons
    figures["invalid_reasons"] = reasons
    return figures


def doubts(seen: Merged, used: Usage, *, offered_rps: float) -> list[str]:
    """Return why a run says nothing about its target, each a sentence; empty where it does."""
    reasons = _open_doubts(seen, used) if offered_rps else _closed_doubts(used)
    if not seen.done and not seen.open_streams:
        reasons.append("no call was answered")
    return reasons


def _open_doubts(seen: Merged, used: Usage) -> list[str]:
    reasons = []
    lag_ms = _lag(seen)["p99"]
    if lag_ms is not None and lag_ms > LAG_MS_MAX:
        reasons.append(f"the generator was {lag_ms:.2f} ms late at p99 (at most {LAG_MS_MAX})")
    share = max(seen.cpu_shares, default=0.0)
    if share > GENERATOR_SHARE_MAX:
        reasons.append(f"a generator used {share:.0%} of its core (at most 80 %)")
    upstream_share = used.upstream_share or 0.0
    if upstream_share > UPSTREAM_SHARE_MAX:
        reasons.append(f"the scripted upstream used {upstream_share:.0%} of a core (at most 80 %)")
    if used.load_cores_share > LOAD_CORES_SHARE_MAX:
        reasons.append(
            f"the cores of load and upstream were {used.load_cores_share:.0%} busy (at most 95 %)"
        )
    # A target that is saturated fills any number of connections; one that idles cannot.
    if seen.errors.get("connections_max") and (used.target_cores_share or 0.0) < BUSY_SHARE_MIN:
        reasons.append("the load's own bound on connections was reached")
    return reasons


def _closed_doubts(used: Usage) -> list[str]:
    """A closed loop tells what a call costs a busy target; of one that idled it tells nothing.

    It has no intended times, and fills the cores of the load by design: that limits the calls a
    second, which `load_limited` says, and not what each of them cost.
    """
    if used.tree_s is None:
        return []
    if used.one_core:
        # Whenever the load waits, the target has something to do: only the core can be idle.
        busy = used.target_cores_share or 0.0
        return [] if busy >= LOAD_CORES_SHARE_MAX else [f"the core was busy for {busy:.0%} only"]
    share = used.tree_s / used.window_s / used.target_cores
    if share >= CLOSED_SHARE_MIN:
        return []
    return [f"the target was busy for {share:.0%} of the time only (at least 50 %)"]


def _load_limits(seen: Merged, used: Usage) -> bool:
    """Return whether it was the load, and not its target, that bounded a closed loop."""
    if used.tree_s is None:
        return max(seen.cpu_shares, default=0.0) > GENERATOR_SHARE_MAX
    return used.one_core or used.tree_s / used.window_s / used.target_cores < BUSY_SHARE_MIN


def add_direct(figures: dict[str, Any], direct: dict[str, Any], *, streams: bool) -> None:
    """Add what the target adds to the latency of the upstream itself under the same schedule.

    It is the difference of two percentiles, not a percentile of differences: no call is made both
    ways. For streams it is that of the first token, else of the whole answer.
    """
    field = "ttft_ms" if streams else "request_latency_ms"
    figures["added_latency_ms"] = {
        name: _difference(figures[field][name], direct[field][name]) for name in PERCENTILES
    }
    figures["added_latency_of"] = "time_to_first_token" if streams else "request_latency"
    if not direct["valid"]:
        figures["valid"] = False
        figures["invalid_reasons"] = [
            *figures["invalid_reasons"],
            *(f"direct: {reason}" for reason in direct["invalid_reasons"]),
        ]


def note_disturbed(figures: dict[str, Any]) -> None:
    """Name the percentiles of the added latency that are negative, and take the figures out.

    A target adds nothing below zero: the direct run was disturbed more than the target's.
    """
    added = figures.get("added_latency_ms", {})
    disturbed = [name for name, value in added.items() if value is not None and value < 0]
    if disturbed:
        figures["added_latency_ms"] = added | dict.fromkeys(disturbed)
        figures["added_latency_disturbed"] = disturbed


def join_repeats(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians of each figure over the repeats, and least and greatest as `spread`.

    It is valid where all were. Errors are summed: a failed call is no outlier.
    """
    joined: dict[str, Any] = _median(runs)
    joined["spread"] = {
        name: [min(values), max(values)]
        for name, values in _numbers(runs)
        if name.startswith(("cpu_us", "worker_cpu_us", "rps", "events_per_s"))
    }
    joined["errors"] = sum(run["errors"] for run in runs)
    kinds = {kind for run in runs for kind in run["errors_by_kind"]}
    joined["errors_by_kind"] = {
        kind: sum(run["errors_by_kind"].get(kind, 0) for run in runs) for kind in sorted(kinds)
    }
    joined["measured"] = sum(run["measured"] for run in runs)
    joined["asked"] = sum(run["asked"] for run in runs)
    joined["valid"] = all(run["valid"] for run in runs)
    joined["saturated"] = any(run["saturated"] for run in runs)
    joined["invalid_reasons"] = sorted({r for run in runs for r in run["invalid_reasons"]})
    joined["repeats"] = len(runs)
    note_disturbed(joined)
    return joined


def _median(values: list[Any]) -> Any:
    """Return the median of like values that are known, field by field where they are objects."""
    values = [value for value in values if value is not None] or [None]
    first = values[0]
    if isinstance(first, dict):
        return {name: _median([v[name] for v in values if name in v]) for name in first}
    if isinstance(first, bool) or not isinstance(first, int | float):
        return first
    return statistics.median(values)


def _numbers(runs: list[dict[str, Any]]) -> Iterable[tuple[str, list[float]]]:
    for name in runs[0]:
        values = [run[name] for run in runs if run.get(name) is not None]
        if values and isinstance(values[0], int | float) and not isinstance(values[0], bool):
            yield name, values


def _per(seconds: float | None, count: int) -> float | None:
    return 1e6 * seconds / count if count and seconds is not None else None


def _difference(ours: float | None, direct: float | None) -> float | None:
    return ours - direct if ours is not None and direct is not None else None


def _lag(seen: Merged) -> dict[str, float | None]:
    """Return the worse of both lags: starting late, and coming late to anything that is due."""
    start, loop = seen.lag.summarise(_MS), seen.loop_lag.summarise(_MS)
    known = {
        name: [value for value in (start[name], loop[name]) if value is not None]
        for name in ("p50", "p99", "max")
    }
    return {name: max(values, default=None) for name, values in known.items()}


def _completed(seen: Merged) -> float:
    """Return the share of the measured calls that were answered whole."""
    return seen.answered / seen.started if seen.started else 1.0
