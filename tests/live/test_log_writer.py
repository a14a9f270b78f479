"""Goal: any record becomes a row, and days of rows come and go without losing one.

Method: hypothesis makes records that no worker would write; partitions are taken away and rows sent
where none is, then the upkeep is called.
"""

import datetime
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.call import CallEnd
from relay.store import postgres
from relay.store.log_rows import COLUMNS
from relay.store.log_writer import Mark, Part, keep_partitions, write_batch
from relay.store.postgres import Connection
from tests.live.journals import NOW_US, add_catalog, make_end, make_ends, make_start, to_row

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
    await write_batch(database, [Part("w", Mark(), records)])


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
