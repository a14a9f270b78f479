"""`relay maintenance`: what the night does, did and is to do."""

import asyncio
import datetime
import time
from typing import Any, Final

import click

from relay.cli.output import json_option, print_json, print_rows
from relay.cli.root import EXIT_FAILED, location_options
from relay.cli.session import Session, with_database
from relay.errors import RelayError
from relay.store.maintenance import (
    WORKS,
    Outcome,
    WorkDone,
    ask_run,
    list_works,
    read_status,
    skip_nights,
)

POLL_S: Final = 0.5
HEARD_S: Final = 30.0
"""A relay looks every 5 s at what it is asked, unless it is in the middle of a step."""
COLUMNS: Final = ("work", "outcome", "started_at", "took_s", "done_by", "detail")


@click.group()
def maintenance() -> None:
    """The nightly window: partitions, archive, vacuum, indexes, back-up, memory."""


@maintenance.command()
@location_options
@json_option
@click.pass_context
def status(ctx: click.Context, *, as_json: bool) -> None:
    """Show when the next night is, and what each work did last."""

    async def work(on: Session) -> dict[str, Any]:
        return await read_status(on.connection, on.config.maintenance, _now())

    found = with_database(ctx, work)
    if as_json:
        print_json(found)
        return
    when = "open until" if found["open"] else "next"
    moment = found["closes"] if found["open"] else found["opens"]
    click.echo(f"{found['window']} in {found['zone']}; {when} {moment:%Y-%m-%d %H:%M}Z")
    if found["skip_until"] is not None:
        click.echo(f"skipped until {found['skip_until']:%Y-%m-%d %H:%M}Z")
    print_rows(found["works"], COLUMNS, as_json=False)


@maintenance.command()
@location_options
@json_option
@click.argument("works", nargs=-1, type=click.Choice(list(WORKS)))
@click.pass_context
def run(ctx: click.Context, works: tuple[str, ...], *, as_json: bool) -> None:
    """Have works done now, all of them where none is named; wait for their ends.

    A running relay does them, so that this can be asked from any host; exit 1 where one failed.
    """

    async def work(on: Session) -> list[WorkDone]:
        asked_at = _now()
        await ask_run(on.connection, works, asked_at)
        return await _ends(on, works or tuple(WORKS), asked_at, quiet=as_json)

    done = with_database(ctx, work)
    if as_json:
        print_json(done)
    if any(one.outcome is Outcome.FAILED for one in done):
        ctx.exit(EXIT_FAILED)


async def _ends(
    on: Session, works: tuple[str, ...], asked_at: datetime.datetime, *, quiet: bool
) -> list[WorkDone]:
    """Return how the works ended, each told when it has; of the hosts that began them meanwhile."""
    told: set[tuple[str, str]] = set()
    heard_by_s = time.monotonic() + HEARD_S
    while True:
        begun = [
            one
            for one in await list_works(on.connection)
            if one.work in works and one.started_at >= asked_at
        ]
        for one in begun:
            if one.ended_at is not None and (one.work, one.host) not in told:
                told.add((one.work, one.host))
                if not quiet:
                    click.echo(f"{one.work}: {one.outcome.value}, {one.took_s:.1f} s: {one.detail}")
        if {one.work for one in begun} == set(works) and len(told) == len(begun):
            return begun
        if not begun and time.monotonic() > heard_by_s:
            raise RelayError(f"no relay took it up in {HEARD_S:.0f} s: does one run?")
        await asyncio.sleep(POLL_S)


@maintenance.command()
@location_options
@click.option(
    "--nights",
    type=click.IntRange(0, 30),
    default=1,
    show_default=True,
    help="How many, the one that is open among them; 0: skip none.",
)
@click.pass_context
def skip(ctx: click.Context, *, nights: int) -> None:
    """Skip the next night, or stop the one that is open; what is due waits for the one after."""

    async def work(on: Session) -> datetime.datetime | None:
        return await skip_nights(on.connection, on.config.maintenance, nights, _now())

    until = with_database(ctx, work)
    said = "no night is skipped" if until is None else f"skipped until {until:%Y-%m-%d %H:%M}Z"
    click.echo(said, err=True)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
