"""The slice of an account's balance that one worker may spend on its own.

Postgres moves an amount from the free balance to the worker's lease; the worker holds and settles
against it without asking anybody. What a lease grants shrinks with the balance, down to a single
hold, so that one worker cannot sit on the last dollar.

    balance (Postgres) --lease--> Purse: leased = free + held --settle--> spent
"""

from typing import Final

SHARE_MAX: Final = 4
"""A lease takes at most a quarter of what is left, so that other workers find something too."""


def lease_nanos(free_nanos: int, *, needed_nanos: int, wanted_nanos: int) -> int:
    """Return how much of a free balance one lease is granted.

    Args:
        free_nanos: Balance less all leases plus the credit limit; negative: debt.
        needed_nanos: Below this the grant is useless: the hold of the call that waits.
        wanted_nanos: What the worker would like, some seconds of use.

    Returns:
        `wanted_nanos` while plenty is left, `needed_nanos` when little is, and 0 when not even
        that is there.
    """
    if needed_nanos > free_nanos:
        return 0
    return max(needed_nanos, min(wanted_nanos, free_nanos // SHARE_MAX), 0)


class Purse:
    """What one worker may still spend for one account, and what of it is held by running calls.

    `leased_nanos` goes below zero when a call cost more than was held: that debt is covered by the
    next grants before anything can be held again, as the ledger does with the balance.
    `told_nanos`: the sum of all grants less what was given back, as far as this worker was told.
    `advanced_nanos`: what of it nobody leased: for the time in which nobody can be asked.
    """

    __slots__ = ("advanced_nanos", "held_nanos", "leased_nanos", "told_nanos")

    def __init__(self, leased_nanos: int = 0) -> None:
        self.leased_nanos = leased_nanos
        self.held_nanos = 0
        self.told_nanos = 0
        self.advanced_nanos = 0

    def __repr__(self) -> str:
        return f"<Purse {self.leased_nanos} held={self.held_nanos} told={self.told_nanos}>"

    @property
    def free_nanos(self) -> int:
        """What can still be held."""
        return self.leased_nanos - self.held_nanos

    def grant(self, nanos: int) -> None:
        """Add what Postgres leased."""
        assert nanos >= 0
        self.leased_nanos += nanos
        self.told_nanos += nanos

    def catch_up(self, total_nanos: int) -> None:
        """Take in what Postgres leased in all (Lease.total_nanos), answers that got lost included.

        It falls where money that was given back had arrived after all, and grows by what the
        ledger took straight from the balance for calls that cost more than was leased.
        """
        self.leased_nanos += total_nanos - self.told_nanos
        self.told_nanos = total_nanos

    def advance(self, nanos: int) -> None:
        """Add what nobody leased; `repay` takes it out again, spent or not."""
        assert nanos >= 0
        self.leased_nanos += nanos
        self.advanced_nanos += nanos

    def repay(self) -> None:
        """Count what was advanced no longer: what was spent of it is a debt from now on."""
        self.leased_nanos -= self.advanced_nanos
        self.advanced_nanos = 0

    def hold(self, nanos: int) -> bool:
        """Set `nanos` aside for a call; False, with nothing changed, where they are not there."""
        assert nanos >= 0
        if nanos > self.leased_nanos - self.held_nanos:
            return False
        self.held_nanos += nanos
        return True

    def settle(self, held_nanos: int, cost_nanos: int) -> None:
        """End a call: its hold is released and its cost is spent. Once per hold."""
        assert 0 <= held_nanos <= self.held_nanos
        assert cost_nanos >= 0
        self.held_nanos -= held_nanos
        self.leased_nanos -= cost_nanos

    def take_back(self, keep_nanos: int) -> int:
        """Remove what is free beyond `keep_nanos`, and return it: to be given back to Postgres."""
        surplus = max(self.free_nanos - keep_nanos, 0)
        self.leased_nanos -= surplus
        self.told_nanos -= surplus
        return surplus
