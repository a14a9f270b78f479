"""What a recharge is worth, and who becomes an enterprise by it. Integers only.

Amounts are billionths of their currency ("nanos") in USD and CNY alike.
"""

import enum
from collections.abc import Sequence

import msgspec

from relay.units import NANOS_PER_USD, PPM, divide_half_up


class Currency(enum.StrEnum):
    """What a recharge is paid in."""

    USD = "USD"
    CNY = "CNY"


class BonusTier(msgspec.Struct, frozen=True):
    """From an amount on (nano-USD), this share of a recharge is added to it (PPM)."""

    from_nanos: int
    bonus_ppm: int


class Credit(msgspec.Struct, frozen=True):
    """What an account is credited for a recharge: the money paid, and the bonus, in nano-USD."""

    paid_nanos: int
    bonus_nanos: int


class EnterpriseRule(msgspec.Struct, frozen=True):
    """What makes an account an enterprise, in nano-CNY, nano-USD and days.

    Either `recharged_cny_nanos` recharged in all, or `day_nanos` spent on each of `days` days in a
    row.
    """

    recharged_cny_nanos: int = 3_000 * 1_000_000_000
    day_nanos: int = 100 * NANOS_PER_USD
    days: int = 7


def credit_of(
    amount_nanos: int,
    currency: Currency,
    *,
    cny_per_usd_nanos: int,
    tiers: Sequence[BonusTier] = (),
) -> Credit:
    """Return what a recharge of `amount_nanos` of `currency` credits, each part rounded once.

    Raises:
        ValueError: The amount or the exchange rate is not positive.
    """
    if amount_nanos <= 0:
        raise ValueError("the amount must be positive")
    paid_nanos = _convert(amount_nanos, currency, cny_per_usd_nanos)
    bonus_ppm = max((tier.bonus_ppm for tier in tiers if paid_nanos >= tier.from_nanos), default=0)
    return Credit(paid_nanos, divide_half_up(paid_nanos * bonus_ppm, PPM))


def is_enterprise(
    rule: EnterpriseRule, recharged_cny_nanos: int, spent_by_day_nanos: Sequence[int]
) -> bool:
    """Return whether an account has earned enterprise status.

    Args:
        rule: What it takes.
        recharged_cny_nanos: All its recharges, each at its own day's exchange rate.
        spent_by_day_nanos: Nano-USD spent on whole days in a row, oldest first; a day without
            calls is a zero, not left out.
    """
    if recharged_cny_nanos >= rule.recharged_cny_nanos:
        return True
    run = 0
    for spent_nanos in spent_by_day_nanos:
        run = run + 1 if spent_nanos >= rule.day_nanos else 0
        if run == rule.days:
            return True
    return False


def _convert(amount_nanos: int, currency: Currency, cny_per_usd_nanos: int) -> int:
    if currency is Currency.USD:
        return amount_nanos
    if cny_per_usd_nanos <= 0:
        raise ValueError("the exchange rate must be positive")
    return divide_half_up(amount_nanos * NANOS_PER_USD, cny_per_usd_nanos)
