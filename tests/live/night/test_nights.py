"""Goal: the night does what is due, once for all hosts, stops at its end and goes on the next one.

Method: the real works on a real Postgres, the clock an argument; a work of three steps for what is
about time alone. Nothing waits: pauses are of no length.
"""

import asyncio
import csv
import datetime
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import asyncpg
import pytest

from relay.config import Config
from relay.control.night.archives import FORMATS, Archives
from relay.control.night.nights import Nights
from relay.control.night.plans import make_works
from relay.control.night.retention import Retention
from relay.control.night.shapes import Plan, Step, StepFailed, Turn, Work
from relay.control.night.tables import plan_reindex, plan_vacuum
from relay.night_rules import Maintenance
from relay.store import maintenance, postgres
from relay.store.log.writer import Mark, Part, write_batch
from relay.store.maintenance import Outcome, WorkDone
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault
from tests.live.journals import add_catalog, make_end, make_start

pytestmark = pytest.mark.live

NIGHT = datetime.datetime(2031, 5, 17, 1, 0, tzinfo=datetime.UTC)
MINUTE = datetime.timedelta(minutes=1)
DAY = datetime.timedelta(days=1)
RULES = Maintenance()


class Clock:
    """The time of one test."""

    def __init__(self) -> None:
        self.now = NIGHT

    def __call__(self) -> datetime.datetime:
        return self.now


class Steps:
    """A work of steps; `done` is what was done of it, `at_step` what happens meanwhile."""

    def __init__(self, names: Sequence[str] = ("one", "two", "three")) -> None:
        self.names = list(names)
        self.done: list[str] = []
        self.fails: set[str] = set()
        self.hold = asyncio.Event()
        self.hold.set()
        self.clock: Clock | None = None

    async def plan(self, _connection: Connection, _now: datetime.datetime) -> Plan:
        """Return a step for each name that is not done yet, as the real works do."""
        left = [name for name in self.names if name not in self.done]
        return Plan([Step(name, self._step(name)) for name in left])

    def _step(self, name: str) -> Callable[[Turn], Awaitable[str]]:
        async def do(_turn: Turn) -> str:
            await self.hold.wait()
            if name in self.fails:
                raise StepFailed("it broke")
            self.done.append(name)
            if self.clock is not None:
                self.clock.now += 100 * MINUTE
            return f"did {name}"

        return do


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url)
    yield connection
    await connection.close()


def make_night(
    url: str, clock: Clock, work: Steps, *, host: str = "a", shared: bool = True
) -> Nights:
    works = [Work("vacuum", shared, work.plan)]
    return Nights(RULES, host, works, lambda: postgres.connect(url), clock, pause_s_max=0.0)


async def last(connection: Connection) -> WorkDone:
    return (await maintenance.list_works(connection))[-1]


# --- when -----------------------------------------------------------------------------------------


async def test_a_work_is_done_once_a_night(database: Connection, database_url: str) -> None:
    clock, work = Clock(), Steps()
    night = make_night(database_url, clock, work)
    clock.now = NIGHT - MINUTE
    await night.look(database)
    assert work.done == []
    clock.now = NIGHT
    await night.look(database)
    assert work.done == ["one", "two", "three"]
    found = await last(database)
    assert (found.outcome, found.done_by, found.host) == (Outcome.DONE, "a", "")
    assert found.detail.startswith("3 of 3 steps")
    work.done.clear()
    clock.now += 60 * MINUTE
    await night.look(database)
    assert work.done == []
    clock.now = NIGHT + DAY
    await night.look(database)
    assert work.done == ["one", "two", "three"]


async def test_it_stops_at_the_end_and_goes_on_the_next_night(
    database: Connection, database_url: str
) -> None:
    clock, work = Clock(), Steps()
    work.clock = clock  # each step takes 100 of the night's 240 minutes
    night = make_night(database_url, clock, work)
    await night.look(database)
    assert work.done == ["one", "two", "three"]
    assert (await last(database)).outcome is Outcome.DONE

    work.done.clear()
    work.names.append("four")
    clock.now = NIGHT + DAY
    await night.look(database)
    assert work.done == ["one", "two", "three"]
    found = await last(database)
    assert (found.outcome, found.detail[:14]) == (Outcome.STOPPED, "3 of 4 steps; ")
    clock.now = NIGHT + 2 * DAY - MINUTE
    await night.look(database)
    assert "four" not in work.done
    clock.now += MINUTE
    await night.look(database)
    assert work.done == ["one", "two", "three", "four"]


async def test_what_fails_is_tried_again_later_that_night(
    database: Connection, database_url: str
) -> None:
    clock, work = Clock(), Steps()
    work.fails = {"two"}
    night = make_night(database_url, clock, work)
    await night.look(database)
    found = await last(database)
    assert (found.outcome, found.detail) == (
        Outcome.FAILED,
        "2 of 3 steps; two: it broke; did one; did three",
    )
    work.fails.clear()
    clock.now += 14 * MINUTE
    await night.look(database)
    assert "two" not in work.done
    clock.now += MINUTE
    await night.look(database)
    assert work.done == ["one", "three", "two"]
    assert (await last(database)).outcome is Outcome.DONE


async def test_a_run_that_is_asked_for_is_done_by_day_and_once(
    database: Connection, database_url: str
) -> None:
    clock, work = Clock(), Steps()
    clock.now = NIGHT + 12 * 60 * MINUTE
    night = make_night(database_url, clock, work)
    await maintenance.ask_run(database, ["reindex"], clock.now)
    await night.look(database)
    assert work.done == []  # another work was asked for
    await maintenance.ask_run(database, [], clock.now)
    await night.look(database)
    assert work.done == ["one", "two", "three"]
    work.done.clear()
    await night.look(database)
    assert work.done == []


async def test_skipped_nights_do_not_open(database: Connection, database_url: str) -> None:
    clock, work = Clock(), Steps()
    night = make_night(database_url, clock, work)
    await maintenance.skip_nights(database, RULES, 2, NIGHT - MINUTE)
    for days in (0, 1):
        clock.now = NIGHT + days * DAY
        await night.look(database)
    assert work.done == []
    clock.now = NIGHT + 2 * DAY
    await night.look(database)
    assert work.done == ["one", "two", "three"]


async def test_a_night_that_is_skipped_while_it_is_open_stops_between_two_steps(
    database: Connection, database_url: str
) -> None:
    clock, work = Clock(), Steps()
    work.hold.clear()
    night = make_night(database_url, clock, work)
    looking = asyncio.create_task(night.look(database))
    asking = await postgres.connect(database_url)
    try:
        while not await maintenance.list_works(asking):
            pass
        await maintenance.skip_nights(asking, RULES, 1, clock.now)
        work.hold.set()
        await looking
        assert work.done == ["one"]
        assert (await last(asking)).outcome is Outcome.STOPPED
        await night.look(database)
        assert work.done == ["one"]
        await maintenance.skip_nights(asking, RULES, 0, clock.now)
        await night.look(database)
        assert work.done == ["one", "two", "three"]
    finally:
        await asking.close()


async def test_one_host_does_it_for_all_and_another_where_it_dies(
    database: Connection, database_url: str
) -> None:
    clock, ours, theirs = Clock(), Steps(), Steps()
    ours.hold.clear()
    first = make_night(database_url, clock, ours, host="a")
    second = make_night(database_url, clock, theirs, host="b")
    other = await postgres.connect(database_url)
    looking = asyncio.create_task(first.look(database))
    try:
        while not await maintenance.list_works(other):
            pass
        await second.look(other)
        assert theirs.done == []
        looking.cancel()
        database.terminate()  # as a host that loses its power
        while not theirs.done:
            await second.look(other)
        found = await last(other)
        assert (found.outcome, found.done_by) == (Outcome.DONE, "b")
        assert await other.fetchval("SELECT count(*) FROM maintenance_works") == 1
    finally:
        await other.close()


async def test_each_host_does_its_own(database: Connection, database_url: str) -> None:
    clock, work = Clock(), Steps(["one"])
    for host in ("a", "b"):
        work.done.clear()
        await make_night(database_url, clock, work, host=host, shared=False).look(database)
        assert work.done == ["one"]
    assert {one.host for one in await maintenance.list_works(database)} == {"a", "b"}


async def test_it_is_seen(database: Connection, database_url: str) -> None:
    clock, work = Clock(), Steps()
    work.fails = {"two"}
    night = make_night(database_url, clock, work)
    await night.look(database)
    found = {metric.name: metric.samples[0] for metric in night.collect()}
    assert found["relay_maintenance_last_run_seconds"].value == NIGHT.timestamp()
    assert found["relay_maintenance_duration_seconds"].value == 0
    assert found["relay_maintenance_ok"].value == 0
    assert found["relay_maintenance_ok"].labels == {"work": "vacuum"}


# --- what -----------------------------------------------------------------------------------------


async def do_all(connection: Connection, plan: Plan) -> list[str]:
    return [await step.do(Turn(connection, 60.0)) for step in plan.steps]


async def test_a_day_is_archived_before_it_is_dropped(database: Connection, tmp_path: Path) -> None:
    await add_catalog(database)
    days = [datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]
    for day in days:
        await database.execute(
            f"""CREATE TABLE request_log_{day:%Y%m%d} PARTITION OF request_log
            FOR VALUES FROM ('{day}Z') TO ('{day + DAY}Z')"""
        )
    # One that found no day, two of the first, one of the second, one that is kept.
    times = ["2019-12-30T01:00Z", "2020-01-01T00:00Z", "2020-01-01T23:59Z", "2020-01-02T12:00Z"]
    moments_us = [int(datetime.datetime.fromisoformat(t).timestamp()) * 1_000_000 for t in times]
    ends = [make_end(make_start(time_us=moment)) for moment in moments_us]
    kept = make_end(make_start())
    await write_batch(database, [Part("w", Mark(), [*ends, kept])])

    retention = Retention(30, Archives(tmp_path / "archive", FORMATS["csv"]))
    plan = await retention.plan(database, datetime.datetime.now(datetime.UTC))
    said = await do_all(database, plan)
    assert said[:2] == [
        "archived 3 calls, dropped request_log_20200101",
        "archived 1 calls, dropped request_log_20200102",
    ]
    with gzip.open(tmp_path / "archive" / "request_log_20200101.csv.gz", "rt") as packed:
        rows = list(csv.DictReader(packed))
    assert {row["request_id"].replace("-", "") for row in rows} == {
        end.request_id.hex() for end in ends[:3]
    }
    assert {int(row["cost_nanos"]) for row in rows} == {end.cost_nanos for end in ends[:3]}
    assert sorted(path.name for path in (tmp_path / "archive").iterdir()) == [
        "request_log_20200101.csv.gz",
        "request_log_20200102.csv.gz",
    ]
    assert await database.fetchval("SELECT count(*) FROM request_log") == 1
    assert await database.fetchval("SELECT to_regclass('request_log_20200101')") is None


async def test_a_day_whose_archive_cannot_be_written_stays(
    database: Connection, tmp_path: Path
) -> None:
    await database.execute(
        """CREATE TABLE request_log_20200101 PARTITION OF request_log
        FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z')"""
    )
    (tmp_path / "file").write_text("not a folder")
    retention = Retention(30, Archives(tmp_path / "file" / "archive", FORMATS["csv"]))
    plan = await retention.plan(database, datetime.datetime.now(datetime.UTC))
    with pytest.raises(StepFailed, match="Not a directory"):
        await plan.steps[0].do(Turn(database, 60.0))
    await plan.steps[-1].do(Turn(database, 60.0))  # single rows go, days do not
    assert await database.fetchval("SELECT to_regclass('request_log_20200101')") is not None


async def test_a_bloated_index_is_built_anew_and_a_dirty_table_vacuumed(
    database: Connection,
) -> None:
    await database.execute("CREATE TABLE kept (id bigint PRIMARY KEY, word text)")
    await database.execute("CREATE INDEX kept_word ON kept (word)")
    await database.execute(
        """INSERT INTO kept SELECT at, 'word ' || at FROM generate_series(1, 200000) AS at"""
    )
    await database.execute("VACUUM ANALYZE kept")
    plan = await plan_reindex(database, NIGHT, bytes_min=1024 * 1024)
    assert [step.name for step in plan.steps] == []  # freshly filled, it is as it should be

    await database.execute("DELETE FROM kept WHERE id % 10 <> 0")
    await database.execute("SELECT pg_stat_force_next_flush()")
    plan = await plan_vacuum(database, NIGHT)
    assert plan.steps[0].name == "kept"
    said = await do_all(database, plan)
    assert said[0] == "vacuumed kept"
    assert "analyzed request_log" in said
    assert (
        await database.fetchval("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'kept'")
        == 0
    )

    plan = await plan_reindex(database, NIGHT, bytes_min=1024 * 1024)
    assert {step.name for step in plan.steps} == {"kept_pkey", "kept_word"}
    before = await database.fetchval("SELECT pg_relation_size('kept_word')")
    await do_all(database, plan)
    assert await database.fetchval("SELECT pg_relation_size('kept_word')") < before / 5
    plan = await plan_reindex(database, NIGHT, bytes_min=1024 * 1024)
    assert plan.steps == []


async def test_what_a_stopped_reindex_left_is_removed(
    database: Connection, database_url: str
) -> None:
    await database.execute("CREATE TABLE kept (id bigint PRIMARY KEY)")
    old = await postgres.connect(database_url)
    try:
        async with old.transaction():
            await old.execute("INSERT INTO kept VALUES (1)")
            await database.execute("SET lock_timeout = '100ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await database.execute("REINDEX INDEX CONCURRENTLY kept_pkey")
    finally:
        await old.close()
    plan = await plan_reindex(database, NIGHT)
    assert [step.name for step in plan.steps] == ["kept_pkey_ccnew"]
    await do_all(database, plan)
    assert (await plan_reindex(database, NIGHT)).steps == []


async def test_the_end_of_the_night_cancels_what_runs(
    database: Connection, database_url: str
) -> None:
    clock = Clock()

    async def plan(_connection: Connection, _now: datetime.datetime) -> Plan:
        async def do(turn: Turn) -> str:
            clock.now = NIGHT + 4 * 60 * MINUTE
            await turn.connection.execute("SET statement_timeout = '50ms'")
            await turn.connection.execute("SELECT pg_sleep(60)", timeout=turn.left_s)
            return "slept"

        return Plan([Step("kept", do)])

    night = Nights(
        RULES, "a", [Work("vacuum", True, plan)], lambda: postgres.connect(database_url), clock
    )
    await night.look(database)
    found = await last(database)
    assert (found.outcome, found.detail) == (
        Outcome.STOPPED,
        "0 of 1 steps; kept: not done in time",
    )
    assert await database.fetchval("SHOW statement_timeout") == "30s"


async def test_all_works_of_a_plain_host_go_well(
    database: Connection, database_url: str, tmp_path: Path
) -> None:
    renewed: list[str] = []
    works = make_works(Config(), tmp_path, Vault(bytes(32)), renewed.append, lambda: 0.0)
    clock = Clock()
    clock.now = datetime.datetime.now(datetime.UTC)  # the database keeps what is young by its own
    night = Nights(
        RULES, "a", works, lambda: postgres.connect(database_url), clock, pause_s_max=0.0
    )
    await maintenance.ask_run(database, [], clock.now)
    await night.look(database)
    found = await maintenance.list_works(database)
    assert [(one.work, one.outcome, one.host) for one in found] == [
        ("backup", Outcome.DONE, "a"),
        ("memory", Outcome.DONE, "a"),
        ("reindex", Outcome.DONE, ""),
        ("retention", Outcome.DONE, ""),
        ("rewrap", Outcome.DONE, ""),
        ("vacuum", Outcome.DONE, ""),
    ]
    assert renewed == []
