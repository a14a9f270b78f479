"""Is this relay fit to take calls? Judged from what its workers publish; pure but for the reading.

Ready means that at least one worker takes new calls. Postgres or Redis being away does not make a
relay unready: it serves on from what it has, and says that it is degraded.
"""

import math
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from relay.store.metrics import WorkerMetrics, is_fresh

CATALOG_AGE_S_MAX: Final = 10.0
"""The catalog is confirmed every second; beyond this age revocations no longer arrive."""


class Readiness(msgspec.Struct, frozen=True):
    """What /readyz answers: 200 if `ready`, else 503."""

    ready: bool
    degraded: list[str]
    """What does not work though calls are served."""
    workers: dict[str, str]
    """Slot -> "ready", or why not."""


def judge(slots: dict[str, list[WorkerMetrics]], now_s: float) -> Readiness:
    """Return how fit the relay is.

    Args:
        slots: From `read_all`.
        now_s: Seconds since 1970, as the workers stamp what they publish.
    """
    states = {slot: _state(generations, now_s) for slot, generations in slots.items()}
    fresh = [
        published
        for generations in slots.values()
        for published in generations
        if is_fresh(published, now_s)
    ]
    ages_s = [published.gauges["snapshot_age_seconds"] for published in fresh]
    degraded = [f"{slot}: {state}" for slot, state in states.items() if state != "ready"]
    if ages_s and CATALOG_AGE_S_MAX < max(ages_s) < math.inf:
        degraded.append(f"Postgres: the catalog was last confirmed {max(ages_s):.0f} s ago")
    lost = sum(1 for published in fresh if published.gauges.get("limiter_lost"))
    if lost:
        degraded.append(f"Redis: the limits of {lost} workers live on their shares")
    return Readiness("ready" in states.values(), degraded, states)


def _state(generations: Iterable[WorkerMetrics], now_s: float) -> str:
    """Return the best that can be said of a slot: while it rolls, two workers serve it."""
    found = {_worker_state(p.gauges) for p in generations if is_fresh(p, now_s)}
    for state in ("ready", "journal cannot be written", "catalog not loaded", "draining"):
        if state in found:
            return state
    return "not running"


def _worker_state(gauges: dict[str, Any]) -> str:
    if gauges["draining"]:
        return "draining"
    if math.isinf(gauges["snapshot_age_seconds"]):
        return "catalog not loaded"
    return "ready" if gauges["journal_healthy"] else "journal cannot be written"
