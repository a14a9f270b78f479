"""Goal: operators are told, never flooded. Method: a webhook that only remembers, a set clock."""

import datetime
from typing import Any

import msgspec

from relay.control.api import metrics
from relay.control.watch.notices import PER_KEY_MAX, PER_KEY_S, REFUSALS_MAX, Notices
from relay.control.watch.webhook import Notice, Webhook
from relay.model import Secret
from relay.store.billing.low_balances import LowBalance
from relay.store.billing.promotions import Promotion
from relay.store.log.addresses import Unfamiliar

SEEN = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.UTC)


class Remembering(Webhook):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(Secret("http://127.0.0.1:1/"))
        self.sent: list[dict[str, Any]] = []

    def send(self, notice: Notice) -> None:
        self.sent.append(msgspec.to_builtins(notice))


def unfamiliar(number: int = 1, key_id: int = 7) -> Unfamiliar:
    return Unfamiliar(key_id, "ci", "acme", f"192.0.2.{number}", SEEN)


def test_each_thing_is_told_with_what_an_operator_needs() -> None:
    webhook = Remembering()
    notices = Notices(webhook, lambda: 0.0)
    notices.unfamiliar(unfamiliar())
    notices.low(LowBalance("acme", 4_000_000_000, 5_000_000_000))
    notices.low_over(LowBalance("acme", 6_000_000_000, 5_000_000_000))
    notices.refused("A-1", "another amount")
    notices.promoted(Promotion(1, "acme", "default", "enterprise", "recharged 3000 CNY in all"))
    assert [one.pop("time")[:2] for one in webhook.sent] == ["20"] * 5
    assert webhook.sent == [
        {
            "event": "unfamiliar_ip",
            "account": "acme",
            "key_id": 7,
            "key_name": "ci",
            "address": "192.0.2.1",
            "first_seen": "2026-11-24T12:00:00.000+00:00",
        },
        {"event": "low_balance", "account": "acme", "balance_usd": "4", "threshold_usd": "5"},
        {"event": "low_balance_over", "account": "acme", "balance_usd": "6", "threshold_usd": "5"},
        {"event": "payment_refused", "order": "A-1", "reason": "another amount"},
        {
            "event": "enterprise",
            "account": "acme",
            "from_group": "default",
            "to_group": "enterprise",
            "reason": "recharged 3000 CNY in all",
        },
    ]
    shown = metrics.render(notices).decode()
    for event in ("unfamiliar_ip", "low_balance", "payment_refused", "enterprise"):
        assert f'relay_money_notices_total{{event="{event}"}} 1.0' in shown


def test_a_key_at_many_addresses_is_told_so_often_an_hour_and_counted_always() -> None:
    webhook, clock = Remembering(), [0.0]
    notices = Notices(webhook, lambda: clock[0])
    for number in range(200):
        notices.unfamiliar(unfamiliar(number))
    notices.unfamiliar(unfamiliar(key_id=8))
    assert len(webhook.sent) == PER_KEY_MAX + 1
    assert notices.counts["unfamiliar_ip"] == 201
    clock[0] = PER_KEY_S + 1
    notices.unfamiliar(unfamiliar(201))
    assert len(webhook.sent) == PER_KEY_MAX + 2


def test_a_shop_that_repeats_itself_is_told_so_often_an_hour() -> None:
    webhook = Remembering()
    notices = Notices(webhook, lambda: 0.0)
    for number in range(100):
        notices.refused(f"A-{number}", "another amount")
    assert len(webhook.sent) == REFUSALS_MAX
    assert notices.counts["payment_refused"] == 100


def test_without_a_webhook_log_and_metric_have_to_do() -> None:
    notices = Notices(None, lambda: 0.0)
    notices.low(LowBalance("acme", 0, 1))
    assert notices.counts["low_balance"] == 1
