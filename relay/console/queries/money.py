"""An account's money: balance, ledger, orders, statements; exact to the nano-dollar."""

import datetime
import secrets
from typing import Any, Final

import asyncpg
import msgspec

from relay.console.queries.forms import (
    MomentCursor,
    encode_cursor,
    format_moment,
    from_us,
    to_us,
)
from relay.console.rows import BalanceRow, EntryRow, OrderRow, StatementRow
from relay.errors import NotFound
from relay.store.billing.ledger import read_balance
from relay.store.postgres import Connection
from relay.units import format_usd

STUCK_MINUTES: Final = 10
"""An order that is pending for so long needs a hand."""
MONTHS_SHOWN: Final = 13
KINDS: Final = ("order", "code", "manual", "usage")

_ENTRIES: Final = """
    SELECT transfers.id, created_at, transfers.kind, ref, reason, amount_nanos,
        ($2::bigint - coalesce(sum(amount_nanos) OVER newer, 0))::bigint AS after_nanos
    FROM (
        SELECT * FROM entries WHERE account_id = $1 AND ($3::bigint IS NULL OR transfer_id < $3)
        ORDER BY transfer_id DESC LIMIT $4
    ) AS page
    JOIN transfers ON transfers.id = transfer_id
    WINDOW newer AS (ORDER BY transfer_id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ORDER BY transfer_id DESC"""
_ORDER: Final = """order_no, accounts.name AS account, status, currency, amount_nanos, paid_nanos,
    bonus_nanos, payment, note, orders.created_at, paid_at, credited_at, provider, checkout_url,
    closed_at,
    EXISTS (SELECT FROM order_pictures AS kept WHERE kept.order_no = orders.order_no) AS picture"""
_ORDERS: Final = f"""
    SELECT {_ORDER}, status = 'pending' AND closed_at IS NULL
        AND orders.created_at < now() - make_interval(mins => $7) AS stuck
    FROM orders JOIN accounts ON accounts.id = account_id
    WHERE ($1::bigint IS NULL OR account_id = $1) AND ($2 = '' OR status = $2)
        AND ($3 = '' OR order_no = $3 OR payment = $3 OR accounts.name = $3)
        AND ($4::timestamptz IS NULL OR (orders.created_at, order_no) < ($4, $5))
    ORDER BY orders.created_at DESC, order_no DESC LIMIT $6"""  # noqa: S608  (a text of this module)


class LedgerCursor(msgspec.Struct, frozen=True, array_like=True):
    """The last entry of a page, and the balance before it."""

    transfer: int
    before_nanos: int


class Entries(msgspec.Struct, frozen=True):
    """A page of the ledger."""

    entries: list[EntryRow]
    next: str | None


class Orders(msgspec.Struct, frozen=True):
    """A page of orders."""

    orders: list[OrderRow]
    next: str | None


async def show_balance(connection: Connection, account_id: int, account: str) -> BalanceRow:
    """Return what an account has."""
    found = await read_balance(connection, account_id)
    return BalanceRow(
        account=account,
        balance_usd=format_usd(found.balance_nanos),
        held_usd=format_usd(found.held_nanos),
        credit_limit_usd=format_usd(found.credit_limit_nanos),
        free_usd=format_usd(found.free_nanos),
    )


async def list_entries(
    connection: Connection, account_id: int, limit: int, before: LedgerCursor | None
) -> Entries:
    """Return bookings, newest first, each with the balance after it."""
    if before is None:
        # One snapshot for both: an entry booked in between would shift every balance below it.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            top = (await read_balance(connection, account_id)).balance_nanos
            rows = await connection.fetch(_ENTRIES, account_id, top, None, limit)
    else:
        rows = await connection.fetch(
            _ENTRIES, account_id, before.before_nanos, before.transfer, limit
        )
    following = None
    if len(rows) == limit:
        last = rows[-1]
        cursor = LedgerCursor(last["id"], last["after_nanos"] - last["amount_nanos"])
        following = encode_cursor(cursor)
    return Entries([_to_entry(row) for row in rows], following)


async def list_orders(
    connection: Connection,
    *,
    account_id: int | None,
    limit: int,
    before: MomentCursor | None = None,
    status: str = "",
    search: str = "",
) -> Orders:
    """Return orders, newest first: one account's, or all where `account_id` is None."""
    rows = await connection.fetch(
        _ORDERS,
        account_id,
        status,
        search,
        None if before is None else from_us(before.at_us),
        "" if before is None else before.name,
        limit,
        STUCK_MINUTES,
    )
    following = None
    if len(rows) == limit:
        last = rows[-1]
        following = encode_cursor(MomentCursor(to_us(last["created_at"]), last["order_no"]))
    return Orders([_to_order(row) for row in rows], following)


async def list_stuck(connection: Connection, account_id: int | None, limit: int) -> list[OrderRow]:
    """Return orders that need a hand, the oldest first."""
    rows = await connection.fetch(
        f"""SELECT {_ORDER}, true AS stuck
        FROM orders JOIN accounts ON accounts.id = account_id
        WHERE status = 'pending' AND closed_at IS NULL AND ($1::bigint IS NULL OR account_id = $1)
            AND orders.created_at < now() - make_interval(mins => $2)
            AND orders.created_at > now() - interval '30 days'
        ORDER BY orders.created_at LIMIT $3""",  # noqa: S608
        account_id,
        STUCK_MINUTES,
        limit,
    )
    return [_to_order(row) for row in rows]


async def note_order(connection: Connection, account_id: int, order_no: str, note: str) -> None:
    """Keep what the holder of an order tells support.

    Raises:
        NotFound: CLIENT; the account has no such order.
    """
    done = await connection.fetchval(
        "UPDATE orders SET note = $3 WHERE order_no = $1 AND account_id = $2 RETURNING true",
        order_no,
        account_id,
        note,
    )
    if not done:
        raise NotFound("there is no such order")


def new_order_no(now: datetime.datetime) -> str:
    """Return a number that people can read out and nobody has."""
    return f"R-{now:%Y%m%d}-{secrets.token_hex(5)}"


async def list_statements(
    connection: Connection, account_id: int, months: int = MONTHS_SHOWN
) -> list[StatementRow]:
    """Return months, newest first: opening + what was booked by kind = closing, exactly."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        closing = (await read_balance(connection, account_id)).balance_nanos
        rows = await connection.fetch(
            """SELECT month, kind, amount_nanos FROM ledger_months WHERE account_id = $1
            ORDER BY month DESC, kind""",
            account_id,
        )
    by_month: dict[datetime.date, dict[str, int]] = {}
    for row in rows:
        by_month.setdefault(row["month"], {})[row["kind"]] = row["amount_nanos"]
    statements = []
    for month, sums in by_month.items():
        opening = closing - sum(sums.values())
        booked = {kind: format_usd(sums.get(kind, 0)) for kind in KINDS}
        statements.append(
            StatementRow(
                month=f"{month:%Y-%m}",
                opening_usd=format_usd(opening),
                recharged_usd=booked["order"],
                codes_usd=booked["code"],
                manual_usd=booked["manual"],
                usage_usd=booked["usage"],
                closing_usd=format_usd(closing),
            )
        )
        closing = opening
    return statements[:months]


def _to_entry(row: asyncpg.Record) -> EntryRow:
    return EntryRow(
        transfer=row["id"],
        time=format_moment(row["created_at"]),
        kind=row["kind"],
        amount_usd=format_usd(row["amount_nanos"]),
        balance_usd=format_usd(row["after_nanos"]),
        ref="" if row["kind"] == "code" else row["ref"],
        reason=row["reason"],
    )


def _to_order(row: asyncpg.Record) -> OrderRow:
    moments: dict[str, Any] = {
        name: None if row[name] is None else format_moment(row[name])
        for name in ("created_at", "paid_at", "credited_at", "closed_at")
    }
    return OrderRow(
        order=row["order_no"],
        amount=format_usd(row["amount_nanos"]),
        paid_usd=format_usd(row["paid_nanos"]),
        bonus_usd=format_usd(row["bonus_nanos"]),
        **{name: row[name] for name in ("account", "status", "currency", "payment", "note")},
        provider=row["provider"],
        checkout_url=row["checkout_url"] if row["status"] == "pending" else "",
        stuck=row["stuck"],
        picture=row["picture"],
        **moments,
    )
