"""The books: money moves by balanced transfers, each booked once however often it is tried.

    record, book   calls that ended          customer -> revenue
    credit         by a person, with a why   adjustment -> customer
    orders.py      recharges, codes          cash, bonus -> customer

A balance changes by entries only: the schema (0003_ledger.sql) refuses everything else.
"""

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final
from uuid import UUID

import msgspec

from relay.errors import NotFound
from relay.store.binary_copy import copy_new
from relay.store.postgres import Connection

REVENUE: Final = -1
CASH: Final = -2
BONUS: Final = -3
RETRY_COST: Final = -4
UPSTREAM: Final = -5
ADJUSTMENT: Final = -6

SETTLEMENT_COLUMNS: Final = (
    *("request_id", "account_id", "transfer_id", "cost_nanos", "retry_nanos"),
)
_pack_settlement: Final = struct.Struct("!h i16s iq iq iq iq").pack

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


class CallCharge(msgspec.Struct, frozen=True):
    """What one call costs its account, and what its failed attempts cost the operator.

    `request_id`: 16 bytes, UUIDv7. `owner`: the life of the worker that served it, whose lease it
    was spent from; "" = none.
    """

    request_id: bytes
    account_id: int
    cost_nanos: int
    retry_nanos: int = 0
    owner: str = ""


class Charges(msgspec.Struct, frozen=True):
    """Calls whose settlements are written, and whose money is still to be moved by a transfer.

    `spent`: (account, owner) -> nano-USD. `retry_nanos`: the operator's own cost of all of them.
    """

    transfer_id: int = 0
    calls: int = 0
    spent: Mapping[tuple[int, str], int] = {}
    retry_nanos: int = 0


class Balance(msgspec.Struct, frozen=True):
    """Where an account stands, in nano-USD. `held_nanos`: leased to workers, not yet spent."""

    balance_nanos: int
    held_nanos: int
    credit_limit_nanos: int

    @property
    def free_nanos(self) -> int:
        """What can still be leased; negative: debt beyond the credit limit."""
        return self.balance_nanos - self.held_nanos + self.credit_limit_nanos


async def record_calls(connection: Connection, rows: Sequence[CallCharge]) -> Charges:
    """Write the settlements of calls that have none, each request id once.

    It locks no balance: whoever has more to write does that in between, because everybody who
    leases waits for a locked balance. `book_calls` must follow in the same transaction, so that the
    log rows, the journal offset and the money stand or fall together.

    Args:
        connection: Within a transaction.
        rows: In any order, replayed ones and ones that cost nothing among them. All that one
            transaction settles goes into one call: the balances are locked in order once.
    """
    rows = [row for row in rows if row.cost_nanos or row.retry_nanos]
    if not rows:
        return Charges()
    # A row that came out of a foreign journal must not stop all others from being booked. No
    # account ever goes away, so those that are known now are known when the money moves.
    known = await _find_accounts(connection, {row.account_id for row in rows})
    transfer_id = await connection.fetchval(
        "SELECT nextval(pg_get_serial_sequence('transfers', 'id'))"
    )
    new = await copy_new(
        connection,
        "settlements",
        SETTLEMENT_COLUMNS,
        [row for row in rows if row.account_id in known],
        encode=partial(_encode, transfer_id),
        find_new=partial(_find_unsettled, connection),
    )
    spent: Counter[tuple[int, str]] = Counter()
    retry_nanos = 0
    for row in new:
        spent[row.account_id, row.owner] += row.cost_nanos
        retry_nanos += row.retry_nanos
    return Charges(transfer_id, len(new), spent, retry_nanos)


async def book_calls(connection: Connection, charges: Charges) -> None:
    """Book a whole batch as one transfer: an entry for each account, not for each call.

    What the leases cover is released from them; a cost beyond the balance is booked too, as debt.
    """
    if not charges.calls:
        return
    spent = {place: nanos for place, nanos in charges.spent.items() if nanos}
    moved: Counter[int] = Counter()
    for (account_id, _), nanos in spent.items():
        moved[account_id] -= nanos
        moved[REVENUE] += nanos
    moved[RETRY_COST] -= charges.retry_nanos
    moved[UPSTREAM] += charges.retry_nanos
    await connection.execute(
        "INSERT INTO transfers (id, kind, ref) VALUES ($1, 'usage', $1::bigint::text)",
        charges.transfer_id,
    )
    # The balances are locked from here on, in the order of their ids: the entries' trigger does it.
    await _insert_entries(connection, charges.transfer_id, moved)
    await connection.execute(
        _SPEND_LEASES,
        [account_id for account_id, _ in spent],
        [owner for _, owner in spent],
        list(spent.values()),
    )


def _encode(transfer_id: int, row: CallCharge) -> bytes:
    """Return a row of SETTLEMENT_COLUMNS as COPY takes it: the count of fields, then each."""
    ids = (16, row.request_id, 8, row.account_id, 8, transfer_id)
    return _pack_settlement(5, *ids, 8, row.cost_nanos, 8, row.retry_nanos)


async def _find_accounts(connection: Connection, account_ids: set[int]) -> set[int]:
    """Return those that exist."""
    rows = await connection.fetch(
        "SELECT account_id FROM balances WHERE account_id = ANY($1::bigint[])", list(account_ids)
    )
    return {row["account_id"] for row in rows}


async def _find_unsettled(
    connection: Connection, rows: Sequence[CallCharge]
) -> Sequence[CallCharge]:
    """Return those that have no settlement, each once."""
    new = {row.request_id: row for row in reversed(rows)}  # the first one counts
    ids = [UUID(bytes=request_id) for request_id in new]
    found = await connection.fetch(
        """SELECT request_id FROM settlements
        WHERE request_id = ANY($1::uuid[]) AND request_id BETWEEN $2 AND $3""",
        *(ids, min(ids), max(ids)),  # the bounds tell the few days' partitions that can have them
    )
    settled = {row["request_id"].bytes for row in found}
    return [row for request_id, row in new.items() if request_id not in settled]


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
