"""`relay recharge`, `relay balance`, `relay audit`: what an account has, and whether it is so."""

import contextlib
import getpass
from collections.abc import Sequence

import click

from relay.billing.recharge import BonusTier, Currency, credit_of
from relay.cli.output import json_option, print_fields, print_json
from relay.cli.root import EXIT_FAILED, location_options
from relay.cli.session import Session, with_database
from relay.config import Billing
from relay.errors import ConfigError, NotFound
from relay.store.audit import Audit, run_audit
from relay.store.ledger import read_balance
from relay.store.listings import list_accounts
from relay.store.orders import Order, Recharged
from relay.store.orders import recharge as credit_order
from relay.units import format_usd, parse_multiplier, parse_usd

Row = dict[str, object]


@click.command()
@location_options
@json_option
@click.option("--account", "name", required=True, help="Who is credited.")
@click.option("--amount", required=True, help="What was paid, such as 100.00.")
@click.option(
    "--currency",
    type=click.Choice([currency.value for currency in Currency]),
    default=Currency.USD.value,
    show_default=True,
)
@click.option("--order", "order_no", required=True, help="Its order number: it is credited once.")
@click.pass_context
def recharge(
    ctx: click.Context, *, name: str, amount: str, currency: str, order_no: str, as_json: bool
) -> None:
    """Credit a paid order to an account; doing it again changes nothing."""
    amount_nanos = _parse_amount(amount)
    if not order_no.strip():
        raise click.UsageError("--order must not be empty")

    async def work(on: Session) -> Row:
        account_id = await _find_account(on, name)
        billing = on.config.billing
        rate_nanos = _parse_rate(billing)
        order = Order(
            order_no=order_no,
            account_id=account_id,
            amount_nanos=amount_nanos,
            currency=Currency(currency),
            cny_per_usd_nanos=rate_nanos,
            credit=credit_of(
                amount_nanos,
                Currency(currency),
                cny_per_usd_nanos=rate_nanos,
                tiers=_parse_tiers(billing),
            ),
            actor=_name_operator(),
        )
        recharged = await credit_order(on.connection, order)
        return _recharged_row(order_no, recharged) | await _balance_row(on, name, account_id)

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

    async def work(on: Session) -> Row:
        return await _balance_row(on, name, await _find_account(on, name))

    print_fields(with_database(ctx, work), as_json=as_json)


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


def _recharged_row(order_no: str, recharged: Recharged) -> Row:
    return {
        "order": order_no,
        "credited": recharged.fresh,
        "paid_usd": format_usd(recharged.credit.paid_nanos),
        "bonus_usd": format_usd(recharged.credit.bonus_nanos),
    }


async def _balance_row(on: Session, name: str, account_id: int) -> Row:
    found = await read_balance(on.connection, account_id)
    return {
        "account": name,
        "balance_usd": format_usd(found.balance_nanos),
        "held_usd": format_usd(found.held_nanos),
        "credit_limit_usd": format_usd(found.credit_limit_nanos),
        "free_usd": format_usd(found.free_nanos),
    }


async def _find_account(on: Session, name: str) -> int:
    found = await list_accounts(on.connection, name)
    if not found:
        raise NotFound(f"there is no account {name!r}")
    account_id = found[0]["id"]
    assert isinstance(account_id, int)
    return account_id


def _parse_amount(text: str) -> int:
    try:
        nanos = parse_usd(text)
    except ValueError as error:
        raise click.UsageError(f"--amount: {error}") from None
    if nanos <= 0:
        raise click.UsageError("--amount must be positive")
    return nanos


def _parse_rate(billing: Billing) -> int:
    try:
        nanos = parse_usd(billing.cny_per_usd)
    except ValueError:
        nanos = 0
    if nanos <= 0:
        raise ConfigError("billing.cny_per_usd is not a positive decimal")
    return nanos


def _parse_tiers(billing: Billing) -> Sequence[BonusTier]:
    try:
        return [
            BonusTier(parse_usd(amount), parse_multiplier(share))
            for amount, share in billing.bonus.items()
        ]
    except ValueError as error:
        raise ConfigError(f"billing.bonus: {error}") from None


def _name_operator() -> str:
    """Return the login of whoever runs this: it is kept with the order."""
    with contextlib.suppress(OSError, KeyError):  # No such user: a container's bare uid.
        return getpass.getuser()
    return ""
