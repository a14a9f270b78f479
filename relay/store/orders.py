"""Recharges and redemption codes: money that comes in, each order and each code credited once."""

from datetime import datetime

import msgspec

from relay.billing.recharge import Credit, Currency
from relay.errors import BadRequest, Conflict
from relay.store.ledger import BONUS, CASH, book
from relay.store.postgres import Connection


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


class Recharged(msgspec.Struct, frozen=True):
    """How a recharge ended. `fresh`: credited by this very call, not by an earlier one."""

    fresh: bool
    credit: Credit


async def open_order(connection: Connection, order: Order) -> None:
    """Remember an order that is not paid yet; a second time, nothing happens."""
    await connection.execute(
        """INSERT INTO orders (order_no, account_id, currency, amount_nanos, cny_per_usd_nanos,
            paid_nanos, bonus_nanos, actor)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (order_no) DO NOTHING""",
        order.order_no,
        order.account_id,
        order.currency.value,
        order.amount_nanos,
        order.cny_per_usd_nanos,
        order.credit.paid_nanos,
        order.credit.bonus_nanos,
        order.actor,
    )


async def recharge(connection: Connection, order: Order) -> Recharged:
    """Credit a paid order, once: duplicates, at once or years later, change nothing.

    An order that was opened before keeps the credit it was opened with. Callbacks may come in any
    order: one that was never opened is opened here.

    Raises:
        Conflict: CLIENT; the order number is known with another account, amount or currency.
    """
    async with connection.transaction():
        await open_order(connection, order)
        known = await connection.fetchrow(
            """SELECT account_id, currency, amount_nanos, paid_nanos, bonus_nanos, status
            FROM orders WHERE order_no = $1 FOR UPDATE""",
            order.order_no,
        )
        assert known is not None
        same = (known["account_id"], known["currency"], known["amount_nanos"])
        if same != (order.account_id, order.currency.value, order.amount_nanos):
            raise Conflict("this order number belongs to another account, amount or currency")
        credit = Credit(known["paid_nanos"], known["bonus_nanos"])
        if known["status"] == "credited":
            return Recharged(fresh=False, credit=credit)
        await connection.execute(
            "UPDATE orders SET status = 'credited', credited_at = now() WHERE order_no = $1",
            order.order_no,
        )
        moved = {
            order.account_id: credit.paid_nanos + credit.bonus_nanos,
            CASH: -credit.paid_nanos,
            BONUS: -credit.bonus_nanos,
        }
        booked = await book(connection, "order", order.order_no, moved, actor=order.actor)
        assert booked
    return Recharged(fresh=True, credit=credit)


async def issue_code(
    connection: Connection,
    digest: bytes,
    nanos: int,
    *,
    actor: str,
    expires_at: datetime | None = None,
) -> None:
    """Keep a redemption code, by its digest (32 bytes), worth `nanos` nano-USD."""
    await connection.execute(
        """INSERT INTO redemption_codes (digest, amount_nanos, actor, expires_at)
        VALUES ($1, $2, $3, $4)""",
        digest,
        nanos,
        actor,
        expires_at,
    )


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
