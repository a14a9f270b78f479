"""How much money a call holds: the bound of what it may cost, by its price and what it asks for.

A price is of a public model, whatever channel serves it, so no failover makes a call dearer.
"""

from typing import Final

from relay.call import Endpoint
from relay.config import Billing
from relay.flow.active import ActiveCall
from relay.units import parse_usd

OUTPUTLESS: Final = frozenset({Endpoint.EMBEDDINGS, Endpoint.MODERATIONS, Endpoint.RERANK})
IMAGES: Final = frozenset({Endpoint.IMAGES, Endpoint.IMAGE_EDITS})


class Holds:
    """Computes holds."""

    def __init__(self, limits: Billing) -> None:
        # Without a hold an account without credit would be served: a cap of 0 still asks for it.
        self._nanos_max = max(1, parse_usd(limits.hold_usd_max))
        self._output_tokens = limits.hold_output_tokens

    def nanos(self, call: ActiveCall) -> int:
        """Return what an admitted call may cost at most, within the cap; 0 where it is free."""
        tariff, endpoint = call.tariff, call.endpoint
        assert tariff is not None
        output_tokens, images = 0, 0
        if endpoint not in OUTPUTLESS:
            output_max = call.output_tokens_max
            each_tokens = self._output_tokens if output_max is None else output_max
            output_tokens = each_tokens * call.choices
            images = call.choices if endpoint in IMAGES else 0
        return tariff.hold_nanos(
            call.input_estimate, output_tokens, images, nanos_max=self._nanos_max
        )
