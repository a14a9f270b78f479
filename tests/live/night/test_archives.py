"""Goal: what the night archives is what the log had, each row in one file, whatever comes between.

Method: rows by the shipper's own writer into days of a real Postgres; the files are read back by
pyarrow and by csv. What cuts an archive short is planted: a full disk, an end of the night, a lock.
"""

import asyncio
import csv
import datetime
import gzip
import itertools
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from relay.config import Config
from relay.control.night.archives import FORMATS, Archives, Column, Format
from relay.control.night.parquet import ParquetFile
from relay.control.night.plans import make_works
from relay.control.night.retention import Retention
from relay.control.night.shapes import StepFailed, Turn
from relay.errors import ConfigError
from relay.extras import Extras
from relay.night_rules import Maintenance
from relay.outside import find_missing
from relay.records import CallEnd, FailedTry
from relay.store import postgres
from relay.store.log.partitions import Day
from relay.store.log.writer import Mark, Part, write_batch
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault
from tests.live.journals import add_catalog, make_end, make_start

pytestmark = pytest.mark.live

FIRST, SECOND = datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)
DAY = datetime.timedelta(days=1)
NAME, NEXT = "request_log_20200101", "request_log_20200102"
CALLS = Day("request_log", NAME, FIRST)
_serial = itertools.count(1)
BOTH = pytest.mark.parametrize("form", list(FORMATS))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url)
    for day in (FIRST, SECOND):
        await connection.execute(
            f"""CREATE TABLE request_log_{day:%Y%m%d} PARTITION OF request_log
            FOR VALUES FROM ('{day}Z') TO ('{day + DAY}Z')"""
        )
    await add_catalog(connection)
    yield connection
    await connection.close()


def end_at(moment: str, **fields: Any) -> CallEnd:
    """Return a call that ended then; 'Z' is left out."""
    at = datetime.datetime.fromisoformat(f"{moment}+00:00")
    return make_end(make_start(), time_us=round(at.timestamp() * 1_000_000), **fields)


async def write(connection: Connection, *ends: CallEnd) -> None:
    await write_batch(connection, [Part(f"w{next(_serial)}", Mark(), list(ends))])


async def plan(connection: Connection, folder: Path, form: str | Format) -> list[Any]:
    chosen = FORMATS[form] if isinstance(form, str) else form
    retention = Retention(30, Archives(folder, chosen))
    return (await retention.plan(connection, datetime.datetime.now(datetime.UTC))).steps


async def night(connection: Connection, folder: Path, form: str | Format) -> list[str]:
    """Drop what is past its retention; return what each step said, or how it failed."""
    said = []
    for step in await plan(connection, folder, form):
        try:
            said.append(await step.do(Turn(connection, 60.0)))
        except (StepFailed, asyncpg.PostgresError) as exc:
            said.append(f"{step.name}: {type(exc).__name__}")
    return said


def ids(folder: Path) -> list[str]:
    """Return the ids of all calls in all files, as often as they stand there."""
    found: list[str] = []
    for file in folder.iterdir():
        if file.name.endswith(".csv.gz"):
            with gzip.open(file, "rt", newline="") as packed:
                found += [row["request_id"] for row in csv.DictReader(packed)]
        else:
            assert file.suffix == ".parquet", file
            found += map(str, pq.read_table(file)["request_id"].to_pylist())
    return sorted(one.replace("-", "") for one in found)


def ids_of(*ends: CallEnd) -> list[str]:
    return sorted(end.request_id.hex() for end in ends)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# --- what is in it --------------------------------------------------------------------------------


def as_stored(row: asyncpg.Record) -> dict[str, Any]:
    """Return a row of the log as its archive says it: ids, addresses and JSON as text."""
    kinds = (bool, int, str, datetime.datetime, type(None))
    return {name: one if isinstance(one, kinds) else str(one) for name, one in row.items()}


async def test_a_file_of_parquet_says_what_the_rows_of_the_log_said(
    database: Connection, tmp_path: Path
) -> None:
    odd = 'a "b",\nc\r\n\\N é \U0001f600'
    await write(
        database,
        end_at("2020-01-01T00:00:00", ip="", error_code="", model=odd, served_model=""),
        end_at(
            "2020-01-01T23:59:59.999999",
            cost_nanos=10**15, ip="2001:db8::1", status=499, stream=False, estimated=True,
            extras=Extras(searches=3), tries=(FailedTry(1, "refused", 429, 30_000, 9),),
        ),
    )  # fmt: skip
    rows = await database.fetch("SELECT * FROM request_log ORDER BY ended_at")
    wanted = [as_stored(row) for row in rows]
    assert wanted[0]["ip"] is wanted[0]["tries"] is None, "NULL is among them"
    assert wanted[1]["tries"] and wanted[1]["extras"]
    await night(database, tmp_path, "parquet")

    found = pq.read_table(tmp_path / f"{NAME}.parquet").sort_by("ended_at")
    assert found.to_pylist() == wanted
    kinds = {field.name: field.type for field in found.schema}
    assert kinds["ended_at"] == pa.timestamp("us", "UTC")
    assert kinds["cost_nanos"] == pa.int64() and kinds["status"] == pa.int16()
    assert kinds["stream"] == pa.bool_() and kinds["request_id"] == pa.string()
    assert kinds["model"] == kinds["ip"] == pa.dictionary(pa.int32(), pa.string())
    chunk = pq.ParquetFile(tmp_path / f"{NAME}.parquet").metadata.row_group(0).column(0)
    assert chunk.compression == "ZSTD"


async def test_a_day_without_calls_is_a_file_without_rows(
    database: Connection, tmp_path: Path
) -> None:
    said = await night(database, tmp_path, "parquet")
    assert said[0] == f"archived 0 calls, dropped {NAME}"
    found = pq.read_table(tmp_path / f"{NAME}.parquet")
    assert found.num_rows == 0
    columns = await database.fetch("SELECT * FROM request_log LIMIT 0")
    assert columns == [] and "cost_nanos" in found.column_names


async def test_a_large_day_takes_bounded_memory(database: Connection, tmp_path: Path) -> None:
    await write(database, end_at("2020-01-01T12:00:00"))
    kept = await database.fetchrow("SELECT * FROM request_log")
    assert kept is not None
    rest = ", ".join(name for name, _ in kept.items() if name not in ("request_id", "cost_nanos"))
    await database.execute(
        f"""INSERT INTO request_log (request_id, cost_nanos, {rest})
        SELECT gen_random_uuid(), at, {rest}
        FROM request_log CROSS JOIN generate_series(1, 99999) AS at"""
    )
    nanos = await database.fetchval("SELECT sum(cost_nanos) FROM request_log")
    before, highest = pa.total_allocated_bytes(), 0

    class Watched(ParquetFile):
        """Of small groups; looks at what Arrow has in memory behind each."""

        def __init__(self, draft: Path, columns: Sequence[Column]) -> None:
            super().__init__(draft, columns, 1024 * 1024)

        def write(self, rows: bytes, /) -> None:
            nonlocal highest
            super().write(rows)
            highest = max(highest, pa.total_allocated_bytes() - before)

    archives = Archives(tmp_path, Format(".parquet", False, Watched))
    tracemalloc.start()
    try:
        assert await archives.keep(Turn(database, 60.0), CALLS) == 100_000
        python = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    file = pq.ParquetFile(tmp_path / f"{NAME}.parquet")
    assert file.metadata.num_row_groups >= 10
    assert highest < 4 * 1024 * 1024, "of a day that is 20 MiB as CSV"
    assert python < 8 * 1024 * 1024
    assert pa.compute.sum(file.read(["cost_nanos"])["cost_nanos"]).as_py() == nanos
    assert len(set(file.read(["request_id"])["request_id"].to_pylist())) == 100_000


# --- once, whatever comes between -----------------------------------------------------------------


@BOTH
async def test_an_archive_that_broke_off_leaves_nothing_and_the_day(
    database: Connection, tmp_path: Path, form: str
) -> None:
    end = end_at("2020-01-01T12:00:00")
    await write(database, end)

    class Full:
        def write(self, _rows: bytes, /) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise AssertionError("it is not whole")

    full = Format(FORMATS[form].suffix, False, lambda _draft, _columns: Full())
    first = (await plan(database, tmp_path, full))[0]
    with pytest.raises(StepFailed, match="No space left on device"):
        await first.do(Turn(database, 60.0))
    assert names(tmp_path) == []
    assert await database.fetchval(f"SELECT count(*) FROM {NAME}") == 1
    said = await night(database, tmp_path, form)
    assert said[0] == f"archived 1 calls, dropped {NAME}"
    assert ids(tmp_path) == ids_of(end)


@BOTH
async def test_the_end_of_a_process_in_the_middle_of_a_day_leaves_it_for_the_next(
    database: Connection, database_url: str, tmp_path: Path, form: str
) -> None:
    end = end_at("2020-01-01T12:00:00")
    await write(database, end)
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    class Slow:
        """Stands in its first write until its process ends."""

        def write(self, _rows: bytes, /) -> None:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()

        def close(self) -> None:
            raise AssertionError("it is not whole")

    slow = Format(FORMATS[form].suffix, False, lambda _draft, _columns: Slow())
    mine = await postgres.connect(database_url)
    keeping = asyncio.ensure_future(Archives(tmp_path, slow).keep(Turn(mine, 60.0), CALLS))
    await begun.wait()
    keeping.cancel()
    await asyncio.sleep(0)
    assert not keeping.done(), "a thread is at work on the file"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    mine.terminate()
    assert names(tmp_path) == []
    await night(database, tmp_path, form)
    assert ids(tmp_path) == ids_of(end)


@BOTH
async def test_a_draft_of_a_host_that_died_is_written_over(
    database: Connection, tmp_path: Path, form: str
) -> None:
    end = end_at("2020-01-01T12:00:00")
    await write(database, end)
    (tmp_path / f".{NAME}.draft").write_bytes(b"half a file" * 1000)
    await night(database, tmp_path, form)
    assert ids(tmp_path) == ids_of(end)
    assert all(not name.startswith(".") for name in names(tmp_path))


@BOTH
@pytest.mark.parametrize("before", list(FORMATS))
async def test_a_day_that_is_archived_twice_is_kept_once_in_either_format(
    database: Connection, tmp_path: Path, form: str, before: str
) -> None:
    one, two = end_at("2020-01-01T12:00:00"), end_at("2020-01-01T13:00:00")
    await write(database, one)
    # The host died when the file had its name, and before the day was dropped.
    assert await Archives(tmp_path, FORMATS[before]).keep(Turn(database, 60.0), CALLS) == 1
    assert ids(tmp_path) == ids_of(one)
    await write(database, two)  # it came late, and in time
    said = await night(database, tmp_path, form)
    assert said[0] == f"archived 2 calls, dropped {NAME}"
    assert names(tmp_path) == sorted(f"{name}{FORMATS[form].suffix}" for name in (NAME, NEXT))
    assert ids(tmp_path) == ids_of(one, two)


@BOTH
async def test_a_day_that_could_not_be_dropped_is_not_archived_with_the_next_as_well(
    database: Connection, database_url: str, tmp_path: Path, form: str
) -> None:
    early = end_at("2019-12-30T01:00:00")  # it found no day
    one, two = end_at("2020-01-01T12:00:00"), end_at("2020-01-02T12:00:00")
    await write(database, early, one, two)
    steps = await plan(database, tmp_path, form)
    holder = await postgres.connect(database_url)
    try:
        async with holder.transaction():
            await holder.execute(f"LOCK TABLE {NAME} IN ACCESS SHARE MODE")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await steps[0].do(Turn(database, 60.0))
            with pytest.raises(StepFailed, match=f"{NAME} has to go first"):
                await steps[1].do(Turn(database, 60.0))
    finally:
        await holder.close()
    assert ids(tmp_path) == ids_of(early, one)
    await night(database, tmp_path, form)
    assert ids(tmp_path) == ids_of(early, one, two)
    assert await database.fetchval("SELECT count(*) FROM request_log") == 0


@BOTH
async def test_a_day_that_is_gone_is_not_written_over(
    database: Connection, tmp_path: Path, form: str
) -> None:
    end = end_at("2020-01-01T12:00:00")
    await write(database, end)
    stale = await plan(database, tmp_path, form)
    await night(database, tmp_path, form)
    with pytest.raises(StepFailed, match="gone"):
        await stale[0].do(Turn(database, 60.0))
    assert ids(tmp_path) == ids_of(end)


# --- by choice ------------------------------------------------------------------------------------


def test_parquet_without_its_package_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Maintenance(archive_dir="archive", archive_format="parquet")
    said = "maintenance.archive_format needs pyarrow: pip install 'relay[parquet]'"
    assert find_missing(night=wanted, find=lambda name: None) == said
    assert find_missing(night=wanted, find=lambda name: name) is None
    for other in (Maintenance(archive_format="parquet"), Maintenance(archive_dir="archive")):
        assert find_missing(night=other, find=lambda name: None) is None
    rest = (tmp_path, Vault(bytes(32)), lambda name: None, lambda: 0.0)
    assert make_works(Config(maintenance=wanted), *rest)
    monkeypatch.setattr("relay.control.night.plans.find_missing", lambda night: said)
    with pytest.raises(ConfigError, match="needs pyarrow"):
        make_works(Config(maintenance=wanted), *rest)
