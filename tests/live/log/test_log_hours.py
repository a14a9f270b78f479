"""Goal: hours and failures are the sums of the calls they stand for, and percentiles are near.

Method: batches of random calls, written as the shipper writes them, against sums made here.
"""

import datetime
import random
from collections.abc import AsyncIterator

import pytest

from relay.records import CallEnd
from relay.store import postgres
from relay.store.log.hours import STEP_BOUNDS_US, STEPS, percentile_ms, step_of
from relay.store.log.writer import Mark, Part, write_batch
from relay.store.postgres import Connection
from tests.live.journals import NOW_US, add_catalog, make_end, make_start

HOUR_US = 3_600_000_000


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url)
    await add_catalog(connection)
    yield connection
    await connection.close()


def random_end(dice: random.Random, number: int) -> CallEnd:
    status = dice.choice([200] * 8 + [429, 502])
    return make_end(
        make_start(request_id=number.to_bytes(16, "big"), model=dice.choice(["a", "b"])),
        time_us=NOW_US - dice.randrange(3 * HOUR_US),
        status=status,
        reason="completed" if status == 200 else "rejected",
        error_code="" if status == 200 else f"code_{status}",
        ttft_us=dice.randrange(1_000, 2_000_000) if status == 200 else 0,
        total_us=dice.randrange(9_000_000),
    )


@pytest.mark.live
async def test_hours_and_failures_add_up_to_the_calls(database: Connection) -> None:
    dice = random.Random(11)
    ends = [random_end(dice, number) for number in range(400)]
    for at in range(0, len(ends), 60):
        await write_batch(database, [Part("w", Mark(1, at + 1), ends[at : at + 60])])
        await write_batch(database, [Part("w", Mark(1, at + 1), ends[at : at + 60])])  # again
    hours = await database.fetch("SELECT * FROM usage_hours ORDER BY hour, model")
    expected: dict[tuple[datetime.datetime, str], list[CallEnd]] = {}
    for end in ends:
        hour = datetime.datetime.fromtimestamp(end.time_us // HOUR_US * 3600, datetime.UTC)
        expected.setdefault((hour, end.model), []).append(end)
    assert {(row["hour"], row["model"]) for row in hours} == expected.keys()
    for row in hours:
        calls = expected[row["hour"], row["model"]]
        assert row["requests"] == len(calls)
        assert row["limited"] == sum(end.status == 429 for end in calls)
        assert row["cost_nanos"] == sum(end.cost_nanos for end in calls)
        assert row["total_us_max"] == max(end.total_us for end in calls)
        steps = [0] * STEPS
        for end in calls:
            if end.ttft_us:
                steps[step_of(end.ttft_us)] += 1
        assert row["ttft_counts"] == steps
    days = await database.fetchrow(
        "SELECT sum(requests)::int, sum(cost_nanos)::bigint FROM usage_days"
    )
    assert days is not None
    assert tuple(days) == (len(ends), sum(end.cost_nanos for end in ends))
    minutes = await database.fetchval(
        "SELECT sum((SELECT sum(c) FROM unnest(ttft_counts) AS c)) FROM usage_minutes"
    )
    assert minutes == sum(end.ttft_us > 0 for end in ends)
    failed = await database.fetch(
        "SELECT status, error_code, sum(requests)::int AS n FROM usage_failures GROUP BY 1, 2"
    )
    assert {tuple(row) for row in failed} == {
        (status, f"code_{status}", sum(end.status == status for end in ends))
        for status in (429, 502)
    }


def test_a_step_holds_what_is_within_its_bound() -> None:
    assert [step_of(bound) for bound in STEP_BOUNDS_US] == list(range(STEPS - 1))
    assert step_of(STEP_BOUNDS_US[3] + 1) == 4
    assert step_of(10**12) == STEPS - 1


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_percentile_is_right_to_a_step(share: float) -> None:
    dice = random.Random(5)
    times = sorted(round(dice.lognormvariate(13, 0.6)) for _ in range(5_000))
    counts = [0] * STEPS
    for time_us in times:
        counts[step_of(time_us)] += 1
    exact_ms = times[int(len(times) * share)] / 1000
    found = percentile_ms(counts, share)
    assert found is not None
    assert abs(found - exact_ms) / exact_ms < 0.1


def test_no_calls_have_no_percentile() -> None:
    assert percentile_ms([0] * STEPS, 0.5) is None
