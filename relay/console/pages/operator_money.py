"""The operator's pages of money: orders and what is stuck, prices and what a change would do."""

from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from relay.console import checkout_orders
from relay.console.pages.billing import show_picture
from relay.console.pages.looking import kept
from relay.console.queries import money, pictures, prices
from relay.console.queries.forms import MomentCursor, decode_cursor, format_moment, parse_end
from relay.console.queries.prices import PUBLIC, Terms
from relay.console.routes import ID, Ask, Page, Redirect, Shown
from relay.console.signin import audit
from relay.console.signin.actor import Permit
from relay.console.views import (
    Notice,
    OperatorPricesView,
    OrdersView,
    PlannedPrice,
    PriceDraft,
    PricePreview,
)
from relay.errors import BadRequest, ConfigError, Conflict
from relay.model import Price
from relay.store.billing import orders, recharges
from relay.store.catalog import planned
from relay.store.catalog.sale.official import check_price
from relay.store.catalog.snapshot import PRICES, read_price
from relay.store.postgres import Connection
from relay.units import format_multiplier, format_usd, parse_multiplier, parse_usd

ROWS: Final = 100
STUCK_SHOWN: Final = 50
GROUPS_SHOWN: Final = 200
PREVIEW_DAYS: Final = 30
PREVIEW_ACCOUNTS: Final = 20

_USED: Final = """
    SELECT accounts.name, groups.name AS "group", multiplier_ppm,
        sum(requests)::bigint AS requests, sum(input_tokens)::bigint AS input_tokens,
        sum(cached_tokens)::bigint AS cached_tokens, sum(output_tokens)::bigint AS output_tokens,
        sum(cost_nanos)::bigint AS charged
    FROM usage_hours JOIN accounts ON accounts.id = account_id
    JOIN groups ON groups.id = group_id
    WHERE model = $1 AND hour > now() - make_interval(days => $2)
    GROUP BY 1, 2, 3"""
_ADD: Final = """
    INSERT INTO prices (model, input, output, cached_input, cache_write, per_call,
        model_multiplier_ppm, completion_multiplier_ppm, detail)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id"""


async def _show_orders(ask: Ask) -> OrdersView:
    search = ask.request.query.get("search", "")[:256].strip()
    status = ask.request.query.get("status", "")
    if status not in {"", "pending", "paid", "credited"}:
        raise BadRequest("status: pending, paid or credited", param="status")
    before = decode_cursor(ask.request.query.get("cursor", ""), MomentCursor)
    async with ask.services.connect() as connection:
        page = await money.list_orders(
            connection, account_id=None, limit=ROWS, before=before, status=status, search=search
        )
        stuck = await money.list_stuck(connection, None, STUCK_SHOWN)
    following = None
    if page.next is not None:
        following = "/orders?" + urlencode(kept(ask, cursor=page.next))
    return OrdersView(
        search=search, status=status, stuck=stuck, orders=page.orders, next_url=following
    )


async def _credit_order(ask: Ask) -> Redirect:
    """Credit an order whose money is there though nobody told us: once, with who and why."""
    number, reason = ask.part("order"), ask.text("reason", 1_000)
    if not reason:
        raise BadRequest("reason: say how you know that it is paid", param="reason")
    billing = ask.services.config.billing
    async with ask.services.connect() as connection, connection.transaction():
        known = await orders.find_order(connection, number)
        await orders.confirm_paid(connection, number, payment="")
        done, _ = await recharges.credit_paid(connection, billing, number, known.account_id)
        await audit.note(
            connection, ask.actor, "order.credit", number, reason, account_id=known.account_id
        )
    said = "is credited" if done.fresh else "had been credited before"
    return Redirect("/orders", Notice(kind="good", text=f"Order {number} {said}."))


async def _check_order(ask: Ask) -> Redirect:
    """Ask the provider how an order stands; what is paid is credited."""
    number = ask.part("order")
    page = await checkout_orders.check(ask.services, number, None)
    async with ask.services.connect() as connection:
        known = await orders.find_order(connection, number)
        await audit.note(
            connection, ask.actor, "order.check", number, known.status, account_id=known.account_id
        )
    if known.status == "credited":
        return Redirect("/orders", Notice(kind="good", text=f"Order {number} is credited."))
    told = "no page was made" if page is None else f"{page.status}, {page.payment_status}"
    return Redirect("/orders", Notice(kind="warn", text=f"Stripe says of {number}: {told}."))


async def _close_order(ask: Ask) -> Redirect:
    """Take an order out of the queue; money that comes after all is credited all the same."""
    number = ask.part("order")
    async with ask.services.connect() as connection, connection.transaction():
        known = await orders.find_order(connection, number)
        if not await orders.close_order(connection, number):
            raise Conflict("this order is paid")
        await audit.note(connection, ask.actor, "order.close", number, account_id=known.account_id)
    return Redirect("/orders", Notice(kind="good", text=f"Order {number} waits no longer."))


async def _send_picture(ask: Ask) -> web.Response:
    async with ask.services.connect() as connection:
        return show_picture(await pictures.find_picture(connection, ask.part("order")))


async def _show_prices(ask: Ask) -> Shown:
    return await _draw_prices(ask, None, None)


async def _draw_prices(ask: Ask, draft: PriceDraft | None, preview: PricePreview | None) -> Shown:
    search = ask.request.query.get("search", "")[:256].strip()
    async with ask.services.connect() as connection:
        groups = await connection.fetch(
            """SELECT name, multiplier_ppm FROM groups WHERE deleted_at IS NULL
            ORDER BY name LIMIT $1""",
            GROUPS_SHOWN,
        )
        return Shown(
            OperatorPricesView(
                search=search,
                prices=await prices.list_prices(connection, PUBLIC, search),
                groups=[(row["name"], format_multiplier(row["multiplier_ppm"])) for row in groups],
                draft=draft,
                preview=preview,
                planned=[_to_planned(plan) for plan in await planned.list_plans(connection)],
                changes=await prices.list_changes(connection, PUBLIC, None),
            )
        )


def _to_planned(plan: planned.Plan) -> PlannedPrice:
    return PlannedPrice(
        id=plan.id,
        model=plan.price.model,
        time=format_moment(plan.effective_at),
        actor=plan.actor,
        input_usd=format_usd(plan.price.input),
        output_usd=format_usd(plan.price.output),
        model_multiplier=format_multiplier(plan.price.model_multiplier_ppm),
    )


async def _preview(ask: Ask) -> Shown:
    draft, price = _read_draft(ask)
    async with ask.services.connect() as connection:
        await _check_ceiling(connection, price, ask.services.config.billing.official_max)
        preview = await _compare(connection, draft, price)
    return await _draw_prices(ask, draft, preview)


async def _set_price(ask: Ask) -> Redirect | Shown:
    draft, price = _read_draft(ask)
    if not ask.text("confirmed"):
        return await _preview(ask)
    effective_at = parse_end(draft.effective, ask.services.now())
    ceiling = ask.services.config.billing.official_max
    async with ask.services.connect() as connection, connection.transaction():
        before = await _find_price(connection, price.model)
        was = "none" if before is None else _say(before)
        said = f"from {was} to {_say(price)}"
        await _check_ceiling(connection, price, ceiling)
        if effective_at is None:
            await _put_into_force(connection, price, before)
            await audit.note(connection, ask.actor, "price.set", price.model, said)
            text = f"The price of {draft.model} holds for calls from now on."
        else:
            await planned.plan_price(connection, price, effective_at, actor=ask.actor.label)
            when = f"{effective_at:%Y-%m-%d %H:%M} UTC"
            await audit.note(connection, ask.actor, "price.plan", price.model, f"at {when} {said}")
            text = f"The price of {draft.model} will hold from {when} on; it is announced."
    return Redirect("/prices", Notice(kind="good", text=text))


async def _check_ceiling(connection: Connection, price: Price, ceiling: str) -> None:
    """Refuse a price that is dearer than the configuration allows, now or from a moment on.

    Raises:
        BadRequest: CLIENT; it is.
    """
    try:
        await check_price(connection, price, ceiling)
    except ConfigError as error:
        raise BadRequest(error.message) from None


async def _put_into_force(connection: Connection, price: Price, before: Price | None) -> None:
    detail: str | None = await connection.fetchval(
        "SELECT detail FROM prices WHERE id = $1", 0 if before is None else before.id
    )
    await connection.fetchval(
        _ADD,
        *(price.model, price.input, price.output, price.cached_input, price.cache_write),
        *(price.per_call, price.model_multiplier_ppm, price.completion_multiplier_ppm, detail),
    )


async def _cancel_plan(ask: Ask) -> Redirect:
    async with ask.services.connect() as connection, connection.transaction():
        model = await planned.cancel_plan(connection, ask.number("id"))
        await audit.note(connection, ask.actor, "price.cancel", model)
    return Redirect("/prices", Notice(kind="good", text=f"The price of {model} stays."))


async def _find_price(connection: Connection, model: str) -> Price | None:
    rows = await connection.fetch(PRICES)
    return next((read_price(row) for row in rows if row["model"] == model), None)


async def _compare(connection: Connection, draft: PriceDraft, price: Price) -> PricePreview:
    """Return what the last 30 days were charged, and what they would have been."""
    rows = []
    for used in await connection.fetch(_USED, price.model, PREVIEW_DAYS):
        would = prices.estimate(used, price, Terms(used["group"], used["multiplier_ppm"]))
        rows.append((used["name"], used["charged"], would, used["requests"]))
    rows.sort(key=lambda row: -abs(row[2] - row[1]))
    return PricePreview(
        draft=draft,
        requests=sum(row[3] for row in rows),
        charged_usd=format_usd(sum(row[1] for row in rows)),
        would_be_usd=format_usd(sum(row[2] for row in rows)),
        accounts=[
            (name, format_usd(charged), format_usd(would))
            for name, charged, would, _ in rows[:PREVIEW_ACCOUNTS]
        ],
    )


def _read_draft(ask: Ask) -> tuple[PriceDraft, Price]:
    """Return a price as it was typed, and as it would be.

    Raises:
        BadRequest: CLIENT; no model, or an amount that is none.
    """
    draft = PriceDraft(**{name: ask.text(name) for name in PriceDraft.__struct_fields__})
    parse_end(draft.effective, ask.services.now())
    if not draft.model:
        raise BadRequest("model: which?", param="model")
    completion = draft.completion_multiplier
    try:
        price = Price(
            id=0,
            model=draft.model,
            input=_amount(draft.input_usd),
            output=_amount(draft.output_usd),
            cached_input=_amount(draft.cached_input_usd or draft.input_usd),
            cache_write=_amount(draft.cache_write_usd or "0"),
            per_call=_amount(draft.per_call_usd or "0"),
            model_multiplier_ppm=parse_multiplier(draft.model_multiplier or "1"),
            completion_multiplier_ppm=parse_multiplier(completion) if completion else None,
        )
    except ValueError as error:
        raise BadRequest(str(error)) from None
    return draft, price


def _amount(text: str) -> int:
    nanos = parse_usd(text or "0")
    if nanos < 0:
        raise ValueError("a price is not negative")
    return nanos


def _say(price: Price) -> str:
    completion = price.completion_multiplier_ppm
    return (
        f"input {format_usd(price.input)}, cached {format_usd(price.cached_input)}, "
        f"output {format_usd(price.output)}, x {format_multiplier(price.model_multiplier_ppm)}"
        + ("" if completion is None else f", completion x {format_multiplier(completion)}")
    )


def _page(method: str, path: str, work: Any) -> Page:
    return Page(method=method, path=path, permit=Permit.OPERATE, work=work)


PAGES: Final = (
    _page("GET", "/orders", _show_orders),
    _page("GET", "/orders/{order}/picture", _send_picture),
    _page("POST", "/orders/{order}/credit", _credit_order),
    _page("POST", "/orders/{order}/check", _check_order),
    _page("POST", "/orders/{order}/close", _close_order),
    _page("GET", "/prices", _show_prices),
    _page("POST", "/prices/preview", _preview),
    _page("POST", "/prices", _set_price),
    _page("POST", f"/prices/planned/{ID}/cancel", _cancel_plan),
)
