"""Goal: without Postgres calls are answered, and afterwards each is in the log exactly once.

Method: the embedded Postgres of a real relay is killed, or stopped with everything it runs, while
calls go on; the supervisor revives it, or it is let go on.
"""

import os
import signal
import time

import pytest

from tests.live.relay_process import (
    Process,
    RelayProcess,
    ask,
    family,
    question,
    streaming,
    until,
    until_told,
)

pytestmark = [pytest.mark.live, pytest.mark.timeout(90)]

CALLS = 20
OUTAGE_S = 150.0


def postgres(relay: RelayProcess) -> list[Process]:
    """Return the processes of the relay's Postgres, the postmaster first."""
    found = [one for one in family(relay.process.pid) if one.program == "postgres"]
    return sorted(found, key=lambda one: one.parent != relay.process.pid)


async def calls(relay: RelayProcess, key: str, count: int = CALLS) -> set[str]:
    """Make calls that must succeed; return their ids."""
    answers = [await ask(relay, key) for _ in range(count)]
    assert {answer.status for answer in answers} == {200}
    return {answer.request_id for answer in answers}


async def check_rows(relay: RelayProcess, name: str, wanted: set[str]) -> None:
    """See that each call is in the log, once, and in the usage."""
    ids = [row["request_id"] for row in await relay.rows(name, len(wanted))]
    assert len(ids) == len(wanted)
    assert set(ids) == wanted
    (minutes,) = (await relay.api(f"usage?by=day&key={name}")).values()
    assert sum(minute["requests"] for minute in minutes) == len(wanted)


async def test_a_killed_postgres_costs_no_call_and_no_row(relay: RelayProcess) -> None:
    key = await relay.make_key("pg-killed")
    async with streaming(relay, key, 4, question(max_tokens=150)) as streams:
        made = await calls(relay, key)
        victim = postgres(relay)[0]
        os.kill(victim.pid, signal.SIGKILL)
        while victim in family(relay.process.pid) or not postgres(relay):
            made |= await calls(relay, key, 2)  # the log is read 500 rows at a time
        made |= await calls(relay, key)
    assert all(stream.whole for stream in streams)
    await check_rows(relay, "pg-killed", made | {stream.request_id for stream in streams})
    await until_fit(relay)


async def test_a_postgres_that_hangs_costs_no_call_and_no_row(relay: RelayProcess) -> None:
    key = await relay.make_key("pg-hangs")
    stopped = postgres(relay)
    try:
        for process in stopped:
            os.kill(process.pid, signal.SIGSTOP)
        async with streaming(relay, key, 4, question(max_tokens=150)) as streams:
            made = await calls(relay, key)
        made |= await calls(relay, key)
    finally:
        for process in reversed(stopped):
            os.kill(process.pid, signal.SIGCONT)
    assert all(stream.whole for stream in streams)
    await check_rows(relay, "pg-hangs", made | {stream.request_id for stream in streams})
    await until_fit(relay)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_minutes_without_postgres_cost_no_call_and_no_row(relay: RelayProcess) -> None:
    """What is leased lasts: nobody gets a 503, and all of it is booked when Postgres is back."""
    key = await relay.make_key("pg-minutes")
    made: set[str] = set()
    for _ in range(3):  # the reserve is leased when an account has been seen to use its credit
        async with streaming(relay, key, 8, question(max_tokens=100)) as streams:
            made |= await calls(relay, key)
        made |= {stream.request_id for stream in streams}
        await relay.figures_published()
    stopped = postgres(relay)
    try:
        for process in stopped:
            os.kill(process.pid, signal.SIGSTOP)
        until_s = time.monotonic() + OUTAGE_S
        while time.monotonic() < until_s:
            async with streaming(relay, key, 4, question(max_tokens=100)) as streams:
                made |= await calls(relay, key)
            assert all(stream.whole for stream in streams)
            made |= {stream.request_id for stream in streams}
    finally:
        for process in reversed(stopped):
            os.kill(process.pid, signal.SIGCONT)

    async def booked() -> bool:
        (days,) = (await relay.api("usage?by=day&key=pg-minutes")).values()
        return sum(int(day["requests"]) for day in days) == len(made)

    await until_told(booked, "every call is in the log, once", 30.0)
    assert "no drift" in (await relay.cli("audit")).lower()
    await until_fit(relay)


async def until_fit(relay: RelayProcess) -> None:
    """Wait until keys made from now on are known again, which the other tests build on."""
    await until(
        lambda: all(age_s < 2 for age_s in catalog_ages_s(relay)), "the catalog is followed"
    )


def catalog_ages_s(relay: RelayProcess) -> list[float]:
    return [figures.gauges["snapshot_age_seconds"] for _, figures in relay.workers().values()]
