"""Goal: COPY takes what is new, whoever else writes the same rows; and never loops for ever.

Method: a table of one column, a rival whose transaction is open, a finder that finds nothing.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from relay.store import postgres
from relay.store.binary_copy import copy_new
from relay.store.postgres import Connection

pytestmark = pytest.mark.live


@pytest.fixture
async def connection(empty_database_url: str) -> AsyncIterator[Connection]:
    connection = await postgres.connect(empty_database_url)
    await connection.execute("CREATE TABLE numbers (n bigint PRIMARY KEY CHECK (n < 100))")
    yield connection
    await connection.close()


def encode(number: int) -> bytes:
    return struct.pack("!hiq", 1, 8, number)


async def copy(connection: Connection, numbers: Sequence[int]) -> Sequence[int]:
    async def find_new(rows: Sequence[int]) -> Sequence[int]:
        return sorted(set(rows) - set(await stored(connection)))

    async with connection.transaction():
        return await copy_new(
            connection, "numbers", ["n"], numbers, encode=encode, find_new=find_new
        )


async def stored(connection: Connection) -> list[int]:
    return [row["n"] for row in await connection.fetch("SELECT n FROM numbers ORDER BY n")]


async def test_only_what_is_new_goes_in(connection: Connection) -> None:
    assert await copy(connection, []) == []
    assert await copy(connection, [3, 1]) == [3, 1]
    assert await copy(connection, [1, 3]) == []
    assert await copy(connection, [2, 3, 2, 4]) == [2, 4]
    assert await stored(connection) == [1, 2, 3, 4]


@pytest.mark.parametrize("commits", [True, False])
async def test_a_row_that_somebody_is_writing_is_waited_for(
    connection: Connection, empty_database_url: str, *, commits: bool
) -> None:
    rival = await postgres.connect(empty_database_url)
    theirs = rival.transaction()
    await theirs.start()
    await rival.execute("INSERT INTO numbers VALUES (2)")
    ours = asyncio.create_task(copy(connection, [1, 2, 3]))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(10):
        while not await rival.fetchval(waiting):
            await asyncio.sleep(0.01)
    await (theirs.commit() if commits else theirs.rollback())
    assert await ours == ([1, 3] if commits else [1, 2, 3])
    assert await stored(connection) == [1, 2, 3]
    await rival.close()


async def test_a_refusal_that_cannot_be_explained_is_raised(connection: Connection) -> None:
    async def find_all(rows: Sequence[int]) -> Sequence[int]:
        return rows

    await copy(connection, [1])
    with pytest.raises(asyncpg.UniqueViolationError):
        await copy_new(connection, "numbers", ["n"], [1, 2], encode=encode, find_new=find_all)
    assert await stored(connection) == [1]


async def test_any_other_refusal_is_raised(connection: Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await copy(connection, [1, 100])
    assert await stored(connection) == []
