"""How much money a call holds: the bound of what it may cost, by its price and what it asks for.

A price is of a public model, whatever channel serves it, so no failover makes a call dearer.
"""

from typing import Final

from relay.billing.hold import Bound, bound_of, hold_nanos
from relay.billing.shapes import Ask
from relay.call import Endpoint
from relay.config import Billing
from relay.flow.active import ActiveCall
from relay.units import parse_usd

OUTPUTLESS: Final = frozenset({Endpoint.EMBEDDINGS, Endpoint.MODERATIONS, Endpoint.RERANK})
IMAGES: Final = frozenset({Endpoint.IMAGES, Endpoint.IMAGE_EDITS})
_UNKNOWN: Final = Bound(0, 0, 0, 0)


class Holds:
    """Computes holds; keeps what depends on the price alone."""

    def __init__(self, limits: Billing) -> None:
        # Without a hold an account without credit would be served: a cap of 0 still asks for it.
        self._nanos_max = max(1, parse_usd(limits.hold_usd_max))
        self._output_tokens = limits.hold_output_tokens
        self._bounds: dict[int, Bound | None] = {}
        """By the id of the price, a row that is never edited; None: it has tiers."""

    def nanos(self, call: ActiveCall) -> int:
        """Return what an admitted call may cost at most, within the cap; 0 where it is free."""
        price, group = call.price, call.group
        assert price is not None and group is not None
        bound = self._bounds.get(price.id, _UNKNOWN)
        if bound is _UNKNOWN:
            bound = self._bounds[price.id] = bound_of(price)
        ask, multiplier_ppm = self._ask(call), group.multiplier_ppm
        if bound is None:
            return hold_nanos(
                ask, [price], group_multiplier_ppm=multiplier_ppm, nanos_max=self._nanos_max
            )
        return bound.hold_nanos(ask, group_multiplier_ppm=multiplier_ppm, nanos_max=self._nanos_max)

    def _ask(self, call: ActiveCall) -> Ask:
        if call.endpoint in OUTPUTLESS:
            return Ask(call.input_estimate, 0)
        output_tokens = call.output_tokens_max
        if output_tokens is None:
            output_tokens = self._output_tokens
        images = call.choices if call.endpoint in IMAGES else 0
        return Ask(call.input_estimate, output_tokens * call.choices, images)
