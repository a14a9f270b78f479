"""`relay recharge`, `credit`, `balance`, `ledger`, `audit`: what an account has, and why."""

import contextlib
import getpass
from collections.abc import Callable
from typing import Any, TypeVar

import click

from relay.billing.recharge import Currency
from relay.cli.numbers import WholeNumber
from relay.cli.output import json_option, print_fields, print_json, print_rows
from relay.cli.root import EXIT_FAILED, location_options
from relay.cli.session import Session, with_database
from relay.store.billing import recharges
from relay.store.billing.audit import Audit, run_audit
from relay.store.billing.orders import Order
from relay.store.billing.recharges import find_account, recharged_row
from relay.store.billing.statements import Row, list_entries, show_balance
from relay.units import format_usd, parse_usd

ENTRY_COLUMNS = ("time", "kind", "amount_usd", "balance_usd", "ref", "actor", "reason")
ENTRIES_SHOWN = 100
ROWS_MAX = 100_000

_Command = TypeVar("_Command", bound=Callable[..., Any])

actor_option = click.option(
    "--actor", default="", metavar="NAME", help="Who does it; default: the user that runs this."
)
"""The option of every command that moves money by hand: its value is kept with the transfer."""


def order_options(command: _Command) -> _Command:
    """Add the options that say who pays what, under which number, and who says so."""
    currencies = click.Choice([currency.value for currency in Currency])
    options = (
        click.option("--account", "name", required=True, help="Who is credited."),
        click.option("--amount", required=True, help="What is paid, such as 100.00."),
        click.option("--currency", type=currencies, default=Currency.USD.value, show_default=True),
        click.option("--order", "order_no", required=True, help="Its number: credited once."),
        actor_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


async def compose_order(
    on: Session, *, name: str, amount: str, currency: str, order_no: str, actor: str
) -> Order:
    """Return the order that `order_options` tell of, at today's rate and bonus."""
    return await recharges.compose_order(
        on.connection,
        on.config.billing,
        name,
        (amount, Currency(currency)),
        order_no=order_no,
        actor=name_operator(actor),
    )


@click.command()
@location_options
@json_option
@order_options
@click.pass_context
def recharge(ctx: click.Context, /, *, as_json: bool, **wanted: str) -> None:
    """Credit a paid order to an account; doing it again changes nothing."""
    parse_amount(wanted["amount"])
    order_no, name = wanted["order_no"], wanted["name"]
    if not order_no.strip():
        raise click.UsageError("--order must not be empty")

    async def work(on: Session) -> Row:
        order = await compose_order(on, **wanted)
        recharged, promotion = await recharges.recharge(on.connection, on.config.billing, order)
        row = recharged_row(order_no, recharged, promotion)
        return row | await show_balance(on.connection, name)

    row = with_database(ctx, work)
    if not row["credited"] and not as_json:
        click.echo("this order had been credited before; nothing was changed", err=True)
    print_fields(row, as_json=as_json)


@click.command()
@location_options
@json_option
@click.option("--account", "name", required=True)
@click.pass_context
def balance(ctx: click.Context, *, name: str, as_json: bool) -> None:
    """Show what an account has, what of it is held, and how far below zero it may go."""
    row = with_database(ctx, lambda on: show_balance(on.connection, name))
    print_fields(row, as_json=as_json)


@click.command()
@location_options
@json_option
@click.option("--account", "name", required=True)
@click.option("--amount", required=True, metavar="USD", help="Such as 5.00, or -5.00 to debit.")
@click.option("--reason", required=True, help="Why: it stands in the ledger for good.")
@click.option("--ref", default="", help="A ticket's number; the same one is booked once.")
@actor_option
@click.pass_context
def credit(  # noqa: PLR0913 - its options
    ctx: click.Context,
    *,
    name: str,
    amount: str,
    reason: str,
    ref: str,
    actor: str,
    as_json: bool,
) -> None:
    """Credit (or debit) an account by hand."""
    if not _parse_signed(amount):
        raise click.UsageError("--amount must not be zero")
    if not reason.strip():
        raise click.UsageError("--reason must not be empty")
    who = name_operator(actor)
    if not who:
        raise click.UsageError("nobody knows who you are: give --actor")

    async def work(on: Session) -> Row:
        row = await recharges.credit_by_hand(
            on.connection, name, amount, actor=who, reason=reason, ref=ref
        )
        return row | await show_balance(on.connection, name)

    row = with_database(ctx, work)
    if not row["booked"] and not as_json:
        click.echo("this reference had been booked before; nothing was changed", err=True)
    print_fields(row, as_json=as_json)


@click.group()
def ledger() -> None:
    """Show what was booked."""


@ledger.command("list")
@location_options
@json_option
@click.option("--account", "name", required=True)
@click.option(
    "--limit",
    type=WholeNumber(1, ROWS_MAX),
    default=ENTRIES_SHOWN,
    show_default=True,
    help="At most so many.",
)
@click.pass_context
def list_ledger(ctx: click.Context, *, name: str, limit: int, as_json: bool) -> None:
    """Show an account's entries, newest first, and the balance after each."""

    async def work(on: Session) -> list[Row]:
        return await list_entries(on.connection, await find_account(on.connection, name), limit)

    print_rows(with_database(ctx, work), ENTRY_COLUMNS, as_json=as_json)


@click.command()
@location_options
@json_option
@click.pass_context
def audit(ctx: click.Context, *, as_json: bool) -> None:
    """Recompute every balance and every charge; exit 1 where anything differs."""
    found = with_database(ctx, lambda on: run_audit(on.connection))
    if as_json:
        print_json(found)
    else:
        _print_audit(found)
    if found.drifts:
        ctx.exit(EXIT_FAILED)


def _print_audit(found: Audit) -> None:
    checked = f"{found.accounts} accounts, {found.transfers} transfers, {found.charges} charges"
    click.echo(f"{checked}: {'DRIFT' if found.drifts else 'no drift'}")
    for drift in found.drifts:
        expected, actual = format_usd(drift.expected_nanos), format_usd(drift.found_nanos)
        click.echo(f"{drift.what}: {drift.subject}: ${expected} expected, ${actual} found")


def parse_amount(text: str, option: str = "--amount") -> int:
    """Return the billionths of what an option says.

    Raises:
        UsageError: Not a positive decimal.
    """
    nanos = _parse_signed(text, option)
    if nanos <= 0:
        raise click.UsageError(f"{option} must be positive")
    return nanos


def name_operator(actor: str) -> str:
    """Return --actor, or the login of whoever runs this: it is kept with what is booked."""
    if actor.strip():
        return actor.strip()
    with contextlib.suppress(OSError, KeyError):  # No such user: a container's bare uid.
        return getpass.getuser()
    return ""


def _parse_signed(text: str, option: str = "--amount") -> int:
    try:
        return parse_usd(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
