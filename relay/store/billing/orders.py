"""Recharges and redemption codes: money that comes in, each order and each code credited once.

open_order   pending     somebody wants to pay
mark_paid    -> paid     the shop has the money: kept in a transaction of its own
credit_order -> credited in the ledger; whoever finds a paid order does it, and it happens once
set_aside    a paid order that cannot be booked waits for an operator, and nobody waits behind it
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from relay.billing.recharge import Credit, Currency
from relay.errors import BadRequest, Conflict, NotFound
from relay.store.billing.ledger import BONUS, CASH, book
from relay.store.postgres import Connection
from relay.units import format_usd

Row = dict[str, Any]

WAITING_PER_SWEEP: Final = 100
"""Paid orders credited in one sweep; the next one takes the rest."""

_LIST: Final = """
    SELECT order_no, accounts.name AS account, status, currency, amount_nanos, paid_nanos,
        bonus_nanos, payment, actor, orders.created_at, paid_at, credited_at, set_aside_at, fault
    FROM orders JOIN accounts ON accounts.id = account_id
    WHERE ($1::text IS NULL OR accounts.name = $1) AND ($2::text IS NULL OR status = $2)
    ORDER BY orders.created_at DESC, order_no DESC LIMIT $3"""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A recharge: paid outside, named by the order number of the shop that took the money."""

    order_no: str
    account_id: int
    amount_nanos: int
    """Billionths of `currency`."""
    currency: Currency
    cny_per_usd_nanos: int
    """The exchange rate it was made at: kept with it, for the enterprise rule."""
    credit: Credit
    actor: str = ""
    provider: str = ""
    """Who it is paid through; "" = as its holder and the operator agree, or a shop's callback."""


class Recharged(msgspec.Struct, frozen=True):
    """How a recharge ended. `fresh`: credited by this very call, not by an earlier one."""

    fresh: bool
    credit: Credit


async def open_order(connection: Connection, order: Order) -> str:
    """Remember an order that is not paid yet; return its status. A second time changes nothing.

    Raises:
        Conflict: CLIENT; the order number is known with another account, amount or currency.
    """
    await connection.execute(
        """INSERT INTO orders (order_no, account_id, currency, amount_nanos, cny_per_usd_nanos,
            paid_nanos, bonus_nanos, actor, provider)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (order_no) DO NOTHING""",
        order.order_no,
        order.account_id,
        order.currency.value,
        order.amount_nanos,
        order.cny_per_usd_nanos,
        order.credit.paid_nanos,
        order.credit.bonus_nanos,
        order.actor,
        order.provider,
    )
    known = await connection.fetchrow(
        "SELECT account_id, currency, amount_nanos, status FROM orders WHERE order_no = $1",
        order.order_no,
    )
    assert known is not None
    same = (known["account_id"], known["currency"], known["amount_nanos"])
    if same != (order.account_id, order.currency.value, order.amount_nanos):
        raise Conflict("this order number belongs to another account, amount or currency")
    return str(known["status"])


async def mark_paid(connection: Connection, order: Order, *, payment: str = "") -> None:
    """Keep that the shop has the money for an order; duplicates change nothing.

    An order that was opened before keeps the credit it was opened with. Callbacks may come in any
    order: one that was never opened is opened here.

    Raises:
        Conflict: CLIENT; the order number is known with another account, amount or currency.
    """
    async with connection.transaction():
        await open_order(connection, order)
        await connection.execute(
            """UPDATE orders SET status = 'paid', paid_at = now(), payment = $2
            WHERE order_no = $1 AND status = 'pending'""",
            order.order_no,
            payment,
        )


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """An order as it was opened, and how it is paid."""

    order_no: str
    account_id: int
    account: str
    status: str
    currency: Currency
    amount_nanos: int
    provider: str
    checkout: str
    """The provider's own number of the payment page, "" = none was made yet."""
    checkout_url: str


async def find_order(connection: Connection, order_no: str, account_id: int | None = None) -> Known:
    """Return an order; of this account only, where one is given.

    Raises:
        NotFound: CLIENT; there is none of that number.
    """
    row = await connection.fetchrow(
        """SELECT order_no, account_id, accounts.name AS account, status, currency, amount_nanos,
            provider, checkout, checkout_url
        FROM orders JOIN accounts ON accounts.id = account_id
        WHERE order_no = $1 AND ($2::bigint IS NULL OR account_id = $2)""",
        order_no,
        account_id,
    )
    if row is None:
        raise NotFound("there is no such order")
    return msgspec.convert(dict(row), Known)


async def confirm_paid(connection: Connection, order_no: str, *, payment: str) -> None:
    """Keep that the money for a known order is there; a second time changes nothing."""
    await connection.execute(
        """UPDATE orders SET status = 'paid', paid_at = now(), payment = $2
        WHERE order_no = $1 AND status = 'pending'""",
        order_no,
        payment,
    )


async def keep_checkout(connection: Connection, order_no: str, checkout: str, url: str) -> None:
    """Keep where a pending order is paid: the first page that was made."""
    await connection.execute(
        """UPDATE orders SET checkout = $2, checkout_url = $3
        WHERE order_no = $1 AND checkout = '' AND status = 'pending'""",
        order_no,
        checkout,
        url,
    )


async def close_order(connection: Connection, order_no: str) -> bool:
    """Keep that a pending order will not be paid; return whether it was pending."""
    done = await connection.fetchval(
        """UPDATE orders SET closed_at = coalesce(closed_at, now())
        WHERE order_no = $1 AND status = 'pending' RETURNING true""",
        order_no,
    )
    return bool(done)


async def credit_order(connection: Connection, order_no: str) -> Recharged:
    """Credit a paid order, once: duplicates, at once or years later, change nothing.

    Raises:
        NotFound: CLIENT; there is no such order.
        Conflict: CLIENT; it is not paid.
    """
    async with connection.transaction():
        known = await connection.fetchrow(
            """SELECT account_id, paid_nanos, bonus_nanos, status, actor
            FROM orders WHERE order_no = $1 FOR UPDATE""",
            order_no,
        )
        if known is None:
            raise NotFound("there is no such order")
        if known["status"] == "pending":
            raise Conflict("this order is not paid")
        credit = Credit(known["paid_nanos"], known["bonus_nanos"])
        if known["status"] == "credited":
            return Recharged(fresh=False, credit=credit)
        await connection.execute(
            "UPDATE orders SET status = 'credited', credited_at = now() WHERE order_no = $1",
            order_no,
        )
        moved = {
            known["account_id"]: credit.paid_nanos + credit.bonus_nanos,
            CASH: -credit.paid_nanos,
            BONUS: -credit.bonus_nanos,
        }
        booked = await book(connection, "order", order_no, moved, actor=known["actor"])
        assert booked
    return Recharged(fresh=True, credit=credit)


async def recharge(connection: Connection, order: Order) -> Recharged:
    """Credit an order that is known to be paid, in one transaction; as `credit_order`.

    Raises:
        Conflict: CLIENT; the order number is known with another account, amount or currency.
    """
    async with connection.transaction():
        await mark_paid(connection, order)
        return await credit_order(connection, order.order_no)


async def list_uncredited(connection: Connection) -> list[tuple[str, int]]:
    """Return (order number, account) of paid orders not credited: somebody died in between."""
    rows = await connection.fetch(
        """SELECT order_no, account_id FROM orders
        WHERE status = 'paid' AND set_aside_at IS NULL ORDER BY paid_at LIMIT $1""",
        WAITING_PER_SWEEP,
    )
    return [(row["order_no"], row["account_id"]) for row in rows]


async def set_aside(connection: Connection, order_no: str, fault: str) -> None:
    """Leave a paid order that cannot be booked to an operator: others must not wait behind it."""
    await connection.execute(
        """UPDATE orders SET set_aside_at = now(), fault = $2
        WHERE order_no = $1 AND status = 'paid'""",
        order_no,
        fault,
    )


async def take_up(connection: Connection, order_no: str) -> int:
    """Have an order that was set aside tried again; return its account's id.

    Raises:
        NotFound: CLIENT; no order of this number was set aside.
    """
    account_id: int | None = await connection.fetchval(
        """UPDATE orders SET set_aside_at = NULL, fault = ''
        WHERE order_no = $1 AND set_aside_at IS NOT NULL RETURNING account_id""",
        order_no,
    )
    if account_id is None:
        raise NotFound("no order of this number was set aside")
    return account_id


async def list_orders(
    connection: Connection, account: str | None, status: str | None, limit: int
) -> list[Row]:
    """Return orders as rows, newest first."""
    return [
        {
            "order": row["order_no"],
            "account": row["account"],
            "status": row["status"],
            "amount": format_usd(row["amount_nanos"]),
            "currency": row["currency"],
            "paid_usd": format_usd(row["paid_nanos"]),
            "bonus_usd": format_usd(row["bonus_nanos"]),
            **{name: row[name] for name in ("payment", "actor", "created_at", "paid_at")},
            "credited_at": row["credited_at"],
            "set_aside_at": row["set_aside_at"],
            "fault": row["fault"],
        }
        for row in await connection.fetch(_LIST, account, status, limit)
    ]


async def issue_code(
    connection: Connection,
    digest: bytes,
    nanos: int,
    *,
    actor: str,
    expires_at: datetime | None = None,
) -> int:
    """Keep a redemption code, by its digest (32 bytes), worth `nanos` nano-USD; return its id."""
    code_id: int = await connection.fetchval(
        """INSERT INTO redemption_codes (digest, amount_nanos, actor, expires_at)
        VALUES ($1, $2, $3, $4) RETURNING id""",
        digest,
        nanos,
        actor,
        expires_at,
    )
    return code_id


async def redeem(connection: Connection, digest: bytes, account_id: int) -> int:
    """Credit a redemption code to an account; return its nano-USD. A code is good for one time.

    Raises:
        BadRequest: CLIENT; unknown, used or expired: which of them, a guesser is not told.
    """
    async with connection.transaction():
        nanos: int | None = await connection.fetchval(
            """UPDATE redemption_codes SET redeemed_at = now(), account_id = $2
            WHERE digest = $1 AND redeemed_at IS NULL AND coalesce(expires_at > now(), true)
            RETURNING amount_nanos""",
            digest,
            account_id,
        )
        if nanos is None:
            raise BadRequest("this code is unknown, used or expired")
        booked = await book(connection, "code", digest.hex(), {account_id: nanos, BONUS: -nanos})
        assert booked
    return nanos


async def sum_recharged_cny(connection: Connection, account_id: int) -> int:
    """Return all that an account recharged, in nano-CNY at each order's own rate."""
    nanos: int = await connection.fetchval(
        """SELECT coalesce(sum(CASE currency WHEN 'CNY' THEN amount_nanos
            ELSE round(amount_nanos::numeric * cny_per_usd_nanos / 1000000000) END), 0)::bigint
        FROM orders WHERE account_id = $1 AND status = 'credited'""",
        account_id,
    )
    return nanos
