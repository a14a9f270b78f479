"""An account's statement: what was booked on it, newest first, with the balance after each."""

from typing import Any, Final

from relay.store.billing.ledger import read_balance
from relay.store.billing.recharges import find_account
from relay.store.postgres import Connection
from relay.units import format_usd

Row = dict[str, Any]

# The balance after an entry is today's less all entries after it: both read by one statement.
_STATEMENT: Final = """
    SELECT transfers.id, created_at, transfers.kind, ref, actor, reason, amount_nanos,
        (balance_nanos - coalesce(sum(amount_nanos) OVER newer, 0))::bigint AS after_nanos
    FROM (SELECT * FROM entries WHERE account_id = $1 ORDER BY transfer_id DESC LIMIT $2) AS newest
    JOIN transfers ON transfers.id = transfer_id
    JOIN balances USING (account_id)
    WINDOW newer AS (ORDER BY transfer_id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ORDER BY transfer_id DESC"""


async def list_entries(connection: Connection, account_id: int, limit: int) -> list[Row]:
    """Return the newest entries of an account as rows; `ref` of a code stays hidden."""
    return [
        {
            "transfer": row["id"],
            "time": row["created_at"],
            "kind": row["kind"],
            "amount_usd": format_usd(row["amount_nanos"]),
            "balance_usd": format_usd(row["after_nanos"]),
            "ref": "" if row["kind"] == "code" else row["ref"],
            **{name: row[name] for name in ("actor", "reason")},
        }
        for row in await connection.fetch(_STATEMENT, account_id, limit)
    ]


async def show_balance(connection: Connection, account: str) -> Row:
    """Return what an account has, what of it is held, and how far below zero it may go.

    Raises:
        NotFound: CLIENT; there is no such account.
    """
    found = await read_balance(connection, await find_account(connection, account))
    return {
        "account": account,
        "balance_usd": format_usd(found.balance_nanos),
        "held_usd": format_usd(found.held_nanos),
        "credit_limit_usd": format_usd(found.credit_limit_nanos),
        "free_usd": format_usd(found.free_nanos),
    }
