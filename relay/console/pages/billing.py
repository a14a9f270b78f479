"""Billing: what there is, what was booked, orders and what to do about them, codes, statements."""

import csv
import io
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from relay.billing.recharge import Currency
from relay.console import checkout_orders
from relay.console.account_api import money as api
from relay.console.account_api import people
from relay.console.account_api.money import OrderRequest
from relay.console.pages.looking import as_curl, kept
from relay.console.queries import money, pictures
from relay.console.queries.forms import decode_cursor
from relay.console.queries.money import LedgerCursor
from relay.console.queries.pictures import Picture
from relay.console.routes import BODY_BYTES_MAX, Ask, Page, Redirect, Shown
from relay.console.rows import BonusRow, StatementRow
from relay.console.signin.actor import Permit
from relay.console.views import BillingView, Notice
from relay.errors import BadRequest, NotFound
from relay.store.billing.orders import sum_recharged_cny
from relay.store.postgres import Connection
from relay.units import format_usd

ENTRIES_SHOWN: Final = 50
ORDERS_SHOWN: Final = 20


async def _show_billing(ask: Ask) -> Shown:
    before = decode_cursor(ask.request.query.get("cursor", ""), LedgerCursor)
    async with ask.services.connect() as connection:
        view = await _draw(ask, connection, before)
    return Shown(view, as_curl(ask, "/account/v1/ledger"))


async def _draw(ask: Ask, connection: Connection, before: LedgerCursor | None) -> BillingView:
    account_id, billing = ask.actor.own, ask.services.config.billing
    page = await money.list_entries(connection, account_id, ENTRIES_SHOWN, before)
    following = None
    if page.next is not None:
        following = "/billing?" + urlencode(kept(ask, cursor=page.next))
    orders = await money.list_orders(connection, account_id=account_id, limit=ORDERS_SHOWN)
    alert: int | None = await connection.fetchval(
        "SELECT low_balance_nanos FROM accounts WHERE id = $1", account_id
    )
    group: str = await connection.fetchval(
        "SELECT groups.name FROM accounts JOIN groups ON groups.id = group_id"
        " WHERE accounts.id = $1",
        account_id,
    )
    to_earn = bool(billing.enterprise_group) and group != billing.enterprise_group
    return BillingView(
        balance=await money.show_balance(connection, account_id, ask.actor.account),
        low_balance_alert_usd=None if alert is None else format_usd(alert),
        entries=page.entries,
        next_url=following,
        orders=orders.orders,
        bonus=[BonusRow(from_usd=usd, share=share) for usd, share in billing.bonus.items()],
        currencies=[one.value for one in Currency],
        cny_per_usd=billing.cny_per_usd,
        providers=["stripe", ""] if ask.services.stripe is not None else [""],
        enterprise_cny=billing.enterprise_cny if to_earn else None,
        recharged_cny=format_usd(await sum_recharged_cny(connection, account_id)),
        statements=await money.list_statements(connection, account_id),
    )


async def _open_order(ask: Ask) -> Redirect:
    body = {
        "amount": ask.text("amount", 40),
        "currency": ask.text("currency", 8) or "USD",
        "provider": ask.text("provider", 16),
    }
    try:
        wanted = msgspec.convert(body, OrderRequest)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None
    order = await api.open_order(ask, wanted)
    if order.provider:
        text = f"Order {order.order} is open: pay it at Stripe, then it is credited by itself."
    else:
        text = f"Order {order.order} is open: name it with your payment of {order.amount} "
        text += f"{order.currency}."
    return Redirect("/billing", Notice(kind="good", text=text))


async def _pay_order(ask: Ask) -> Redirect:
    """Make the page of an order that has none: Stripe did not answer when it was opened."""
    number = ask.part("order")
    await checkout_orders.make_page(ask.services, number, ask.actor.own)
    text = f"Order {number} can be paid now: follow its link."
    return Redirect("/billing", Notice(kind="good", text=text))


async def _check_order(ask: Ask) -> Redirect:
    order = await api.check_order(ask, ask.part("order"))
    if order.status == "credited":
        notice = Notice(kind="good", text=f"Order {order.order} is paid and credited.")
    else:
        notice = Notice(kind="warn", text=f"Stripe has no payment for order {order.order} yet.")
    return Redirect("/billing", notice)


async def _note_order(ask: Ask) -> Redirect:
    body = ask.files.get("picture")
    picture = None if body is None else pictures.read_picture(body)
    await api.note_order(ask, ask.part("order"), ask.text("note", api.NOTE_CHARS_MAX), picture)
    return Redirect("/billing", Notice(kind="good", text="Support sees your note."))


async def _send_picture(ask: Ask) -> web.Response:
    async with ask.services.connect() as connection:
        found = await pictures.find_picture(connection, ask.part("order"), account_id=ask.actor.own)
    return show_picture(found)


def show_picture(picture: Picture) -> web.Response:
    """Return a picture as an answer; a document is kept by the browser, not shown as a page."""
    headers = {}
    if not picture.content_type.startswith("image/"):
        headers["Content-Disposition"] = 'attachment; filename="receipt.pdf"'
    return web.Response(body=picture.body, content_type=picture.content_type, headers=headers)


async def _redeem(ask: Ask) -> Redirect:
    found = await api.redeem(ask, ask.text("code"))
    text = f"{found.amount_usd} USD were credited."
    return Redirect("/billing", Notice(kind="good", text=text))


async def _set_alert(ask: Ask) -> Redirect:
    await people.set_alert(ask, ask.text("low_balance_usd", 40) or None)
    return Redirect("/billing", Notice(kind="good", text="The alert is set."))


async def _send_statement(ask: Ask) -> web.Response:
    async with ask.services.connect() as connection:
        months = await money.list_statements(connection, ask.actor.own, months=1_200)
    for row in months:
        if row.month == ask.part("month"):
            return _to_csv(row)
    raise NotFound("nothing was booked in that month")


def _to_csv(row: StatementRow) -> web.Response:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(StatementRow.__struct_fields__)
    writer.writerow(msgspec.structs.astuple(row))
    name = f'attachment; filename="statement-{row.month}.csv"'
    return web.Response(
        text=out.getvalue(), content_type="text/csv", headers={"Content-Disposition": name}
    )


def _post(path: str, work: Any) -> Page:
    return Page(method="POST", path=path, permit=Permit.MONEY, work=work)


PAGES: Final = (
    Page(method="GET", path="/billing", permit=Permit.LOOK, work=_show_billing),
    Page(
        method="GET",
        path=r"/billing/statements/{month:\d{4}-\d{2}}.csv",
        permit=Permit.LOOK,
        work=_send_statement,
    ),
    _post("/billing/orders", _open_order),
    Page(
        method="POST",
        path="/billing/orders/{order}/note",
        permit=Permit.MONEY,
        work=_note_order,
        form_bytes_max=pictures.BYTES_MAX + BODY_BYTES_MAX,
    ),
    Page(
        method="GET",
        path="/billing/orders/{order}/picture",
        permit=Permit.LOOK,
        work=_send_picture,
    ),
    _post("/billing/orders/{order}/pay", _pay_order),
    _post("/billing/orders/{order}/check", _check_order),
    _post("/billing/redeem", _redeem),
    _post("/billing/alert", _set_alert),
)
