"""The reservation of money: each call holds what it may cost, out of credit leased ahead of need.

take    purse of the account has it free --> held, no waiting
wait    it has not: the call queues until it is leased (flow.reserve.leasing)
update  a stream has used more than was held: more is held
close   the hold is released, the cost is spent, and who waits is served from what came free
"""

from relay.config import Billing
from relay.errors import CreditExhausted, RelayError
from relay.flow.call import Call
from relay.flow.ports import CreditLender, OutageLender, Reservation
from relay.flow.reserve.holds import Holds
from relay.flow.reserve.leasing import Leasing
from relay.usage import Usage


class Credit(Reservation):
    """Holds money for calls.

    Args:
        lender: Leases credit.
        limits: `[billing]`.
        outage: Advances credit while the lender cannot be asked; None = nothing.
    """

    def __init__(
        self, lender: CreditLender, limits: Billing, outage: OutageLender | None = None
    ) -> None:
        self._holds = Holds(limits)
        self.leasing = Leasing(lender, limits.lease_ttl_s, _refusal, "credit", outage=outage)
        """Runs from its start to its stop; told what another worker lacks."""

    # --- flow.ports.Reservation ----------------------------------------------------------------

    def take(self, call: Call) -> bool:
        """Hold what the call may cost, if that much is leased; see flow.ports.Reservation."""
        nanos = self._holds.nanos(call)
        if not nanos:
            return True
        if not self.leasing.hold(_account_of(call), nanos):
            return False
        call.hold_nanos = nanos
        return True

    async def wait(self, call: Call) -> None:
        """Queue for credit until it is held, refused or too late; see flow.ports.Reservation."""
        nanos = self._holds.nanos(call)
        await self.leasing.wait(_account_of(call), nanos)
        call.hold_nanos = nanos

    # --- before a body is read -------------------------------------------------------------------

    def has_some(self, call: Call) -> bool:
        """Tell whether some of the account's credit is leased here, free or held."""
        return self.leasing.account(_account_of(call)).purse.leased_nanos > 0

    async def require_some(self, call: Call) -> None:
        """Ask for the least that there is, and give it back: whoever lacks that pays for nothing.

        Raises:
            RelayError: It is not there, or nobody can tell.
        """
        account_id = _account_of(call)
        if not self.leasing.hold(account_id, 1):
            await self.leasing.wait(account_id, 1)
        self.leasing.settle(account_id, 1, 0)

    # --- while it runs ---------------------------------------------------------------------------

    def update(self, call: Call, usage: Usage) -> None:
        """Hold more for a stream that has outgrown its hold, so that others cannot spend it."""
        if call.rights.tariff is None:
            return
        more_nanos = call.rights.tariff.cost_nanos(usage) - call.hold_nanos
        if more_nanos > 0 and self.leasing.hold_more(_account_of(call), more_nanos):
            call.hold_nanos += more_nanos

    def close(self, call: Call, usage: Usage, cost_nanos: int) -> None:
        """Spend the cost and release the hold; see flow.ports.Reservation."""
        if not (call.hold_nanos or cost_nanos):
            return
        held_nanos, call.hold_nanos = call.hold_nanos, 0
        self.leasing.settle(_account_of(call), held_nanos, cost_nanos)

    def gauges(self) -> dict[str, float]:
        """Return what may be spent without asking, and how old the last answer is."""
        return {
            "credit_leased_usd": self.leasing.leased_nanos() / 1e9,
            "credit_waiting": float(self.leasing.waiting()),
            "credit_age_seconds": self.leasing.age_s(),
        }


def _account_of(call: Call) -> int:
    account = call.rights.account
    assert account is not None
    return account.id


def _refusal(account_id: int) -> RelayError:
    return CreditExhausted("The account's balance does not cover this call: recharge it.")
