"""`relay models`: what upstreams list against what is sold."""

from collections.abc import Sequence
from typing import Any, Final

import click

from relay.cli.notes import tell_unpriced
from relay.cli.output import json_option, print_json
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.control.catalog.questions import Answered, ask_lists
from relay.errors import NotFound
from relay.store.catalog.sale.coverage import list_unpriced
from relay.store.catalog.sale.listed import ListChange, compare_list, read_stated, take_over
from relay.store.catalog.snapshot import load_channels
from relay.store.migrate import migrate

SHOWN: Final = 12


@click.group()
def models() -> None:
    """Keep the models on sale in step with what upstreams list."""


@models.command()
@location_options
@json_option
@click.option(
    "--channel", "names", multiple=True, metavar="NAME", help="Only this one; repeatable."
)
@click.option("--apply", "do_apply", is_flag=True, help="Sell what patterns choose, and no more.")
@click.option("--force", is_flag=True, help="Believe lists that are empty or lost most of theirs.")
@click.pass_context
def sync(
    ctx: click.Context, *, names: Sequence[str], do_apply: bool, force: bool, as_json: bool
) -> None:
    """Ask channels for their lists of models, and show what is new and what vanished.

    With --apply a channel sells what its patterns (models = ["*"], "gpt-*", "!*-audio*") choose out
    of its list. Models that are declared by name stay, listed or not.
    """

    async def work(on: Session) -> tuple[list[Answered], list[ListChange], list[str]]:
        if do_apply:
            await migrate(on.connection)
        answers = await _ask(on, names)
        lists = {one.channel: one.models for one in answers if not one.trouble}
        if do_apply:
            changes = await take_over(on.connection, lists, even_doubtful=force)
        else:
            stated = await read_stated(on.connection)
            changes = [
                compare_list(one, lists[one.channel]) for one in stated if one.channel in lists
            ]
        return answers, changes, await list_unpriced(on.connection) if do_apply else []

    answers, changes, unpriced = with_database(ctx, work)
    troubles = {one.channel: one.trouble for one in answers if one.trouble}
    if as_json:
        print_json({"changes": [_row(change) for change in changes], "troubles": troubles})
    else:
        for change in changes:
            _print(change, applied=do_apply and (force or not change.doubt))
        for channel, trouble in troubles.items():
            click.echo(f"{channel}: {trouble}", err=True)
        if not do_apply and any(change.changes for change in changes):
            click.echo("nothing was changed (without --apply)", err=True)
    tell_unpriced(unpriced)
    ctx.exit(1 if troubles and not changes else 0)


async def _ask(on: Session, names: Sequence[str]) -> list[Answered]:
    channels = (await load_channels(on.connection, on.open_vault())).values()
    known = {channel.name for channel in channels}
    for name in names:
        if name not in known:
            raise NotFound(f"there is no channel {name!r}")
    stated = {one.channel for one in await read_stated(on.connection)}
    wanted = set(names) or stated
    return await ask_lists([one for one in channels if one.name in stated & wanted])


def _row(change: ListChange) -> dict[str, Any]:
    return {field: getattr(change, field) for field in change.__struct_fields__}


def _print(change: ListChange, *, applied: bool) -> None:
    click.echo(
        f"{change.channel}: {change.listed} listed, {len(change.gained)} new, "
        f"{len(change.lost)} gone, {change.left} not chosen"
    )
    for sign, found in (("+", change.gained), ("-", change.lost)):
        for name in found[:SHOWN]:
            click.echo(f"    {sign} {name}")
        if len(found) > SHOWN:
            click.echo(f"    {sign} ...and {len(found) - SHOWN} more")
    if change.vanished:
        said = ", ".join(change.vanished[:SHOWN])
        click.echo(f"    ! sold by name and not listed: {said}")
    if change.doubt and change.changes and not applied:
        click.echo(f"    ! not taken over: {change.doubt} (--force does)")
