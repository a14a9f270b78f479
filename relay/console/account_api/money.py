"""The money of an account: balance, ledger, orders, codes, prices."""

import contextlib
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from relay.billing.recharge import Currency
from relay.console import checkout_orders
from relay.console.queries import money as queries
from relay.console.queries import prices
from relay.console.queries.forms import MomentCursor, PageQuery, Text, decode_cursor
from relay.console.queries.money import Entries, LedgerCursor, Orders
from relay.console.queries.pictures import Picture, keep_picture
from relay.console.routes import Ask, Route
from relay.console.rows import BalanceRow, ChangeRow, OrderRow, PriceRow, StatementRow
from relay.console.signin import audit
from relay.console.signin.actor import Permit
from relay.errors import NotFound, Unavailable
from relay.store.billing import codes, orders, recharges
from relay.units import format_multiplier, format_usd

NOTE_CHARS_MAX: Final = 1_000

Amount = Annotated[str, Meta(min_length=1, max_length=40)]


class OrderRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A recharge that somebody wants to pay."""

    amount: Amount
    currency: Currency = Currency.USD
    provider: Literal["", "stripe"] = ""
    """stripe: the answer's checkout_url is where it is paid; "": as agreed with the operator."""


class RedeemRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A redemption code."""

    code: Annotated[str, Meta(min_length=1, max_length=256)]


class NoteRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What support is told of an order."""

    note: Annotated[str, Meta(min_length=1, max_length=NOTE_CHARS_MAX)]


class Redeemed(msgspec.Struct, frozen=True):
    """What a code was worth, and what there is now."""

    amount_usd: str
    balance: BalanceRow


class OrdersQuery(PageQuery, frozen=True, kw_only=True):
    """Orders in which state."""

    status: Literal["", "pending", "paid", "credited"] = ""


class PricesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models that have this in their name."""

    search: Text = ""


class Prices(msgspec.Struct, frozen=True):
    """Prices by model, and the group that an account buys by."""

    group: str
    group_multiplier: str
    prices: list[PriceRow]


class Changes(msgspec.Struct, frozen=True):
    """Prices that changed or will."""

    changes: list[ChangeRow]


class Statements(msgspec.Struct, frozen=True):
    """Months, newest first."""

    statements: list[StatementRow]


async def _balance(ask: Ask) -> BalanceRow:
    async with ask.services.connect() as connection:
        return await queries.show_balance(connection, ask.actor.own, ask.actor.account)


async def _ledger(ask: Ask) -> Entries:
    query: PageQuery = ask.query
    before = decode_cursor(query.cursor, LedgerCursor)
    async with ask.services.connect() as connection:
        return await queries.list_entries(connection, ask.actor.own, query.limit, before)


async def _orders(ask: Ask) -> Orders:
    query: OrdersQuery = ask.query
    async with ask.services.connect() as connection:
        return await queries.list_orders(
            connection,
            account_id=ask.actor.own,
            limit=query.limit,
            before=decode_cursor(query.cursor, MomentCursor),
            status=query.status,
        )


async def _statements(ask: Ask) -> Statements:
    async with ask.services.connect() as connection:
        return Statements(await queries.list_statements(connection, ask.actor.own))


async def open_order(ask: Ask, wanted: OrderRequest) -> OrderRow:
    """Open an order of the actor's account, and note it.

    Raises:
        BadRequest: CLIENT; the amount cannot be one.
    """
    actor = ask.actor
    number = queries.new_order_no(ask.services.now())
    async with ask.services.connect() as connection, connection.transaction():
        order = await recharges.compose_order(
            connection,
            ask.services.config.billing,
            actor.account,
            (wanted.amount, wanted.currency),
            order_no=number,
            actor=actor.label,
        )
        if wanted.provider:
            checkout_orders.check_order(ask.services, order)
        order = msgspec.structs.replace(order, provider=wanted.provider)
        await orders.open_order(connection, order)
        said = f"{wanted.amount} {wanted.currency} {wanted.provider}".strip()
        await audit.note(connection, actor, "order.open", number, said)
    if wanted.provider:
        with contextlib.suppress(Unavailable):  # the order stands, and its page is made later
            await checkout_orders.make_page(ask.services, number, actor.own)
    return await find_order(ask, number)


async def find_order(ask: Ask, number: str) -> OrderRow:
    """Return an order of the actor's account.

    Raises:
        NotFound: CLIENT; there is none of that number.
    """
    async with ask.services.connect() as connection:
        found = await queries.list_orders(
            connection, account_id=ask.actor.own, limit=1, search=number
        )
    if not found.orders or found.orders[0].order != number:
        raise NotFound("there is no such order")
    return found.orders[0]


async def check_order(ask: Ask, number: str) -> OrderRow:
    """Ask the provider how an order of the actor's account stands; what is paid is credited."""
    await checkout_orders.check(ask.services, number, ask.actor.own)
    return await find_order(ask, number)


async def note_order(ask: Ask, number: str, note: str, picture: Picture | None) -> None:
    """Keep what the holder of an order tells and shows support, and note it.

    Raises:
        NotFound: CLIENT; the account has no such order.
        Conflict: CLIENT; it is paid, so that a picture is no use.
    """
    async with ask.services.connect() as connection, connection.transaction():
        await queries.note_order(connection, ask.actor.own, number, note)
        if picture is not None:
            await keep_picture(connection, ask.actor.own, number, picture)
        await audit.note(connection, ask.actor, "order.note", number, note)


async def redeem(ask: Ask, code: str) -> Redeemed:
    """Credit a code to the actor's account, and note it. Guessing is throttled.

    Raises:
        BadRequest: CLIENT; unknown, used or expired.
        RateLimited: CLIENT; too many were wrong.
    """
    actor = ask.actor
    name = f"code of {actor.own}"
    ask.services.throttle.admit(name, actor.ip)
    async with ask.services.connect() as connection, connection.transaction():
        nanos = await codes.redeem_code(connection, ask.services.pepper, code, actor.own)
        await audit.note(connection, actor, "code.redeem", "", f"{format_usd(nanos)} USD")
        balance = await queries.show_balance(connection, actor.own, actor.account)
    ask.services.throttle.forgive(name, actor.ip)
    return Redeemed(format_usd(nanos), balance)


async def _open_order(ask: Ask) -> OrderRow:
    return await open_order(ask, ask.body)


async def _check_order(ask: Ask) -> OrderRow:
    return await check_order(ask, ask.part("order"))


async def _note_order(ask: Ask) -> OrderRow:
    wanted: NoteRequest = ask.body
    await note_order(ask, ask.part("order"), wanted.note, None)
    return await find_order(ask, ask.part("order"))


async def _redeem(ask: Ask) -> Redeemed:
    wanted: RedeemRequest = ask.body
    return await redeem(ask, wanted.code)


async def _prices(ask: Ask) -> Prices:
    query: PricesQuery = ask.query
    async with ask.services.connect() as connection:
        terms = await prices.read_terms(connection, ask.actor.own)
        rows = await prices.list_prices(connection, terms, query.search)
    multiplier = format_multiplier(terms.multiplier_ppm)
    return Prices(terms.group, multiplier, rows)


async def _changes(ask: Ask) -> Changes:
    async with ask.services.connect() as connection:
        terms = await prices.read_terms(connection, ask.actor.own)
        return Changes(await prices.list_changes(connection, terms, ask.actor.own))


def _get(path: str, work: Any, summary: str, **fields: Any) -> Route:
    path = f"/account/v1/{path}"
    return Route(method="GET", path=path, permit=Permit.LOOK, work=work, summary=summary, **fields)


def _post(path: str, work: Any, summary: str, **fields: Any) -> Route:
    path = f"/account/v1/{path}"
    return Route(
        method="POST", path=path, permit=Permit.MONEY, work=work, summary=summary, **fields
    )


ROUTES: Final = (
    _get("balance", _balance, "What there is, and what of it is held", answer=BalanceRow),
    _get(
        "ledger", _ledger, "Bookings with the balance after each", query=PageQuery, answer=Entries
    ),
    _get("orders", _orders, "Recharges and their state", query=OrdersQuery, answer=Orders),
    _post(
        "orders",
        _open_order,
        "Open an order, to be paid",
        body=OrderRequest,
        answer=OrderRow,
        status=201,
    ),
    _post(
        "orders/{order}/check",
        _check_order,
        "Ask the provider whether an order is paid; then it is credited",
        answer=OrderRow,
    ),
    _post(
        "orders/{order}/note",
        _note_order,
        "Tell support of an order",
        body=NoteRequest,
        answer=OrderRow,
    ),
    _get("statements", _statements, "Months that add up exactly", answer=Statements),
    _post("codes/redeem", _redeem, "Redeem a code, once", body=RedeemRequest, answer=Redeemed),
    _get(
        "prices",
        _prices,
        "What each model costs: official, and yours",
        query=PricesQuery,
        answer=Prices,
    ),
    _get("changes", _changes, "Prices that changed or will", answer=Changes),
)
