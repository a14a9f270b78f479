"""`relay order`: recharges on their way, from opened to credited."""

import click

from relay.cli.customers.money import ROWS_MAX, compose_order, order_options, parse_amount
from relay.cli.numbers import WholeNumber
from relay.cli.output import json_option, print_fields, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.store.billing.orders import Row, list_orders, open_order, take_up
from relay.store.billing.recharges import credit_paid

ORDER_COLUMNS = (
    *("created_at", "order", "account", "status", "amount", "currency", "paid_usd", "bonus_usd"),
    *("paid_at", "credited_at", "payment", "fault"),
)


@click.group()
def order() -> None:
    """Open and list orders."""


@order.command("open")
@location_options
@json_option
@order_options
@click.pass_context
def open_command(ctx: click.Context, /, *, as_json: bool, **wanted: str) -> None:
    """Remember an order that is to be paid, at today's rate and bonus."""
    parse_amount(wanted["amount"])

    async def work(on: Session) -> Row:
        status = await open_order(on.connection, await compose_order(on, **wanted))
        return {"order": wanted["order_no"], "status": status}

    print_fields(with_database(ctx, work), as_json=as_json)


@order.command("retry")
@location_options
@json_option
@click.argument("order_no", metavar="ORDER")
@click.pass_context
def retry_command(ctx: click.Context, /, *, order_no: str, as_json: bool) -> None:
    """Credit a paid order that was set aside, once what was wrong with it is mended."""

    async def work(on: Session) -> Row:
        async with on.connection.transaction():
            account_id = await take_up(on.connection, order_no)
            billing = on.config.billing
            found, _ = await credit_paid(on.connection, billing, order_no, account_id)
        return {"order": order_no, "status": "credited", "fresh": found.fresh}

    print_fields(with_database(ctx, work), as_json=as_json)


@order.command("list")
@location_options
@json_option
@click.option("--account", "name", help="Only this account's.")
@click.option("--status", type=click.Choice(["pending", "paid", "credited"]))
@click.option("--limit", type=WholeNumber(1, ROWS_MAX), default=100, show_default=True)
@click.pass_context
def list_command(
    ctx: click.Context, *, name: str | None, status: str | None, limit: int, as_json: bool
) -> None:
    """Show orders, newest first."""
    rows = with_database(ctx, lambda on: list_orders(on.connection, name, status, limit))
    print_rows(rows, ORDER_COLUMNS, as_json=as_json)
