"""`relay check` and `relay apply`: the catalog as a file."""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path

import click

from relay.cli.notes import tell_unpriced
from relay.cli.output import json_option, print_json
from relay.cli.root import load_context, location_options
from relay.cli.session import Session, with_database
from relay.config import Config, load
from relay.errors import ConfigError
from relay.outside import find_missing
from relay.store.catalog.apply import apply as apply_declared
from relay.store.catalog.apply import resolve_credentials
from relay.store.catalog.declaration import Declaration, parse_catalog
from relay.store.catalog.plan import KINDS, Catalog, CatalogChange, ChangeKind, entries_of
from relay.store.catalog.sale.coverage import list_unpriced, without_price
from relay.store.migrate import migrate

_SIGNS = {ChangeKind.ADDED: "+", ChangeKind.CHANGED: "~", ChangeKind.REMOVED: "-"}

_file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.command()
@location_options
@_file_argument
@click.pass_context
def check(ctx: click.Context, file: Path) -> None:
    """Check a relay.toml or a catalog file; touches no database."""
    source = _read(file)
    if _is_catalog(source, file):
        config, _ = load_context(ctx)
        declared = _parse(source, file, config)
        click.echo(f"{file}: ok, a catalog: {_counts(declared)}")
        _tell_unpriced_of(declared)
        return
    found = load(file, os.environ)
    missing = find_missing(found.console.oidc, found.otlp, found.maintenance)
    if missing is not None:
        raise ConfigError(f"{file}: {missing}")
    click.echo(f"{file}: ok, a configuration")


@click.command()
@location_options
@_file_argument
@click.option("--dry-run", is_flag=True, help="Show the changes; make none.")
@click.option(
    "--prune",
    is_flag=True,
    help="Remove what the file does not mention, among the kinds that it does.",
)
@json_option
@click.pass_context
def apply(ctx: click.Context, file: Path, *, dry_run: bool, prune: bool, as_json: bool) -> None:
    """Make the catalog hold what FILE declares, in one transaction."""
    source = _read(file)

    async def work(on: Session) -> tuple[list[CatalogChange], list[str]]:
        wanted = resolve_credentials(_parse(source, file, on.config), os.environ, on.load_pepper())
        if not dry_run:
            await migrate(on.connection)
        changes = await apply_on(on, wanted, prune=prune, dry_run=dry_run)
        return changes, [] if dry_run else await list_unpriced(on.connection)

    changes, unpriced = with_database(ctx, work)
    print_changes(changes, dry_run=dry_run, as_json=as_json)
    tell_unpriced(unpriced)


async def apply_on(
    on: Session, wanted: Catalog, *, prune: bool, dry_run: bool
) -> list[CatalogChange]:
    """Make a catalog hold under the rules that the configuration sets; see `apply`."""
    return await apply_declared(
        on.connection,
        wanted,
        on.open_vault(),
        prune=prune,
        dry_run=dry_run,
        ceiling=on.config.billing.official_max,
    )


def print_changes(changes: Sequence[CatalogChange], *, dry_run: bool, as_json: bool) -> None:
    """Print what was changed, or would be."""
    if as_json:
        print_json([_plain(change) for change in changes])
        return
    for change in changes:
        _print_change(change)
    if not changes:
        click.echo("no changes")
    elif dry_run:
        click.echo(f"{len(changes)} changes, none made (--dry-run)", err=True)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error


def _parse(source: bytes, file: Path, config: Config) -> Declaration:
    try:
        return parse_catalog(
            source,
            dedicated_tpm=config.limits.dedicated_tpm,
            plain_upstreams=config.server.allow_plain_upstreams,
        )
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}") from error


def _is_catalog(source: bytes, file: Path) -> bool:
    try:
        return not tomllib.loads(source.decode()).keys().isdisjoint(KINDS)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error


def _tell_unpriced_of(declared: Declaration) -> None:
    """Name models without a price in the file itself: no database is asked."""
    models = [name for channel in declared.channel for name in channel.named_models]
    missing = without_price(models, {price.model for price in declared.price})
    if missing:
        click.echo(
            f"no [[price]] in this file for {', '.join(missing)}: without one in force already, "
            "calls for them get 404",
            err=True,
        )


def _counts(declared: Declaration) -> str:
    return ", ".join(f"{len(entries_of(declared, kind))} {kind}" for kind in KINDS)


def _print_change(change: CatalogChange) -> None:
    click.echo(f"{_SIGNS[change.action]} {change.kind} {change.name}")
    for field, (before, after) in change.fields.items():
        click.echo(f"    {field}: {before} -> {after}")


def _plain(change: CatalogChange) -> dict[str, object]:
    fields = {field: {"before": was, "after": now} for field, (was, now) in change.fields.items()}
    return {
        "kind": change.kind,
        "name": change.name,
        "action": change.action,
        "fields": fields,
    }
