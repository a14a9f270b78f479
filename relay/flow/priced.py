"""Whether a call asks for nothing that its model has no price for: else refused by name, or cut.

Looked at only where a request names something beside plain text: most calls never come here.
"""

from typing import Final

import msgspec

from relay.billing.unpriced import (
    FORMAT,
    HOUR,
    PICTURES,
    SEARCHES,
    SESSIONS,
    SIZE,
    TIER,
    unpriced_fields,
    unpriced_unit,
    without,
)
from relay.errors import BadRequest, ModelNotFound
from relay.flow.call import Call
from relay.model import Unpriced
from relay.wire.request.asked import (
    HOUR_CACHE,
    SEARCH_FIELDS,
    TIER_FIELDS,
    asks_for_an_hour,
    strip_fields,
)

UNPRICED: Final = "unpriced"
_MEMBERS: Final = {
    TIER: TIER_FIELDS,
    SEARCHES: SEARCH_FIELDS | {"tools"},
    SESSIONS: frozenset({"tools"}),
    PICTURES: frozenset({"tools"}),
    HOUR: frozenset({HOUR_CACHE}),
}
"""What is taken out of a request for each thing that has no price."""
_FIXED: Final = frozenset({FORMAT, SIZE})
"""Without these it would be another thing."""


def note_hour_cache(call: Call) -> None:
    """Note that a call wants something cached for an hour, where that has no price of its own."""
    tariff, fields = call.rights.tariff, call.question.fields
    if tariff is None or tariff.hours_priced or tariff.free or fields is None:
        return
    if asks_for_an_hour(fields):
        asked = msgspec.structs.replace(call.request.asked, hour_cache=True)
        call.request = call.request.with_asked(asked)


def check_priced(call: Call) -> None:
    """Refuse an admitted call whose model has no price for what it asks, or take that out.

    Raises:
        ModelNotFound: CLIENT; the model has no price for what its endpoint is charged by.
        BadRequest: CLIENT; a field costs more than the model has a price for.
    """
    request, tariff, line = call.request, call.rights.tariff, call.rights.line
    assert tariff is not None and line is not None
    if tariff.free:
        return
    price = tariff.price
    unit = unpriced_unit(call.head.endpoint, price, stream=request.stream)
    if unit is not None:
        error = ModelNotFound(
            f"The model '{request.model}' has no price for {unit} here: ask the operator.",
            param="model",
        )
        error.code = UNPRICED
        raise error
    found = unpriced_fields(request.asked, price)
    if not found:
        return
    strips = line.unpriced is Unpriced.STRIP and _FIXED.isdisjoint(found)
    if strips and call.question.fields is not None:
        names = frozenset().union(*(_MEMBERS[field] for field in found))
        kept = strip_fields(dict(call.question.fields), names)
        if kept is not None:
            call.question = call.question.continue_with(kept)
            call.request = request.with_asked(without(request.asked, found))
            call.notes += b"x-relay-dropped: %b\r\n" % ", ".join(found).encode()
            return
    refused = BadRequest(
        f"The model '{request.model}' has no price here for {', '.join(found)}: "
        "leave it out, or ask the operator.",
        param=found[0],
    )
    refused.code = UNPRICED
    raise refused
