"""The leases of one worker: a task asks a lender ahead of need, and calls hold out of purses.

    hold    the purse has it free --> held, no waiting
    wait    it has not: the call queues; one task asks the lender for all that wait, in one batch
    settle  the hold is released, the cost is spent, and who waits is served from what came free
    recall  another worker lacks what we have to spare: it is given back at once

No request asks the lender, and none waits for it longer than WAIT_S. Without it calls go on inside
what is leased, and an account that has nothing leased inside what is advanced for an outage; beyond
it they get 503, never "spent": nobody knows that then. What a purse holds and owes is
billing.purse's; how much is leased, and when, is decided here and in credit_account.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

from relay.backoff import Backoff
from relay.billing.purse import SHARE_MAX
from relay.billing.shapes import CreditLease, CreditRequest
from relay.clock import clock_s, until_beat_s
from relay.errors import RelayError, Unavailable
from relay.flow.ports import CreditLender, OutageLender
from relay.flow.reserve.credit_account import RESERVE_S, CreditAccount, CreditWaiter

WAIT_S: Final = 2.0
"""What a call waits for credit at most; a round trip takes about a millisecond."""
TICK_S: Final = 1.0
"""Use is measured, and what is not needed given back, once in this."""
AGAIN_S: Final = 0.05
"""Between two questions for credit that others hold, or that is leased ahead of need."""
RESERVE_AGAIN_S: Final = 5.0
"""...for a reserve: where the balance cannot make it up, asking often does not help."""
TIMER_S: Final = 0.005
"""A timer may come this much early: it counts in milliseconds."""
REFUSED_S: Final = 0.5
"""A refused account is not asked for again so soon: a recharge shows within a second."""
RENEW_SHARE: Final = 0.1
"""Leases are renewed after this share of their time to live."""
BACKOFF_S_MAX: Final = 1.0
ASKS_MAX: Final = 500
"""Accounts of one question: their balances are locked for its time."""
RELEASED_MAX: Final = 1_000
"""Resting accounts looked at in one round."""

_log = logging.getLogger(__name__)


class Leasing:
    """Purses by id, and the task that fills them.

    Args:
        lender: Leases.
        ttl_s: For how long a lease may be spent without renewing it.
        refusal: Makes the error of a call that a purse does not cover, and never will.
        noun: What is leased, for people.
        idles: Nothing is renewed as long as there is no purse at all.
        outage: Advances while the lender cannot be asked; None = nothing.
    """

    def __init__(
        self,
        lender: CreditLender,
        ttl_s: float,
        refusal: Callable[[int], RelayError],
        noun: str,
        *,
        idles: bool = False,
        outage: OutageLender | None = None,
    ) -> None:
        self._outage = outage
        self._advanced: set[CreditAccount] = set()
        """Those that were advanced something in the outage that runs."""
        self._surrendered = True
        """Nothing counts as leased: nothing was yet, or not for certain any more."""
        self._lender = lender
        self._ttl_s = ttl_s
        self._refusal = refusal
        self._noun = noun
        self._idles = idles
        self._accounts: dict[int, CreditAccount] = {}
        self._active: set[CreditAccount] = set()
        """Those that have used, hold or want anything of late."""
        self._resting: dict[int, CreditAccount] = {}
        """Those that have a reserve and nothing else; the longest resting first."""
        self._wake = asyncio.Event()
        self._renewed_s = -float("inf")
        self._ticked_s = 0.0
        self._backoff = Backoff(first_s=2 * AGAIN_S, most_s=BACKOFF_S_MAX)
        self._task: asyncio.Task[None] | None = None

    # --- what calls do ---------------------------------------------------------------------------

    def hold(self, account_id: int, nanos: int) -> bool:
        """Hold so much, if it is leased; False: it has to be waited for.

        Raises:
            RelayError: The lender said a moment ago that so much is not there.
        """
        account = self.account(account_id)
        now_s = clock_s()
        good = now_s - self._renewed_s < self._ttl_s
        if good and not account.waiters and account.hold(nanos):
            if account.purse.free_nanos < account.low_nanos and now_s > account.again_s:
                self._rouse(account)
            return True
        if self._backoff.failures and self._borrow(account, nanos):
            return True
        if account.refuses(nanos, now_s):
            raise self._refusal(account_id)
        return False

    async def wait(self, account_id: int, nanos: int) -> None:
        """Queue until so much is held, refused or too late.

        Raises:
            RelayError: It is not there, or nobody can tell.
        """
        account = self.account(account_id)
        waiter = account.enqueue(nanos)
        self._rouse(account)
        try:
            async with asyncio.timeout(WAIT_S):
                await waiter.answer
        except BaseException as error:
            account.give_up(waiter)
            if not isinstance(error, TimeoutError):
                raise
            known_short = waiter.short and not self._backoff.failures
            if known_short or not self._borrow(account, nanos):
                raise self._lateness(account_id, waiter) from None

    def hold_more(self, account_id: int, nanos: int) -> bool:
        """Hold more for a call that runs; False: it is not there, and more is leased."""
        account = self.account(account_id)
        held = account.hold(nanos)
        if not held:
            account.taken_nanos += nanos  # so that more is leased
        self._rouse(account)
        return held

    def settle(self, account_id: int, held_nanos: int, cost_nanos: int) -> None:
        """Spend a cost and release a hold."""
        account = self.account(account_id)
        account.purse.settle(held_nanos, cost_nanos)
        account.spent_nanos += cost_nanos
        if account.waiters:
            account.serve()
        elif account.tight and account.purse.free_nanos > 0:
            self._rouse(account)  # little is left: another worker may need just this

    def recall(self, account_id: int) -> None:
        """Give back what is free of an account: another worker lacks it."""
        account = self._accounts.get(account_id)
        if account is not None:
            account.tighten(clock_s())
            self._rouse(account)

    def forget(self, account_id: int) -> bool:
        """Drop an account that nothing is held of, and nobody waits for; False: it is in use."""
        account = self._accounts.get(account_id)
        if account is None:
            return True
        if account.purse.held_nanos or account.waiters:
            return False
        del self._accounts[account_id]
        self._active.discard(account)
        self._resting.pop(account_id, None)
        return True

    def account(self, account_id: int) -> CreditAccount:
        """Return the account of that id, which has a use now."""
        account = self._accounts.get(account_id)
        if account is None:
            account = self._accounts[account_id] = CreditAccount(account_id)
        if not (self._active or self._resting):
            self._wake.set()  # it rested, with nothing to measure
        self._active.add(account)
        return account

    # --- the task that asks ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to lease."""
        self._task = asyncio.create_task(self._lease_forever(), name=self._noun)

    async def wait_for_end(self) -> None:
        """Wait as long as it leases; a fault that ends it is raised, for nobody else notices."""
        assert self._task is not None, "not started"
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Lease no more; what is held stays held, and is freed when the journal is settled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def leased_nanos(self) -> int:
        """Return what may be spent without asking."""
        return sum(max(account.purse.leased_nanos, 0) for account in self._accounts.values())

    def waiting(self) -> int:
        """Return how many calls wait."""
        return sum(len(account.waiters) for account in self._accounts.values())

    def age_s(self) -> float:
        """Return how old the lender's last answer is."""
        return clock_s() - self._renewed_s

    async def _lease_forever(self) -> None:
        while True:
            await self._lease_once()
            if self._idles and not self._accounts:
                await self._wake.wait()  # nothing can change but by a call
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rest_s()):
                    await self._wake.wait()

    def _rest_s(self) -> float:
        """Return how long there is nothing to do, unless somebody calls."""
        if self._active or self._resting:
            return TICK_S
        due_s = self._renewed_s + self._ttl_s * RENEW_SHARE - clock_s()
        # Renewed with whatever else this process looks at then, which is one wake-up for all.
        return max(due_s, 0.0) + until_beat_s(TICK_S)

    async def _lease_once(self) -> None:
        """Ask for all that is wanted now, and serve who waits."""
        self._wake.clear()
        if self._idles and not self._accounts:
            return
        now_s = clock_s()
        if now_s - self._renewed_s > self._ttl_s > 0 and not self._surrendered:
            self._surrender()
        surplus = self._tick(now_s)
        asks = {a.id: a for a in islice((a for a in self._active if a.wants(now_s)), ASKS_MAX)}
        if len(asks) == ASKS_MAX:
            self._wake.set()  # the others come next
        if not (asks or surplus or now_s - self._renewed_s > self._ttl_s * RENEW_SHARE):
            return
        wanted = [account.ask() for account in asks.values()]
        leased: Mapping[int, CreditLease] | None = None
        try:
            leased = await self._lender.lease(wanted, surplus)
        except RelayError as error:
            self._note_failure(error, [*asks, *surplus])
        if leased is None:
            # Out here: compiled code that is cancelled where it awaits in an `except` leaves that
            # exception behind as the context of all that are raised later.
            await asyncio.sleep(self._backoff.wait_s())
            self._wake.set()
            return
        self._note_success(now_s)
        self._take_in(wanted, leased)

    def _tick(self, now_s: float) -> dict[int, int]:
        """Measure use where it is time; return what is given back, by account."""
        if now_s - self._ticked_s >= TICK_S:
            self._ticked_s = now_s
            for account in self._active:
                account.turn(now_s)
            for account in [a for a in self._active if a.rests]:
                account.resting_s = now_s
                self._resting.pop(account.id, None)  # it goes to the end
                self._resting[account.id] = account
                self._active.discard(account)
        given = {a.id: nanos for a in self._active if (nanos := a.give_back())}
        return given | self._release_resting(now_s)

    def _release_resting(self, now_s: float) -> dict[int, int]:
        """Return the reserves of accounts that have not called for long; the longest come first."""
        given: dict[int, int] = {}
        for account in list(islice(self._resting.values(), RELEASED_MAX)):
            if now_s - account.resting_s < RESERVE_S and account not in self._active:
                break
            del self._resting[account.id]
            if account not in self._active and (nanos := account.release()):
                given[account.id] = nanos
        return given

    def _take_in(self, asked: list[CreditRequest], leased: Mapping[int, CreditLease]) -> None:
        now_s = clock_s()
        for ask in asked:
            account = self._accounts.get(ask.account_id)
            if account is None:
                continue  # forgotten meanwhile
            lease = leased.get(ask.account_id)
            account.unsure = False
            account.again_s = now_s + AGAIN_S
            account.reserve_again_s = now_s + RESERVE_AGAIN_S
            if lease is None:  # it may not call, or is gone
                account.refuse(-1, now_s + REFUSED_S, self._refusal)
                continue
            account.purse.catch_up(lease.total_nanos)
            if lease.free_nanos < SHARE_MAX * ask.needed_nanos:
                account.tighten(now_s)
            account.serve()
            account.refuse(lease.owned_nanos, now_s + REFUSED_S, self._refusal)
            if account.waiters:
                self._come_again(account, lease, now_s)

    def _come_again(self, account: CreditAccount, lease: CreditLease, now_s: float) -> None:
        """Ask again for those who still wait: in a moment, where others hold what is missing."""
        if lease.free_nanos >= account.waiters[0].nanos - account.purse.free_nanos:
            account.busy_s = 0.0
            self._wake.set()
            return
        for waiter in account.waiters:
            waiter.short = True
        account.busy_s = now_s + AGAIN_S
        asyncio.get_running_loop().call_later(AGAIN_S + TIMER_S, self._rouse, account)

    def _surrender(self) -> None:
        """Count nothing as leased any more: it may have been closed while nobody could be asked."""
        self._surrendered = True
        for account in self._accounts.values():
            account.purse.take_back(account.purse.advanced_nanos)
            account.unsure = True
            self._active.add(account)

    def _note_failure(self, error: RelayError, account_ids: list[int]) -> None:
        first = self._backoff.fail()
        for account_id in account_ids:
            account = self._accounts.get(account_id)
            if account is not None:
                account.unsure = True
                self._active.add(account)
                if account.waiters:
                    self._advance(account)
                    account.serve()
        if first:
            cause = type(error.__cause__ or error).__name__
            _log.warning("no %s can be leased: %s", self._noun, cause)

    def _note_success(self, asked_s: float) -> None:
        if tries := self._backoff.succeed():
            _log.warning("%s is leased again after %d tries", self._noun, tries)
            self._end_outage()
        self._renewed_s = asked_s
        self._surrendered = False

    # --- without the lender ----------------------------------------------------------------------

    def _borrow(self, account: CreditAccount, nanos: int) -> bool:
        """Hold `nanos` of what an outage allows; False where that is not enough."""
        self._advance(account)
        return account.hold(nanos)

    def _advance(self, account: CreditAccount) -> None:
        """Give the account what it may spend in this outage, once."""
        if self._outage is not None and account not in self._advanced:
            self._advanced.add(account)
            account.purse.advance(self._outage.advance_nanos(account.id))

    def _end_outage(self) -> None:
        """What was advanced is a debt from now on, as far as it was spent: the ledger knows it."""
        for account in self._advanced:
            account.purse.repay()
            if self._accounts.get(account.id) is account:
                self._active.add(account)
        self._advanced.clear()
        if self._outage is not None:
            self._outage.end()

    # --- inside ----------------------------------------------------------------------------------

    def _rouse(self, account: CreditAccount) -> None:
        if self._accounts.get(account.id) is account:
            self._active.add(account)
            self._wake.set()

    def _lateness(self, account_id: int, waiter: CreditWaiter) -> RelayError:
        if waiter.short and not self._backoff.failures:
            return self._refusal(account_id)
        return Unavailable(
            f"{self._noun.capitalize()} cannot be checked now; try again.", retry_after_s=WAIT_S
        )
