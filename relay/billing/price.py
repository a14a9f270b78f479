"""What a call costs: usage x list price x multipliers, in integers, rounded once.

Every rate is held as nano-USD per 1M tokens times PPM ("scaled"), so that a completion or cache
multiplier needs no rounding of its own; the one division is the last step. A model without a price
never comes here: admission refuses it.

    usage, price -> items [(count, scaled rate)] -> sum x group x model multiplier -> nano-USD

It gives the number of new-api's published formula before that rounds to whole quota (2,000
nano-USD): quota = (input + cached x cache ratio + written x cache creation ratio + output x
completion ratio) x model ratio x group ratio, 500,000 quota = 1 USD, so model ratio 1 = 2 USD per
1M. There, `input` excludes cached and written tokens: OpenAI's prompt_tokens includes them and they
are subtracted, never below zero; Anthropic's input_tokens excludes them, so the dialect's parser
adds them up to make a Usage.

Source: docs.newapi.pro, Ratio Settings, "Quota Calculation Formulas"; github.com/QuantumNous/
new-api, service/text_quota.go, calculateTextQuotaSummary.
"""

from decimal import Decimal
from typing import Final

from relay.billing.shapes import Charge, Item, PriceRates
from relay.extras import NO_EXTRAS, Extras
from relay.model import Price, PriceDetail, PriceTier, ServiceTier
from relay.units import (
    NANOS_PER_USD,
    PPM,
    TOKENS_PER_PRICE,
    divide_half_up,
    format_multiplier,
    format_usd,
)
from relay.usage import Usage

COST_NANOS_MAX: Final = 1_000_000 * NANOS_PER_USD
"""No call costs more: an upstream that reports such a usage is lying, or broken."""

_DIVISOR: Final = TOKENS_PER_PRICE * PPM * PPM * PPM
_SCALED_DIGITS: Final = 15  # 10^9 nano-USD x 10^6 PPM
_NO_DETAIL: Final = PriceDetail()


def charge(usage: Usage, price: Price, *, group_multiplier_ppm: int) -> Charge:
    """Return what `usage` costs at `price`, rounded once, halves up.

    Parts that exceed their whole (an upstream that reports more cached tokens than input) are
    charged as reported; what is left of the whole counts as zero, never as a credit. Whatever an
    upstream reports, the cost lies between 0 and COST_NANOS_MAX, so that the ledger can book it.
    """
    scaled = sum([item.cost_scaled for item in itemise(usage, price)])
    model_multiplier_ppm = price.model_multiplier_ppm
    nanos = divide_half_up(scaled * group_multiplier_ppm * model_multiplier_ppm, _DIVISOR)
    return Charge(
        nanos if 0 <= nanos <= COST_NANOS_MAX else max(0, min(nanos, COST_NANOS_MAX)),
        price.id,
        group_multiplier_ppm,
        model_multiplier_ppm,
    )


def receipt(usage: Usage, price: Price, *, group_multiplier_ppm: int) -> str:
    """Return the charge as a sum that its payer can check by hand.

    Like "2,567 x $5/M + 89,472 x $0.5/M + 550 x $30/M, x 0.69 = $0.05110899". A multiplier of one
    is left out; the result is exact to the nano-dollar.
    """
    items = itemise(usage, price)
    terms = " + ".join(map(_format_item, items))
    factors = "".join(
        f" x {format_multiplier(ppm)}"
        for ppm in (group_multiplier_ppm, price.model_multiplier_ppm)
        if ppm != PPM
    )
    charged = charge(usage, price, group_multiplier_ppm=group_multiplier_ppm)
    total = format_usd(charged.cost_nanos)
    return f"{terms or '0'}{',' if factors else ''}{factors} = ${total}"


def itemise(usage: Usage, price: Price) -> list[Item]:
    """Return what is charged for, part by part: disjoint counts, none of them zero.

    A part that the price does not tell apart is counted within its whole. The sum of the items'
    costs is what `charge` multiplies and rounds.
    """
    extras = usage.extras
    rates = rates_in_force(usage.input_tokens, price, "" if extras is None else extras.tier)
    hour_tokens = 0
    if rates.cache_write_1h is not None:
        hour_tokens = min(usage.cache_write_1h_tokens, usage.cache_write_tokens)
    items = [
        *_split(
            "input",
            usage.input_tokens,
            rates.input,
            ("cached input", usage.cached_tokens, rates.cached_input),
            ("cache write", usage.cache_write_tokens - hour_tokens, rates.cache_write),
            ("cache write for an hour", hour_tokens, rates.cache_write_1h),
            ("audio input", usage.audio_input_tokens, rates.audio_input),
            ("image input", usage.image_input_tokens, rates.image_input),
        ),
        *_split(
            "output",
            usage.output_tokens,
            rates.output,
            ("reasoning", usage.reasoning_tokens, rates.reasoning),
            ("audio output", usage.audio_output_tokens, rates.audio_output),
            ("image output", usage.image_output_tokens, rates.image_output),
        ),
        Item(_calls(extras) if rates.per_call else 0, rates.per_call, 1, name="call"),
    ]
    if price.detail is not None:
        items[-1:-1] = _itemise_extras(usage.images, extras or NO_EXTRAS, price.detail)
    return [item for item in items if item.count > 0]


def _calls(extras: Extras | None) -> int:
    """Return how many calls are charged for: one, or all that were served of a batch."""
    return 1 if extras is None else max(1, extras.requests)


def image_rate(image_class: str, detail: PriceDetail) -> int:
    """Return what an image costs, in nano-USD: of the classes it may be of, the dearest.

    Args:
        image_class: Its quality and size; what is "" or "auto" may be anything.
        detail: With `image_classes`; `per_image` is the price of all that they do not name.
    """
    quality, _, size = image_class.partition(" ")
    fitting = [
        one.each
        for one in detail.image_classes
        if _fits(one.quality, quality) and _fits(one.size, size)
    ]
    return max(fitting, default=detail.per_image)


def video_rate(video_class: str, detail: PriceDetail) -> int:
    """Return what a second of video costs, in nano-USD: of the sizes it may have, the dearest."""
    fitting = [one.per_second for one in detail.video_classes if _fits(one.size, video_class)]
    return max(fitting, default=detail.per_video_second)


def _fits(named: str, asked: str) -> bool:
    return named in ("", asked) or asked in ("", "auto")


def _itemise_extras(images: int, extras: Extras, detail: PriceDetail) -> list[Item]:
    """Return what is charged for beside tokens and the call itself."""
    units = (
        Item(images, image_rate(extras.image_class, detail) * PPM, 1, "images"),
        Item(extras.audio_ms, detail.per_second * PPM, 1_000, "sound", "s"),
        Item(extras.characters, detail.character * PPM, name="characters", noun="characters"),
        Item(extras.searches, detail.per_search * PPM, 1, "searches", "searches"),
        Item(extras.sessions, detail.per_session * PPM, 1, "sessions", "sessions"),
        Item(
            extras.search_units,
            detail.per_search_unit * PPM,
            1,
            "search units",
            "search units",
        ),
        Item(extras.video_ms, video_rate(extras.video_class, detail) * PPM, 1_000, "video", "s"),
    )
    return [item for item in units if item.rate_scaled]


def rates_in_force(input_tokens: int, price: Price, service_tier: str = "") -> PriceRates:
    """Return the rates of a call whose whole prompt is `input_tokens` long.

    Args:
        input_tokens: They tell the price's tier.
        price: The list price.
        service_tier: At which it was served; one without rates of its own costs the standard ones.
    """
    detail = price.detail or _NO_DETAIL
    tier: Price | PriceTier | ServiceTier = price
    hour = detail.cache_write_1h
    for above in detail.tiers:
        if input_tokens > above.above_tokens:
            tier = above
            hour = detail.cache_write_1h if above.cache_write_1h is None else above.cache_write_1h
    cache_ppm, completion_ppm = detail.cache_multiplier_ppm, price.completion_multiplier_ppm
    for served in detail.service_tiers:
        if served.name == service_tier:
            tier, hour = served, served.cache_write_1h
            cache_ppm = completion_ppm = None  # it names all of its rates
    return PriceRates(
        input=tier.input * PPM,
        cached_input=tier.cached_input * PPM if cache_ppm is None else tier.input * cache_ppm,
        cache_write=(tier.cache_write or tier.input) * PPM,
        cache_write_1h=_scale(hour),
        audio_input=_scale(detail.audio_input),
        image_input=_scale(detail.image_input),
        output=tier.output * PPM if completion_ppm is None else tier.input * completion_ppm,
        reasoning=_scale(detail.reasoning),
        audio_output=_scale(detail.audio_output),
        image_output=_scale(detail.image_output),
        per_call=price.per_call * PPM,
    )


def _split(name: str, whole: int, rate: int, *parts: tuple[str, int, int | None]) -> list[Item]:
    """Return the whole less its parts at `rate`, then the parts; a part without a rate stays in."""
    told_apart = [
        Item(count, part_rate, name=part)
        for part, count, part_rate in parts
        if part_rate is not None
    ]
    return [Item(whole - sum([item.count for item in told_apart]), rate, name=name), *told_apart]


def _scale(nanos: int | None) -> int | None:
    return None if nanos is None else nanos * PPM


def _format_item(item: Item) -> str:
    """Return "2,567 x $5/M", "3 searches x $0.01" or "11.5 s x $0.0001"."""
    rate = _format_rate(item.rate_scaled)
    if item.per == 1_000:
        return f"{Decimal(item.count) / 1_000:,f} {item.noun} x ${rate}"
    noun = f" {item.noun}" if item.noun else ""
    return f"{item.count:,}{noun} x ${rate}{'/M' if item.per == TOKENS_PER_PRICE else ''}"


def _format_rate(rate_scaled: int) -> str:
    usd = Decimal(rate_scaled).scaleb(-_SCALED_DIGITS)
    return f"{usd.normalize():f}"
