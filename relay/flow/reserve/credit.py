"""The reservation of money: each call holds what it may cost, out of credit leased ahead of need.

    take    purse of the account has it free --> held, no waiting
    wait    it has not: the call queues; one task asks Postgres for all that wait, in one batch
    update  a stream has used more than was held: more is held
    close   the hold is released, the cost is spent, and who waits is served from what came free
    recall  another worker lacks what we have to spare: it is given back at once

No request asks Postgres, and none waits for it longer than WAIT_S. Without Postgres calls go on
inside what is leased; beyond it they get 503, never "no credit": nobody knows that then. What a
purse holds and owes is billing.purse's; how much is leased, and when, is decided here.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from itertools import islice
from typing import Final

from relay.backoff import Backoff
from relay.billing.purse import SHARE_MAX
from relay.billing.shapes import CreditLease, CreditRequest
from relay.clock import clock_s
from relay.config import Billing
from relay.errors import CreditExhausted, RelayError, Unavailable
from relay.flow.call import Call
from relay.flow.ports import CreditLender, Reservation
from relay.flow.reserve.credit_account import RESERVE_S, CreditAccount, CreditWaiter
from relay.flow.reserve.holds import Holds
from relay.usage import Usage

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


class Credit(Reservation):
    """Holds money for calls.

    Args:
        lender: Leases credit.
        limits: `[billing]`.
    """

    def __init__(self, lender: CreditLender, limits: Billing) -> None:
        self._lender = lender
        self._holds = Holds(limits)
        self._ttl_s = limits.lease_ttl_s
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

    # --- flow.ports.Reservation ----------------------------------------------------------------

    def take(self, call: Call) -> bool:
        """Hold what the call may cost, if that much is leased; see flow.ports.Reservation."""
        nanos = self._holds.nanos(call)
        if not nanos:
            return True
        account = self._account_of(call)
        now_s = clock_s()
        good = now_s - self._renewed_s < self._ttl_s
        if good and not account.waiters and account.hold(nanos):
            call.hold_nanos = nanos
            if account.purse.free_nanos < account.low_nanos and now_s > account.again_s:
                self._rouse(account)
            return True
        if account.refuses(nanos, now_s):
            raise _refusal()
        return False

    async def wait(self, call: Call) -> None:
        """Queue for credit until it is held, refused or too late; see flow.ports.Reservation."""
        account = self._account_of(call)
        waiter = account.enqueue(self._holds.nanos(call))
        self._rouse(account)
        try:
            async with asyncio.timeout(WAIT_S):
                await waiter.answer
        except BaseException as error:
            account.give_up(waiter)
            if isinstance(error, TimeoutError):
                raise self._lateness(waiter) from None
            raise
        call.hold_nanos = waiter.nanos

    def update(self, call: Call, usage: Usage) -> None:
        """Hold more for a stream that has outgrown its hold, so that others cannot spend it."""
        if call.rights.tariff is None:
            return
        more_nanos = call.rights.tariff.cost_nanos(usage) - call.hold_nanos
        if more_nanos > 0:
            account = self._account_of(call)
            if account.hold(more_nanos):
                call.hold_nanos += more_nanos
            else:
                account.taken_nanos += more_nanos  # so that more is leased
            self._rouse(account)

    def close(self, call: Call, usage: Usage, cost_nanos: int) -> None:
        """Spend the cost and release the hold; see flow.ports.Reservation."""
        if not (call.hold_nanos or cost_nanos):
            return
        account = self._account_of(call)
        account.purse.settle(call.hold_nanos, cost_nanos)
        account.spent_nanos += cost_nanos
        call.hold_nanos = 0
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

    # --- the task that asks ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to lease."""
        self._task = asyncio.create_task(self._lease_forever(), name="credit")

    async def wait_for_end(self) -> None:
        """Wait as long as it leases; a fault that ends it is raised, for nobody else notices."""
        assert self._task is not None, "not started"
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Lease no more; what is held stays held, and is freed when the journal is settled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def gauges(self) -> dict[str, float]:
        """Return what may be spent without asking, and how old the last answer is."""
        leased = sum(max(account.purse.leased_nanos, 0) for account in self._accounts.values())
        return {
            "credit_leased_usd": leased / 1e9,
            "credit_waiting": float(sum(len(a.waiters) for a in self._accounts.values())),
            "credit_age_seconds": clock_s() - self._renewed_s,
        }

    async def _lease_forever(self) -> None:
        while True:
            await self._lease_once()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()

    async def _lease_once(self) -> None:
        """Ask for all that is wanted now, and serve who waits."""
        self._wake.clear()
        now_s = clock_s()
        if now_s - self._renewed_s > self._ttl_s > 0 and self._accounts:
            self._surrender()
        surplus = self._tick(now_s)
        asks = {a.id: a for a in islice((a for a in self._active if a.wants(now_s)), ASKS_MAX)}
        if len(asks) == ASKS_MAX:
            self._wake.set()  # the others come next
        if not (asks or surplus or now_s - self._renewed_s > self._ttl_s * RENEW_SHARE):
            return
        wanted = [account.ask() for account in asks.values()]
        try:
            leased = await self._lender.lease(wanted, surplus)
        except RelayError as error:
            self._note_failure(error, [*asks, *surplus])
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
            account = self._accounts[ask.account_id]
            lease = leased.get(ask.account_id)
            account.unsure = False
            account.again_s = now_s + AGAIN_S
            account.reserve_again_s = now_s + RESERVE_AGAIN_S
            if lease is None:  # it may not call, or is gone
                account.refuse(-1, now_s + REFUSED_S, _refusal)
                continue
            account.purse.catch_up(lease.total_nanos)
            if lease.free_nanos < SHARE_MAX * ask.needed_nanos:
                account.tighten(now_s)
            account.serve()
            account.refuse(lease.owned_nanos, now_s + REFUSED_S, _refusal)
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
        for account in self._accounts.values():
            account.purse.take_back(0)
            account.unsure = True
            self._active.add(account)

    def _note_failure(self, error: RelayError, account_ids: list[int]) -> None:
        for account_id in account_ids:
            self._accounts[account_id].unsure = True
            self._active.add(self._accounts[account_id])
        if self._backoff.fail():
            _log.warning("no credit can be leased: %s", type(error.__cause__ or error).__name__)

    def _note_success(self, asked_s: float) -> None:
        if tries := self._backoff.succeed():
            _log.warning("credit is leased again after %d tries", tries)
        self._renewed_s = asked_s

    # --- inside ----------------------------------------------------------------------------------

    def _account_of(self, call: Call) -> CreditAccount:
        assert call.rights.account is not None
        account = self._accounts.get(call.rights.account.id)
        if account is None:
            account = self._accounts[call.rights.account.id] = CreditAccount(call.rights.account.id)
        self._active.add(account)
        return account

    def _rouse(self, account: CreditAccount) -> None:
        self._active.add(account)
        self._wake.set()

    def _lateness(self, waiter: CreditWaiter) -> RelayError:
        if waiter.short and not self._backoff.failures:
            return _refusal()
        return Unavailable("Credit cannot be checked now; try again.", retry_after_s=WAIT_S)


def _refusal() -> CreditExhausted:
    return CreditExhausted("The account's balance does not cover this call: recharge it.")
