"""What is held for a call before it runs, of its account's balance and of its key's quota."""

from typing import Final

from relay.billing.tariff import Tariff
from relay.config import Billing
from relay.flow.call import Call
from relay.flow.request import RequestFacts
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
        if asked.requests:
            return self._of_batch(tariff, request)
        each_tokens = request.output_tokens_max
        if each_tokens is not None:
            return tariff.hold_nanos(given, each_tokens * choices, asked, nanos_max=NO_CAP)
        known = tariff.hold_nanos(given, 0, asked, nanos_max=NO_CAP)
        if call.head.endpoint in OUTPUTLESS:
            return known
        each_tokens = tariff.output_max or self._output_tokens
        cap = known + self._guess_nanos_max * choices
        return tariff.hold_nanos(given, each_tokens * choices, asked, nanos_max=cap)

    def _of_batch(self, tariff: Tariff, request: RequestFacts) -> int:
        """Return what all requests of a batch may cost, each answer as for a call by itself."""
        given, asked, told = request.input_estimate, request.asked, request.output_tokens_max or 0
        known = tariff.hold_nanos(given, told, asked, nanos_max=NO_CAP)
        if not asked.unbounded:
            return known
        each_tokens = tariff.output_max or self._output_tokens
        cap = known + self._guess_nanos_max * asked.unbounded
        return tariff.hold_nanos(given, told + each_tokens * asked.unbounded, asked, nanos_max=cap)
