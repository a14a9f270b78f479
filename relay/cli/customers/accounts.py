"""`relay account` and `relay line`: who pays, and what is on sale."""

from collections import Counter
from pathlib import Path

import click

from relay.cli.customers.keys import (
    BUDGET_METAVAR,
    KEY_COLUMNS,
    key_row,
    read_budget_options,
)
from relay.cli.customers.money import parse_amount
from relay.cli.output import json_option, print_fields, print_json, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.errors import NotFound
from relay.splice.gates import CARRIED
from relay.store.billing.low_balances import set_threshold
from relay.store.billing.promotions import find_promotion
from relay.store.billing.recharges import find_account
from relay.store.catalog.keys import list_keys, set_account_budgets
from relay.store.catalog.listings import Row, list_accounts, list_lines, set_granted
from relay.store.catalog.snapshot import load_snapshot
from relay.store.embedded.locate import redis_url
from relay.store.limits.node_lists import find_nodes
from relay.store.limits.reports import add_loads
from relay.store.metrics import read_all

ACCOUNT_COLUMNS = (
    *("name", "group", "multiplier", "lines", "tpm", "rpm", "budgets", "keys", "disabled"),
)
LINE_COLUMNS = (
    *("name", "kind", "channels", "tpm", "tpm_load", "remaining", "leased", "debt"),
    *("reserve", "used", "lent", "borrowed"),
    *("rpm", "rpm_load", "concurrency", "in_flight", "on_limiter_loss", "splice", "hedge_ms"),
    *("carried_on", "not_carried_on"),
)


@click.group()
def account() -> None:
    """List, show and change accounts."""


@account.command("list")
@location_options
@json_option
@click.pass_context
def list_account(ctx: click.Context, *, as_json: bool) -> None:
    """Show all accounts."""
    rows = with_database(ctx, lambda on: list_accounts(on.connection))
    print_rows(rows, ACCOUNT_COLUMNS, as_json=as_json)


@account.command()
@location_options
@json_option
@click.argument("name")
@click.pass_context
def show(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Show one account and its keys."""
    shown, keys = with_database(ctx, lambda on: _find(on, name))
    if as_json:
        print_json({**shown, "keys": keys})
        return
    print_fields(shown, as_json=False)
    if keys:
        click.echo()
        print_rows(keys, KEY_COLUMNS, as_json=False)


@account.command("set")
@location_options
@json_option
@click.argument("name")
@click.option(
    "--low-balance-alert",
    "alert",
    metavar="USD|none",
    help="Below this balance an operator is told, once until it is above again.",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    callback=read_budget_options,
    metavar=f"{BUDGET_METAVAR}|none",
    help="All that its keys may use together in a day, week or month; repeatable.",
)
@click.pass_context
def set_command(
    ctx: click.Context, name: str, alert: str | None, budgets: list[str] | None, *, as_json: bool
) -> None:
    """Change an account; of one in a catalog file change the file as well."""
    if alert is None and budgets is None:
        raise click.UsageError("say what to change: --low-balance-alert or --budget")
    nanos = parse_amount(alert, "--low-balance-alert") if alert and alert != "none" else None

    async def work(on: Session) -> Row:
        account_id = await find_account(on.connection, name)
        if alert is not None:
            await set_threshold(on.connection, account_id, nanos)
        if budgets is not None:
            await set_account_budgets(on.connection, account_id, budgets)
        return (await list_accounts(on.connection, name))[0]

    print_fields(with_database(ctx, work), as_json=as_json)


@click.group()
def line() -> None:
    """List lines, and grant those that need an invitation."""


@line.command("list")
@location_options
@json_option
@click.pass_context
def list_line(ctx: click.Context, *, as_json: bool) -> None:
    """Show all lines with their load against their limits.

    tpm_load and rpm_load: what is asked for a minute now; remaining: tokens that may be used at
    once; leased: what workers hold of them; debt: what was used beyond; in_flight: seats held.
    Of its channels' tokens a minute: reserve: what the line was sold; used: what it uses; lent:
    what others use of its reserve; borrowed: what its kind of line uses of others' reserves.
    Of its broken streams, since this host's relay was started: carried_on, by how; not, by why.
    """
    rows = with_database(ctx, _list_lines)
    print_rows(rows, LINE_COLUMNS, as_json=as_json)


@line.command()
@location_options
@click.option("--account", required=True, help="Who may use it.")
@click.argument("line")
@click.pass_context
def grant(ctx: click.Context, account: str, line: str) -> None:
    """Let an account use a line, one by invitation or one its group lacks; within a second."""
    with_database(ctx, lambda on: set_granted(on.connection, account, line, granted=True))
    click.echo(f"account {account} may use line {line}", err=True)


@line.command()
@location_options
@click.option("--account", required=True, help="Who may no longer use it.")
@click.argument("line")
@click.pass_context
def revoke(ctx: click.Context, account: str, line: str) -> None:
    """Take a grant back; what the group gives stays, and running calls go on."""
    with_database(ctx, lambda on: set_granted(on.connection, account, line, granted=False))
    click.echo(f"line {line} is no longer granted to account {account}", err=True)


async def _list_lines(on: Session) -> list[Row]:
    rows = await list_lines(on.connection)
    nodes = await find_nodes(on.config, lambda: redis_url(on.config, on.data_dir))
    snapshot = await load_snapshot(on.connection, on.open_vault())
    return add_splices(await add_loads(rows, snapshot, nodes), on.data_dir / "run" / "metrics")


def add_splices(rows: list[Row], published: Path) -> list[Row]:
    """Add to each line what became of its broken streams, as the workers of this host publish."""
    found: dict[str, Counter[str]] = {}
    for workers in read_all(published).values():
        for worker in workers:
            for (line, what), count in worker.counters.get("splices", {}).items():
                found.setdefault(line, Counter())[what] += count
    for row in rows:
        counts = found.get(str(row["name"]), Counter())
        carried = {n.removeprefix(CARRIED): c for n, c in counts.items() if n.startswith(CARRIED)}
        others = {n: c for n, c in counts.items() if not n.startswith(CARRIED)}
        row["carried_on"], row["not_carried_on"] = _told(carried), _told(others)
    return rows


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


async def _find(on: Session, name: str) -> tuple[Row, list[Row]]:
    found = await list_accounts(on.connection, name)
    if not found:
        raise NotFound(f"there is no account {name!r}")
    shown = found[0]
    promotion = await find_promotion(on.connection, name)
    shown["promoted"] = None if promotion is None else dict(promotion)
    return shown, [key_row(row) for row in await list_keys(on.connection, name)]
