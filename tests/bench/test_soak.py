"""Goal: a soak tells what grew, what failed and whose fault that was, also where it ends early.

Method: samples, failures and outages made up by hand; servers whose behaviour is known; the night
on a Postgres of its own.
"""

import asyncio
import datetime
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load.diary import Diary, Failure, read_failures
from benchmarks.load.drive import put_load
from benchmarks.load.job import Call, Job
from benchmarks.soak import night, samples, witness
from benchmarks.soak.night import Night, archived_days, plant_days
from benchmarks.soak.run import find_faults
from benchmarks.soak.samples import Sample, Sampler, left_over, take_sample
from benchmarks.soak.witness import Outage, Witness, tell_apart
from benchmarks.targets.place import Server
from relay.control.night.archives import FORMATS, Archives
from relay.control.night.retention import Retention
from relay.control.night.shapes import Turn
from relay.control.night.tables import plan_vacuum
from relay.store import postgres
from relay.store.billing.audit import run_audit
from tests.bench.servers import JSON, put, serving
from tests.live.journals import add_catalog

NOW = datetime.datetime.now(datetime.UTC)
TODAY = NOW.date()
HELD: dict[str, Any] = {
    "rss_grows": False,
    "errors_while_a_channel_was_well": 0,
    "log_rows_missing": 0,
    "left_over": {},
    "audit": {"drifts": []},
    "night": {"works": [{}], "failed": []},
}
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


# --- what failed ----------------------------------------------------------------------------------


async def test_a_load_tells_of_failed_calls_as_they_fail(tmp_path: Path) -> None:
    def answer(transport: asyncio.Transport, number: int) -> None:
        transport.write(BUSY if number % 2 else JSON)

    path, begun_s = tmp_path / "diary", time.monotonic()
    async with serving(answer) as port:
        seen = await put(port, rate=100.0, diary=str(path))
    failures = read_failures(path)
    assert len(failures) == seen.errors["http_503"] > 20
    assert all(begun_s < one.since_s <= one.at_s < time.monotonic() for one in failures)


async def test_a_load_that_is_stopped_ends_as_at_its_end() -> None:
    async with serving(lambda transport, _: transport.write(JSON)) as port:
        job = Job(host="127.0.0.1", port=port, calls=(Call(stream=False),), rate=50.0, window_s=600)
        stop, begun_s = threading.Event(), time.monotonic()
        asyncio.get_running_loop().call_later(3.0, stop.set)
        seen = await asyncio.to_thread(
            put_load,
            job,
            processes=1,
            cores=os.sched_getaffinity(0),
            on_begin=lambda: None,
            on_end=lambda: None,
            stop=stop,
        )
    assert time.monotonic() - begun_s < 60
    assert not seen.errors
    assert seen.answered == seen.started > 20


def test_a_diary_is_shared_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load.diary.FAILURES_MAX", 3)
    first, second = Diary(tmp_path / "diary"), Diary(tmp_path / "diary")
    second.tell(said="else")
    for _ in range(5):
        first.failed("reset", 1_000_000_000, 2_000_000_000)
    first.close()
    second.close()
    assert read_failures(tmp_path / "diary") == [Failure("reset", 1.0, 2.0)] * 3
    assert read_failures(tmp_path / "none") == []


def test_a_call_is_excused_only_where_no_channel_was_well() -> None:
    outages = [Outage(100.0, 105.0)]
    cases = {
        (90.0, 99.0): False,  # over before it
        (98.0, 101.0): True,  # in it
        (104.0, 104.5): True,
        (90.0, 108.0): True,  # broken by it, known later
        (109.0, 109.5): True,  # within what the relay may take to find out
        (111.0, 112.0): False,
    }
    for (since_s, at_s), excused in cases.items():
        found = tell_apart([Failure("http_503", since_s, at_s)], outages)
        assert found["errors_while_none_was"] == excused, (since_s, at_s)
        assert found["errors_while_a_channel_was_well"] == (not excused), (since_s, at_s)
    assert found["blamed"] == [{"failed": "http_503", "since_s": 111.0, "at_s": 112.0}]
    assert (found["outages"], found["outage_s"]) == (1, 5.0)


def test_an_outage_is_when_no_upstream_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    well = {1: True, 2: True}
    clock = iter(float(n) for n in range(100))
    seen = Witness([1, 2], lambda port: well[port])

    def look() -> None:
        seen.look(lambda: next(clock))

    look()
    well[1] = False
    look()
    assert seen.outages == []
    well[2] = False
    look()
    look()
    well[1] = True
    look()
    look()
    assert seen.outages == [Outage(1.0, 5.0)]  # from the last good look to the next

    monkeypatch.setattr(witness, "EVERY_S", 0.01)
    with Witness([1], lambda _: False) as watching:
        time.sleep(0.1)
    assert len(watching.outages) == 1  # one that lasts until the end counts


# --- what grew ------------------------------------------------------------------------------------


def test_an_idle_target_gives_back_what_it_took() -> None:
    before = Sample(0.0, 100.0, 60, 8, 40, 200.0)
    assert left_over(before, Sample(0.0, 150.0, 66, 9, 45, 220.0)) == {}
    leaked = Sample(0.0, 100.0, 60 + 13, 8, 40 + 60, 200.0)
    assert left_over(before, leaked) == {"open_files": 13, "tasks": 60}


def test_tasks_grow_as_memory_does() -> None:
    leak = [Sample(60.0 * n, 100.0, 50, 4, 40 + n, 300.0 + 2 * n) for n in range(100)]
    found = samples.conclude(leak)
    assert found["tasks_per_hour"] == pytest.approx(60)
    assert found["others_rss_mib_per_hour"] == pytest.approx(120)
    assert "tasks per hour +60.00" in found["notes"]


async def test_tasks_are_read_from_the_relays_metrics() -> None:
    text = b'# HELP relay_tasks Tasks.\nrelay_tasks 41.0\nrelay_tasks_other{x="1"} 9\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text)
    told: list[Sample] = []
    async with serving(lambda transport, _: transport.write(head + text)) as port:
        server = Server(port=0, pid=os.getpid(), does="", admin=port)
        sample = await asyncio.to_thread(take_sample, server, 5.0)
        with Sampler(server, 0.05, told.append) as sampler:
            while len(told) < 2:
                await asyncio.sleep(0.01)
    assert (sample.at_s, sample.tasks) == (5.0, 41)
    assert sample.open_files > 3 and sample.rss_mib > 1
    assert told == sampler.samples
    assert told[0].tasks == 41
    silent = Server(port=0, pid=os.getpid(), does="", admin=port)
    assert (await asyncio.to_thread(take_sample, silent, 0.0)).tasks == 0


def test_whatever_went_wrong_is_a_reason() -> None:
    assert find_faults(HELD) == []
    assert find_faults({key: HELD[key] for key in HELD if key != "night"}) == []
    wrong: dict[str, Any] = {
        "rss_grows": True,
        "errors_while_a_channel_was_well": 1,
        "log_rows_missing": -1,
        "left_over": {"tasks": 60},
        "audit": {"drifts": [{"what": "charge"}]},
        "night": {"works": [{}], "failed": ["vacuum"]},
    }
    for name, value in wrong.items():
        assert len(find_faults(HELD | {name: value})) == 1, name
    assert len(find_faults(HELD | {"night": {"not_done": "no relay took it up"}})) == 1


# --- the night ------------------------------------------------------------------------------------


async def test_the_night_has_days_to_drop_and_tables_to_clean(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night, "ROWS_A_DAY", 2_500)
    connection = await postgres.connect(database_url)
    try:
        await add_catalog(connection)
        await plant_days(connection, TODAY)
        assert (await run_audit(connection)).drifts == []
        archives = Archives(tmp_path / night.ARCHIVE, FORMATS["csv"])
        retention = Retention(night.RETENTION_DAYS, archives)
        plan = await retention.plan(connection, NOW)
        said = [await step.do(Turn(connection, 60.0)) for step in plan.steps]
        assert len(said) == 16 + 1
        assert all(one.startswith("archived 2500 calls, dropped ") for one in said[:-1])
        assert archived_days(tmp_path) == 16
        left = await connection.fetchval("SELECT count(*) FROM request_log")
        assert 4 * 2_500 * 0.4 < left < 4 * 2_500 * 0.6
        await connection.execute("SELECT pg_stat_force_next_flush()")
        vacuumed = [step.name for step in (await plan_vacuum(connection, NOW)).steps]
        kept = [f"request_log_{TODAY - datetime.timedelta(days=n):%Y%m%d}" for n in night.DAYS[:4]]
        assert set(kept) <= set(vacuumed)
        assert (await run_audit(connection)).drifts == []
    finally:
        await connection.close()


def test_the_night_is_asked_for_and_told() -> None:
    works = [
        {"work": "vacuum", "outcome": "done", "started_at": 1, "ended_at": 2, "detail": "3 of 3"},
        {"work": "backup", "outcome": "failed", "started_at": 1, "ended_at": 2, "detail": "none"},
    ]
    said: list[str] = []
    for printed, found in ((json.dumps(works), ["backup"]), ("nobody did it", None)):
        command = [sys.executable, "-c", f"print({printed!r})"]
        with Night(command, 0.01, said.append) as at_work:
            while not at_work.found:
                time.sleep(0.01)
        assert at_work.found.get("failed") == found
        assert ("not_done" in at_work.found) == (found is None)
    with Night(["false"], 600.0, said.append) as never:
        pass
    assert never.found == {"not_done": "the soak ended before it"}
    assert len(said) == 4
