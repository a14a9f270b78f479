"""A price as one group pays it, in lowest terms: the hot path computes holds and charges from it.

Prices and multipliers end in many zeros (nano-USD per 1M tokens, parts per million). Divided by all
that they have in common they are small, nearly always, and a charge is a few products of machine
words. To the nano-dollar it agrees with billing.price and billing.hold, which say what is charged
and why.
"""

from math import gcd
from typing import Final

import msgspec

from relay.billing.hold import dearest_input, dearest_output, hold_nanos
from relay.billing.price import COST_NANOS_MAX, charge, rates_in_force
from relay.billing.shapes import Ask
from relay.extras import NOTHING_ASKED, REACHES_OUT, Asked
from relay.model import FREE_PRICE, Price
from relay.units import PPM, TOKENS_PER_PRICE
from relay.usage import Usage

_DIVISOR: Final = TOKENS_PER_PRICE * PPM * PPM * PPM


class Tariff:
    """See the module; made once for what a key may have.

    Args:
        price: The list price.
        group_multiplier_ppm: Of the account's group.
    """

    __slots__ = (
        "_cached",
        "_call",
        "_divisor",
        "_fresh",
        "_hold",
        "_output",
        "_written",
        "free",
        "group_multiplier_ppm",
        "hours_priced",
        "model_multiplier_ppm",
        "output_max",
        "price",
        "price_id",
    )

    def __init__(self, price: Price, group_multiplier_ppm: int) -> None:
        self.price = price
        self.price_id = price.id
        self.group_multiplier_ppm = group_multiplier_ppm
        self.model_multiplier_ppm = price.model_multiplier_ppm
        self.free = price is FREE_PRICE
        """No provider charges for such calls: they use nothing that has to be known."""
        completion_ppm = price.completion_multiplier_ppm
        output = price.output * PPM if completion_ppm is None else price.input * completion_ppm
        factor = group_multiplier_ppm * price.model_multiplier_ppm
        terms = _reduce(
            price.input * PPM * factor,
            price.cached_input * PPM * factor,
            (price.cache_write or price.input) * PPM * factor,
            output * factor,
            price.per_call * PPM * TOKENS_PER_PRICE * factor,
        )
        self._fresh, self._cached, self._written, self._output, self._call, self._divisor = terms
        self.hours_priced = price.detail is not None and price.detail.cache_write_1h is not None
        """Whether what is cached for an hour has a price of its own."""
        self.output_max = 0 if price.detail is None else price.detail.output_max
        """The most tokens of one answer, 0 = not known."""
        self._hold: tuple[int, int, int, int] | None = None
        """Input, output, call, divisor; None: it depends on the length of the prompt."""
        if price.detail is None or not price.detail.tiers:
            rates = rates_in_force(0, price)
            hold = _reduce(
                dearest_input(rates) * factor,
                dearest_output(rates) * factor,
                rates.per_call * TOKENS_PER_PRICE * factor,
            )
            self._hold = hold[0], hold[1], hold[2], hold[3]

    def __repr__(self) -> str:
        return f"<Tariff price={self.price_id} x {self.group_multiplier_ppm} ppm>"

    def cost_nanos(self, usage: Usage) -> int:
        """Return what `usage` costs; see price.charge."""
        if self.price.detail is not None:
            group_ppm = self.group_multiplier_ppm
            return charge(usage, self.price, group_multiplier_ppm=group_ppm).cost_nanos
        cached, written = usage.cached_tokens, usage.cache_write_tokens
        fresh = usage.input_tokens - cached - written
        doubled = 2 * (
            (fresh * self._fresh if fresh > 0 else 0)
            + cached * self._cached
            + written * self._written
            + usage.output_tokens * self._output
            + self._call
        )
        nanos = (doubled + self._divisor) // (2 * self._divisor)
        return nanos if 0 <= nanos <= COST_NANOS_MAX else max(0, min(nanos, COST_NANOS_MAX))

    def hold_nanos(
        self, input_tokens: int, output_tokens: int, asked: Asked, *, nanos_max: int
    ) -> int:
        """Return the most that a call with these bounds may cost; see hold.hold_nanos."""
        hold = self._hold
        if hold is None or not (asked is NOTHING_ASKED or asked is REACHES_OUT):
            ask = Ask(input_tokens, output_tokens, asked)
            group_ppm = self.group_multiplier_ppm
            return hold_nanos(ask, self.price, group_multiplier_ppm=group_ppm, nanos_max=nanos_max)
        most = input_tokens * hold[0] + output_tokens * hold[1] + hold[2]
        nanos = -(-most // hold[3])
        return min(nanos, nanos_max)

    def dearer_tier(self, asked_tier: str) -> str:
        """Return the tier that counts where nobody says which was served: the dearer one."""
        if not asked_tier:
            return ""
        standard, asked = (rates_in_force(0, self.price, tier) for tier in ("", asked_tier))
        return asked_tier if asked.output + asked.input > standard.output + standard.input else ""


def _reduce(*scaled: int) -> list[int]:
    """Return the terms over `_DIVISOR` in their lowest, the divisor behind them."""
    common = gcd(_DIVISOR, *scaled)
    return [term // common for term in (*scaled, _DIVISOR)]


NO_TARIFF: Final = Tariff(msgspec.structs.replace(FREE_PRICE, model_multiplier_ppm=0), 0)
"""The tariff of calls that cost nothing: nothing was delivered, or nobody is there to pay."""
