"""Official prices beside ours: what moved, what is proposed, and what is dearer than it may be.

What a list said is kept with its model (`models.official`), so that a price of ours which was the
official one can follow it, and one that somebody set by hand is left alone.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from relay.errors import ConfigError
from relay.model import Price
from relay.store.catalog.declaration import Declaration
from relay.store.catalog.prices import to_price
from relay.store.catalog.snapshot import PRICES, read_price
from relay.store.postgres import Connection
from relay.units import PPM, format_multiplier, format_usd, parse_multiplier
from relay.wire.kinds.presets import PLAIN, PRESETS

JUMP_MAX: Final = 2
"""A price that moves by more than this at once is looked at by somebody first."""
BREACHES_SHOWN: Final = 8
_RATES: Final = ("input", "output", "cached_input", "cache_write", "per_call")

_SOLD: Final = """
    SELECT key AS public, value AS upstream, channels.kind, channels.tier
    FROM channels, jsonb_each_text(channels.models)
    WHERE deleted_at IS NULL AND key_of IS NULL ORDER BY tier, channels.id"""
_OFFICIAL: Final = "SELECT name, official FROM models WHERE official IS NOT NULL"
_KEEP: Final = """
    INSERT INTO models AS old (name, context_tokens, official, official_source, official_at)
    SELECT name, context_tokens, official, source, now()
    FROM jsonb_to_recordset($1::jsonb) AS said
        (name text, context_tokens bigint, official jsonb, source text)
    ON CONFLICT (name) DO UPDATE SET
        context_tokens = CASE WHEN old.context_tokens = 0
            THEN excluded.context_tokens ELSE old.context_tokens END,
        official = excluded.official, official_source = excluded.official_source,
        official_at = now()
    WHERE (old.official, old.official_source) IS DISTINCT FROM
          (excluded.official, excluded.official_source)"""
_HIGHEST: Final = "SELECT max(multiplier_ppm) FROM groups WHERE deleted_at IS NULL"


class Sold(msgspec.Struct, frozen=True, kw_only=True):
    """A model on sale: what its first upstream calls it, and the price lists it may be on."""

    model: str
    upstream: str
    sellers: list[str]


class Move(enum.StrEnum):
    """What a list means for a price of ours."""

    NEW = "new"
    """We have none: it is proposed."""
    MOVED = "moved"
    """Ours was the official one, which changed: proposed as well."""
    JUMPED = "jumped"
    """The same, by more than somebody should take over unseen."""
    OWN = "own"
    """Ours is another one: it is left alone."""
    SAME = "same"
    UNKNOWN = "unknown"
    """No list names the model, or not in a form that can be billed here."""


class PriceMove(msgspec.Struct, frozen=True, kw_only=True):
    """One model: what is official, what it was, and what we ask, multipliers left out."""

    model: str
    move: Move
    source: str = ""
    reason: str = ""
    official: Price | None = None
    context_tokens: int = 0
    was: Price | None = None
    ours: Price | None = None

    @property
    def proposed(self) -> Price | None:
        """The price to put in force; None: ours stays."""
        if self.official is None or self.move not in (Move.NEW, Move.MOVED, Move.JUMPED):
            return None
        ppm = PPM if self.ours is None else self.ours.model_multiplier_ppm
        return msgspec.structs.replace(self.official, model=self.model, model_multiplier_ppm=ppm)


async def read_sold(connection: Connection) -> list[Sold]:
    """Return every model that a channel has, with where it is bought, the first tier first."""
    found: dict[str, Sold] = {}
    for row in await connection.fetch(_SOLD):
        known = found.setdefault(
            row["public"], Sold(model=row["public"], upstream=row["upstream"], sellers=[])
        )
        seller = PRESETS.get(row["kind"], PLAIN).prices
        if seller and seller not in known.sellers:
            known.sellers.append(seller)
    return list(found.values())


async def read_official(connection: Connection) -> dict[str, Price]:
    """Return what lists last said, by model."""
    rows = await connection.fetch(_OFFICIAL)
    return {row["name"]: msgspec.json.decode(row["official"], type=Price) for row in rows}


async def read_ours(connection: Connection) -> dict[str, Price]:
    """Return the prices in force, by model."""
    return {row["model"]: read_price(row) for row in await connection.fetch(PRICES)}


class Kept(msgspec.Struct, frozen=True):
    """What is kept of a list, as a row."""

    name: str
    official: Price
    source: str
    context_tokens: int


async def keep_official(connection: Connection, kept: Sequence[Kept]) -> None:
    """Keep what lists say by now."""
    if kept:
        await connection.execute(_KEEP, msgspec.json.encode(kept).decode())


def compare_price(ours: Price | None, was: Price | None, now: Price) -> Move:
    """Return what a list's price means for ours. Pure.

    Args:
        ours: The one in force; None = there is none.
        was: What the list said when it was last taken over; None = it was never.
        now: What it says.
    """
    if ours is None:
        return Move.NEW
    if rates_of(ours) == rates_of(now):
        return Move.SAME
    if was is None or rates_of(ours) != rates_of(was):
        return Move.OWN
    return Move.JUMPED if _jumps(was, now) else Move.MOVED


def rates_of(price: Price) -> Price:
    """Return a price without what is ours alone: its id, its name, its multipliers."""
    return msgspec.structs.replace(
        price, id=0, model="", model_multiplier_ppm=PPM, completion_multiplier_ppm=None
    )


def _jumps(was: Price, now: Price) -> bool:
    for field in _RATES:
        before, after = getattr(was, field), getattr(now, field)
        if before * JUMP_MAX < after or after * JUMP_MAX < before:
            return True
    return False


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """A rate that costs a customer more than it may. USD per 1M tokens (`per_call`: a call)."""

    model: str
    rate: str
    official_usd: str
    asked_usd: str
    times: str


def find_breaches(
    ours: Mapping[str, Price], official: Mapping[str, Price], group_ppm: int, times_ppm: int
) -> list[Breach]:
    """Return the rates above so many times the official one. Pure.

    Args:
        ours: The prices in force, by model.
        official: What is known of official ones.
        group_ppm: The dearest group's multiplier.
        times_ppm: How many times the official price may be asked.
    """
    found = []
    for model, price in ours.items():
        known = official.get(model)
        if known is None:
            continue
        for rate in _RATES:
            listed = getattr(known, rate)
            if rate == "cache_write" and not listed:
                continue  # it costs what input costs, there and here
            asked_ppm3 = _rate_ppm(price, rate) * price.model_multiplier_ppm * group_ppm
            if asked_ppm3 > listed * times_ppm * PPM * PPM:
                asked = asked_ppm3 // PPM**3
                found.append(
                    Breach(
                        model=model,
                        rate=rate,
                        official_usd=format_usd(listed),
                        asked_usd=format_usd(asked),
                        times=format_multiplier(asked * PPM // listed) if listed else "inf",
                    )
                )
    return found


def _rate_ppm(price: Price, rate: str) -> int:
    """Return a rate as it is charged, times PPM: output may be a multiple of input."""
    completion_ppm = price.completion_multiplier_ppm
    if rate == "output" and completion_ppm is not None:
        return price.input * completion_ppm
    nanos: int = getattr(price, rate)
    return nanos * PPM


async def check_ceiling(
    connection: Connection, present: Declaration, wanted: Declaration, times: str
) -> None:
    """Refuse a catalog that asks more than so many times an official price.

    Raises:
        ConfigError: It does; the message names the first ones.
    """
    official = await read_official(connection)
    priced = {entry.model: entry for entry in (*present.price, *wanted.price)}
    ours = {model: to_price(entry) for model, entry in priced.items() if model in official}
    groups = {group.name: group for group in (*present.group, *wanted.group)}
    group_ppm = _highest(parse_multiplier(group.multiplier) for group in groups.values())
    _refuse(find_breaches(ours, official, group_ppm, parse_multiplier(times)), times)


async def check_price(connection: Connection, price: Price, times: str) -> None:
    """Refuse a price that asks anybody more than so many times the official one; "" = none.

    Raises:
        ConfigError: It does; the message names its rates.
    """
    if times:
        _refuse(await breaches_of(connection, price, times), times)


async def breaches_of(connection: Connection, price: Price, times: str) -> list[Breach]:
    """Return what a price asks above so many times the official one, by what is known now."""
    official = await read_official(connection)
    group_ppm = _highest([await connection.fetchval(_HIGHEST) or PPM])
    return find_breaches({price.model: price}, official, group_ppm, parse_multiplier(times))


def _refuse(breaches: Sequence[Breach], times: str) -> None:
    if breaches:
        said = "; ".join(
            f"{one.model}: {one.rate} {one.asked_usd} is {one.times} x official"
            for one in breaches[:BREACHES_SHOWN]
        )
        raise ConfigError(f"billing.official_max = {times!r} is exceeded: {said}")


async def read_breaches(connection: Connection, times: str) -> list[Breach]:
    """Return what is dearer now than it may be: an official price fell, or the rule is new."""
    official, ours = await read_official(connection), await read_ours(connection)
    group_ppm = _highest([await connection.fetchval(_HIGHEST) or PPM])
    return find_breaches(ours, official, group_ppm, parse_multiplier(times))


def _highest(multipliers: Iterable[int]) -> int:
    return max(multipliers, default=PPM)
