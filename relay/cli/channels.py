"""`relay channel`: the upstreams of the catalog, day by day."""

import click
import msgspec

from relay.cli.output import json_option, print_fields, print_rows
from relay.cli.probe import probe
from relay.cli.root import location_options
from relay.cli.session import with_database
from relay.store.catalog import load_channel
from relay.store.listings import list_channels, set_drained

COLUMNS = ("name", "protocol", "base_url", "api_key", "tier", "weight", "drained", "models")


@click.group()
def channel() -> None:
    """List, test, drain and enable channels."""


@channel.command("list")
@location_options
@json_option
@click.pass_context
def list_command(ctx: click.Context, *, as_json: bool) -> None:
    """Show all channels."""
    rows = with_database(ctx, lambda on: list_channels(on.connection, on.open_vault()))
    print_rows(rows, COLUMNS, as_json=as_json)


@channel.command()
@location_options
@json_option
@click.argument("name")
@click.pass_context
def test(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Ask a channel's upstream for its models, with the channel's credential."""
    found = probe(with_database(ctx, lambda on: load_channel(on.connection, on.open_vault(), name)))
    print_fields(msgspec.structs.asdict(found), as_json=as_json)
    ctx.exit(0 if found.ok else 1)


@channel.command()
@location_options
@click.argument("name")
@click.pass_context
def drain(ctx: click.Context, name: str) -> None:
    """Send new calls elsewhere; running ones finish."""
    with_database(ctx, lambda on: set_drained(on.connection, name, drained=True))
    click.echo(f"channel {name} is drained", err=True)


@channel.command()
@location_options
@click.argument("name")
@click.pass_context
def enable(ctx: click.Context, name: str) -> None:
    """Put a drained channel back into service."""
    with_database(ctx, lambda on: set_drained(on.connection, name, drained=False))
    click.echo(f"channel {name} is in service", err=True)
