"""Budgets that end: what may be used in a day, week or month by the calendar of a zone.

    "50 usd/month@Europe/Berlin" --parse--> Budget --window_at--> BudgetWindow [starts, ends)

A window begins with the first moment of its day on the clocks of its zone, so one with a change
of the clock in it is an hour longer or shorter. A call counts in the window in which it arrived,
however long it runs: so worker and shipper book it in the same one.
"""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from relay.model import Budget, BudgetMeasure, BudgetPeriod
from relay.units import format_usd, parse_usd

BUDGETS_MAX: Final = 9
"""One for each measure and period."""
AMOUNT_MAX: Final = 2**53
FOREVER_S: Final = 2**33
"""When the window ends that never does: in the year 2242."""
LOW_PERCENT: Final = 80
"""What share of a budget has been used when its account is told."""

_FORM: Final = re.compile(
    r"([0-9.]{1,32}) ?(usd|tokens|requests) ?/ ?(day|week|month)(?:@([A-Za-z0-9_+/-]{1,64}))?"
)
_HOW: Final = "a budget is written as 50 usd/month@Europe/Berlin or 1000 requests/day"
_DAYS_PER_WEEK: Final = 7
_MONTHS: Final = 12


class BudgetWindow(msgspec.Struct, frozen=True):
    """One day, week or month of a budget of a key or account; seconds since 1970.

    Of a key's quota there is one window, from 0 to FOREVER_S. `scope`: "key" or "account". It says
    nothing of the amount, which may change while it runs.
    """

    scope: str
    owner_id: int
    measure: BudgetMeasure
    starts_s: int
    ends_s: int

    @property
    def name(self) -> str:
        """What it is known by in Postgres."""
        spanned = f"{self.starts_s}-{self.ends_s}"
        return f"{self.scope}:{self.owner_id}:{self.measure.value}:{spanned}"


def parse_budget(text: str) -> Budget:
    """Return the budget that `text` says.

    Raises:
        ValueError: It says none.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{_HOW}, not {text[:60]!r}")
    amount, measure, period, zone = found.groups()
    if measure == BudgetMeasure.USD:
        number = parse_usd(amount)
    elif amount.isdecimal():
        number = int(amount)
    else:
        raise ValueError(f"a budget counts whole {measure}: {text[:60]!r}")
    if number > AMOUNT_MAX and measure != BudgetMeasure.USD:
        raise ValueError(f"a budget of that many {measure} is none: {text[:60]!r}")
    name = zone or "UTC"
    zone_of(name)
    return Budget(BudgetMeasure(measure), BudgetPeriod(period), number, name)


def parse_budgets(texts: Iterable[str]) -> tuple[Budget, ...]:
    """Return the budgets that `texts` say, in one order.

    Raises:
        ValueError: One says none, or two are of one measure and period.
    """
    budgets = sorted(map(parse_budget, texts), key=_place)
    if len({_place(budget) for budget in budgets}) < len(budgets):
        raise ValueError("there can be one budget of each measure and period")
    return tuple(budgets)


def read_budgets(texts: Iterable[str]) -> tuple[Budget, ...]:
    """Return stored budgets; one that this host cannot read (an unknown zone) counts in UTC."""
    budgets = []
    for text in texts:
        try:
            budgets.append(parse_budget(text))
        except ValueError:
            budgets.append(parse_budget(text.partition("@")[0]))
    return tuple(budgets)


def format_budget(budget: Budget) -> str:
    """Return the one way in which a budget is stored and shown."""
    zone = "" if budget.zone == "UTC" else f"@{budget.zone}"
    return f"{format_amount(budget.measure, budget.amount)}/{budget.period.value}{zone}"


def format_amount(measure: BudgetMeasure, amount: int) -> str:
    """Return an amount of a budget with its unit."""
    number = format_usd(amount) if measure is BudgetMeasure.USD else str(amount)
    return f"{number} {measure.value}"


def canonical_budgets(texts: Iterable[str]) -> list[str]:
    """Return budgets as they are stored.

    Raises:
        ValueError: As parse_budgets.
    """
    return [format_budget(budget) for budget in parse_budgets(texts)]


def quota_budget(quota_nanos: int) -> Budget:
    """Return the quota of a key as a budget: so it is one over all workers and hosts."""
    return Budget(BudgetMeasure.USD, BudgetPeriod.EVER, quota_nanos)


def window_at(scope: str, owner_id: int, budget: Budget, at_s: int) -> BudgetWindow:
    """Return the window of a budget that a moment is in."""
    if budget.period is BudgetPeriod.EVER:
        return BudgetWindow(scope, owner_id, budget.measure, 0, FOREVER_S)
    zone = zone_of(budget.zone)
    today = datetime.fromtimestamp(at_s, zone).date()
    first = _first_day(budget.period, today)
    starts_s = _begin_s(first, zone)
    if starts_s > at_s:  # an hour that is there twice: its second half may show yesterday's date
        first = _first_day(budget.period, first - timedelta(days=1))
        starts_s = _begin_s(first, zone)
    ends_s = _begin_s(_next_first(budget.period, first), zone)
    if ends_s <= at_s:
        first = _next_first(budget.period, first)
        starts_s, ends_s = ends_s, _begin_s(_next_first(budget.period, first), zone)
    return BudgetWindow(scope, owner_id, budget.measure, starts_s, ends_s)


def zone_of(name: str) -> ZoneInfo:
    """Return a zone of the tz database.

    Raises:
        ValueError: There is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: a folder of zones
        raise ValueError(f"there is no time zone {name!r}") from None


def _place(budget: Budget) -> tuple[int, int]:
    measures, periods = list(BudgetMeasure), list(BudgetPeriod)
    return measures.index(budget.measure), periods.index(budget.period)


def _first_day(period: BudgetPeriod, day: date) -> date:
    match period:
        case BudgetPeriod.DAY:
            return day
        case BudgetPeriod.WEEK:
            return day - timedelta(days=day.weekday())
        case _:
            return day.replace(day=1)


def _next_first(period: BudgetPeriod, first: date) -> date:
    match period:
        case BudgetPeriod.DAY:
            return first + timedelta(days=1)
        case BudgetPeriod.WEEK:
            return first + timedelta(days=_DAYS_PER_WEEK)
        case _:
            years, month = divmod(first.month, _MONTHS)
            return date(first.year + years, month + 1, 1)


def _begin_s(day: date, zone: ZoneInfo) -> int:
    """Return when a day begins.

    Where midnight is left out, when the clock jumps over it; where it is there twice, the first
    time (fold 0 means both).
    Source: PEP 495, "Conversion from Naive to Aware".
    """
    return int(datetime.combine(day, time(), zone).astimezone(UTC).timestamp())
