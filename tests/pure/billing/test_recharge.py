"""Goal: a recharge is worth what was promised. Method: tables of amounts, days and thresholds."""

import pytest

from relay.billing.recharge import (
    BonusTier,
    Credit,
    Currency,
    EnterpriseRule,
    credit_of,
    is_enterprise,
)
from relay.units import parse_multiplier, parse_usd

RATE = parse_usd("7.2")
TIERS = [
    BonusTier(parse_usd("100"), parse_multiplier("0.02")),
    BonusTier(parse_usd("1000"), parse_multiplier("0.1")),
]
DAY = parse_usd("100")


@pytest.mark.parametrize(
    ("amount", "currency", "paid", "bonus"),
    [
        ("99.99", Currency.USD, "99.99", "0"),
        ("100", Currency.USD, "100", "2"),
        ("999.99", Currency.USD, "999.99", "19.9998"),
        ("1000", Currency.USD, "1000", "100"),
        ("720", Currency.CNY, "100", "2"),
        ("1", Currency.CNY, "0.138888889", "0"),
    ],
)
def test_credit_of(amount: str, currency: Currency, paid: str, bonus: str) -> None:
    credit = credit_of(parse_usd(amount), currency, cny_per_usd_nanos=RATE, tiers=TIERS)
    assert credit == Credit(parse_usd(paid), parse_usd(bonus))


def test_the_best_tier_reached_counts_in_whatever_order_they_stand() -> None:
    credit = credit_of(
        parse_usd("5000"), Currency.USD, cny_per_usd_nanos=RATE, tiers=list(reversed(TIERS))
    )
    assert credit.bonus_nanos == parse_usd("500")


def test_no_tiers_no_bonus() -> None:
    assert credit_of(1, Currency.USD, cny_per_usd_nanos=RATE) == Credit(1, 0)


@pytest.mark.parametrize("amount_nanos", [0, -1])
def test_an_amount_is_positive(amount_nanos: int) -> None:
    with pytest.raises(ValueError, match="amount"):
        credit_of(amount_nanos, Currency.USD, cny_per_usd_nanos=RATE)


def test_an_exchange_rate_is_positive() -> None:
    with pytest.raises(ValueError, match="rate"):
        credit_of(1, Currency.CNY, cny_per_usd_nanos=0)


@pytest.mark.parametrize(
    ("recharged_cny", "days", "enterprise"),
    [
        ("2999.999999999", [], False),
        ("3000", [], True),
        ("0", [DAY] * 7, True),
        ("0", [DAY] * 6, False),
        ("0", [DAY] * 6 + [DAY - 1] + [DAY] * 6, False),
        ("0", [0, *([DAY] * 7), 0], True),
    ],
)
def test_is_enterprise(recharged_cny: str, days: list[int], *, enterprise: bool) -> None:
    assert is_enterprise(EnterpriseRule(), parse_usd(recharged_cny), days) is enterprise


def test_the_rule_is_the_operators() -> None:
    rule = EnterpriseRule(recharged_cny_nanos=5, day_nanos=2, days=2)
    assert is_enterprise(rule, 5, [])
    assert is_enterprise(rule, 4, [2, 3])
    assert not is_enterprise(rule, 4, [2, 1, 2])
