"""`relay limits`: which limit binds a key now."""

from typing import Any, Final

import click

from relay.cli.output import json_option, print_json, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.clock import wall_s
from relay.errors import DependencyDown, NotFound
from relay.store.billing.budget_leases import explain as explain_budgets
from relay.store.catalog.keys import find_key
from relay.store.catalog.snapshot import load_snapshot
from relay.store.embedded.locate import redis_url
from relay.store.limits.node_lists import find_nodes
from relay.store.limits.reports import explain as explain_limits

COLUMNS: Final = (
    *(
        "scope",
        "name",
        "what",
        "limit",
        "load",
        "at_once",
        "remaining",
        "leased",
        "debt",
        "full_in_s",
    ),
    *("reserve", "used", "lent", "borrowed", "binds"),
)

BUDGET_COLUMNS: Final = ("scope", "name", "budget", "used", "leased", "left", "begins_anew")


@click.group()
def limits() -> None:
    """Look at limits."""


@limits.command()
@location_options
@click.option("--key", required=True, help="A key, by id, name or last four.")
@click.option("--model", help="As calls name it; default: whatever model has no limit of its own.")
@json_option
@click.pass_context
def explain(ctx: click.Context, key: str, model: str | None, *, as_json: bool) -> None:
    """Show everything that limits a key's calls, and which of it binds first.

    load: what is asked for a minute now; at_once: what the bucket holds when it is full; leased:
    what workers hold of it; debt: what was used beyond it. Of a channel: reserve: what dedicated
    lines were sold of it, used: what they use, lent: what others use of the reserve, borrowed: what
    this kind of line uses of it. Budgets end by the calendar: used: by calls that ended; leased:
    what workers hold of it for calls that run or come.
    """
    row, line, found, budgets = with_database(ctx, lambda on: _explain(on, key, model))
    if found is None:
        raise DependencyDown("Redis does not answer: limits live on the workers' shares")
    if as_json:
        told = {"key": row["id"], "account": row["account"], "line": line, "limits": found}
        print_json({**told, "budgets": budgets})
        return
    click.echo(f"key {row['id']} ({row['account']}/{row['name']}) on line {line}", err=True)
    print_rows(found, COLUMNS, as_json=False)
    if budgets:
        click.echo()
        print_rows(budgets, BUDGET_COLUMNS, as_json=False)


async def _explain(on: Session, wanted: str, model: str | None) -> tuple[Any, str, Any, Any]:
    row = await find_key(on.connection, wanted)
    snapshot = await load_snapshot(on.connection, on.open_vault())
    key = snapshot.keys.get(row["digest"])
    if key is None or key.account_id not in snapshot.accounts:
        raise NotFound("the account of this key is gone")
    nodes = await find_nodes(on.config, lambda: redis_url(on.config, on.data_dir))
    line, found = await explain_limits(snapshot, key, model, nodes)
    account = snapshot.accounts[key.account_id]
    owners = (
        ("key", key.id, key.name, key.budgets),
        ("account", account.id, account.name, account.budgets),
    )
    return row, line, found, await explain_budgets(on.connection, owners, wall_s())
