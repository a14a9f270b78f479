"""`relay channel add|show|presets`: a channel in one line, and where its settings come from."""

import os
from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec

from relay.cli.output import json_option, print_fields, print_json, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.cli.supply.catalog import apply_on, print_changes
from relay.errors import ConfigError, NotFound
from relay.store.catalog.apply import resolve_credentials
from relay.store.catalog.channel_entry import ChannelEntry
from relay.store.catalog.declaration import Declaration, GroupEntry, LineEntry, check_upstreams
from relay.store.catalog.listings import Row, list_channels
from relay.store.catalog.plan import CatalogChange
from relay.store.catalog.read import read_catalog
from relay.store.migrate import migrate
from relay.wire.kinds.presets import FILLED, PRESETS, Preset, preset_of

LINE: Final = "main"
PRESET_COLUMNS: Final = (
    *("name", "base_url", "protocol", "auth", "resume", "abort_bills", "include_usage"),
    *("lists_models", "prices"),
)


@click.command()
@location_options
@json_option
def presets(*, as_json: bool) -> None:
    """Show the kinds of upstreams and what each fills in; where in capitals, put your own."""
    rows = [_preset_row(preset) for preset in PRESETS.values()]
    print_rows(rows, PRESET_COLUMNS, as_json=as_json)


@click.command()
@location_options
@json_option
@click.argument("name")
@click.option("--preset", "kind", required=True, help="See `relay channel presets`.")
@click.option(
    "--key", "keys", multiple=True, metavar="REF", help="env:NAME, file:PATH, cred:NAME; several."
)
@click.option("--models", metavar="A,B=C,D*", default="*", show_default=True, help="What it sells.")
@click.option("--base-url", metavar="URL", help="Instead of the preset's.")
@click.option("--cost", metavar="SHARE", default="", help="What it costs, of the official price.")
@click.option("--line", metavar="NAME", default=LINE, show_default=True, help="Sold on this line.")
@click.option("--auto", is_flag=True, help="Take over what its list of models gains and loses.")
@click.option("--dry-run", is_flag=True, help="Show the changes; make none.")
@click.pass_context
def add(  # noqa: PLR0913 - its options
    ctx: click.Context,
    name: str,
    *,
    kind: str,
    keys: Sequence[str],
    models: str,
    base_url: str | None,
    cost: str,
    line: str,
    auto: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add a channel of a known kind, and sell it on a line.

    The line, and a group of its name that may use it, are made where there are none.
    """
    said: dict[str, Any] = {"name": name, "kind": kind, "cost": cost, "models_auto": auto}
    said["models"] = [one.strip() for one in models.split(",") if one.strip()]
    if base_url is not None:
        said["base_url"] = base_url
    if keys:
        said["api_keys"] = list(keys)
    entry = _entry(said)
    if not (keys or preset_of(kind).keyless):
        raise click.UsageError(f"--key: an upstream of the kind {kind} wants a credential")
    changes, grouped = with_database(ctx, lambda on: _add(on, entry, line, dry_run=dry_run))
    print_changes(changes, dry_run=dry_run, as_json=as_json)
    if not dry_run and not as_json:
        _tell_next(entry, line, grouped=grouped)


@click.command()
@location_options
@json_option
@click.argument("name")
@click.pass_context
def show(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Show one channel, and which of its settings are its preset's."""

    async def work(on: Session) -> tuple[Row, ChannelEntry]:
        listed = {row["name"]: row for row in await list_channels(on.connection, on.open_vault())}
        entries = (await read_catalog(on.connection, on.open_vault())).entries.channel
        found = next((entry for entry in entries if entry.name == name), None)
        if found is None:
            raise NotFound(f"there is no channel {name!r}")
        return listed[name], found

    row, entry = with_database(ctx, work)
    origins = {field: origin(entry, field) for field in FILLED}
    if as_json:
        print_json({**row, "origin": origins})
        return
    own = {field: value for field, value in row.items() if field not in (*FILLED, "reach")}
    print_fields(own, as_json=False)
    click.echo()
    rows = [
        {"setting": field, "value": _plain(getattr(entry, field)), "origin": origins[field]}
        for field in FILLED
    ]
    print_rows(rows, ("setting", "value", "origin"), as_json=False)


def origin(entry: ChannelEntry, field: str) -> str:
    """Return where a channel has a setting from: its preset, the general default, or itself."""
    preset = preset_of(entry.kind)
    if getattr(entry, field) != getattr(preset, field):
        return "own"
    return f"preset {preset.name}" if preset.name else "default"


def _entry(said: dict[str, Any]) -> ChannelEntry:
    try:
        return msgspec.convert(said, ChannelEntry)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).partition(" - at ")[0]) from None


async def _add(
    on: Session, entry: ChannelEntry, line: str, *, dry_run: bool
) -> tuple[list[CatalogChange], bool]:
    if not dry_run:
        await migrate(on.connection)
    present = (await read_catalog(on.connection, on.open_vault())).entries
    if any(channel.name == entry.name for channel in present.channel):
        raise ConfigError(f"there is a channel {entry.name!r} already: change it in a catalog file")
    grouped = any(line in group.lines for group in present.group)
    declared = Declaration(
        channel=[entry],
        line=[_line_with(present, line, entry.name)],
        group=[] if grouped else [_group_with(present, line)],
    )
    check_upstreams(declared, plain_upstreams=on.config.server.allow_plain_upstreams)
    wanted = resolve_credentials(declared, os.environ, on.load_pepper())
    changes = await apply_on(on, wanted, prune=False, dry_run=dry_run)
    return changes, any(change.kind == "group" for change in changes)


def _line_with(present: Declaration, name: str, channel: str) -> LineEntry:
    for line in present.line:
        if line.name == name:
            return msgspec.structs.replace(line, channels=[*line.channels, channel])
    return LineEntry(name=name, channels=[channel], tpm=0)


def _group_with(present: Declaration, line: str) -> GroupEntry:
    for group in present.group:
        if group.name == line:
            return msgspec.structs.replace(group, lines=[*group.lines, line])
    return GroupEntry(name=line, lines=[line])


def _tell_next(entry: ChannelEntry, line: str, *, grouped: bool) -> None:
    said = [f"relay channel test {entry.name}"]
    if entry.patterns:
        said.append(f"relay models sync --channel {entry.name} --apply")
    said.append("relay price sync --apply")
    if grouped:
        said.append(f"an [[account]] with group = {line!r}")
    click.echo(f"next: {'; '.join(said)}", err=True)


def _preset_row(preset: Preset) -> dict[str, Any]:
    return {
        "name": preset.name,
        "base_url": preset.base_url or preset.example,
        "protocol": preset.protocol.value,
        "auth": preset.auth.value,
        "resume": preset.resume.value,
        "abort_bills": preset.abort_bills.value,
        "include_usage": preset.include_usage,
        "openai_api": preset.openai_api.value,
        "lists_models": preset.listing != "-",
        "prices": preset.prices,
        "query": preset.query,
        "paths": preset.paths,
        "needs_base_url": not preset.base_url,
    }


def _plain(value: object) -> object:
    return getattr(value, "value", value)
