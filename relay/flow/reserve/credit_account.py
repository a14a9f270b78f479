"""One account's credit in one worker: its purse, who waits for it, and how much is worth leasing.

Use is measured in turns of about a second. What is leased ahead covers the holds of the last two
turns, and a reserve: what calls cost in RESERVE_S, so that a Postgres that is down for so long
stops nobody. What is idle beyond that is given back, and so is the reserve, when the account has
not called for as long, or when another worker recalls it: little is left in the balance then.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from relay.billing.purse import Purse
from relay.billing.shapes import CreditRequest
from relay.errors import RelayError

KEEP_FACTOR: Final = 2
"""Twice what is worth leasing may lie idle before it is given back: use goes up and down."""
RESERVE_S: Final = 600.0
RESERVE_HOLDS: Final = 16
"""...and so many calls at once, however rarely the account calls."""
SMOOTHING: Final = 0.05
"""The weight of the newest turn in the rate behind the reserve: it looks back about 20 turns."""
TIGHT_S: Final = 5.0
"""How long nothing is leased ahead after little was found left."""


class CreditWaiter:
    """A call that waits for credit.

    `paid`: the money is held for it. `short`: Postgres was asked, and others hold what is missing.
    """

    __slots__ = ("answer", "nanos", "paid", "short")

    def __init__(self, nanos: int) -> None:
        self.nanos = nanos
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.paid = False
        self.short = False


class CreditAccount:
    """See the module. `taken_nanos`: holds since the last turn began."""

    __slots__ = (
        "_before_nanos",
        "_hold_nanos_max",
        "_nanos_per_turn",
        "_refused_above_nanos",
        "_refused_until_s",
        "again_s",
        "busy_s",
        "id",
        "purse",
        "reserve_again_s",
        "resting_s",
        "spent_nanos",
        "taken_nanos",
        "tight",
        "tight_until_s",
        "unsure",
        "waiters",
    )

    def __init__(self, account_id: int) -> None:
        self.id = account_id
        self.purse = Purse()
        self.waiters: deque[CreditWaiter] = deque()
        self.taken_nanos = 0
        self.spent_nanos = 0
        self._before_nanos = 0
        self._nanos_per_turn = 0.0
        self._hold_nanos_max = 0
        self.resting_s = 0.0
        """Since when it has not called."""
        self.tight = False
        """Little is left in the balance: nothing is leased ahead, what is free is given back."""
        self.tight_until_s = 0.0
        self.unsure = False
        """An answer got lost: the next one tells what is leased."""
        self.again_s = 0.0
        """Nothing is leased ahead before this moment of the monotonic clock."""
        self.reserve_again_s = 0.0
        """...and nothing for the reserve before this one."""
        self.busy_s = 0.0
        """Nothing is asked for those who wait before this one."""
        self._refused_above_nanos = 0
        self._refused_until_s = 0.0

    def __repr__(self) -> str:
        return f"<CreditAccount {self.id} {self.purse} waiting={len(self.waiters)}>"

    @property
    def _target_nanos(self) -> int:
        """What is worth having free: the holds of one to two seconds."""
        return 0 if self.tight else self.taken_nanos + self._before_nanos

    @property
    def _reserve_nanos(self) -> int:
        """What is worth having beside that, for the time that Postgres may be down."""
        if self.tight:
            return 0
        return int(self._nanos_per_turn * RESERVE_S) + RESERVE_HOLDS * self._hold_nanos_max

    @property
    def low_nanos(self) -> int:
        """Below this, more is leased before anybody has to wait."""
        return self._target_nanos // 2

    @property
    def rests(self) -> bool:
        """Whether it has not called of late, and only its reserve is left."""
        used = self.taken_nanos or self._before_nanos or self.purse.held_nanos
        return not (used or self.waiters or self.unsure or self.tight)

    def turn(self, now_s: float) -> None:
        """Begin to measure anew."""
        self._nanos_per_turn += SMOOTHING * (self.spent_nanos - self._nanos_per_turn)
        self._before_nanos, self.taken_nanos, self.spent_nanos = self.taken_nanos, 0, 0
        if self.tight and now_s > self.tight_until_s:
            self.tight = False

    def tighten(self, now_s: float) -> None:
        """Little is left in the balance: have nothing that is not needed at once."""
        self.tight = True
        self.tight_until_s = now_s + TIGHT_S

    def hold(self, nanos: int) -> bool:
        """Hold so much for a call, if it is free."""
        if not self.purse.hold(nanos):
            return False
        self.taken_nanos += nanos
        return True

    def enqueue(self, nanos: int) -> CreditWaiter:
        """Have a call wait for so much; the reserve is made of holds like its."""
        self._hold_nanos_max = max(self._hold_nanos_max, nanos)
        waiter = CreditWaiter(nanos)
        self.waiters.append(waiter)
        return waiter

    def wants(self, now_s: float) -> bool:
        """Tell whether Postgres should be asked now."""
        if self.waiters:
            return now_s >= self.busy_s
        free_nanos = self.purse.free_nanos
        if free_nanos < self.low_nanos and now_s > self.again_s:
            return True
        reserved_low = free_nanos < self.low_nanos + self._reserve_nanos // 2
        return self.unsure or (reserved_low and now_s > self.reserve_again_s)

    def ask(self) -> CreditRequest:
        """Return what to ask for: the hold of who waits first, better what all want."""
        free_nanos = self.purse.free_nanos
        waiting_nanos = sum(waiter.nanos for waiter in self.waiters)
        needed_nanos = self.waiters[0].nanos - free_nanos if self.waiters else 0
        wanted_nanos = waiting_nanos + self._target_nanos + self._reserve_nanos - free_nanos
        return CreditRequest(self.id, max(needed_nanos, 0), max(wanted_nanos, 0))

    def give_back(self) -> int:
        """Take what lies idle out of the purse and return it.

        Who waits for what others hold gives back what is too little for it: each worker would sit
        on a part of the last hold, and nobody have it.
        """
        if self.unsure or self.purse.advanced_nanos:
            return 0
        if self.waiters:
            return self.purse.take_back(0) if self.tight and self.waiters[0].short else 0
        target_nanos = self._target_nanos + self._reserve_nanos
        if self.purse.free_nanos <= KEEP_FACTOR * target_nanos:
            return 0
        return self.purse.take_back(target_nanos)

    def release(self) -> int:
        """Take all that is free out of the purse and return it: the account has not called."""
        if self.purse.advanced_nanos:
            return 0  # nobody can be given it now
        self._nanos_per_turn, self._hold_nanos_max = 0.0, 0
        return self.purse.take_back(0)

    def serve(self) -> None:
        """Hold for those who wait, first come first served, as far as it goes."""
        while self.waiters and self.hold(self.waiters[0].nanos):
            waiter = self.waiters.popleft()
            waiter.paid = True
            if not waiter.answer.done():
                waiter.answer.set_result(None)

    def give_up(self, waiter: CreditWaiter) -> None:
        """Forget who waits no more; what was held for it meanwhile is free again."""
        if waiter.answer.done() and not waiter.answer.cancelled():
            waiter.answer.exception()  # looked at, or asyncio would complain that nobody did
        if waiter in self.waiters:
            self.waiters.remove(waiter)
        elif waiter.paid:
            self.purse.settle(waiter.nanos, 0)
            self.serve()

    # --- refusals --------------------------------------------------------------------------------

    def refuses(self, nanos: int, now_s: float) -> bool:
        """Tell whether Postgres said a moment ago that so much is not there."""
        return nanos > self._refused_above_nanos and now_s < self._refused_until_s

    def refuse(
        self, owned_nanos: int, until_s: float, make_error: Callable[[int], RelayError]
    ) -> None:
        """Refuse those who want more than is there, and until a moment those who come."""
        keep: deque[CreditWaiter] = deque()
        for waiter in self.waiters:
            if waiter.nanos <= owned_nanos:
                keep.append(waiter)
                continue
            self._refused_above_nanos, self._refused_until_s = max(owned_nanos, 0), until_s
            if not waiter.answer.done():
                waiter.answer.set_exception(make_error(self.id))
        self.waiters = keep
