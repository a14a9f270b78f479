"""The reservation of budgets: what a key or account may use today, this week or this month.

A key's quota is one as well, whose only window never ends.

Each window of a budget is leased in slices, like a balance (flow.reserve.leasing): the call holds
what it may use of it, and what it did use is taken when it ends. So all workers of all hosts
together serve what the budget covers and no call more, and a worker that dies loses nothing: its
journal says what was used. A window ends by the calendar, and the next one is another purse.

A call counts where it arrived: what runs over midnight is yesterday's.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from relay.billing.budget import BudgetWindow, format_amount, quota_budget, window_at, zone_of
from relay.billing.shapes import BudgetRequest, CreditLease, CreditRequest
from relay.clock import wall_s
from relay.config import Billing
from relay.errors import BudgetSpent, QuotaExhausted, RelayError
from relay.flow.call import Call
from relay.flow.ports import BudgetLender, CreditLender, OutageLender, Reservation
from relay.flow.reserve.holds import OUTPUTLESS, Holds
from relay.flow.reserve.leasing import Leasing
from relay.model import Account, Budget, BudgetMeasure, BudgetPeriod, Key
from relay.usage import Usage

PURSES_LOOKED_AT: Final = 16
"""Old windows that may be forgotten when a new one begins: more go than come."""
KEPT_S: Final = 7_200
"""A purse is kept so long behind its window's end: the clock may be set back, and calls are late.
One that was forgotten, and is opened again, would be granted anew what was spent of it."""
_USD: Final = BudgetMeasure.USD
_EVER: Final = BudgetPeriod.EVER
_TOKENS: Final = BudgetMeasure.TOKENS
_MICROS: Final = 1_000_000

Place = tuple[str, int, Budget]
"""Scope, owner and budget: what has one window at a time."""


class BudgetPurse:
    """The purse of one window; `id`: what this worker leases it under."""

    __slots__ = ("budget", "id", "scope", "window")

    def __init__(self, id_: int, scope: str, budget: Budget, window: BudgetWindow) -> None:
        self.id = id_
        self.scope = scope
        self.budget = budget
        self.window = window


class BudgetHold:
    """What a call holds of one purse."""

    __slots__ = ("amount", "purse")

    def __init__(self, purse: BudgetPurse, amount: int) -> None:
        self.purse = purse
        self.amount = amount


class Budgets(Reservation):
    """Holds for calls what they may use of budgets.

    Args:
        lender: Leases.
        limits: `[billing]`.
    """

    def __init__(self, lender: BudgetLender, limits: Billing) -> None:
        self._holds = Holds(limits)
        self._output_tokens = limits.hold_output_tokens
        self._places: dict[Place, BudgetPurse] = {}
        self._purses: dict[int, BudgetPurse] = {}
        """All that may still be in use, the oldest first."""
        self._last_id = 0
        named = NamedLender(lender, self._purses)
        outage = QuotaOutage(self._purses)
        self.leasing = Leasing(
            named, limits.lease_ttl_s, self._refusal, "budget", idles=True, outage=outage
        )
        """Runs from its start to its stop."""

    # --- flow.ports.Reservation ----------------------------------------------------------------

    def take(self, call: Call) -> bool:
        """Hold what the call may use of each of its budgets, if that much is leased."""
        key, account = call.rights.key, call.rights.account
        if key is None or account is None or not _is_bound(key, account):
            return True
        held: list[BudgetHold] = []
        try:
            for wanted in self._wanted(call):
                if not self.leasing.hold(wanted.purse.id, wanted.amount):
                    self._free(held)
                    return False
                held.append(wanted)
        except RelayError:
            self._free(held)
            raise
        call.budget_holds = held
        return True

    async def wait(self, call: Call) -> None:
        """Queue for one budget after the other; see flow.ports.Reservation."""
        held: list[BudgetHold] = []
        try:
            for wanted in self._wanted(call):
                if not self.leasing.hold(wanted.purse.id, wanted.amount):
                    await self.leasing.wait(wanted.purse.id, wanted.amount)
                held.append(wanted)
        except BaseException:
            self._free(held)
            raise
        call.budget_holds = held

    def update(self, call: Call, usage: Usage) -> None:
        """Hold more for a stream that has outgrown its holds."""
        tariff = call.rights.tariff
        if call.budget_holds is None or tariff is None:
            return
        for hold in call.budget_holds:
            used = _used(hold.purse.window.measure, usage, tariff.cost_nanos(usage))
            more = used - hold.amount
            if more > 0 and self.leasing.hold_more(hold.purse.id, more):
                hold.amount = used

    def close(self, call: Call, usage: Usage, cost_nanos: int) -> None:
        """Take what the call used, and free what it held."""
        holds, call.budget_holds = call.budget_holds, None
        for hold in holds or ():
            used = _used(hold.purse.window.measure, usage, cost_nanos)
            self.leasing.settle(hold.purse.id, hold.amount, used)

    # --- windows -------------------------------------------------------------------------------

    def recall(self, name: str) -> None:
        """Give back what is free of a window, which another worker lacks."""
        for purse in self._purses.values():
            if purse.window.name == name:
                self.leasing.recall(purse.id)
                return

    def _wanted(self, call: Call) -> list[BudgetHold]:
        """Return what a call may use of each budget, of its key's first."""
        key, account = call.rights.key, call.rights.account
        assert key is not None and account is not None
        at_s = call.time_us // _MICROS
        wanted: list[BudgetHold] = []
        for scope, owner_id, budgets in (
            ("key", key.id, key.budgets),
            ("account", account.id, account.budgets),
        ):
            for budget in budgets:
                amount = self._amount(budget.measure, call)
                if amount:
                    purse = self._purse_of(scope, owner_id, budget, at_s)
                    wanted.append(BudgetHold(purse, amount))
        if key.quota_nanos is not None and (amount := self._holds.nanos(call)):
            purse = self._purse_of("key", key.id, quota_budget(key.quota_nanos), at_s)
            wanted.append(BudgetHold(purse, amount))
        return wanted

    def _amount(self, measure: BudgetMeasure, call: Call) -> int:
        """Return what a call may use of a measure at most."""
        tariff, request = call.rights.tariff, call.request
        if measure is _USD:
            return self._holds.nanos(call)
        if tariff is None or tariff.free:
            return 0
        if measure is not _TOKENS:
            return 1
        each = request.output_tokens_max
        if call.head.endpoint in OUTPUTLESS:
            each = 0
        elif each is None:
            each = tariff.output_max or self._output_tokens
        return request.input_estimate + each * request.choices

    def _purse_of(self, scope: str, owner_id: int, budget: Budget, at_s: int) -> BudgetPurse:
        place = (scope, owner_id, budget)
        purse = self._places.get(place)
        if purse is not None and purse.window.starts_s <= at_s < purse.window.ends_s:
            return purse
        window = window_at(scope, owner_id, budget, at_s)
        for other in self._purses.values():  # a changed amount; or a call from before midnight
            if other.window == window:
                purse = other
                break
        else:
            purse = self._open(scope, budget, window)
        if purse.budget != budget:
            purse.budget = budget
            self.leasing.recall(purse.id)  # what was leased of another amount is asked for anew
        if purse.window.ends_s > wall_s():
            self._places[place] = purse
        return purse

    def _open(self, scope: str, budget: Budget, window: BudgetWindow) -> BudgetPurse:
        self._forget_ended()
        self._last_id += 1
        purse = BudgetPurse(self._last_id, scope, budget, window)
        self._purses[purse.id] = purse
        return purse

    def _forget_ended(self) -> None:
        """Forget a few windows that have ended and that no call holds anything of."""
        now_s = wall_s()
        for purse in list(self._purses.values())[:PURSES_LOOKED_AT]:
            del self._purses[purse.id]
            if purse.window.ends_s + KEPT_S > now_s or not self.leasing.forget(purse.id):
                self._purses[purse.id] = purse  # behind the others
        if len(self._places) > 2 * len(self._purses) + PURSES_LOOKED_AT:
            kept = {p: purse for p, purse in self._places.items() if purse.id in self._purses}
            self._places.clear()
            self._places.update(kept)

    def _free(self, held: list[BudgetHold]) -> None:
        for hold in held:
            self.leasing.settle(hold.purse.id, hold.amount, 0)

    def _refusal(self, purse_id: int) -> RelayError:
        purse = self._purses[purse_id]
        return refusal(purse.scope, purse.budget, purse.window.ends_s, wall_s())


class QuotaOutage(OutageLender):
    """What quotas allow while nobody can be asked: then each worker counts for itself alone.

    It does so beside this (flow.reserve.key_quotas). Of other budgets nothing is advanced.
    """

    def __init__(self, purses: Mapping[int, BudgetPurse]) -> None:
        self._purses = purses

    def advance_nanos(self, account_id: int) -> int:
        """Return what a purse may spend in the outage that runs."""
        purse = self._purses.get(account_id)
        return purse.budget.amount if purse is not None and purse.budget.period is _EVER else 0

    def end(self) -> None:
        """Forget nothing: there is nothing to remember."""


class NamedLender(CreditLender):
    """Leases purses by the windows that they are of."""

    def __init__(self, lender: BudgetLender, purses: Mapping[int, BudgetPurse]) -> None:
        self._lender = lender
        self._purses = purses

    async def lease(
        self, asks: Sequence[CreditRequest], surplus: Mapping[int, int]
    ) -> Mapping[int, CreditLease]:
        """Lease, give back and renew; see flow.ports.CreditLender."""
        wanted: list[BudgetRequest] = []
        ids: dict[str, int] = {}
        for ask in asks:
            purse = self._purses.get(ask.account_id)
            if purse is not None:
                ids[purse.window.name] = purse.id
                amounts = (purse.budget.amount, ask.needed_nanos, ask.wanted_nanos)
                wanted.append(BudgetRequest(purse.window, *amounts))
        given: dict[str, int] = {}
        for purse_id, amount in surplus.items():
            purse = self._purses.get(purse_id)
            if purse is not None:
                given[purse.window.name] = amount
        leased = await self._lender.lease(wanted, given)
        return {ids[name]: lease for name, lease in leased.items()}


def refusal(scope: str, budget: Budget, ends_s: int, now_s: float) -> RelayError:
    """Return what a call is told that a budget does not cover."""
    if budget.period is _EVER:
        return QuotaExhausted("This API key's quota does not cover this call.")
    whose = "This API key's" if scope == "key" else "The account's"
    again = moment(ends_s, budget.zone)
    said = f"{format_amount(budget.measure, budget.amount)} a {budget.period.value}"
    return BudgetSpent(
        f"{whose} budget of {said} does not cover this call. You will regain access on {again}.",
        retry_after_s=max(1.0, ends_s - now_s),
    )


def _is_bound(key: Key, account: Account) -> bool:
    return bool(key.budgets or account.budgets) or key.quota_nanos is not None


def moment(at_s: int, zone: str) -> str:
    """Return a moment on the clocks of a zone: 2026-12-01 00:00 (Europe/Berlin)."""
    return f"{datetime.fromtimestamp(at_s, zone_of(zone)):%Y-%m-%d %H:%M} ({zone})"


def _used(measure: BudgetMeasure, usage: Usage, cost_nanos: int) -> int:
    tokens = usage.input_tokens + usage.output_tokens
    if measure is _USD:
        return cost_nanos
    if measure is _TOKENS:
        return tokens
    return int(bool(tokens or cost_nanos))
