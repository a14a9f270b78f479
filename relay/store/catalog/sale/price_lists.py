"""Other people's price lists as declarations, so that they are compared and written like a file."""

import fnmatch
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Final

import msgspec

from relay.billing.import_prices import Imported, parse_cost_map, parse_ratios
from relay.errors import ConfigError
from relay.model import Price
from relay.store.catalog.declaration import Declaration, PriceEntry
from relay.store.catalog.plan import Catalog
from relay.store.catalog.prices import to_entry
from relay.store.catalog.snapshot import PRICES, read_price
from relay.store.postgres import Connection

_PARSERS: Final[dict[str, Callable[[bytes], Imported]]] = {
    "cost-map": parse_cost_map,
    "ratios": parse_ratios,
}
FORMATS: Final = tuple(_PARSERS)


def read_starter() -> bytes:
    """Return the cost map that comes with the relay."""
    return (resources.files("relay.billing") / "starter_prices.json").read_bytes()


async def read_list(
    connection: Connection, source: bytes, form: str, patterns: Sequence[str] | None
) -> tuple[Catalog, dict[str, str]]:
    """Return the prices of a list as a declaration, and why others were left out.

    A model that has a price keeps its own multiplier: lists know nothing of it.

    Args:
        connection: To the catalog.
        source: The list.
        form: One of FORMATS.
        patterns: Which models, with * for anything; None = all.

    Raises:
        ConfigError: The list is none, or a pattern fits nothing in it.
    """
    try:
        found = _PARSERS[form](source)
    except ValueError as error:
        raise ConfigError(f"not a price list of the form {form}: {error}") from None
    if not (found.prices or found.skipped):
        raise ConfigError(f"not a price list of the form {form}: it names no model")
    multipliers = {
        row["model"]: row["model_multiplier_ppm"] for row in await connection.fetch(PRICES)
    }
    names = _choose([*(price.model for price in found.prices), *found.skipped], patterns)
    skipped = {model: reason for model, reason in found.skipped.items() if model in names}
    entries: list[PriceEntry] = []
    for price in found.prices:
        if price.model in names:
            try:
                entries.append(_declare(price, multipliers.get(price.model)))
            except ValueError as error:
                skipped[price.model] = str(error)
    return Catalog(Declaration(price=entries), {}), skipped


async def list_prices(connection: Connection) -> list[dict[str, Any]]:
    """Return the prices in force by model, in the words of a catalog file, with their ids."""
    prices = sorted(
        (read_price(row) for row in await connection.fetch(PRICES)), key=lambda price: price.model
    )
    return [{"id": price.id, **msgspec.to_builtins(to_entry(price))} for price in prices]


def _choose(names: Sequence[str], patterns: Sequence[str] | None) -> set[str]:
    if patterns is None:
        return set(names)
    chosen: set[str] = set()
    for pattern in patterns:
        fitting = fnmatch.filter(names, pattern)
        if not fitting:
            raise ConfigError(f"no model of the list is called {pattern!r}")
        chosen.update(fitting)
    return chosen


def _declare(price: Price, multiplier_ppm: int | None) -> PriceEntry:
    if multiplier_ppm is not None:
        price = msgspec.structs.replace(price, model_multiplier_ppm=multiplier_ppm)
    return to_entry(price)
