"""Calls that ended become rows: the request log, what is folded from it, money, how far we read.

All of a batch is one transaction. A row that is there already is left out, and only the rows that
went in are folded into minutes, keys and addresses; so a batch can be written again at any time.

    records -> log_rows -> COPY -> those that are new -> log_folds
                        -> ledger: settlements, and in the end the money
"""

import datetime
from collections.abc import Sequence
from functools import partial
from typing import Final
from uuid import UUID

import msgspec

from relay.records import CallEnd
from relay.store.billing import budget_leases
from relay.store.billing.ledger import CallCharge, book_calls, record_calls
from relay.store.binary_copy import copy_new
from relay.store.log.rows import COLUMNS, EPOCH, bound, encode_row
from relay.store.log.sums import write_folds
from relay.store.postgres import Connection

_MARK: Final = """
    INSERT INTO journal_offsets AS kept (generation, segment, byte_offset, closed)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (generation) DO UPDATE SET
        segment = excluded.segment, byte_offset = excluded.byte_offset, closed = excluded.closed
    WHERE (kept.segment, kept.byte_offset) <= (excluded.segment, excluded.byte_offset)"""


class Mark(msgspec.Struct, frozen=True):
    """How far a generation's journal is in the log; `closed`: nothing of it is left to come."""

    segment: int = 0
    offset: int = 0
    closed: bool = False


class Part(msgspec.Struct, frozen=True):
    """What was read of one generation: the calls that ended, up to `mark`."""

    generation: str
    mark: Mark
    ends: list[CallEnd]


async def write_batch(connection: Connection, parts: Sequence[Part]) -> None:
    """Write the calls of `parts` that are not in the log yet, and the marks, or nothing.

    Any record that decodes can be written: what Postgres would refuse is bounded, not raised.

    Whoever writes any of these locks in one order, so that nobody waits in a circle: log rows,
    settlements, minutes, hours, days, failures, channels, keys, addresses, marks, budgets,
    balances, leases; and each table's in the order of its keys. Budgets and balances are nearly
    last because workers wait for them when they lease.
    """
    calls = [(part.generation, bound(end)) for part in parts for end in part.ends]
    async with connection.transaction():
        new = await copy_new(
            connection,
            "request_log",
            COLUMNS,
            [end for _, end in calls],
            encode=encode_row,
            find_new=partial(_find_new, connection),
        )
        # Asked of each by itself: a call can be in the one and not in the other, which is kept for
        # longer, and refuses what belongs to no account.
        charges = await record_calls(connection, [_bill(*call) for call in calls])
        await write_folds(connection, new)
        for part in sorted(parts, key=lambda part: part.generation):
            mark = part.mark
            await connection.execute(_MARK, part.generation, mark.segment, mark.offset, mark.closed)
        owners = {end.request_id: generation for generation, end in calls}
        await budget_leases.book(connection, [(owners[end.request_id], end) for end in new])
        await book_calls(connection, charges)


async def _find_new(connection: Connection, ends: Sequence[CallEnd]) -> list[CallEnd]:
    """Return those that have no row, each once."""
    times_us = [end.time_us for end in ends]
    rows = await connection.fetch(
        """SELECT request_id, ended_at FROM request_log
        WHERE request_id = ANY($1::uuid[]) AND ended_at BETWEEN $2 AND $3""",
        [UUID(bytes=end.request_id) for end in ends],
        *(EPOCH + datetime.timedelta(microseconds=pick(times_us)) for pick in (min, max)),
    )
    microsecond = datetime.timedelta(microseconds=1)
    logged = {(row["request_id"].bytes, (row["ended_at"] - EPOCH) // microsecond) for row in rows}
    new = {(end.request_id, end.time_us): end for end in reversed(ends)}  # the first one counts
    return [end for key, end in new.items() if key not in logged]


async def find_logged(connection: Connection, request_ids: Sequence[bytes]) -> set[bytes]:
    """Return those of `request_ids` that have a row, in whatever partition."""
    rows = await connection.fetch(
        "SELECT request_id FROM request_log WHERE request_id = ANY($1::uuid[])",
        [UUID(bytes=request_id) for request_id in request_ids],
    )
    return {row["request_id"].bytes for row in rows}


async def read_mark(connection: Connection, generation: str) -> Mark:
    """Return how far `generation` is in the log; the zero mark if nothing of it is."""
    row = await connection.fetchrow(
        "SELECT segment, byte_offset, closed FROM journal_offsets WHERE generation = $1",
        generation,
    )
    return Mark(*row) if row else Mark()


async def forget_mark(connection: Connection, generation: str) -> None:
    """Drop the mark of a generation whose folder is gone."""
    await connection.execute("DELETE FROM journal_offsets WHERE generation = $1", generation)


def _bill(generation: str, end: CallEnd) -> CallCharge:
    """Return what an ended call costs its account: a call that was booked before is left out."""
    return CallCharge(
        end.request_id, end.account_id, end.cost_nanos, end.retry_nanos, owner=generation
    )
