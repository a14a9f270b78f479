"""What is held for a call at admission, and what of it is charged at the end.

A hold is an upper bound: whatever tokens the call turns out to use, they were set aside before it
began. It is settled by the difference; a charge beyond it is booked all the same, as debt.

    admitted: hold = bound(input estimate, most output), capped
    ended:    usage_to_charge(facts) -> Usage -> price.charge -> cost; hold - cost comes back
"""

import dataclasses
from collections.abc import Iterable
from typing import Final

from relay.billing.price import rates_in_force
from relay.billing.shapes import Ask, Ending, PriceRates
from relay.model import AbortBills, Price
from relay.records import EndReason
from relay.units import PPM, TOKENS_PER_PRICE
from relay.usage import Usage

_REFUSED: Final = frozenset(
    {EndReason.REJECTED, EndReason.UPSTREAM_REJECTED, EndReason.UPSTREAM_FAILED}
)

_DIVISOR: Final = TOKENS_PER_PRICE * PPM * PPM * PPM


def hold_nanos(
    ask: Ask, prices: Iterable[Price], *, group_multiplier_ppm: int, nanos_max: int
) -> int:
    """Return the nano-USD to hold: the dearest of the failover set, at most `nanos_max`.

    Call it again when a channel with a dearer price is taken, and hold the difference.

    Args:
        ask: What the call may use at most.
        prices: Of every model that may serve the call; one of them in the common case.
        group_multiplier_ppm: Of the account's group.
        nanos_max: The cap, so that one call without a maximum cannot lock a whole balance.
    """
    dearest = max(_bound_scaled(ask, price) * price.model_multiplier_ppm for price in prices)
    return min(-(-dearest * group_multiplier_ppm // _DIVISOR), nanos_max)


def _bound_scaled(ask: Ask, price: Price) -> int:
    rates = rates_in_force(ask.input_tokens, price)
    return (
        ask.input_tokens * dearest_input(rates)
        + ask.output_tokens * dearest_output(rates)
        + (ask.images * rates.per_image + rates.per_call) * TOKENS_PER_PRICE
    )


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


def usage_to_charge(ending: Ending) -> Usage | None:
    """Return the usage the client pays for; None = nothing, not even a price per call.

    - Refused, or nothing delivered of an answer that did not complete: nothing.
    - The terminal usage is known (the answer completed, or its client left and it was drained
      because the provider bills aborts in full): that usage.
    - Cut short, or complete without a usage: the prompt (exact where the channel told it) and the
      output delivered so far, marked as estimated. So it is too where draining hit its bound: what
      the provider bills beyond is the operator's cost, like retries and hedge losers.
    """
    if ending.reason in _REFUSED:
        return None
    if not ending.delivered and ending.reason is not EndReason.COMPLETED:
        return None
    reported = ending.reported
    if reported is None:
        reported = Usage(input_tokens=ending.input_estimate)
    elif ending.reported_whole:
        return reported
    output_tokens = ending.output_estimate
    if ending.output_tokens_max:
        output_tokens = min(output_tokens, ending.output_tokens_max)
    return dataclasses.replace(
        reported, output_tokens=max(output_tokens, reported.output_tokens), estimated=True
    )
