"""Goal: every call that a journal holds becomes one row, whatever dies, and whenever.

Method: real journals and a real Postgres. A connection that fails before or after its Nth statement
stands for a shipper killed there; the records that were written are the oracle.
"""

import asyncio
import contextlib
import datetime
import itertools
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from relay.config import JournalConfig
from relay.control.shipper import Connect, Shipper
from relay.errors import DependencyDown
from relay.records import CallCheckpoint, CallEnd
from relay.store import postgres
from relay.store.log.files import list_segments
from relay.store.log.frames import join_frames
from relay.store.log.journal import Journal
from relay.store.log.rows import COLUMNS
from relay.store.postgres import Connection
from relay.units import PPM
from tests.live.journals import (
    COST_NANOS,
    NOW_US,
    add_catalog,
    alive,
    make_end,
    make_ends,
    make_start,
    to_row,
    until,
    write_generation,
    write_segment,
)

pytestmark = pytest.mark.live

CONFIG = JournalConfig(flush_ms=1, sync_ms=1, reserve_bytes=0, ship_poll_ms=1)


@pytest.fixture
def connect(database_url: str) -> Connect:
    return partial(postgres.connect, database_url)


@pytest.fixture
async def database(connect: Connect) -> AsyncIterator[Connection]:
    """The test's own look at the database."""
    connection = await connect()
    await add_catalog(connection)
    yield connection
    await connection.close()


@contextlib.asynccontextmanager
async def shipping(directory: Path, connect: Connect, **fields: Any) -> AsyncIterator[Shipper]:
    shipper = Shipper(directory, connect, msgspec.structs.replace(CONFIG, **fields))
    try:
        yield shipper
    finally:
        shipper.close()


async def ship_all(directory: Path, connect: Connect, **fields: Any) -> None:
    """Ship as a new shipper does, until nothing is left."""
    async with shipping(directory, connect, **fields) as shipper:
        while await shipper.ship_once():
            pass


@contextlib.asynccontextmanager
async def running(shipper: Shipper) -> AsyncIterator[None]:
    task = asyncio.create_task(shipper.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def list_folders(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def assert_log(database: Connection, ends: list[CallEnd]) -> None:
    """The log is exactly `ends`, and all that is folded from it agrees."""
    rows = await database.fetch(f"SELECT {', '.join(COLUMNS)} FROM request_log ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == sorted(map(to_row, ends))
    folded = await database.fetchrow(
        """SELECT (SELECT coalesce(sum(requests), 0)::bigint FROM usage_minutes),
            (SELECT coalesce(sum(cost_nanos), 0)::bigint FROM usage_minutes),
            (SELECT spent_nanos FROM keys),
            (SELECT coalesce(sum(requests), 0)::bigint FROM key_addresses)"""
    )
    cost_nanos = sum(end.cost_nanos for end in ends)
    assert tuple(folded or ()) == (len(ends), cost_nanos, cost_nanos, len(ends))


# --- the plain way ----------------------------------------------------------------------------


async def test_a_call_goes_from_the_journal_into_the_log(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    start = make_start(ip="2001:db8:1:2:3::4")
    end = make_end(start)
    journal = Journal(tmp_path, "worker-0", CONFIG)
    journal.open()
    journal.start(start)
    journal.end(end)
    await journal.close()

    await ship_all(tmp_path, connect)

    await assert_log(database, [end])
    assert await database.fetchval("SELECT last_used_at FROM keys") == to_row(end)[0]
    address = await database.fetchrow("SELECT host(ip), masklen(ip), requests FROM key_addresses")
    assert tuple(address or ()) == ("2001:db8:1:2::", 64, 1)
    assert list_folders(tmp_path) == []
    assert await database.fetchval("SELECT count(*) FROM journal_offsets") == 0


async def test_a_living_journal_is_followed_over_its_segments(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    config = msgspec.structs.replace(CONFIG, segment_bytes_max=2000)
    journal = Journal(tmp_path, "worker-0", config)
    journal.open()
    (folder,) = list_folders(tmp_path)
    long = make_start()
    journal.start(long)
    ends: list[CallEnd] = []
    async with shipping(tmp_path, connect, ship_rows_max=7) as shipper, running(shipper):
        while len(ends) < 100:
            ends.extend(make_ends(5))
            for end in ends[-5:]:
                journal.end(end)
            await until(lambda: shipper.rows_shipped == len(ends))
        await until(lambda: len(list_segments(folder)) == 1)
        assert shipper.lag_bytes() == 0
        await assert_log(database, ends)
        ends.append(make_end(long))
        journal.end(ends[-1])
        await journal.close()
        await until(lambda: not folder.exists())
    await assert_log(database, ends)


async def test_usage_is_folded_by_minute_key_model_and_line(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    minute_us = NOW_US - NOW_US % 60_000_000
    fields: list[dict[str, Any]] = [
        {"time_us": minute_us},
        {"time_us": minute_us + 59_999_999, "status": 429, "reason": "rejected"},
        {"time_us": minute_us + 60_000_000, "status": 499, "reason": "client_gone"},
        {"time_us": minute_us, "line_id": 0, "model": "anything a client says", "status": 404},
    ]
    ends = [make_end(make_start(), **each) for each in fields]
    write_generation(tmp_path, "w", ends)
    await ship_all(tmp_path, connect)
    rows = await database.fetch(
        """SELECT minute, model, requests, errors, limited, input_tokens FROM usage_minutes
        ORDER BY minute, model"""
    )
    first = datetime.datetime.fromtimestamp(minute_us // 1_000_000, datetime.UTC)
    assert [tuple(row) for row in rows] == [
        (first, "", 1, 0, 0, 1200),
        (first, "gpt-4o-mini", 2, 1, 1, 2400),
        (first + datetime.timedelta(minutes=1), "gpt-4o-mini", 1, 0, 0, 1200),
    ]


async def test_calls_without_key_are_logged(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    end = make_end(make_start(key_id=0, account_id=0, ip="not an address"))
    write_generation(tmp_path, "w", [end])
    await ship_all(tmp_path, connect)
    assert await database.fetchval("SELECT ip FROM request_log") is None
    assert await database.fetchval("SELECT count(*) FROM key_addresses") == 0


async def test_rows_gather_but_a_backlog_is_not_waited_for(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    ends = make_ends(8)
    segments = [ends[at : at + 2] for at in range(0, 6, 2)]
    folder = write_generation(tmp_path, "w", *segments, [ends[6]])
    with alive(folder):
        async with (
            shipping(tmp_path, connect, ship_rows_max=2, ship_poll_ms=60_000) as shipper,
            running(shipper),
        ):
            await until(lambda: shipper.rows_shipped == 7)
            write_segment(folder, 5, ends[7:])
            for _ in range(100):
                await asyncio.sleep(0)
            assert shipper.rows_waiting == 0
    await assert_log(database, ends[:7])


# --- a worker that died -----------------------------------------------------------------------


async def test_open_calls_of_a_dead_worker_are_closed(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    silent, streaming, done = make_start(), make_start(), make_start()
    checkpoints = [
        CallCheckpoint(streaming.request_id, 1, count, 1300, 100, 0, 0, cost, 1, 800_000, PPM)
        for count, cost in ((10, 154_800), (250, 270_000))
    ]
    folder = write_generation(
        tmp_path,
        "w",
        [silent, streaming, done, *checkpoints],
        [silent, streaming, checkpoints[-1], make_end(done)],
    )
    with alive(folder):
        await ship_all(tmp_path, connect)
        await assert_log(database, [make_end(done)])
    await ship_all(tmp_path, connect)
    rows = await database.fetch(
        """SELECT request_id, status, channel_id, input_tokens, output_tokens, cost_nanos,
            estimated FROM request_log WHERE reason = 'interrupted' ORDER BY request_id"""
    )
    assert [(row[0].bytes, *row[1:]) for row in rows] == [
        (silent.request_id, 500, 0, 1200, 0, 0, True),
        (streaming.request_id, 200, 1, 1300, 250, 270_000, True),
    ]
    assert not folder.exists()


async def test_an_end_that_a_power_cut_took_back_is_not_interrupted(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    start = make_start()
    folder = write_generation(tmp_path, "w", [start, make_end(start)])
    with alive(folder):
        await ship_all(tmp_path, connect)
    write_segment(folder, 1, [start])
    await ship_all(tmp_path, connect)
    await assert_log(database, [make_end(start)])


async def test_a_torn_tail_ends_a_dead_journal(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    ends = make_ends(3)
    folder = write_generation(tmp_path, "w", ends)
    path = folder / "000001.journal"
    path.write_bytes(path.read_bytes()[:-1])
    await ship_all(tmp_path, connect)
    await assert_log(database, ends[:-1])
    assert not folder.exists()


async def test_a_torn_tail_of_a_living_journal_is_waited_for(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    ends = make_ends(2)
    folder = write_generation(tmp_path, "w", ends)
    path = folder / "000001.journal"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with alive(folder):
        async with shipping(tmp_path, connect) as shipper:
            assert await shipper.ship_once()
            assert not await shipper.ship_once()
            assert shipper.lag_bytes() > 0
            path.write_bytes(whole)
            assert await shipper.ship_once()
            assert shipper.lag_bytes() == 0
    await assert_log(database, ends)


@pytest.mark.parametrize(
    "head", [b"relayj\x00\x02", b"relayj\x00\x01" + join_frames([b"\x92\x09\x01"])]
)
async def test_what_a_newer_relay_wrote_is_left_alone(
    tmp_path: Path, connect: Connect, database: Connection, head: bytes
) -> None:
    folder = write_generation(tmp_path, "w")
    (folder / "000001.journal").write_bytes(head)
    await ship_all(tmp_path, connect)
    assert (folder / "000001.journal").read_bytes() == head


async def test_folders_that_are_no_journals_are_left_alone(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    strangers = [tmp_path / "backup", tmp_path / "x-0123456789abcdef", tmp_path / ".y-01234567"]
    for folder in strangers:
        folder.mkdir()
        (folder / "000001.journal").touch()
    write_generation(tmp_path, "w", make_ends(1))
    await ship_all(tmp_path, connect)
    assert sorted(list_folders(tmp_path)) == sorted(strangers)


# --- nothing twice ----------------------------------------------------------------------------


async def test_a_journal_that_comes_back_counts_once(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    ends = make_ends(5)
    folder = write_generation(tmp_path / "journal", "w", ends[:3], ends[2:])
    shutil.copytree(folder, tmp_path / "backup")
    await ship_all(tmp_path / "journal", connect)
    assert not folder.exists()
    shutil.copytree(tmp_path / "backup", folder)
    await ship_all(tmp_path / "journal", connect)
    await assert_log(database, ends)


class Kill(Exception):
    """The shipper dies here."""


class Faults:
    """Makes connections that fail at the Nth point: before or after a statement or a commit."""

    def __init__(self, connect: Connect, at: int, error: type[BaseException]) -> None:
        self._connect, self._at, self._error = connect, at, error
        self.passed = 0

    def pass_point(self) -> None:
        self.passed += 1
        if self.passed == self._at:
            raise self._error

    async def connect(self) -> Connection:
        self.pass_point()
        return cast(Connection, FaultyConnection(await self._connect(), self))


class FaultyConnection:
    def __init__(self, connection: Any, faults: Faults) -> None:
        self._connection, self._faults = connection, faults

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **fields: Any) -> Any:
            self._faults.pass_point()
            result = await getattr(self._connection, name)(*args, **fields)
            self._faults.pass_point()
            return result

        return call

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        async with self._connection.transaction():
            yield
            self._faults.pass_point()
        self._faults.pass_point()

    def terminate(self) -> None:
        self._connection.terminate()


@pytest.mark.parametrize("error", [Kill, asyncio.CancelledError])
async def test_a_shipper_killed_anywhere_loses_and_doubles_nothing(
    tmp_path: Path, connect: Connect, database: Connection, error: type[BaseException]
) -> None:
    ends: list[CallEnd] = []
    interrupted = 0
    for at in itertools.count(1):
        directory = tmp_path / str(at)
        fresh, left_open = make_ends(3), make_start()
        write_generation(directory, f"w{at}", [fresh[0], left_open], [left_open, *fresh[1:]])
        faults = Faults(connect, at, error)
        with contextlib.suppress(error):
            await ship_all(directory, faults.connect, ship_rows_max=1)
        await ship_all(directory, connect)
        ends += fresh
        interrupted += 1
        assert list_folders(directory) == []
        if faults.passed < at:
            break  # it came through: every point has had its turn
    assert at > 30, "the points were not passed"
    rows = await database.fetch("SELECT reason, count(*) FROM request_log GROUP BY reason")
    assert {row["reason"]: row["count"] for row in rows} == {
        "completed": len(ends),
        "interrupted": interrupted,
    }
    assert await database.fetchval("SELECT spent_nanos FROM keys") == len(ends) * COST_NANOS
    requests = await database.fetchval("SELECT sum(requests)::bigint FROM usage_minutes")
    assert requests == len(ends) + interrupted


async def test_the_same_shipper_goes_on_after_a_fault(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    for at in range(1, 30):
        write_generation(tmp_path, f"w{at}", make_ends(2))
        faults = Faults(connect, at, ConnectionResetError)
        async with shipping(tmp_path, faults.connect) as shipper:
            with contextlib.suppress(DependencyDown):
                await shipper.ship_once()
            while await shipper.ship_once():
                pass
    assert await database.fetchval("SELECT count(*) FROM request_log") == 58
    assert await database.fetchval("SELECT spent_nanos FROM keys") == 58 * COST_NANOS


# --- whatever fails ---------------------------------------------------------------------------


async def test_postgres_may_be_down_for_any_time(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    ends = make_ends(50)
    down = False

    async def connect_or_not() -> Connection:
        if down:
            raise ConnectionRefusedError
        return await connect()

    folder = write_generation(tmp_path, "w", ends[:10])
    with alive(folder):
        async with (
            shipping(tmp_path, connect_or_not, ship_rows_max=10) as shipper,
            running(shipper),
        ):
            await until(lambda: shipper.rows_shipped == 10)
            down = True
            await database.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()"""
            )
            write_segment(folder, 1, ends)
            await until(lambda: shipper.failures >= 3)
            assert 0 < shipper.rows_waiting < 50
            assert shipper.lag_bytes() > 0
            down = False
            await until(lambda: shipper.rows_shipped == 50)
            await until(lambda: shipper.failures == 0)
            assert shipper.lag_bytes() == 0
    await assert_log(database, ends)


async def test_one_journal_that_cannot_be_read_holds_up_no_other(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    ends = make_ends(4)
    broken = write_generation(tmp_path, "a")
    (broken / "000001.journal").mkdir()
    write_generation(tmp_path, "b", ends[:2])
    async with shipping(tmp_path, connect) as shipper, running(shipper):
        await until(lambda: shipper.rows_shipped == 2)
        (broken / "000001.journal").rmdir()
        write_segment(broken, 1, ends[2:])
        await until(lambda: shipper.rows_shipped == 4)
    await assert_log(database, ends)


async def test_a_second_shipper_waits_for_the_first(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    ends = make_ends(2)
    async with (
        shipping(tmp_path, connect) as first,
        shipping(tmp_path, connect) as second,
        running(first),
    ):
        write_generation(tmp_path, "a", ends[:1])
        await until(lambda: first.rows_shipped == 1)
        async with running(second):
            write_generation(tmp_path, "b", ends[1:])
            await until(lambda: first.rows_shipped == 2)
            assert second.rows_shipped == 0
    await assert_log(database, ends)


async def test_shippers_of_many_hosts_share_the_rows_they_fold_into(
    tmp_path: Path, connect: Connect, database: Connection
) -> None:
    ends = make_ends(300)
    directories = [tmp_path / host for host in "abc"]
    for position, directory in enumerate(directories):
        write_generation(directory, f"w{position}", ends[position::3])
    await asyncio.gather(*(ship_all(each, connect, ship_rows_max=10) for each in directories))
    await assert_log(database, ends)
