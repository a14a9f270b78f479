"""The facts and the results of billing, immutable; what is computed with them is beside this."""

import msgspec

from relay.records import EndReason
from relay.units import TOKENS_PER_PRICE
from relay.usage import Usage


class Charge(msgspec.Struct, frozen=True):
    """A cost in nano-USD, and what it was computed from: enough to compute it again."""

    cost_nanos: int
    price_id: int
    group_multiplier_ppm: int
    model_multiplier_ppm: int


class Item(msgspec.Struct, frozen=True):
    """One line of a receipt.

    `rate_scaled`: nano-USD x PPM, per 1M tokens, or each where `apiece` (calls, images). `name`:
    what was counted, in words.
    """

    count: int
    rate_scaled: int
    apiece: bool = False
    name: str = ""

    @property
    def cost_scaled(self) -> int:
        """The cost in nano-USD x PPM x TOKENS_PER_PRICE."""
        return self.count * self.rate_scaled * (TOKENS_PER_PRICE if self.apiece else 1)


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
    per_image: int
    per_call: int


class Ask(msgspec.Struct, frozen=True):
    """The most that a call may use: estimated input, its maximum of output tokens, images."""

    input_tokens: int
    output_tokens: int
    images: int = 0


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that decide what of a call is charged.

    `delivered`: the client was sent output of the model (a role, a ping, an error is none).
    `reported`: the latest usage that the delivering channel told. `reported_whole`: it was the
    terminal one, which counts all that the provider charges. `input_estimate`, `output_estimate`:
    tokens, counted from bytes of the request and of the delivered output; never from the text of
    an error. `output_tokens_max`: what the client allowed, 0 = no bound.
    """

    reason: EndReason
    delivered: bool
    input_estimate: int
    output_estimate: int = 0
    reported: Usage | None = None
    reported_whole: bool = False
    output_tokens_max: int = 0


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
