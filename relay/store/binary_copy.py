"""Rows that are new go into a table by COPY in the binary format; those that are there stay out.

COPY writes whole pages at once and is by far the cheapest way in, but it knows no ON CONFLICT: one
row that is there already fails all of it. That is rare (a journal that is replayed), so it is found
out by trying, behind a savepoint; then what is there is looked up and left out.
"""

import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

import asyncpg

from relay.store.postgres import Connection

_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
_TAIL: Final = struct.pack("!h", -1)
_Row = TypeVar("_Row")


async def copy_new(
    connection: Connection,
    table: str,
    columns: Sequence[str],
    rows: Sequence[_Row],
    *,
    encode: Callable[[_Row], bytes],
    find_new: Callable[[Sequence[_Row]], Awaitable[Sequence[_Row]]],
) -> Sequence[_Row]:
    """Insert those of `rows` that are not in the table yet, and return them.

    They go in in the order of their bytes. A row that another transaction is just inserting is
    waited for, so all who write to a table take its rows in one order and never wait in a circle:
    the first fields are the key, and of a partitioned table the partitions' own comes first,
    because COPY gathers rows by partition.

    A failed try inserted nothing. It failed because a row had been committed (by whomever), or is
    in `rows` twice: so `find_new`, whose statement begins after that, leaves out at least that one,
    and each further try is a smaller one.

    Args:
        connection: In a transaction, at READ COMMITTED.
        table: With a unique index by which a row is known.
        columns: In the order of the encoded fields.
        rows: In any order.
        encode: Makes a row's tuple in the binary format: the count of fields, then each.
        find_new: Returns the rows that are not in the table, each once.

    Raises:
        UniqueViolationError: A row is refused that `find_new` did not find; nothing was inserted.

    Source: PostgreSQL manual, COPY, "Binary Format".
    """
    while rows:
        encoded = b"".join([_HEAD, *sorted(map(encode, rows)), _TAIL])
        try:
            async with connection.transaction():
                await connection.copy_to_table(
                    table, source=_give(encoded), columns=columns, format="binary"
                )
            break
        except asyncpg.UniqueViolationError:
            new = await find_new(rows)
            if len(new) == len(rows):
                raise
            rows = new
    return rows


async def _give(encoded: bytes) -> AsyncIterator[bytes]:
    yield encoded
