"""`relay price sync`: official prices against ours, model by model."""

import datetime
import fnmatch
from typing import Any, Final

import click

from relay.cli.output import json_option, print_json, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.cli.supply.catalog import apply_on, print_changes
from relay.control.catalog.official import Official, PriceBook
from relay.model import Price
from relay.store.catalog.declaration import Declaration
from relay.store.catalog.plan import Catalog, CatalogChange
from relay.store.catalog.prices import to_entry
from relay.store.catalog.sale.official import (
    Kept,
    Move,
    PriceMove,
    compare_price,
    keep_official,
    read_official,
    read_ours,
    read_sold,
)
from relay.store.migrate import migrate
from relay.units import PPM, format_multiplier, format_usd

COLUMNS: Final = (
    *("model", "move", "official_input", "official_output", "our_input", "our_output"),
    *("multiplier", "times_official", "source"),
)
QUIET: Final = frozenset({Move.SAME, Move.UNKNOWN})
"""Moves that a table leaves out; they are counted."""


@click.command()
@location_options
@json_option
@click.option("--models", "pattern", metavar="GLOB", default="*", help="Only these; * is anything.")
@click.option("--apply", "do_apply", is_flag=True, help="Put what is proposed in force.")
@click.option(
    "--jumps", is_flag=True, help="Also prices that move to less than half or over twice."
)
@click.option("--all", "show_all", is_flag=True, help="Show models that stay as they are, too.")
@click.pass_context
def sync(
    ctx: click.Context,
    *,
    pattern: str,
    do_apply: bool,
    jumps: bool,
    show_all: bool,
    as_json: bool,
) -> None:
    """Show what official prices are against ours, and propose what is new or moved.

    A model without a price gets the official one. A price that was the official one follows it; one
    that somebody set otherwise is left alone, and shown. Multipliers stay as they are.
    """

    async def work(on: Session) -> tuple[list[PriceMove], list[CatalogChange]]:
        if do_apply:
            await migrate(on.connection)
        moves = await _compare(on, pattern)
        if not do_apply:
            return moves, []
        changes = await _apply(on, moves, jumps=jumps)
        return moves, changes

    moves, changes = with_database(ctx, work)
    if as_json:
        print_json({"models": [_row(move) for move in moves], "changed": len(changes)})
        return
    shown = [move for move in moves if show_all or move.move not in QUIET]
    print_rows([_row(move) for move in shown], COLUMNS, as_json=False)
    _tell(moves)
    if do_apply:
        print_changes(changes, dry_run=False, as_json=False)
    else:
        click.echo("nothing was changed (without --apply)", err=True)


async def _compare(on: Session, pattern: str) -> list[PriceMove]:
    book = PriceBook(datetime.datetime.now(datetime.UTC))
    before, ours = await read_official(on.connection), await read_ours(on.connection)
    moves = []
    for sold in await read_sold(on.connection):
        if not fnmatch.fnmatchcase(sold.model, pattern):
            continue
        found, reason = book.find(sold.upstream, sold.sellers)
        moves.append(_move(sold.model, found, reason, before.get(sold.model), ours.get(sold.model)))
    return sorted(moves, key=lambda move: move.model)


def _move(
    model: str, found: Official | None, reason: str, was: Price | None, ours: Price | None
) -> PriceMove:
    if found is None:
        return PriceMove(model=model, move=Move.UNKNOWN, reason=reason, was=was, ours=ours)
    return PriceMove(
        model=model,
        move=compare_price(ours, was, found.price),
        source=found.source,
        official=found.price,
        context_tokens=found.context_tokens,
        was=was,
        ours=ours,
    )


async def _apply(on: Session, moves: list[PriceMove], *, jumps: bool) -> list[CatalogChange]:
    taken = [move for move in moves if jumps or move.move is not Move.JUMPED]
    proposed = [move.proposed for move in taken]
    entries = [to_entry(price) for price in proposed if price is not None]
    # What is kept first is what the rule about official prices is checked against.
    async with on.connection.transaction():
        await keep_official(
            on.connection,
            [
                Kept(move.model, move.official, move.source, move.context_tokens)
                for move in taken
                if move.official is not None
            ],
        )
        wanted = Catalog(Declaration(price=entries), {})
        return await apply_on(on, wanted, prune=False, dry_run=False)


def _tell(moves: list[PriceMove]) -> None:
    counts = {kind: sum(move.move is kind for move in moves) for kind in Move}
    said = ", ".join(f"{count} {kind.value}" for kind, count in counts.items() if count)
    click.echo(f"{len(moves)} models: {said or 'none on sale'}", err=True)
    unknown = [move for move in moves if move.move is Move.UNKNOWN and move.ours is None]
    for move in unknown[:8]:
        click.echo(f"no price for {move.model}: {move.reason}", err=True)


def _row(move: PriceMove) -> dict[str, Any]:
    official, ours = move.official, move.ours
    return {
        "model": move.model,
        "move": move.move.value,
        "official_input": _usd(official, "input"),
        "official_output": _usd(official, "output"),
        "was_input": _usd(move.was, "input"),
        "was_output": _usd(move.was, "output"),
        "our_input": _usd(ours, "input"),
        "our_output": _usd(ours, "output"),
        "multiplier": None if ours is None else format_multiplier(ours.model_multiplier_ppm),
        "times_official": _times(official, ours),
        "context_tokens": move.context_tokens,
        "source": move.source,
        "reason": move.reason,
    }


def _usd(price: Price | None, rate: str) -> str | None:
    return None if price is None else format_usd(getattr(price, rate))


def _times(official: Price | None, ours: Price | None) -> str | None:
    """Return the dearest of input and output, our multiplier in it, against the official one."""
    if official is None or ours is None:
        return None
    times = [
        getattr(ours, rate) * ours.model_multiplier_ppm // getattr(official, rate)
        for rate in ("input", "output")
        if getattr(official, rate)
    ]
    return format_multiplier(max(times, default=PPM))
