"""Failures of Postgres become ours at the border, without secrets. Method: real failures."""

from pathlib import Path

import asyncpg
import pytest

from relay.errors import ConfigError, DependencyDown
from relay.store import postgres

pytestmark = pytest.mark.live


async def test_a_session_is_named_and_bounded(database_url: str) -> None:
    connection = await postgres.connect(database_url, application="relay test")
    try:
        assert await connection.fetchval("SHOW application_name") == "relay test"
        assert await connection.fetchval("SHOW statement_timeout") == "30s"
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "1min"
    finally:
        await connection.close()


async def test_a_pool_is_bounded_and_closes(database_url: str) -> None:
    pool = await postgres.open_pool(database_url, connections_max=2)
    assert pool.get_max_size() == 2
    with postgres.border():
        assert await pool.fetchval("SELECT 7") == 7
    await pool.close()
    with pytest.raises(DependencyDown, match="closed"), postgres.border():
        await pool.fetchval("SELECT 7")


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(DependencyDown):
        await postgres.connect(f"postgresql://relay:s3cret@/relay?host={tmp_path}")
    with pytest.raises(DependencyDown):
        await postgres.open_pool(
            f"postgresql://relay:s3cret@/relay?host={tmp_path}", connections_max=1
        )


@pytest.mark.parametrize(
    ("old", "new"),
    [("/test_", "/no_such_"), ("//relay@", "//stranger:s3cret@"), ("postgresql:", "s3cret:")],
    ids=["database", "user", "scheme"],
)
async def test_a_wrong_url_is_a_configuration_error_and_is_not_quoted(
    database_url: str, old: str, new: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        await postgres.connect(database_url.replace(old, new))
    assert "s3cret" not in str(caught.value)


async def test_a_session_that_is_ended_under_us(database_url: str) -> None:
    victim, killer = await postgres.connect(database_url), await postgres.connect(database_url)
    await killer.execute("SELECT pg_terminate_backend($1)", victim.get_server_pid())
    await killer.close()
    for _ in range(2):  # First it breaks off, then it is closed.
        with pytest.raises(DependencyDown), postgres.border():
            await victim.fetchval("SELECT 1")


async def test_a_statement_over_its_time(database_url: str) -> None:
    connection = await postgres.connect(database_url)
    try:
        await connection.execute("SET statement_timeout = '20ms'")
        with pytest.raises(DependencyDown), postgres.border():
            await connection.execute("SELECT pg_sleep(20)")
    finally:
        await connection.close()


async def test_what_the_caller_did_wrong_passes_as_it_is(database_url: str) -> None:
    connection = await postgres.connect(database_url)
    try:
        with pytest.raises(asyncpg.UndefinedTableError), postgres.border():
            await connection.execute("SELECT * FROM nowhere")
        with pytest.raises(asyncpg.InterfaceError), postgres.border():
            await connection.fetchval("SELECT $1::integer")
    finally:
        await connection.close()
