"""Who is ready and who only degraded: what workers publish in, a judgement out."""

import math

import pytest

from relay.clock import clock_s
from relay.control.api.readiness import CATALOG_AGE_S_MAX, judge
from relay.store.metrics import FRESH_S, WorkerMetrics

NOW_S = 1_800_000_000.0


def worker(
    *, time_s: float = NOW_S, age_s: float = 0.2, healthy: bool = True, draining: bool = False
) -> WorkerMetrics:
    gauges = {
        "time_seconds": time_s,
        "snapshot_age_seconds": age_s,
        "journal_healthy": float(healthy),
        "draining": float(draining),
    }
    return WorkerMetrics(identity=1, gauges=gauges)


@pytest.mark.parametrize(
    ("generations", "state"),
    [
        ([worker()], "ready"),
        ([worker(draining=True), worker()], "ready"),
        ([WorkerMetrics(identity=0), worker()], "ready"),
        ([worker(healthy=False)], "journal cannot be written"),
        ([worker(age_s=math.inf)], "catalog not loaded"),
        ([worker(draining=True)], "draining"),
        ([worker(time_s=NOW_S - FRESH_S - 1)], "not running"),
        ([WorkerMetrics(identity=0)], "not running"),
    ],
)
def test_the_state_of_one_slot_decides_for_a_relay_of_one(
    generations: list[WorkerMetrics], state: str
) -> None:
    found = judge({"worker-0": generations}, NOW_S)
    assert found.workers == {"worker-0": state}
    assert found.ready is (state == "ready")
    assert found.degraded == ([] if found.ready else [f"worker-0: {state}"])


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
def test_a_clock_that_is_set_anew_makes_no_worker_silent(step_s: float) -> None:
    told = worker(time_s=NOW_S - step_s)
    assert not judge({"worker-0": [told]}, NOW_S).ready
    told.gauges["clock_seconds"] = clock_s()
    assert judge({"worker-0": [told]}, NOW_S).ready
    told.gauges["clock_seconds"] = clock_s() - FRESH_S - 1
    assert not judge({"worker-0": [told]}, NOW_S).ready
    told.gauges["clock_seconds"] = clock_s() + 3600
    assert not judge({"worker-0": [told]}, NOW_S).ready, "it was published before a restart"


def test_one_worker_is_enough_and_the_other_is_named() -> None:
    found = judge({"worker-0": [worker()], "worker-1": [worker(healthy=False)]}, NOW_S)
    assert found.ready
    assert found.degraded == ["worker-1: journal cannot be written"]


def test_an_old_catalog_degrades_only() -> None:
    found = judge({"worker-0": [worker(age_s=CATALOG_AGE_S_MAX + 30)]}, NOW_S)
    assert found.ready
    assert found.degraded == ["Postgres: the catalog was last confirmed 40 s ago"]


def test_a_lost_redis_degrades_only() -> None:
    alone = worker()
    alone.gauges["limiter_lost"] = 1.0
    found = judge({"worker-0": [worker()], "worker-1": [alone]}, NOW_S)
    assert found.ready
    assert found.degraded == ["Redis: the limits of 1 workers live on their shares"]


def test_a_relay_without_workers_is_not_ready() -> None:
    assert not judge({}, NOW_S).ready
