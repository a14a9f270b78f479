"""`relay channel`: the upstreams of the catalog, day by day."""

from collections.abc import Sequence

import click
import msgspec

from relay.cli.notes import tell_unpriced, tell_unserved
from relay.cli.output import json_option, print_fields, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.cli.supply import channel_kinds
from relay.clock import wall_us
from relay.control.watch.probe import probe
from relay.store.catalog.listings import list_channels, set_drained
from relay.store.catalog.sale.coverage import Offer, list_only_here, list_unpriced
from relay.store.catalog.snapshot import load_channel
from relay.store.embedded.locate import redis_url
from relay.store.health.listing import Row, add_health, read_conditions

COLUMNS = (
    *("name", "state", "reason", "trial_in_s", "differing_models"),
    *("kind", "protocol", "base_url", "api_key", "tier", "weight", "models"),
)


@click.group()
def channel() -> None:
    """Add, list, show, test, drain and enable channels."""


for command in (channel_kinds.add, channel_kinds.show, channel_kinds.presets):
    channel.add_command(command)


@channel.command("list")
@location_options
@json_option
@click.pass_context
def list_command(ctx: click.Context, *, as_json: bool) -> None:
    """Show all channels and how they stand.

    States: in service, open (left alone until its next trial), half-open (a call is trying it),
    drained, evicted (drained, and running calls moved off), unknown (no relay tells).
    """
    rows, unpriced = with_database(ctx, _list)
    print_rows(rows if as_json else [_in_words(row) for row in rows], COLUMNS, as_json=as_json)
    tell_unpriced(unpriced)


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
@click.option("--now", is_flag=True, help="Move running calls to other channels, where they can.")
@click.pass_context
def drain(ctx: click.Context, name: str, *, now: bool) -> None:
    """Send new calls elsewhere; running ones finish."""

    async def work(on: Session) -> list[Offer]:
        await set_drained(on.connection, name, drained=True, evicted=now)
        return await list_only_here(on.connection, name)

    unserved = with_database(ctx, work)
    moved = ", running calls move off it" if now else ""
    click.echo(f"channel {name} is drained{moved}", err=True)
    tell_unserved(name, unserved)


@channel.command()
@location_options
@click.argument("name")
@click.pass_context
def enable(ctx: click.Context, name: str) -> None:
    """Put a drained channel back into service."""
    with_database(ctx, lambda on: set_drained(on.connection, name, drained=False))
    click.echo(f"channel {name} is in service", err=True)


async def _list(on: Session) -> tuple[Sequence[Row], list[str]]:
    rows = await list_channels(on.connection, on.open_vault())
    conditions = await read_conditions(lambda: redis_url(on.config, on.data_dir), wall_us())
    return add_health(rows, conditions), await list_unpriced(on.connection)


def _in_words(row: Row) -> Row:
    """Return a row whose differing models are sentences."""
    words = [
        f"{found['model']} {found['state']}" + (f" ({found['reason']})" if found["reason"] else "")
        for found in row["differing_models"]
    ]
    return {**row, "differing_models": words}
