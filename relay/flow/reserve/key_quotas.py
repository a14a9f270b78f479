"""What keys with a quota have spent, as far as this worker can know without asking.

The ledger's figure comes with the snapshot, a second or two late; what this worker charged since is
added to it. Other workers' charges show with that delay: a quota can be overrun by what a key
spends in about two seconds, which its next call then finds spent.
"""

from relay.model import Key


class KeyQuotas:
    """Charges of this worker that no snapshot shows yet, by key."""

    def __init__(self) -> None:
        self._booked: dict[int, int] = {}
        self._pending: dict[int, int] = {}

    def add(self, key_id: int, cost_nanos: int) -> None:
        """Note a charge."""
        if cost_nanos:
            self._pending[key_id] = self._pending.get(key_id, 0) + cost_nanos

    def has_left(self, key: Key) -> bool:
        """Tell whether the key's quota leaves anything."""
        if key.quota_nanos is None:
            return True
        return key.spent_nanos + self._pending.get(key.id, 0) < key.quota_nanos

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
