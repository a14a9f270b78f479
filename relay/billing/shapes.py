"""The facts and the results of billing, immutable; what is computed with them is beside this."""

import msgspec

from relay.billing.budget import BudgetWindow
from relay.extras import NOTHING_ASKED, Asked
from relay.units import TOKENS_PER_PRICE


class Charge(msgspec.Struct, frozen=True):
    """A cost in nano-USD, and what it was computed from: enough to compute it again."""

    cost_nanos: int
    price_id: int
    group_multiplier_ppm: int
    model_multiplier_ppm: int


class Item(msgspec.Struct, frozen=True):
    """One line of a receipt.

    `rate_scaled`: nano-USD x PPM for `per` of what is counted: 1M tokens, one image, 1,000
    milliseconds. `per` divides TOKENS_PER_PRICE. `name`: what was counted, in words. `noun`: the
    same behind a number, "" = tokens or pieces.
    """

    count: int
    rate_scaled: int
    per: int = TOKENS_PER_PRICE
    name: str = ""
    noun: str = ""

    @property
    def cost_scaled(self) -> int:
        """The cost in nano-USD x PPM x TOKENS_PER_PRICE."""
        return self.count * self.rate_scaled * (TOKENS_PER_PRICE // self.per)


class PriceRates(msgspec.Struct, frozen=True, kw_only=True):
    """The rates of one call, scaled: multipliers applied, its tier chosen.

    None: the price does not tell that part from its whole.
    """

    input: int
    cached_input: int
    cache_write: int
    cache_write_1h: int | None
    audio_input: int | None
    image_input: int | None
    output: int
    reasoning: int | None
    audio_output: int | None
    image_output: int | None
    per_call: int


class Ask(msgspec.Struct, frozen=True):
    """The most that a call may use: estimated input, its maximum of output tokens, and the rest."""

    input_tokens: int
    output_tokens: int
    asked: Asked = NOTHING_ASKED


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a call beside its upstream's word, when it is to be charged.

    `whole`: what was reported is the terminal usage, which counts all that the provider charges.
    `input_estimate`, `output_estimate`: tokens, counted from bytes of the request and of the
    delivered output; never from the text of an error. `input_max`, `output_max`: what can be, by
    what was asked and what the bytes hold; a claim beyond it is not believed.
    """

    whole: bool
    input_estimate: int
    output_estimate: int = 0
    input_max: int
    output_max: int
    asked: Asked = NOTHING_ASKED
    tier: str = ""


class CreditRequest(msgspec.Struct, frozen=True):
    """What a worker asks for an account: at least the hold that waits, better some seconds."""

    account_id: int
    needed_nanos: int
    wanted_nanos: int


class CreditLease(msgspec.Struct, frozen=True):
    """How an account stands with the worker that asked.

    `total_nanos`: all that this life of the worker was ever leased, less what it gave back.
    `free_nanos`: what is left for others to lease. `owned_nanos`: the balance and the credit
    limit, whoever holds how much of it now.
    """

    total_nanos: int
    free_nanos: int
    owned_nanos: int


class BudgetRequest(msgspec.Struct, frozen=True):
    """What a worker asks for a window of a budget, in the budget's own measure.

    `amount`: what may be used of it in all, as the worker's catalog says.
    """

    window: BudgetWindow
    amount: int
    needed: int
    wanted: int
