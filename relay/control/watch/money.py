"""The control process's eye on money and keys: what is due is done, what is new is told.

every 2 s   paid orders credited, planned prices put into force; where calls were logged, and every
            6 s, fallen balances, budgets that run low and new addresses told
once a day  who spent enough on whole days is promoted; so are recharges under a new rule
"""

import datetime
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from relay.clock import clock_s
from relay.config import Config
from relay.control.looking import look_forever
from relay.control.watch.notices import Notices
from relay.errors import ClientError
from relay.store.billing import budget_leases, low_balances, orders, promotions, recharges
from relay.store.catalog import planned
from relay.store.log import addresses
from relay.store.postgres import Connection

LOOK_S: Final = 2.0
"""The promise is a notice within ten seconds of a call; the shipper takes some of them."""
QUIET_S: Final = 6.0
"""Between two looks at what moves by calls, which another host may have logged, where none was."""
BACKOFF_S_MAX: Final = 30.0
LATE_S: Final = 600
"""A day is over so long after midnight: journals of its last minutes are in by then."""

_DUE: Final = """
    SELECT EXISTS (SELECT FROM orders WHERE status = 'paid' AND set_aside_at IS NULL)
        OR EXISTS (SELECT FROM price_changes WHERE price_id IS NULL AND cancelled_at IS NULL
            AND effective_at <= now())"""

UNBOOKABLE: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ClientError)
"""What is wrong with an order itself: trying again does not help it."""

_log = logging.getLogger(__name__)


class MoneyWatch:
    """Looks after orders, balances and addresses on a connection of its own.

    Args:
        config: Whose [billing] and [alerts] it obeys.
        connect: Makes a connection; one is kept, and made anew after a failure.
        notices: Whom to tell.
        look_s: Between two looks.
        logged: Returns how many calls this host has logged; None: look at everything each time.
    """

    def __init__(
        self,
        config: Config,
        connect: Callable[[], Awaitable[Connection]],
        notices: Notices,
        *,
        look_s: float = LOOK_S,
        logged: Callable[[], int] | None = None,
    ) -> None:
        self._billing = config.billing
        self._familiar_s = config.alerts.familiar_s
        self._connect = connect
        self._notices = notices
        self._look_s = look_s
        self._reviewed: datetime.date | None = None
        self._logged = logged
        self._seen = -1
        self._seen_s = 0.0

    async def run(self) -> None:
        """Watch for ever, whatever happens to Postgres meanwhile."""
        await look_forever(
            self._connect, self.look, name="money watch", every_s=self._look_s, most_s=BACKOFF_S_MAX
        )

    async def look(self, connection: Connection) -> None:
        """Do and tell what is due now."""
        if self._is_quiet() and not await connection.fetchval(_DUE):
            return
        for high in await low_balances.end_low_balances(connection):
            self._notices.low_over(high)
        for low in await low_balances.claim_low_balances(connection):
            self._notices.low(low)
        for spent in await budget_leases.claim_low(connection):
            self._notices.budget_low(spent)
        for unfamiliar in await addresses.judge_addresses(connection, self._familiar_s):
            self._notices.unfamiliar(unfamiliar)
        forced = await planned.force_due(connection, self._billing.official_max)
        for breach in forced.refused:
            self._notices.too_dear(breach)
        for model in forced.models:
            _log.info("a planned price holds now", extra={"model": model})
        for order_no, account_id in await orders.list_uncredited(connection):
            await self._credit(connection, order_no, account_id)
        now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=LATE_S)
        if self._reviewed != now.date():
            await self.review(connection, now.date())
            self._reviewed = now.date()

    def _is_quiet(self) -> bool:
        """Tell whether no call was logged since the last look, and that was a moment ago."""
        if self._logged is None:
            return False
        logged, now_s = self._logged(), clock_s()
        if logged == self._seen and now_s - self._seen_s < QUIET_S:
            return True
        self._seen, self._seen_s = logged, now_s
        return False

    async def _credit(self, connection: Connection, order_no: str, account_id: int) -> None:
        """Credit a paid order; one that cannot be booked is set aside, and told."""
        try:
            _, promotion = await recharges.credit_paid(
                connection, self._billing, order_no, account_id
            )
        except UNBOOKABLE as error:
            fault = type(error).__name__
            await orders.set_aside(connection, order_no, fault)
            self._notices.set_aside(order_no, fault)
            return
        if promotion is not None:
            self._notices.promoted(promotion)

    async def review(self, connection: Connection, today: datetime.date) -> None:
        """Promote whoever has earned it before `today`."""
        rule, group = recharges.enterprise_rule(self._billing), self._billing.enterprise_group
        if group and not await promotions.has_group(connection, group):
            _log.warning("billing.enterprise_group names no group: nobody can be promoted")
        for found in (
            *await promotions.review_everybody(connection, group, rule),
            *await promotions.review_spending(connection, group, rule, today),
        ):
            self._notices.promoted(found)
        await addresses.forget_addresses(connection)
