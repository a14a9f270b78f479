"""`relay order`: recharges on their way, from opened to credited."""

import click

from relay.billing.recharge import Currency
from relay.cli.money import ROWS_MAX, actor_option, name_operator, parse_amount
from relay.cli.output import json_option, print_fields, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.store import recharging
from relay.store.orders import Row, list_orders, open_order

ORDER_COLUMNS = (
    *("created_at", "order", "account", "status", "amount", "currency", "paid_usd", "bonus_usd"),
    *("paid_at", "credited_at", "payment"),
)


@click.group()
def order() -> None:
    """Open and list orders."""


@order.command("open")
@location_options
@json_option
@click.option("--account", "name", required=True, help="Who is credited once it is paid.")
@click.option("--amount", required=True, help="What will be paid, such as 100.00.")
@click.option(
    "--currency",
    type=click.Choice([currency.value for currency in Currency]),
    default=Currency.USD.value,
    show_default=True,
)
@click.option("--order", "order_no", required=True, help="Its number at the shop.")
@actor_option
@click.pass_context
def open_command(  # noqa: PLR0913 - its options
    ctx: click.Context,
    *,
    name: str,
    amount: str,
    currency: str,
    order_no: str,
    actor: str,
    as_json: bool,
) -> None:
    """Remember an order that is to be paid, at today's rate and bonus."""
    parse_amount(amount)

    async def work(on: Session) -> Row:
        wanted = await recharging.compose_order(
            on.connection,
            on.config.billing,
            name,
            (amount, Currency(currency)),
            order_no=order_no,
            actor=name_operator(actor),
        )
        return {"order": order_no, "status": await open_order(on.connection, wanted)}

    print_fields(with_database(ctx, work), as_json=as_json)


@order.command("list")
@location_options
@json_option
@click.option("--account", "name", help="Only this account's.")
@click.option("--status", type=click.Choice(["pending", "paid", "credited"]))
@click.option("--limit", type=click.IntRange(1, ROWS_MAX), default=100, show_default=True)
@click.pass_context
def list_command(
    ctx: click.Context, *, name: str | None, status: str | None, limit: int, as_json: bool
) -> None:
    """Show orders, newest first."""
    rows = with_database(ctx, lambda on: list_orders(on.connection, name, status, limit))
    print_rows(rows, ORDER_COLUMNS, as_json=as_json)
