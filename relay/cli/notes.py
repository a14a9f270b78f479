"""What an operator is told, on stderr, about the catalog as it now is."""

from collections.abc import Sequence
from typing import Final

import click

from relay.store.catalog.sale.coverage import Offer

SHOWN: Final = 8


def tell_unpriced(models: Sequence[str]) -> None:
    """Say which models cannot be called for want of a price."""
    if models:
        click.echo(
            f"no price: {_listed(models)}; calls for them get 404 until they have one "
            "([[price]] in the catalog, or relay price import)",
            err=True,
        )


def tell_unserved(channel: str, offers: Sequence[Offer]) -> None:
    """Say what nobody serves while a channel is drained."""
    if not offers:
        return
    lines = dict.fromkeys(offer.line for offer in offers)
    for line in lines:
        models = [offer.model for offer in offers if offer.line == line]
        click.echo(
            f"line {line} has no other channel for {_listed(models)}: new calls for them get 404 "
            f"until `relay channel enable {channel}`, or another channel serves them",
            err=True,
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
