"""What a call cost the operator beside what its client pays: failed tries, lost hedges, splices.

Nobody reports it: an attempt that was dropped never says what it used. So it is estimated, from the
prompt that its channel took on, the answer that came of it, and, where a stream is carried on, the
text that was sent along to be read again. A channel that refused charges nothing. What a channel
costs us is taken to be the list price.
"""

import math

import msgspec

from relay.billing.price import charge
from relay.flow.active import ActiveCall
from relay.flow.attempt import Attempt
from relay.units import PPM
from relay.usage import Usage

BYTES_PER_TOKEN: float = 4.0
"""Of a plain body nobody metered; English text is near this in every tokenizer."""


def note_waste(call: ActiveCall, attempt: Attempt) -> None:
    """Add what an attempt cost that the client does not pay for; an attempt is noted once."""
    if not attempt.answered or attempt is call.payer or call.settled:
        return
    call.wasted_input += call.input_estimate + attempt.prefix_tokens
    if not call.stream and call.counts_bytes:
        call.wasted_output += math.ceil(attempt.bytes_in / BYTES_PER_TOKEN)


def waste_nanos(call: ActiveCall) -> int:
    """Return what the call cost the operator in vain, attempts still under way included."""
    for attempt in call.running:
        note_waste(call, attempt)
    if not (call.wasted_input or call.wasted_output) or call.tariff is None:
        return 0
    usage = Usage(input_tokens=call.wasted_input, output_tokens=call.wasted_output)
    price = msgspec.structs.replace(call.tariff.price, model_multiplier_ppm=PPM)
    return charge(usage, price, group_multiplier_ppm=PPM).cost_nanos
