"""The reservation of a key's quota: each call holds what it may cost, as it does of the balance.

    quota - booked by the ledger - charged here since - held here = what the next call may hold

The ledger's figure comes with the snapshot, a second or two late; what this worker charged since is
added to it, and what its running calls hold. Each worker counts for itself here, which takes no
asking: what others hold is seen to by leases, as a budget's (flow.reserve.budgets). Where nobody
can be asked for these, this is all there is: then calls over W workers can overrun a quota by W - 1
times what is left at most.
"""

from relay.errors import QuotaExhausted
from relay.flow.call import Call
from relay.flow.ports import Reservation
from relay.flow.reserve.holds import Holds
from relay.model import Key
from relay.usage import Usage


class KeyQuotas(Reservation):
    """Charges of this worker that no snapshot shows yet, and holds, by key.

    Args:
        holds: Computes what a call may cost; None: nothing is held.
    """

    def __init__(self, holds: Holds | None = None) -> None:
        self._holds = holds
        self._booked: dict[int, int] = {}
        self._pending: dict[int, int] = {}
        self._held: dict[int, int] = {}

    # --- flow.ports.Reservation ----------------------------------------------------------------

    def take(self, call: Call) -> bool:
        """Hold what the call may cost of its key's quota; nothing has to be waited for."""
        key = call.rights.key
        if key is None or key.quota_nanos is None or self._holds is None:
            return True
        nanos = self._holds.nanos(call)
        if nanos > self.left_nanos(key):
            raise QuotaExhausted("This API key's quota does not cover this call.")
        call.quota_hold_nanos = nanos
        self._held[key.id] = self._held.get(key.id, 0) + nanos
        return True

    async def wait(self, call: Call) -> None:
        """Fail: nothing is ever waited for."""
        raise AssertionError("a quota is known at once")

    def update(self, call: Call, usage: Usage) -> None:
        """Hold more for a stream that has outgrown its hold."""
        key, tariff = call.rights.key, call.rights.tariff
        if key is None or tariff is None or not call.quota_hold_nanos:
            return
        more_nanos = tariff.cost_nanos(usage) - call.quota_hold_nanos
        if more_nanos > 0:
            call.quota_hold_nanos += more_nanos
            self._held[key.id] = self._held.get(key.id, 0) + more_nanos

    def close(self, call: Call, usage: Usage, cost_nanos: int) -> None:
        """Release what the call holds; its charge is noted by whoever settles it."""
        key = call.rights.key
        if key is None or not call.quota_hold_nanos:
            return
        left = self._held.get(key.id, 0) - call.quota_hold_nanos
        call.quota_hold_nanos = 0
        if left > 0:
            self._held[key.id] = left
        else:
            self._held.pop(key.id, None)

    # --- charges -------------------------------------------------------------------------------

    def add(self, key_id: int, cost_nanos: int) -> None:
        """Note a charge."""
        if cost_nanos:
            self._pending[key_id] = self._pending.get(key_id, 0) + cost_nanos

    def left_nanos(self, key: Key) -> int:
        """Return what a key with a quota may still hold."""
        assert key.quota_nanos is not None
        used = key.spent_nanos + self._pending.get(key.id, 0) + self._held.get(key.id, 0)
        return key.quota_nanos - used

    def has_left(self, key: Key) -> bool:
        """Tell whether the key's quota leaves anything."""
        return key.quota_nanos is None or self.left_nanos(key) > 0

    def book(self, keys: dict[bytes, Key]) -> None:
        """Take a new snapshot's figures: what the ledger has gained is no longer pending."""
        for key in keys.values():
            pending = self._pending.get(key.id)
            if pending is None:
                continue
            gained = key.spent_nanos - self._booked.get(key.id, 0)
            self._booked[key.id] = key.spent_nanos
            if gained >= pending:
                del self._pending[key.id]
            elif gained > 0:
                self._pending[key.id] = pending - gained
