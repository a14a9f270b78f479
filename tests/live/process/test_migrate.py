"""Migrations apply once, in order, whole or not at all. Method: real Postgres, own scripts."""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.errors import ConfigError, DependencyDown
from relay.store import postgres
from relay.store.migrate import (
    LOCK_S,
    Migration,
    apply_scripts,
    connect_migrated,
    migrate,
    pending,
    read_scripts,
)
from relay.store.postgres import Connection

pytestmark = pytest.mark.live


def script(number: int, sql: str) -> Migration:
    return Migration(f"{number:04}_test.sql", sql, hashlib.sha256(sql.encode()).hexdigest())


ONE = script(1, "CREATE TABLE one (n integer); INSERT INTO one VALUES (1)")
TWO = script(2, "CREATE TABLE two (n integer)")
DROPS = script(2, "-- contract\nDROP TABLE one")
THREE = script(3, "CREATE TABLE three (n integer)")
FIRST_UNDER_THE_RULE = "0013"
BROKEN = script(3, "CREATE TABLE three (n integer); SELECT no_such_column FROM three")


@pytest.fixture
async def connection(empty_database_url: str) -> AsyncIterator[Connection]:
    connection = await postgres.connect(empty_database_url)
    yield connection
    await connection.close()


async def tables(connection: Connection) -> set[str]:
    rows = await connection.fetch(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    )
    return {row["table_name"] for row in rows}


async def test_a_database_counts_as_away_until_its_schema_is_whole(
    connection: Connection, empty_database_url: str
) -> None:
    with pytest.raises(DependencyDown, match=r"is still without 0001_catalog\.sql"):
        await connect_migrated(empty_database_url, application="test")
    await migrate(connection)
    found = await connect_migrated(empty_database_url, application="test")
    await found.close()
    # What takes something away is no part of it: no start applies that.
    await connection.execute("INSERT INTO schema_migrations VALUES ('9000_later.sql', '', now())")
    await (await connect_migrated(empty_database_url, application="test")).close()


async def test_the_whole_schema_applies_to_an_empty_database_and_only_once(
    connection: Connection,
) -> None:
    names = await migrate(connection)
    assert names == [script.name for script in read_scripts()]
    assert names == sorted(names)
    assert await migrate(connection) == []


async def test_processes_that_migrate_at_once_take_turns(empty_database_url: str) -> None:
    connections = [await postgres.connect(empty_database_url) for _ in range(4)]
    try:
        done = await asyncio.gather(*(apply_scripts(each, [ONE, TWO]) for each in connections))
        assert sorted(name for names in done for name in names) == [ONE.name, TWO.name]
        assert await connections[0].fetchval("SELECT count(*) FROM one") == 1
    finally:
        for each in connections:
            await each.close()


async def test_only_what_is_missing_is_applied(connection: Connection) -> None:
    assert await apply_scripts(connection, [ONE]) == [ONE.name]
    assert await apply_scripts(connection, [ONE, TWO]) == [TWO.name]


async def test_a_failing_script_leaves_nothing_and_those_before_it_stand(
    connection: Connection,
) -> None:
    with pytest.raises(ConfigError, match=r'0003_test\.sql failed .*"no_such_column"'):
        await apply_scripts(connection, [ONE, TWO, BROKEN])
    assert await tables(connection) == {"one", "two", "schema_migrations"}
    assert await apply_scripts(connection, [ONE, TWO]) == []


async def test_what_is_in_the_tables_is_in_no_message(connection: Connection) -> None:
    await apply_scripts(connection, [ONE])
    quoting = script(2, "INSERT INTO one VALUES (4711); CREATE UNIQUE INDEX ON one ((n / n))")
    with pytest.raises(ConfigError, match="UniqueViolationError") as caught:
        await apply_scripts(connection, [ONE, quoting])
    assert "Key" in str(caught.value.__cause__.detail)  # type: ignore[union-attr]
    assert ":" not in caught.value.message


async def test_a_table_in_use_is_waited_for_in_short_tries(
    connection: Connection, empty_database_url: str
) -> None:
    """Who asks for the table meanwhile waits behind a try, never for as long as it is in use."""
    await apply_scripts(connection, [ONE])
    grows = script(2, "ALTER TABLE one ADD COLUMN more integer")
    user = await postgres.connect(empty_database_url)
    reader = await postgres.connect(empty_database_url)
    try:
        async with user.transaction():
            await user.execute("LOCK TABLE one IN ACCESS SHARE MODE")
            going = asyncio.create_task(apply_scripts(connection, [ONE, grows]))
            await asyncio.sleep(0.5)
            begun_s = time.monotonic()
            await reader.execute("SELECT FROM one")
            assert time.monotonic() - begun_s < LOCK_S + 1
            assert not going.done()
        assert await going == [grows.name]
    finally:
        await user.close()
        await reader.close()


async def test_a_database_that_hangs_up_is_a_dependency_down(
    connection: Connection, empty_database_url: str
) -> None:
    killer = await postgres.connect(empty_database_url)
    await killer.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    await killer.close()
    with pytest.raises(DependencyDown):
        await apply_scripts(connection, [ONE])


def test_a_changed_script_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0001_test\.sql was changed"):
        pending([ONE, TWO], {ONE.name: "another"})


async def test_the_release_before_runs_on_a_newer_schema_that_only_grew(
    connection: Connection,
) -> None:
    await apply_scripts(connection, [ONE, TWO])
    assert await apply_scripts(connection, [ONE]) == []


async def test_what_takes_something_away_waits_until_it_is_asked_for(
    connection: Connection,
) -> None:
    assert await apply_scripts(connection, [ONE, DROPS, THREE]) == [ONE.name, THREE.name]
    assert await tables(connection) == {"one", "three", "schema_migrations"}
    assert await apply_scripts(connection, [ONE, DROPS, THREE], contract=True) == [DROPS.name]
    assert await apply_scripts(connection, [ONE, DROPS, THREE]) == []


async def test_a_database_that_dropped_what_the_release_before_needs_refuses_it(
    connection: Connection,
) -> None:
    await apply_scripts(connection, [ONE, DROPS], contract=True)
    with pytest.raises(ConfigError, match=r"dropped what this relay needs .*0002_test\.sql"):
        await apply_scripts(connection, [ONE])


async def test_a_database_migrated_by_a_release_from_before_this_rule(
    connection: Connection,
) -> None:
    await apply_scripts(connection, [ONE])
    await connection.execute("ALTER TABLE schema_migrations DROP COLUMN contracts")
    assert await apply_scripts(connection, [ONE, TWO]) == [TWO.name]


def test_no_migration_takes_anything_away_without_saying_so() -> None:
    taking = re.compile(
        r"DROP\s+(TABLE|COLUMN|TYPE|FUNCTION)|RENAME|ALTER\s+COLUMN\s+\w+\s+(TYPE|SET\s+NOT\s+NULL)",
        re.IGNORECASE,
    )
    for found in read_scripts():
        if found.name >= FIRST_UNDER_THE_RULE and not found.contracts:
            lines = [line.partition("--")[0] for line in found.sql.splitlines()]
            assert not taking.search("\n".join(lines)), found.name


def test_a_script_that_slipped_in_below_applied_ones_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0001_test\.sql is missing"):
        pending([ONE, TWO], {TWO.name: TWO.sha256})


def test_two_files_of_one_number_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("0001_one.sql", "0002_mine.sql", "0002_yours.sql", "0003_three.sql"):
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(ConfigError, match=r"0002_mine\.sql and 0002_yours\.sql share a number"):
        read_scripts(tmp_path)
    (tmp_path / "0002_yours.sql").rename(tmp_path / "0004_yours.sql")
    assert [script.name[:4] for script in read_scripts(tmp_path)] == [
        "0001",
        "0002",
        "0003",
        "0004",
    ]


def test_a_file_that_is_no_migration_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "0001_one.sql.orig").write_text("SELECT 1")
    with pytest.raises(ConfigError, match=r"0001_one\.sql\.orig is not called"):
        read_scripts(tmp_path)


async def test_orders_and_addresses_from_before_keep_what_they_are(connection: Connection) -> None:
    scripts = read_scripts()
    before = [script for script in scripts if script.name < "0006"]
    await apply_scripts(connection, before)
    await connection.execute(
        """WITH made AS (INSERT INTO groups (name) VALUES ('g') RETURNING id)
        INSERT INTO accounts (name, group_id) SELECT 'acme', id FROM made;
        INSERT INTO orders (order_no, account_id, currency, amount_nanos, cny_per_usd_nanos,
            paid_nanos, bonus_nanos, status, credited_at)
        SELECT row.* FROM (SELECT id FROM accounts) AS account, LATERAL (VALUES
            ('A-1', id, 'USD', 5, 5, 5, 0, 'credited', now()),
            ('A-2', id, 'USD', 5, 5, 5, 0, 'pending', NULL)
        ) AS row (no, id, currency, amount, rate, paid, bonus, status, moment);
        INSERT INTO key_addresses VALUES (1, '192.0.2.1', now(), now(), 1)"""
    )
    await apply_scripts(connection, scripts)
    rows = await connection.fetch(
        "SELECT order_no, status, paid_at = credited_at AS same FROM orders ORDER BY order_no"
    )
    assert [tuple(row) for row in rows] == [("A-1", "credited", True), ("A-2", "pending", None)]
    assert await connection.fetchval("SELECT judged FROM key_addresses") is True
