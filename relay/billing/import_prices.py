"""Reads other people's price lists into prices: a public cost map, and new-api's ratios.

Numbers are read as decimals from their text, never through a float. What cannot be billed here
exactly (a price by the second, one finer than a nano-dollar, a model that would be free by
omission) is skipped with a reason: a model without a price is refused, which is the safer mistake.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from relay.decoding import Decoder
from relay.model import Price, PriceDetail, PriceTier
from relay.units import NANOS_PER_USD, PPM, TOKENS_PER_PRICE

_TIER_KEY: Final = re.compile(r"input_cost_per_token_above_([1-9][0-9]*)k_tokens")
_UNBILLABLE_KEY: Final = re.compile(r"(input|output)_cost_per_(second|pixel|character|video)")
_VIDEO_KEY: Final = "output_cost_per_video_per_second"
_RATIO_USD: Final = Decimal(2)  # new-api: ratio 1 = 2 USD per 1M tokens
_HOUR_FACTOR: Final = Decimal("1.6")  # new-api: an hour's write = 6 / 3.75 of a short one
_NUMBER_MAX: Final = 1_000_000  # USD a token or call, or a ratio: no true one comes near
_NO_DETAIL: Final = PriceDetail()

_COST_MAP: Final = Decoder(dict[str, dict[str, Any]], float_hook=Decimal)
_DOCUMENT: Final = Decoder(dict[str, Any], float_hook=Decimal)


class Imported(msgspec.Struct, frozen=True):
    """Prices without an id of their own yet (0), by name; and why the others were left out."""

    prices: list[Price]
    skipped: dict[str, str]


class _PriceError(Exception):
    """A model whose price cannot be kept exactly; its text is the reason."""


class _Ratios(msgspec.Struct):
    """new-api's tables, model -> ratio; `model_price` in USD a call."""

    model_ratio: dict[str, Any] = {}
    completion_ratio: dict[str, Any] = {}
    cache_ratio: dict[str, Any] = {}
    create_cache_ratio: dict[str, Any] = {}
    image_ratio: dict[str, Any] = {}
    audio_ratio: dict[str, Any] = {}
    audio_completion_ratio: dict[str, Any] = {}
    model_price: dict[str, Any] = {}


def parse_cost_map(raw: bytes) -> Imported:
    """Return the prices of a public cost map: model -> {"input_cost_per_token": 1.5e-07, ...}.

    Batch, priority and flex prices, and charges for tools (search, grounding), are not read.

    Raises:
        ValueError: Not JSON, or not an object of objects. Entries whose name starts with "_" and
            the map's own "sample_spec" are no models.
    Source: LiteLLM, model_prices_and_context_window.json.
    """
    prices: list[Price] = []
    skipped: dict[str, str] = {}
    for model, entry in _COST_MAP.decode(raw).items():
        if model.startswith("_") or model == "sample_spec":
            continue
        try:
            prices.append(_price_of_entry(model, entry))
        except _PriceError as exc:
            skipped[model] = str(exc)
    return Imported(sorted(prices, key=lambda price: price.model), skipped)


def parse_ratios(raw: bytes) -> Imported:
    """Return the prices of new-api's ratio export ({"model_ratio": {model: 0.075}, ...}).

    The answer of its /api/ratio_config is taken too, where the tables sit below "data".

    Raises:
        ValueError: Not JSON, or a table is not an object.
    Source: docs.newapi.pro, Ratio Settings; github.com/QuantumNous/new-api, setting/ratio_setting
        and types/price_data.go (a write to the cache costs 1.25 x input, for an hour 1.6 x that).
    """
    document = _DOCUMENT.decode(raw)
    try:
        ratios = msgspec.convert(document.get("data", document), _Ratios)
    except msgspec.ValidationError as exc:
        raise ValueError(f"not a ratio export: {exc}") from None
    prices: list[Price] = []
    skipped: dict[str, str] = {}
    for model in sorted(ratios.model_ratio.keys() | ratios.model_price.keys()):
        try:
            prices.append(_price_of_ratios(model, ratios))
        except _PriceError as exc:
            skipped[model] = str(exc)
    return Imported(prices, skipped)


def _price_of_entry(model: str, entry: Mapping[str, Any]) -> Price:
    for key, value in entry.items():
        if value and key != _VIDEO_KEY and _UNBILLABLE_KEY.match(key):
            raise _PriceError(f"has a price that is not billed here: {key}")
    per_image = _scaled(entry, "output_cost_per_image", NANOS_PER_USD) or 0
    per_call = _scaled(entry, "input_cost_per_query", NANOS_PER_USD) or 0
    per_video_second = _scaled(entry, _VIDEO_KEY, NANOS_PER_USD) or 0
    rates = _token_rates(entry, "")
    if rates is None:
        if not (per_image or per_call or per_video_second):
            raise _PriceError("no price per token, image or call")
        rates = _TokenRates(0, 0, 0, 0, None)
    detail = PriceDetail(
        cache_write_1h=rates.cache_write_1h,
        reasoning=_told_apart(entry, "output_cost_per_reasoning_token", rates.output),
        audio_input=_told_apart(entry, "input_cost_per_audio_token", rates.input),
        audio_output=_told_apart(entry, "output_cost_per_audio_token", rates.output),
        image_input=_told_apart(entry, "input_cost_per_image_token", rates.input),
        image_output=_told_apart(entry, "output_cost_per_image_token", rates.output),
        per_image=per_image,
        per_video_second=per_video_second,
        tiers=_tiers(entry),
    )
    return Price(
        id=0,
        model=model,
        input=rates.input,
        output=rates.output,
        cached_input=rates.cached_input,
        cache_write=rates.cache_write,
        per_call=per_call,
        detail=None if detail == _NO_DETAIL else detail,
    )


class _TokenRates(msgspec.Struct, frozen=True):
    input: int
    output: int
    cached_input: int
    cache_write: int
    cache_write_1h: int | None


def _token_rates(entry: Mapping[str, Any], suffix: str) -> _TokenRates | None:
    """Return the rates whose keys end on `suffix` ("" or "_above_200k_tokens"), None if free."""
    input_rate = _per_million(entry, f"input_cost_per_token{suffix}")
    output_rate = _per_million(entry, f"output_cost_per_token{suffix}")
    if not input_rate and not output_rate:
        return None
    if input_rate is None:
        raise _PriceError(f"has no input_cost_per_token{suffix}")
    if output_rate is None:
        raise _PriceError(f"has no output_cost_per_token{suffix}")
    cached_rate = _per_million(entry, f"cache_read_input_token_cost{suffix}")
    hour_key = f"cache_creation_input_token_cost_above_1hr{suffix}"
    return _TokenRates(
        input_rate,
        output_rate,
        input_rate if cached_rate is None else cached_rate,
        _per_million(entry, f"cache_creation_input_token_cost{suffix}") or 0,
        _per_million(entry, hour_key),
    )


def _tiers(entry: Mapping[str, Any]) -> tuple[PriceTier, ...]:
    thousands = sorted(int(found[1]) for key in entry if (found := _TIER_KEY.fullmatch(key)))
    tiers = []
    for thousand in thousands:
        rates = _token_rates(entry, f"_above_{thousand}k_tokens")
        if rates is None:
            raise _PriceError(f"is free above {thousand}k tokens")
        tiers.append(
            PriceTier(
                above_tokens=thousand * 1000,
                input=rates.input,
                output=rates.output,
                cached_input=rates.cached_input,
                cache_write=rates.cache_write,
                cache_write_1h=rates.cache_write_1h,
            )
        )
    return tuple(tiers)


def _price_of_ratios(model: str, ratios: _Ratios) -> Price:
    if model in ratios.model_price:
        per_call = _scaled(ratios.model_price, model, NANOS_PER_USD)
        if not per_call:
            raise _PriceError("its price per call is zero")
        return Price(id=0, model=model, input=0, output=0, cached_input=0, per_call=per_call)
    completion_ppm = _scaled(ratios.completion_ratio, model, PPM)
    if completion_ppm is None:
        raise _PriceError("has no completion ratio (1 where output costs what input costs)")
    usd = _number(ratios.model_ratio, model, Decimal(0)) * _RATIO_USD
    if not usd:
        raise _PriceError("its model ratio is zero")
    write_usd = usd * _number(ratios.create_cache_ratio, model, Decimal(0))
    audio_usd = usd * _number(ratios.audio_ratio, model, Decimal(0))
    detail = PriceDetail(
        cache_write_1h=_nanos(write_usd * _HOUR_FACTOR) or None,
        audio_input=_nanos(audio_usd) or None,
        audio_output=_nanos(audio_usd * _number(ratios.audio_completion_ratio, model, Decimal(1)))
        or None,
        image_input=_nanos(usd * _number(ratios.image_ratio, model, Decimal(0))) or None,
    )
    return Price(
        id=0,
        model=model,
        input=_nanos(usd),
        output=_nanos(usd * completion_ppm / PPM),
        cached_input=_nanos(usd * _number(ratios.cache_ratio, model, Decimal(1))),
        cache_write=_nanos(write_usd),
        completion_multiplier_ppm=completion_ppm,
        detail=None if detail == _NO_DETAIL else detail,
    )


def _told_apart(entry: Mapping[str, Any], key: str, whole_rate: int) -> int | None:
    """Return the rate of a part; None where it is the whole's, and so moves along with its tier."""
    rate = _per_million(entry, key)
    return None if rate == whole_rate else rate


def _per_million(entry: Mapping[str, Any], key: str) -> int | None:
    return _scaled(entry, key, NANOS_PER_USD * TOKENS_PER_PRICE)


def _scaled(entry: Mapping[str, Any], key: str, scale: int) -> int | None:
    """Return an entry times `scale` as an integer, None where it is absent or null."""
    if entry.get(key) is None:
        return None
    return _integer(_number(entry, key, Decimal(0)) * scale, key)


def _nanos(usd: Decimal) -> int:
    return _integer(usd * NANOS_PER_USD, "price")


def _integer(value: Decimal, what: str) -> int:
    if value != value.to_integral_value():
        raise _PriceError(f"{what} is finer than can be kept")
    return int(value)


def _number(entry: Mapping[str, Any], key: str, default: Decimal) -> Decimal:
    value = entry.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        raise _PriceError(f"{key} is not a number")
    if not 0 <= value <= _NUMBER_MAX:
        raise _PriceError(f"{key} is negative or absurdly large")
    return Decimal(value)
