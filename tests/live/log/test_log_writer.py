"""Goal: any record becomes a row, once; and days of rows come and go without losing one.

Method: hypothesis makes records that no worker would write, and batches that repeat each other in
any way: the tables must be those of a single batch in which everything is new. Partitions are taken
away and rows sent where none is, then the upkeep is called.
"""

import asyncio
import contextlib
import datetime
import random
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.billing.shapes import CreditRequest
from relay.records import CallEnd, FailedTry
from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.billing.credit_leases import lease
from relay.store.log.rows import COLUMNS
from relay.store.log.writer import Mark, Part, write_batch
from relay.store.postgres import Connection
from tests.live.journals import (
    COST_NANOS,
    NOW_US,
    add_catalog,
    keep_partitions,
    make_end,
    make_ends,
    make_start,
    to_row,
)

pytestmark = pytest.mark.live


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url)
    await add_catalog(connection)
    yield connection
    await connection.close()


words = st.text(max_size=300) | st.just("\0")
numbers = st.integers(-(2**63), 2**64 - 1)


@given(
    ends=st.lists(
        st.builds(
            CallEnd,
            *(st.binary(max_size=20), numbers, numbers, numbers, words, words, words, numbers),
            *(st.booleans(), numbers, words, numbers, words, *[numbers] * 5, st.booleans()),
            *(*[numbers] * 7, words),
        ),
        max_size=5,
    )
)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_whatever_decodes_can_be_written(database: Connection, ends: list[CallEnd]) -> None:
    # One record that Postgres refuses would stop the log of all calls behind it.
    records = [msgspec.msgpack.decode(msgspec.msgpack.encode(end), type=CallEnd) for end in ends]
    async with undone(database):
        await write_batch(database, [Part("w", Mark(), records)])
        rows = await database.fetch(f"SELECT {', '.join(COLUMNS)} FROM request_log")
    first = {row[:2]: row for row in reversed([to_row(record) for record in records])}
    assert {tuple(row)[:2]: tuple(row) for row in rows} == first


# --- nothing twice ----------------------------------------------------------------------------

SPLIT = 3
"""Generations that the calls are of."""
_TABLES = (
    f"SELECT {', '.join(COLUMNS)} FROM request_log",
    "SELECT * FROM usage_minutes",
    "SELECT id, spent_nanos, last_used_at FROM keys",
    "SELECT key_id, ip, first_seen, last_seen, requests FROM key_addresses",
    "SELECT request_id, account_id, cost_nanos, retry_nanos FROM settlements",
    "SELECT account_id, balance_nanos, held_nanos FROM balances",
    "SELECT account_id, sum(amount_nanos) FROM entries GROUP BY 1",
    "SELECT account_id, owner, open_nanos, granted_nanos FROM credit_leases",
    "SELECT generation, segment, byte_offset, closed FROM journal_offsets",
)


@contextlib.asynccontextmanager
async def undone(database: Connection) -> AsyncIterator[None]:
    """Take back all that is written within."""
    transaction = database.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def read_tables(database: Connection) -> list[list[tuple[Any, ...]]]:
    """Return all that a batch writes, but for the numbers of transfers."""
    return [sorted(map(tuple, await database.fetch(table)), key=repr) for table in _TABLES]


def part_of(ends: Sequence[CallEnd], positions: Iterable[int]) -> list[Part]:
    """Return a batch of some of the calls; each belongs to one generation."""
    chosen = list(positions)
    return [
        Part(f"w{part}", Mark(1, 100), [ends[each] for each in chosen if each % SPLIT == part])
        for part in range(SPLIT)
    ]


async def lease_all(database: Connection) -> None:
    """Give each generation some credit of account 1, less than its calls cost."""
    await database.execute("UPDATE accounts SET credit_limit_nanos = 1000000000")
    for part in range(SPLIT):
        await lease(database, f"w{part}", [CreditRequest(1, 1, COST_NANOS * part)], ttl_s=60)


def make_calls(count: int) -> list[CallEnd]:
    """Return calls that differ in all that is summed up by; some cost nothing to somebody."""
    fields: list[dict[str, Any]] = [
        {},
        {"cost_nanos": 0, "status": 429, "reason": "rejected", "line_id": 0, "model": "x\0y"},
        {"cost_nanos": 0, "line_id": 0, "model": "xy", "ip": "2001:db8::1", "retry_nanos": 77},
        {"ip": "2001:db8::2%eth0", "retry_nanos": 3, "time_us": NOW_US - 70_000_000},
        {"account_id": 99, "key_id": 0, "ip": ""},
        {"ip": "::ffff:203.0.113.7", "time_us": NOW_US + 90_000_000_000, "images": 2},
        {"key_id": 98, "model": "m" * 300, "endpoint": "embeddings"},
        {
            "attempts": 40,
            "tries": (FailedTry(1, "server error", 503, 5, 6), FailedTry(-1, "x\0", 0, 7, 2**62))
            * 20,
        },
    ]
    return [make_end(make_start(), **fields[number % len(fields)]) for number in range(count)]


CALLS = make_calls(14)


@given(batches=st.lists(st.lists(st.integers(0, len(CALLS) - 1), max_size=20), max_size=5))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_batches_that_repeat_each_other_make_the_same_tables(
    database: Connection, batches: list[list[int]]
) -> None:
    everything = range(len(CALLS))
    async with undone(database):
        await lease_all(database)
        await write_batch(database, part_of(CALLS, everything))
        expected = await read_tables(database)
    async with undone(database):
        await lease_all(database)
        for batch in [*batches, [*everything]]:
            await write_batch(database, part_of(CALLS, batch))
        found = await read_tables(database)
    assert found == expected


async def test_a_call_that_is_charged_and_not_logged_is_logged_only(database: Connection) -> None:
    # As after the retention of the log, which is shorter than that of the settlements.
    ends = make_ends(6)
    await write_batch(database, part_of(ends, range(4)))
    await database.execute(
        "DELETE FROM request_log WHERE request_id = ANY($1)",
        [uuid.UUID(bytes=end.request_id) for end in ends[:2]],
    )
    await write_batch(database, part_of(ends, range(6)))
    assert await count(database, "request_log") == 6
    assert await count(database, "settlements") == 6
    assert await balance_nanos(database) == -6 * COST_NANOS
    assert await database.fetchval("SELECT spent_nanos FROM keys") == 8 * COST_NANOS


async def test_a_call_that_is_logged_and_not_charged_is_charged_only(database: Connection) -> None:
    ends = [make_end(make_start(account_id=2)) for _ in range(6)]  # no such account yet
    await write_batch(database, part_of(ends, range(4)))
    assert await count(database, "settlements") == 0
    await database.execute("INSERT INTO accounts (name, group_id) VALUES ('late', 1)")
    await write_batch(database, part_of(ends, range(6)))
    assert await count(database, "request_log") == 6
    assert await count(database, "settlements") == 6
    assert await balance_nanos(database, account_id=2) == -6 * COST_NANOS
    assert await database.fetchval("SELECT spent_nanos FROM keys") == 6 * COST_NANOS


async def test_a_large_batch_of_which_the_last_row_is_known(database: Connection) -> None:
    # Postgres refuses it when most of it was sent, and rows lie in pages already.
    ends = make_ends(3_000)
    await write_batch(database, part_of(ends, [2_999]))
    await write_batch(database, part_of(ends, range(3_000)))
    assert await count(database, "request_log") == 3_000
    assert await balance_nanos(database) == -3_000 * COST_NANOS


async def test_writers_of_the_same_calls_take_turns(
    database: Connection, database_url: str
) -> None:
    ends = make_ends(400)
    await lease_all(database)
    rivals = [await postgres.connect(database_url) for _ in range(4)]
    dice = random.Random(7)
    samples = [[dice.sample(range(400), 150) for _ in range(6)] for _ in rivals]

    async def write(own: Connection, mine: list[list[int]]) -> None:
        for each in mine:
            await write_batch(own, part_of(ends, each))

    try:
        await asyncio.gather(*map(write, rivals, samples))
    finally:
        for each in rivals:
            await each.close()
    written = len({position for mine in samples for each in mine for position in each})
    assert await count(database, "request_log") == written
    assert await balance_nanos(database) == -written * COST_NANOS
    assert await database.fetchval("SELECT spent_nanos FROM keys") == written * COST_NANOS
    requests = await database.fetchval("SELECT sum(requests)::bigint FROM usage_minutes")
    assert requests == written
    drifts = {drift.what for drift in (await run_audit(database)).drifts}
    assert drifts <= {"charge is not what its price makes of its usage"}  # made up, here


async def count(database: Connection, table: str) -> int:
    found: int = await database.fetchval(f"SELECT count(*) FROM {table}")
    return found


async def balance_nanos(database: Connection, account_id: int = 1) -> int:
    found: int = await database.fetchval(
        "SELECT balance_nanos FROM balances WHERE account_id = $1", account_id
    )
    return found


# --- days -------------------------------------------------------------------------------------


async def partitions(database: Connection) -> list[str]:
    rows = await database.fetch(
        """SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'request_log'::regclass ORDER BY relname"""
    )
    return [row["relname"] for row in rows]


async def test_days_come_and_go(database: Connection) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    names = [f"request_log_{today + datetime.timedelta(days=day):%Y%m%d}" for day in range(8)]
    assert await partitions(database) == [*names, "request_log_default"]

    await database.execute(f"DROP TABLE {names[0]}, {names[3]}")
    old_us = NOW_US - 40 * 86_400_000_000
    ends = make_ends(1)
    old = make_end(make_start(time_us=old_us))
    await write_batch(database, [Part("w", Mark(), [*ends, old])])
    assert await database.fetchval("SELECT count(*) FROM request_log_default") == 2

    await keep_partitions(database, retention_days=30)
    assert await partitions(database) == [*names, "request_log_default"]
    assert await database.fetchval("SELECT count(*) FROM request_log_default") == 0
    rows = await database.fetch(f"SELECT {', '.join(COLUMNS)} FROM request_log")
    assert [tuple(row) for row in rows] == [to_row(ends[0])]


async def test_days_beyond_the_retention_are_dropped(database: Connection) -> None:
    await database.execute(
        """CREATE TABLE request_log_20200101 PARTITION OF request_log
        FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z')"""
    )
    await keep_partitions(database, retention_days=30)
    assert "request_log_20200101" not in await partitions(database)


# --- each in its own column ---------------------------------------------------------------------


async def test_each_number_of_a_call_has_its_own_column(database: Connection) -> None:
    numbers = [field.name for field in msgspec.structs.fields(CallEnd) if field.type is int]
    end = msgspec.structs.replace(
        make_end(make_start()), **{name: 101 + place for place, name in enumerate(numbers)}
    )
    async with undone(database):
        await write_batch(database, [Part("w", Mark(), [end])])
        row = await database.fetchrow("SELECT * FROM request_log")
    apart = {"time_us", "retry_nanos"}
    assert row is not None
    assert {name: row[name] for name in numbers if name not in apart} == {
        name: getattr(end, name) for name in numbers if name not in apart
    }
