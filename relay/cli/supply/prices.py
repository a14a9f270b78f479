"""`relay price`: what models cost, and other people's price lists taken over."""

from pathlib import Path

import click
import msgspec

from relay.cli.output import json_option, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.cli.supply import price_sync
from relay.cli.supply.catalog import apply_on, print_changes
from relay.errors import ConfigError
from relay.store.catalog.plan import CatalogChange
from relay.store.catalog.sale.price_lists import FORMATS, list_prices, read_list, read_starter
from relay.store.migrate import migrate

PRICE_COLUMNS = (
    *("model", "input", "output", "cached_input", "cache_write", "per_call", "model_multiplier"),
    *("completion_multiplier", "id"),
)
SKIPPED_SHOWN = 20


@click.group()
def price() -> None:
    """Import, list and compare prices."""


price.add_command(price_sync.sync)


@price.command("import")
@location_options
@json_option
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="A public cost map (USD a token), or new-api's ratios.",
)
@click.option("--starter", is_flag=True, help="The list that comes with the relay, and no FILE.")
@click.option("--models", metavar="A,B*", help="Only these; * stands for anything.")
@click.option("--dry-run", is_flag=True, help="Show the changes; make none.")
@click.pass_context
def import_command(  # noqa: PLR0913 - its options
    ctx: click.Context,
    *,
    file: Path | None,
    form: str,
    starter: bool,
    models: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put the prices of FILE in force; models it does not name keep theirs.

    A model's own multiplier stays. A price that cannot be kept exactly is skipped, with a reason.
    """
    if starter == (file is not None):
        raise click.UsageError("give either FILE or --starter")
    source = read_starter() if file is None else _read(file)
    patterns = None if models is None else [one.strip() for one in models.split(",") if one.strip()]

    async def work(on: Session) -> tuple[list[CatalogChange], dict[str, str]]:
        if not dry_run:
            await migrate(on.connection)
        wanted, skipped = await read_list(on.connection, source, form, patterns)
        changes = await apply_on(on, wanted, prune=False, dry_run=dry_run)
        return changes, skipped

    changes, skipped = with_database(ctx, work)
    for model, reason in list(skipped.items())[:SKIPPED_SHOWN]:
        click.echo(f"skipped {model}: {reason}", err=True)
    if len(skipped) > SKIPPED_SHOWN:
        click.echo(f"...and {len(skipped) - SKIPPED_SHOWN} more", err=True)
    print_changes(changes, dry_run=dry_run, as_json=as_json)


@price.command("list")
@location_options
@json_option
@click.pass_context
def list_command(ctx: click.Context, *, as_json: bool) -> None:
    """Show the prices in force: USD per 1M tokens, per call in USD."""
    rows = with_database(ctx, lambda on: list_prices(on.connection))
    print_rows([msgspec.to_builtins(row) for row in rows], PRICE_COLUMNS, as_json=as_json)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
