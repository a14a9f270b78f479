"""What one address may do at the door of a worker: the settings of `[door]`."""

from typing import Annotated

import msgspec
from msgspec import Meta

_Count = Annotated[int, Meta(ge=0, le=2**40)]


class DoorRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[door]`: bounds of one address (of IPv6: of one /64) at each worker; 0 = none.

    They count the socket's peer, or whom trusted proxies name; networks that `relay block add
    --allow` lists are exempt.
    """

    connections_max: _Count = 0
    """Connections of one address; beyond it the newest is closed."""
    rpm: _Count = 0
    """Requests a minute of one address, whatever its keys may do; beyond it 429."""
    wrong_keys_max: _Count = 120
    """Requests a minute with a key that is not known here, each answered 401; beyond it 429, and
    the connection is not read for a second."""
    wrong_keys_refused: _Count = 1200
    """...beyond which the address is refused (403, with a code): its new connections wait for a
    second, and few are kept. Who shows a good key meanwhile is served."""
    refused_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """For how long, from its last wrong key."""
    shed_lag_ms: Annotated[int, Meta(ge=0, le=10_000)] = 100
    """A worker whose own work has it stand so far behind for 1.5 s sends away with 503 what it
    has no room for, calls of training lines first, until its queue has drained; never those of
    dedicated ones. 0 = nobody."""
    addresses_max: Annotated[int, Meta(ge=100, le=2**24)] = 50_000
    """Addresses that a worker remembers; beyond it those that did least are forgotten."""
