"""Accounts whose balance fell below what their operator wants to be told of.

A row of low_balances is a claim: whoever inserts it tells, so one of many hosts does, and once. It
goes when the balance is above the threshold again, so that the next fall is told too; whoever
deletes it tells that it is over.
"""

from typing import Final

import msgspec

from relay.store.postgres import Connection

TOLD_PER_LOOK: Final = 100

_REARM: Final = """
    DELETE FROM low_balances USING balances, accounts
    WHERE balances.account_id = low_balances.account_id AND accounts.id = low_balances.account_id
        AND (accounts.low_balance_nanos IS NULL OR balance_nanos >= accounts.low_balance_nanos)
    RETURNING name, balance_nanos, coalesce(low_balance_nanos, 0)"""
_CLAIM: Final = """
    WITH low AS (
        SELECT accounts.id, name, balance_nanos, low_balance_nanos
        FROM accounts JOIN balances ON account_id = accounts.id
        WHERE low_balance_nanos IS NOT NULL AND deleted_at IS NULL
            AND balance_nanos < low_balance_nanos
            AND NOT EXISTS (SELECT FROM low_balances WHERE account_id = accounts.id)
        ORDER BY accounts.id LIMIT $1
    ), claimed AS (
        INSERT INTO low_balances (account_id) SELECT id FROM low
        ON CONFLICT DO NOTHING RETURNING account_id
    )
    SELECT name, balance_nanos, low_balance_nanos FROM low JOIN claimed ON account_id = id
    ORDER BY name"""


class LowBalance(msgspec.Struct, frozen=True):
    """An account that fell below its threshold; nano-USD."""

    account: str
    balance_nanos: int
    threshold_nanos: int


async def end_low_balances(connection: Connection) -> list[LowBalance]:
    """Return the accounts that are no longer low since the last look, each told once."""
    return [LowBalance(*row) for row in await connection.fetch(_REARM)]


async def claim_low_balances(connection: Connection) -> list[LowBalance]:
    """Return the accounts that fell below their threshold since the last look, each told once."""
    return [LowBalance(*row) for row in await connection.fetch(_CLAIM, TOLD_PER_LOOK)]


async def set_threshold(connection: Connection, account_id: int, nanos: int | None) -> None:
    """Have an account watched below `nanos` nano-USD; None = no longer."""
    await connection.execute(
        "UPDATE accounts SET low_balance_nanos = $2 WHERE id = $1", account_id, nanos
    )
