"""What is held for a call before it runs, of its account's balance and of its key's quota."""

from typing import Final

from relay.config import Billing
from relay.flow.call import Call
from relay.records import Endpoint
from relay.units import parse_usd

NO_CAP: Final = 2**62
OUTPUTLESS: Final = frozenset(
    {Endpoint.EMBEDDINGS, Endpoint.MODERATIONS, Endpoint.RERANK, Endpoint.SPEECH}
)


class Holds:
    """Computes holds."""

    def __init__(self, limits: Billing) -> None:
        # Without a hold an account without credit would be served: a cap of 0 still asks for it.
        self._guess_nanos_max = max(1, parse_usd(limits.hold_usd_max))
        self._output_tokens = limits.hold_output_tokens

    def nanos(self, call: Call) -> int:
        """Return what an admitted call may cost at most; 0 where it is free.

        What the client bounded is held whole. Where it set no bound the answer's length is our
        guess, which is capped, for each answer: a guess must not lock a whole balance.
        """
        tariff, request = call.rights.tariff, call.request
        assert tariff is not None
        given, asked, choices = request.input_estimate, request.asked, request.choices
        each_tokens = request.output_tokens_max
        if each_tokens is not None:
            return tariff.hold_nanos(given, each_tokens * choices, asked, nanos_max=NO_CAP)
        known = tariff.hold_nanos(given, 0, asked, nanos_max=NO_CAP)
        if call.head.endpoint in OUTPUTLESS:
            return known
        each_tokens = tariff.output_max or self._output_tokens
        cap = known + self._guess_nanos_max * choices
        return tariff.hold_nanos(given, each_tokens * choices, asked, nanos_max=cap)
