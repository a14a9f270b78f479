"""A recharge as the configuration prices it: what commands, admin API and callbacks have in common.

account name, amount, currency --[billing]--> Order --> credited once --> perhaps an enterprise
"""

import uuid
from typing import Any, Final

from relay.billing.recharge import BonusTier, Currency, EnterpriseRule, credit_of
from relay.config import Billing
from relay.errors import BadRequest, NotFound
from relay.store.billing import ledger, orders
from relay.store.billing.orders import Order, Recharged
from relay.store.billing.promotions import Promotion, review_recharges
from relay.store.postgres import Connection
from relay.units import NANOS_PER_USD, format_usd, parse_multiplier, parse_usd

ORDER_NO_CHARS_MAX: Final = 128
AMOUNT_NANOS_MAX: Final = 10_000_000 * NANOS_PER_USD
"""Of one order, in its currency: a thousand of them still fit into a balance."""
WORDS_CHARS_MAX: Final = 1_000
"""Characters of a reason, an actor or a ticket."""

Row = dict[str, Any]


async def find_account(connection: Connection, name: str) -> int:
    """Return the id of an account.

    Raises:
        NotFound: CLIENT; there is none of that name.
    """
    account_id: int | None = await connection.fetchval(
        "SELECT id FROM accounts WHERE name = $1 AND deleted_at IS NULL", name
    )
    if account_id is None:
        raise NotFound(f"there is no account {name!r}")
    return account_id


async def compose_order(
    connection: Connection,
    billing: Billing,
    account: str,
    amount: tuple[str, Currency],
    *,
    order_no: str,
    actor: str,
) -> Order:
    """Return an order with the credit that today's rate and bonus give it.

    Raises:
        NotFound: CLIENT; there is no such account.
        BadRequest: CLIENT; the amount or the order number cannot be one.
    """
    if not 0 < len(order_no) <= ORDER_NO_CHARS_MAX or not order_no.isprintable():
        raise BadRequest(f"an order number has 1 to {ORDER_NO_CHARS_MAX} printable characters")
    if order_no != order_no.strip():
        raise BadRequest("an order number has no space at its ends")
    text, currency = amount
    amount_nanos = parse_positive(text)
    rate_nanos = parse_usd(billing.cny_per_usd)
    credit = credit_of(
        amount_nanos,
        currency,
        cny_per_usd_nanos=rate_nanos,
        tiers=[
            BonusTier(parse_usd(from_usd), parse_multiplier(share))
            for from_usd, share in billing.bonus.items()
        ],
    )
    if credit.paid_nanos <= 0:
        raise BadRequest("the amount is less than a billionth of a dollar")
    return Order(
        order_no=order_no,
        account_id=await find_account(connection, account),
        amount_nanos=amount_nanos,
        currency=currency,
        cny_per_usd_nanos=rate_nanos,
        credit=credit,
        actor=actor,
    )


async def recharge(
    connection: Connection, billing: Billing, order: Order
) -> tuple[Recharged, Promotion | None]:
    """Credit an order that is known to be paid, and promote its account where that earned it.

    Raises:
        Conflict: CLIENT; the order number is known with another account, amount or currency.
    """
    recharged = await orders.recharge(connection, order)
    return recharged, await review_recharges(
        connection, billing.enterprise_group, enterprise_rule(billing), order.account_id
    )


async def credit_paid(
    connection: Connection, billing: Billing, order_no: str, account_id: int
) -> tuple[Recharged, Promotion | None]:
    """Credit an order that was marked paid; otherwise as `recharge`.

    Raises:
        Conflict: CLIENT; it is not paid.
    """
    recharged = await orders.credit_order(connection, order_no)
    return recharged, await review_recharges(
        connection, billing.enterprise_group, enterprise_rule(billing), account_id
    )


async def credit_by_hand(
    connection: Connection, account: str, amount: str, *, actor: str, reason: str, ref: str = ""
) -> Row:
    """Credit (or debit, where negative) an account, with who and why; return what was booked.

    Args:
        connection: To the database of the ledger.
        account: Its name.
        amount: A decimal in USD, with its sign.
        actor: Who.
        reason: Why.
        ref: A ticket's number, booked once however often it is tried; "" = always.

    Raises:
        NotFound: CLIENT; there is no such account.
        BadRequest: CLIENT; no amount, nobody, or no reason.
    """
    try:
        nanos = parse_usd(amount)
    except ValueError as error:
        raise BadRequest(f"the amount is {error}") from None
    if not nanos:
        raise BadRequest("the amount must not be zero")
    for name, words in (("an actor", actor), ("a reason", reason)):
        if not words.strip() or len(words) > WORDS_CHARS_MAX:
            raise BadRequest(f"a manual credit needs {name} of 1 to {WORDS_CHARS_MAX} characters")
    ref = ref.strip() or f"manual-{uuid.uuid4()}"
    if len(ref) > WORDS_CHARS_MAX:
        raise BadRequest(f"a reference has at most {WORDS_CHARS_MAX} characters")
    account_id = await find_account(connection, account)
    booked = await ledger.credit(
        connection, account_id, nanos, ref=ref, actor=actor.strip(), reason=reason.strip()
    )
    return {"ref": ref, "booked": booked, "amount_usd": format_usd(nanos)}


def recharged_row(order_no: str, recharged: Recharged, promotion: Promotion | None) -> Row:
    """Return a recharge as commands and API show it."""
    return {
        "order": order_no,
        "credited": recharged.fresh,
        "paid_usd": format_usd(recharged.credit.paid_nanos),
        "bonus_usd": format_usd(recharged.credit.bonus_nanos),
        **({} if promotion is None else {"promoted_to": promotion.to_group}),
    }


def enterprise_rule(billing: Billing) -> EnterpriseRule:
    """Return what makes an account an enterprise here."""
    return EnterpriseRule(
        parse_usd(billing.enterprise_cny),
        parse_usd(billing.enterprise_day_usd),
        billing.enterprise_days,
    )


def parse_positive(text: str) -> int:
    """Return the billionths of a positive decimal.

    Raises:
        BadRequest: CLIENT; it is none.
    """
    try:
        nanos = parse_usd(text)
    except ValueError as error:
        raise BadRequest(f"the amount is {error}") from None
    if nanos <= 0:
        raise BadRequest("the amount must be positive")
    if nanos > AMOUNT_NANOS_MAX:
        raise BadRequest(f"the amount is more than {AMOUNT_NANOS_MAX // NANOS_PER_USD:,}")
    return nanos
