"""What operators are told of money and keys: notices for the webhook, lines for the log, counters.

MoneyWatch, PaymentHook --> Notices --> log, relay_money_notices_total, Webhook
"""

import datetime
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.control.watch.webhook import Notice, Webhook
from relay.store.billing.budget_leases import LowBudget
from relay.store.billing.low_balances import LowBalance
from relay.store.billing.promotions import Promotion
from relay.store.catalog.sale.official import Breach
from relay.store.log.addresses import Unfamiliar
from relay.units import format_usd

EVENTS: Final = (
    *("unfamiliar_ip", "low_balance", "budget_low", "payment_refused", "order_set_aside"),
    *("enterprise", "price_refused"),
)
PER_KEY_MAX: Final = 10
"""Notices of unfamiliar addresses of one key within PER_KEY_S; further ones are only counted."""
PER_KEY_S: Final = 3600.0
REFUSALS_MAX: Final = 10
"""Notices of refused payments within PER_KEY_S: a shop that is set up wrong repeats itself."""
KEYS_MAX: Final = 10_000

_log = logging.getLogger(__name__)


class UnfamiliarIp(Notice, frozen=True, kw_only=True):
    """A key is used from where it never was; `relay key disable id:KEY_ID` ends it."""

    account: str
    key_id: int
    key_name: str
    address: str
    first_seen: str


class BalanceLow(Notice, frozen=True, kw_only=True):
    """An account fell below its threshold."""

    account: str
    balance_usd: str
    threshold_usd: str


class BudgetLow(Notice, frozen=True, kw_only=True):
    """Most of a budget is used; `key_name`: "" = it is the account's own."""

    account: str
    key_name: str
    budget: str
    used: str
    begins_anew: str


class PaymentRefused(Notice, frozen=True, kw_only=True):
    """A signed callback contradicts what we know: money may have come in for nothing."""

    order: str
    reason: str


class OrderSetAside(Notice, frozen=True, kw_only=True):
    """A paid order cannot be booked; `relay order retry ORDER` once what is wrong is mended."""

    order: str
    fault: str


class Enterprise(Notice, frozen=True, kw_only=True):
    """An account was moved to the enterprise group."""

    account: str
    from_group: str
    to_group: str
    reason: str


class PriceRefused(Notice, frozen=True, kw_only=True):
    """A planned price was taken back in its moment: above `billing.official_max` by then."""

    model: str
    rate: str
    official_usd: str
    asked_usd: str
    times: str


class Notices(Collector):
    """Tells, and counts what it told.

    Args:
        webhook: Where notices go; None = only log and metric.
        now_s: A clock that never jumps, for the bounds.
    """

    def __init__(self, webhook: Webhook | None, now_s: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self._webhook = webhook
        self._now_s = now_s
        self._told: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def unfamiliar(self, found: Unfamiliar) -> None:
        """Tell that a key is used from a new place."""
        self.counts["unfamiliar_ip"] += 1
        count = self._count(f"key {found.key_id}")
        if count > PER_KEY_MAX:
            return
        _log.warning(
            "a key is used from an address it was never used from",
            extra={"account": found.account, "key_id": found.key_id, "address": found.address},
        )
        if count == PER_KEY_MAX:
            _log.warning(
                "further addresses of this key are only counted for an hour",
                extra={"key_id": found.key_id},
            )
        self._send(
            UnfamiliarIp(
                event="unfamiliar_ip",
                time=_now(),
                account=found.account,
                key_id=found.key_id,
                key_name=found.key_name,
                address=found.address,
                first_seen=found.first_seen.isoformat(timespec="milliseconds"),
            )
        )

    def set_aside(self, order_no: str, fault: str) -> None:
        """Tell that a paid order cannot be booked."""
        self.counts["order_set_aside"] += 1
        _log.error("a paid order cannot be booked", extra={"order": order_no, "error": fault})
        self._send(OrderSetAside(event="order_set_aside", time=_now(), order=order_no, fault=fault))

    def low(self, found: LowBalance) -> None:
        """Tell that a balance is low."""
        self.counts["low_balance"] += 1
        _log.warning("a balance is low", extra={"account": found.account})
        self._send(_balance("low_balance", found))

    def low_over(self, found: LowBalance) -> None:
        """Tell that a balance is low no longer: recharged, or nobody wants to be told of it."""
        _log.info("a balance is low no longer", extra={"account": found.account})
        self._send(_balance("low_balance_over", found))

    def budget_low(self, found: LowBudget) -> None:
        """Tell that most of a budget is used."""
        self.counts["budget_low"] += 1
        _log.warning("a budget runs low", extra={"account": found.account})
        self._send(
            BudgetLow(
                event="budget_low",
                time=_now(),
                account=found.account,
                key_name=found.key or "",
                budget=found.amount,
                used=found.used,
                begins_anew=found.ends_at.isoformat(timespec="seconds"),
            )
        )

    def refused(self, order_no: str, reason: str) -> None:
        """Tell that a signed payment could not be credited."""
        self.counts["payment_refused"] += 1
        if self._count("payments") > REFUSALS_MAX:
            return
        _log.error(
            "a payment was not credited: it contradicts what is known",
            extra={"order": order_no, "reason": reason},
        )
        self._send(
            PaymentRefused(event="payment_refused", time=_now(), order=order_no, reason=reason)
        )

    def promoted(self, found: Promotion) -> None:
        """Tell that an account became an enterprise."""
        self.counts["enterprise"] += 1
        _log.info("an account became an enterprise", extra={"account": found.account})
        self._send(
            Enterprise(
                event="enterprise",
                time=_now(),
                account=found.account,
                from_group=found.from_group,
                to_group=found.to_group,
                reason=found.reason,
            )
        )

    def too_dear(self, found: Breach) -> None:
        """Tell that a planned price was taken back in its moment."""
        self.counts["price_refused"] += 1
        _log.error(
            "a planned price is above billing.official_max and was taken back",
            extra={"model": found.model, "rate": found.rate, "times": found.times},
        )
        self._send(
            PriceRefused(
                event="price_refused",
                time=_now(),
                model=found.model,
                rate=found.rate,
                official_usd=found.official_usd,
                asked_usd=found.asked_usd,
                times=found.times,
            )
        )

    def collect(self) -> Iterator[Metric]:
        """Return how often each thing was found; those past a bound are counted too."""
        metric = CounterMetricFamily(
            "relay_money_notices",
            "Addresses, low balances and budgets, refused payments and prices, promotions.",
            labels=("event",),
        )
        for event in EVENTS:
            metric.add_metric((event,), self.counts[event])
        yield metric

    def _count(self, subject: str) -> int:
        """Return how many notices of a subject its running hour has seen, this one included."""
        now_s = self._now_s()
        since_s, count = self._told.pop(subject, (now_s, 0))
        if now_s - since_s > PER_KEY_S:
            since_s, count = now_s, 0
        self._told[subject] = (since_s, count + 1)
        if len(self._told) > KEYS_MAX:
            self._told.popitem(last=False)
        return count + 1

    def _send(self, notice: Notice) -> None:
        if self._webhook is not None:
            self._webhook.send(notice)


def _balance(event: str, found: LowBalance) -> BalanceLow:
    return BalanceLow(
        event=event,
        time=_now(),
        account=found.account,
        balance_usd=format_usd(found.balance_nanos),
        threshold_usd=format_usd(found.threshold_nanos),
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
