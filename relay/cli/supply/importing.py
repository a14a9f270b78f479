"""`relay import`: another relay's channels, groups, prices, accounts and keys taken over."""

import datetime
from pathlib import Path
from typing import Any

import click

from relay.cli.customers.money import actor_option, name_operator
from relay.cli.notes import tell_unpriced
from relay.cli.output import json_option
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.cli.supply.catalog import apply_on, print_changes
from relay.store.billing import recharges
from relay.store.catalog.apply import resolve_credentials
from relay.store.catalog.declaration import check_upstreams
from relay.store.catalog.new_api import Converted, convert
from relay.store.catalog.new_api_rows import read_tables
from relay.store.catalog.plan import CatalogChange
from relay.store.catalog.sale.coverage import list_unpriced
from relay.store.migrate import migrate

_LINE_CHARS_MAX = 500
REASON = "taken over from new-api"


@click.group("import")
def import_group() -> None:
    """Take over what another relay has."""


@import_group.command("new-api")
@location_options
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show the changes and what is left out; make none.")
@click.option("--balances", is_flag=True, help="Credit what users have there; each once.")
@actor_option
@json_option
@click.pass_context
def new_api(
    ctx: click.Context, file: Path, *, dry_run: bool, balances: bool, actor: str, as_json: bool
) -> None:
    """Take over a new-api or one-api: its SQLite FILE, or JSON of its tables.

    Channels with their keys, groups with their ratios as lines and groups, users as accounts,
    tokens as keys that go on working, prices where its options state them. What cannot be kept as
    it is there is left out, and said.
    """
    taken = convert(read_tables(file), datetime.datetime.now(datetime.UTC))
    who = name_operator(actor)
    if balances and not who:
        raise click.UsageError("nobody knows who you are: give --actor")

    async def work(on: Session) -> tuple[list[CatalogChange], int, list[str]]:
        check_upstreams(taken.declared, plain_upstreams=on.config.server.allow_plain_upstreams)
        wanted = resolve_credentials(taken.declared, taken.environ, on.load_pepper())
        if not dry_run:
            await migrate(on.connection)
        changes = await apply_on(on, wanted, prune=False, dry_run=dry_run)
        if dry_run:
            return changes, 0, []
        credited = await _credit(on, taken, who) if balances else 0
        return changes, credited, await list_unpriced(on.connection)

    changes, credited, unpriced = with_database(ctx, work)
    print_changes(changes, dry_run=dry_run, as_json=as_json)
    for what, why in taken.left_out.items():
        click.echo(_printable(f"left out: {what}: {why}"), err=True)
    if taken.balances and not balances:
        click.echo(f"{len(taken.balances)} balances are not credited (--balances)", err=True)
    if credited:
        click.echo(f"{credited} balances credited", err=True)
    tell_unpriced(unpriced)


def _printable(text: str) -> str:
    """Return a line for a terminal: names stand in it as another relay's users wrote them."""
    return "".join(one if one.isprintable() else "?" for one in text[:_LINE_CHARS_MAX])


async def _credit(on: Session, taken: Converted, who: str) -> int:
    """Book what users have there; return of how many that had not been booked before."""
    there = {entry.name for entry in taken.declared.account}
    booked = 0
    for one in taken.balances:
        if one.account in there:
            row: Any = await recharges.credit_by_hand(
                on.connection, one.account, one.amount, actor=who, reason=REASON, ref=one.ref
            )
            booked += bool(row["booked"])
    return booked
