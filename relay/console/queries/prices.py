"""What a model costs an account: official price x group x model multiplier, exactly."""

import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from relay.billing.price import rates_in_force
from relay.billing.shapes import PriceRates
from relay.console.queries.forms import format_moment
from relay.console.rows import ChangeRow, PriceRow
from relay.model import Price
from relay.store.catalog import planned
from relay.store.catalog.snapshot import PRICES, read_price
from relay.store.postgres import Connection
from relay.units import PPM, TOKENS_PER_PRICE, divide_half_up, format_multiplier, format_usd

CHANGES_SHOWN: Final = 50
CHANGE_DAYS: Final = 90
EFFECT_DAYS: Final = 30
_SCALED_DIGITS: Final = 15
_FACTORS_DIGITS: Final = 12


class Terms(msgspec.Struct, frozen=True):
    """By which group an account buys."""

    group: str
    multiplier_ppm: int
    models: set[str] | None = None
    """What its lines offer; None = everything."""


PUBLIC: Final = Terms("", PPM)
"""What a stranger is shown: the official prices."""

_TERMS: Final = """
    SELECT groups.name AS "group", multiplier_ppm, ARRAY(
        SELECT DISTINCT jsonb_object_keys(channels.models) FROM group_lines
        JOIN line_channels USING (line_id) JOIN channels ON channels.id = channel_id
        WHERE group_lines.group_id = groups.id AND channels.deleted_at IS NULL
    ) AS models
    FROM accounts JOIN groups ON groups.id = group_id WHERE accounts.id = $1"""
_CHANGES: Final = """
    SELECT * FROM (
        SELECT *, lag(id) OVER same AS before_id FROM prices
        WINDOW same AS (PARTITION BY model ORDER BY id)
    ) AS chain WHERE created_at > now() - make_interval(days => $1) AND before_id IS NOT NULL
    ORDER BY id DESC LIMIT $2"""
_USED: Final = """
    SELECT model, sum(input_tokens)::bigint AS input_tokens,
        sum(cached_tokens)::bigint AS cached_tokens, sum(output_tokens)::bigint AS output_tokens,
        sum(requests)::bigint AS requests
    FROM usage_hours WHERE ($1::bigint IS NULL OR account_id = $1)
        AND hour > now() - make_interval(days => $2) AND model = ANY($3::text[])
    GROUP BY model"""


async def read_terms(connection: Connection, account_id: int) -> Terms:
    """Return by which group an account buys, and which models its lines offer."""
    row = await connection.fetchrow(_TERMS, account_id)
    assert row is not None, "an account has a group"
    return Terms(row["group"], row["multiplier_ppm"], set(row["models"]))


async def list_prices(connection: Connection, terms: Terms, search: str = "") -> list[PriceRow]:
    """Return the prices in force by model, of what the lines offer and `search` is part of."""
    prices = [read_price(row) for row in await connection.fetch(PRICES)]
    return [
        to_row(price, terms)
        for price in sorted(prices, key=lambda price: price.model)
        if search.lower() in price.model.lower() and _is_offered(price.model, terms.models)
    ]


async def list_changes(
    connection: Connection, terms: Terms, account_id: int | None
) -> list[ChangeRow]:
    """Return prices that will change and that did of late, with the effect on what was used."""
    plans = [
        plan
        for plan in await planned.list_plans(connection)
        if _is_offered(plan.price.model, terms.models)
    ]
    rows = await connection.fetch(_CHANGES, CHANGE_DAYS, CHANGES_SHOWN)
    rows = [row for row in rows if _is_offered(row["model"], terms.models)]
    befores = await connection.fetch(
        "SELECT * FROM prices WHERE id = ANY($1::bigint[])", [row["before_id"] for row in rows]
    )
    by_id = {row["id"]: row for row in befores}
    models = {row["model"] for row in rows} | {plan.price.model for plan in plans}
    used: dict[str, Any] = {}
    if account_id is not None:
        sums = await connection.fetch(_USED, account_id, EFFECT_DAYS, sorted(models))
        used = {row["model"]: row for row in sums}
    in_force = {row["model"]: read_price(row) for row in await connection.fetch(PRICES)}
    changes = []
    for plan in reversed(plans):
        moment, model = plan.effective_at, plan.price.model
        compared = _compare(in_force.get(model), plan.price, terms, used.get(model))
        changes.append(_to_change(model, moment, compared, announced=True))
    for row in rows:
        old = by_id[row["before_id"]]
        before = None if old["withdrawn"] else read_price(old)
        after = None if row["withdrawn"] else read_price(row)
        compared = _compare(before, after, terms, used.get(row["model"]))
        changes.append(_to_change(row["model"], row["created_at"], compared, announced=False))
    return changes


_Compared = tuple[PriceRow | None, PriceRow | None, str | None]


def _compare(before: Price | None, after: Price | None, terms: Terms, used: Any) -> _Compared:
    """Return both prices as an account sees them, and what the difference would have made."""
    effect = None
    if before and after and used is not None:
        effect = format_usd(estimate(used, after, terms) - estimate(used, before, terms))
    return (
        None if before is None else to_row(before, terms),
        None if after is None else to_row(after, terms),
        effect,
    )


def _to_change(
    model: str, moment: datetime.datetime, compared: _Compared, *, announced: bool
) -> ChangeRow:
    before, after, effect = compared
    return ChangeRow(
        model=model,
        time=format_moment(moment),
        announced=announced,
        before=before,
        after=after,
        effect_usd=effect,
    )


def estimate(used: Any, price: Price, terms: Terms) -> int:
    """Return what sums of tokens would cost, in nano-USD: without tiers and cache writes."""
    rates = rates_in_force(0, price)
    scaled = (
        max(0, used["input_tokens"] - used["cached_tokens"]) * rates.input
        + used["cached_tokens"] * rates.cached_input
        + used["output_tokens"] * rates.output
        + used["requests"] * rates.per_call * TOKENS_PER_PRICE
    )
    factors = terms.multiplier_ppm * price.model_multiplier_ppm
    return divide_half_up(scaled * factors, TOKENS_PER_PRICE * PPM * PPM * PPM)


def to_row(price: Price, terms: Terms) -> PriceRow:
    """Return a price as an account sees it."""
    rates = rates_in_force(0, price)
    factors = terms.multiplier_ppm * price.model_multiplier_ppm
    completion = price.completion_multiplier_ppm
    return PriceRow(
        model=price.model,
        **_official(rates),
        group_multiplier=format_multiplier(terms.multiplier_ppm),
        model_multiplier=format_multiplier(price.model_multiplier_ppm),
        completion_multiplier=None if completion is None else format_multiplier(completion),
        yours_input_usd=_times(rates.input, factors),
        yours_cached_input_usd=_times(rates.cached_input, factors),
        yours_output_usd=_times(rates.output, factors),
        yours_per_call_usd=_times(rates.per_call, factors),
    )


def _official(rates: PriceRates) -> dict[str, str]:
    return {
        "input_usd": _times(rates.input, 1, 0),
        "cached_input_usd": _times(rates.cached_input, 1, 0),
        "cache_write_usd": _times(rates.cache_write, 1, 0),
        "output_usd": _times(rates.output, 1, 0),
        "per_call_usd": _times(rates.per_call, 1, 0),
    }


def _times(rate_scaled: int, factors: int, digits: int = _FACTORS_DIGITS) -> str:
    """Return a rate times the multipliers as an exact decimal in USD."""
    usd = Decimal(rate_scaled * factors).scaleb(-_SCALED_DIGITS - digits)
    return f"{usd.normalize():f}" if usd else "0"


def _is_offered(model: str, offered: set[str] | None) -> bool:
    return offered is None or model in offered or any("*" in one for one in offered)
