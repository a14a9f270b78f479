"""The books: money moves by balanced transfers, each booked once however often it is tried.

    settle_batch   calls that ended          customer -> revenue
    credit         by a person, with a why   adjustment -> customer
    orders.py      recharges, codes          cash, bonus -> customer

A balance changes by entries only: the schema (0003_ledger.sql) refuses everything else.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from relay.errors import NotFound
from relay.store.postgres import Connection

REVENUE: Final = -1
CASH: Final = -2
BONUS: Final = -3
RETRY_COST: Final = -4
UPSTREAM: Final = -5
ADJUSTMENT: Final = -6

_SETTLE: Final = """
    WITH ended AS (
        SELECT DISTINCT ON (request_id) *
        FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[])
            AS row (request_id, account_id, owner, cost_nanos, retry_nanos)
        ORDER BY request_id
    ), fresh AS (
        INSERT INTO settlements (request_id, account_id, transfer_id, cost_nanos, retry_nanos)
        SELECT request_id, account_id, $1, cost_nanos, retry_nanos FROM ended
        ON CONFLICT (request_id) DO NOTHING
        RETURNING request_id
    )
    SELECT account_id, owner, count(*) AS calls, sum(cost_nanos)::bigint AS cost_nanos,
        sum(retry_nanos)::bigint AS retry_nanos
    FROM ended JOIN fresh USING (request_id) GROUP BY account_id, owner"""

# What a worker spent beyond its lease came straight from the balance: as if it had been leased to
# it at that moment, so its purse, which counts it as debt, is told so.
_SPEND_LEASES: Final = """
    WITH used AS (
        SELECT account_id, owner, least(open_nanos, spent.nanos) AS nanos,
            spent.nanos - least(open_nanos, spent.nanos) AS beyond_nanos
        FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS spent (account_id, owner, nanos)
        JOIN credit_leases USING (account_id, owner)
    ), leases AS (
        UPDATE credit_leases SET open_nanos = open_nanos - used.nanos,
            granted_nanos = granted_nanos + beyond_nanos
        FROM used
        WHERE credit_leases.account_id = used.account_id AND credit_leases.owner = used.owner
    )
    UPDATE balances SET held_nanos = held_nanos - freed.nanos
    FROM (SELECT account_id, sum(nanos)::bigint AS nanos FROM used GROUP BY account_id) AS freed
    WHERE balances.account_id = freed.account_id"""


class Settlement(msgspec.Struct, frozen=True):
    """What one call costs its account, and what its failed attempts cost the operator.

    `request_id`: 16 bytes, UUIDv7. `owner`: the life of the worker that served it, whose lease it
    was spent from; "" = none.
    """

    request_id: bytes
    account_id: int
    cost_nanos: int
    retry_nanos: int = 0
    owner: str = ""


class Settled(msgspec.Struct, frozen=True):
    """What a batch booked: calls that had not been settled before, and their cost."""

    calls: int = 0
    cost_nanos: int = 0


class Balance(msgspec.Struct, frozen=True):
    """Where an account stands, in nano-USD. `held_nanos`: leased to workers, not yet spent."""

    balance_nanos: int
    held_nanos: int
    credit_limit_nanos: int

    @property
    def free_nanos(self) -> int:
        """What can still be leased; negative: debt beyond the credit limit."""
        return self.balance_nanos - self.held_nanos + self.credit_limit_nanos


async def settle_batch(connection: Connection, rows: Sequence[Settlement]) -> Settled:
    """Book what ended calls cost, each request id once, and release that much of the leases.

    Runs within the caller's transaction where there is one, so that the log rows, the journal
    offset and the money stand or fall together. A cost beyond the balance is booked: as debt.

    Args:
        connection: To the database of the ledger.
        rows: In any order, replayed ones and ones that cost nothing among them. All that one
            transaction settles goes into one call: the balances are locked in order once.
    """
    rows = [row for row in rows if row.cost_nanos or row.retry_nanos]
    if not rows:
        return Settled()
    async with connection.transaction():
        # A row that came out of a foreign journal must not stop all others from being booked.
        known = await lock_balances(connection, {row.account_id for row in rows})
        rows = [row for row in rows if row.account_id in known]
        transfer_id = await connection.fetchval(
            "SELECT nextval(pg_get_serial_sequence('transfers', 'id'))"
        )
        booked = await connection.fetch(
            _SETTLE,
            transfer_id,
            [UUID(bytes=row.request_id) for row in rows],
            [row.account_id for row in rows],
            [row.owner for row in rows],
            [row.cost_nanos for row in rows],
            [row.retry_nanos for row in rows],
        )
        if booked:
            await _book_usage(connection, transfer_id, booked)
            await connection.execute(
                _SPEND_LEASES,
                [row["account_id"] for row in booked],
                [row["owner"] for row in booked],
                [row["cost_nanos"] for row in booked],
            )
    return Settled(
        calls=sum(row["calls"] for row in booked),
        cost_nanos=sum(row["cost_nanos"] for row in booked),
    )


async def _book_usage(
    connection: Connection, transfer_id: int, booked: Sequence[asyncpg.Record]
) -> None:
    """Book a whole batch as one transfer: an entry for each account, not for each call."""
    await connection.execute(
        "INSERT INTO transfers (id, kind, ref) VALUES ($1, 'usage', $1::bigint::text)", transfer_id
    )
    moved: Counter[int] = Counter()
    for row in booked:
        moved[row["account_id"]] -= row["cost_nanos"]
        moved[REVENUE] += row["cost_nanos"]
        moved[RETRY_COST] -= row["retry_nanos"]
        moved[UPSTREAM] += row["retry_nanos"]
    await _insert_entries(connection, transfer_id, moved)


async def book(
    connection: Connection,
    kind: str,
    ref: str,
    moved: Mapping[int, int],
    *,
    actor: str = "",
    reason: str = "",
) -> bool:
    """Book a transfer: account -> nano-USD, adding up to zero. False if it was booked before.

    Call it within a transaction: the transfer and its entries are two statements.
    """
    assert sum(moved.values()) == 0
    transfer_id = await connection.fetchval(
        """INSERT INTO transfers (kind, ref, actor, reason) VALUES ($1, $2, $3, $4)
        ON CONFLICT (kind, ref) DO NOTHING RETURNING id""",
        kind,
        ref,
        actor,
        reason,
    )
    if transfer_id is None:
        return False
    await _insert_entries(connection, transfer_id, moved)
    return True


async def credit(
    connection: Connection, account_id: int, nanos: int, *, ref: str, actor: str, reason: str
) -> bool:
    """Credit (or debit, where negative) an account by hand; False if `ref` was booked before.

    `actor` and `reason` are kept with the transfer, and may not be empty.
    """
    async with connection.transaction():
        return await book(
            connection,
            "manual",
            ref,
            {account_id: nanos, ADJUSTMENT: -nanos},
            actor=actor,
            reason=reason,
        )


async def read_balance(connection: Connection, account_id: int) -> Balance:
    """Return where an account stands.

    Raises:
        NotFound: There is no such account.
    """
    row = await connection.fetchrow(
        """SELECT balance_nanos, held_nanos, credit_limit_nanos
        FROM balances JOIN accounts ON accounts.id = customer_id WHERE account_id = $1""",
        account_id,
    )
    if row is None:
        raise NotFound(f"there is no account {account_id}")
    return Balance(*row)


async def lock_balances(connection: Connection, account_ids: set[int]) -> set[int]:
    """Lock rows of balances in the order of their ids, as everybody does: so nobody deadlocks.

    Returns:
        The ids of those that exist.
    """
    locked = await connection.fetch(
        """SELECT account_id FROM balances WHERE account_id = ANY($1::bigint[])
        ORDER BY account_id FOR NO KEY UPDATE""",
        list(account_ids),
    )
    return {row["account_id"] for row in locked}


async def _insert_entries(
    connection: Connection, transfer_id: int, moved: Mapping[int, int]
) -> None:
    """Insert all entries of a transfer by one statement: the schema checks their sum by it."""
    entries = {account_id: nanos for account_id, nanos in moved.items() if nanos}
    await connection.execute(
        "INSERT INTO entries SELECT $1, * FROM unnest($2::bigint[], $3::bigint[])",
        transfer_id,
        list(entries),
        list(entries.values()),
    )
