"""`relay code`: redemption codes, made, listed, redeemed."""

import datetime
import sys

import click

from relay.cli.customers.keys import parse_expiry
from relay.cli.customers.money import ROWS_MAX, actor_option, name_operator, parse_amount
from relay.cli.numbers import WholeNumber
from relay.cli.output import json_option, print_fields, print_json, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.store.billing.codes import CODES_MAX, Row, create_codes, list_codes, redeem_code
from relay.store.billing.recharges import find_account
from relay.store.billing.statements import show_balance
from relay.units import format_usd

CODE_COLUMNS = ("id", "amount_usd", "created_at", "expires_at", "redeemed_at", "account", "actor")


@click.group()
def code() -> None:
    """Create, list and redeem redemption codes."""


@code.command()
@location_options
@json_option
@click.option("--amount", required=True, metavar="USD", help="What each is worth.")
@click.option("--count", type=WholeNumber(1, CODES_MAX), default=1, show_default=True)
@click.option("--expires", metavar="30d|ISO", help="Until when they can be redeemed.")
@actor_option
@click.pass_context
def create(
    ctx: click.Context, *, amount: str, count: int, expires: str | None, actor: str, as_json: bool
) -> None:
    """Make codes. They are shown once, now; only their digests are stored."""
    nanos = parse_amount(amount)
    expires_at = None
    if expires is not None:
        try:
            expires_at = parse_expiry(expires, datetime.datetime.now(datetime.UTC))
        except ValueError as error:
            raise click.UsageError(f"--expires: {error}") from None
    made = with_database(
        ctx,
        lambda on: create_codes(
            on.connection,
            on.load_pepper(),
            nanos,
            count,
            actor=name_operator(actor),
            expires_at=expires_at,
        ),
    )
    rows = [
        {"id": one.id, "code": one.code.reveal(), "amount_usd": format_usd(nanos)} for one in made
    ]
    if as_json:
        print_json(rows)
        return
    click.echo(f"{count} codes of {format_usd(nanos)} USD; they are shown this once:", err=True)
    for row in rows:
        click.echo(row["code"])


@code.command()
@location_options
@json_option
@click.option("--account", "name", required=True)
@click.argument("given", metavar="[CODE]", required=False)
@click.pass_context
def redeem(ctx: click.Context, *, name: str, given: str | None, as_json: bool) -> None:
    """Credit a code to an account; without CODE it is read from stdin, out of shell histories."""
    given = given or sys.stdin.readline().strip()
    if not given:
        raise click.UsageError("give a code, as an argument or on stdin")

    async def work(on: Session) -> Row:
        account_id = await find_account(on.connection, name)
        nanos = await redeem_code(on.connection, on.load_pepper(), given, account_id)
        return {"amount_usd": format_usd(nanos), **await show_balance(on.connection, name)}

    print_fields(with_database(ctx, work), as_json=as_json)


@code.command("list")
@location_options
@json_option
@click.option("--limit", type=WholeNumber(1, ROWS_MAX), default=100, show_default=True)
@click.pass_context
def list_command(ctx: click.Context, *, limit: int, as_json: bool) -> None:
    """Show codes, newest first (never the codes themselves)."""
    rows = with_database(ctx, lambda on: list_codes(on.connection, limit))
    print_rows(rows, CODE_COLUMNS, as_json=as_json)
