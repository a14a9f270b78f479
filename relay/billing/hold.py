"""What is held for a call at admission: an upper bound, settled by the difference.

Whatever tokens the call turns out to use, they were set aside before it began; a charge beyond it
(an answer longer than anybody bounded, or the cap) is booked all the same, as debt.

    admitted: hold = bound(input estimate, most output, all that multiplies it), capped
    ended:    charged.complete(report, facts) -> Usage -> cost; hold - cost comes back

The hot path computes the same from lowest terms (billing.tariff).
"""

from typing import Final

from relay.billing.price import image_rate, rates_in_force, video_rate
from relay.billing.shapes import Ask, PriceRates
from relay.extras import Asked
from relay.model import AbortBills, Price, PriceDetail
from relay.units import PPM, TOKENS_PER_PRICE

VIDEO_MS: Final = 12_000
"""The longest that a video may be begun with at OpenAI: held for one whose request does not say."""
_DIVISOR: Final = TOKENS_PER_PRICE * PPM * PPM * PPM


def hold_nanos(ask: Ask, price: Price, *, group_multiplier_ppm: int, nanos_max: int) -> int:
    """Return the nano-USD to hold, rounded up, at most `nanos_max`.

    Args:
        ask: What the call may use at most.
        price: Of its model.
        group_multiplier_ppm: Of the account's group.
        nanos_max: The cap, so that one call without a maximum cannot lock a whole balance.
    """
    # A batch is served at its own rates or not at all; any other tier may turn out another one.
    tiers = {ask.asked.tier} if ask.asked.requests else {"", ask.asked.tier}
    dearest = max(_bound_scaled(ask, price, tier) for tier in tiers) * price.model_multiplier_ppm
    return min(-(-dearest * group_multiplier_ppm // _DIVISOR), nanos_max)


def _bound_scaled(ask: Ask, price: Price, tier: str) -> int:
    rates = rates_in_force(ask.input_tokens, price, tier)
    extra = 0 if price.detail is None else extras_scaled(ask.asked, price.detail)
    return (
        ask.input_tokens * dearest_input(rates)
        + ask.output_tokens * dearest_output(rates)
        + rates.per_call * TOKENS_PER_PRICE * max(1, ask.asked.requests)
        + extra
    )


def extras_scaled(asked: Asked, detail: PriceDetail) -> int:
    """Return the most that a call may cost beside tokens, in nano-USD x PPM x TOKENS_PER_PRICE."""
    apiece = (
        asked.images * image_rate(asked.image_class, detail)
        + asked.searches * detail.per_search
        + asked.sessions * detail.per_session
        + asked.search_units * detail.per_search_unit
    )
    sound = asked.audio_ms * detail.per_second * (TOKENS_PER_PRICE // 1_000)
    if asked.videos:
        video_ms = asked.videos * (asked.video_ms or VIDEO_MS)
        rate = video_rate(asked.video_class, detail)
        sound += video_ms * rate * (TOKENS_PER_PRICE // 1_000)
    return (apiece * TOKENS_PER_PRICE + sound + asked.characters * detail.character) * PPM


def dearest_input(rates: PriceRates) -> int:
    """Return the highest rate of any part of a prompt."""
    return max(
        rates.input,
        rates.cached_input,
        rates.cache_write,
        rates.cache_write_1h or 0,
        rates.audio_input or 0,
        rates.image_input or 0,
    )


def dearest_output(rates: PriceRates) -> int:
    """Return the highest rate of any part of an answer."""
    return max(rates.output, rates.reasoning or 0, rates.audio_output or 0, rates.image_output or 0)


def drains(abort_bills: AbortBills, *, delivered: bool) -> bool:
    """Return whether an answer that its client left is read to its end (bounded), for its usage.

    Only where the provider bills the whole answer anyway, and the client will pay for any of it.
    """
    return abort_bills is AbortBills.FULL and delivered
