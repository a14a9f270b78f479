"""Goal: a budget ends when the calendar of its zone says so, and is written in one way.

Method: windows around changes of the clock whose moments are known, in zones where the change comes
at the end of a month, at midnight, and where midnight is left out; each checked in UTC. Then any
moment of twenty years: windows meet without a gap, and no moment is outside of its own.
"""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.billing.budget import (
    canonical_budgets,
    format_budget,
    parse_budget,
    read_budgets,
    window_at,
)
from relay.model import Budget, BudgetMeasure, BudgetPeriod

HOUR_S = 3_600


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def window(budget: str, at: str) -> tuple[int, int]:
    found = window_at("key", 1, parse_budget(budget), utc(at))
    return found.starts_s, found.ends_s


def test_a_month_in_berlin_that_ends_on_the_day_of_the_change() -> None:
    march = window("1 usd/month@Europe/Berlin", "2024-03-31 21:59:59")
    assert march == (utc("2024-02-29 23:00"), utc("2024-03-31 22:00"))
    assert window("1 usd/month@Europe/Berlin", "2024-03-31 22:00")[0] == march[1]
    assert march[1] - march[0] == (31 * 24 - 1) * HOUR_S


def test_a_month_in_cairo_that_ends_at_the_moment_of_the_change() -> None:
    # At the last midnight of October the clock goes back to 23:00: the month has an hour more.
    october = window("1 usd/month@Africa/Cairo", "2024-10-31 21:30")
    assert october == (utc("2024-09-30 21:00"), utc("2024-10-31 22:00"))
    assert october[1] - october[0] == (31 * 24 + 1) * HOUR_S
    assert window("1 usd/day@Africa/Cairo", "2024-10-31 21:30")[1] == october[1]


def test_a_month_in_havana_whose_first_midnight_comes_twice() -> None:
    # On 1 November 2026 the clock goes from 01:00 back to 00:00: the month begins the first time.
    november = window("1 usd/month@America/Havana", "2026-11-01 05:30")
    assert november[0] == utc("2026-11-01 04:00")
    assert window("1 usd/month@America/Havana", "2026-11-01 04:30") == november
    assert window("1 usd/month@America/Havana", "2026-11-01 03:59")[1] == november[0]
    day = window("1 usd/day@America/Havana", "2026-11-01 05:30")
    assert day[1] - day[0] == 25 * HOUR_S


def test_a_day_begins_where_the_clock_jumps_over_its_midnight() -> None:
    # In Santiago 8 September 2024 begins at 01:00, which is 04:00 UTC.
    assert window("1 usd/day@America/Santiago", "2024-09-08 04:00")[0] == utc("2024-09-08 04:00")
    assert window("1 usd/day@America/Santiago", "2024-09-08 03:59")[1] == utc("2024-09-08 04:00")


def test_a_day_is_not_reentered_where_the_clock_goes_back_over_midnight() -> None:
    # In St. John's the clock went back at 00:01 to 23:01 of the day before: that hour is today's.
    budget = "1 usd/day@America/St_Johns"
    today = window(budget, "2010-11-07 02:30")
    assert window(budget, "2010-11-07 02:31") == window(budget, "2010-11-07 03:29") == today


def test_a_week_begins_on_monday() -> None:
    assert window("1 usd/week", "2026-11-29 23:59:59") == (utc("2026-11-23"), utc("2026-11-30"))
    assert window("1 usd/week", "2026-11-30")[0] == utc("2026-11-30")
    assert window("1 usd/month", "2026-12-31")[1] == utc("2027-01-01")


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Africa/Cairo", "Asia/Kathmandu")
CALENDAR = (BudgetPeriod.DAY, BudgetPeriod.WEEK, BudgetPeriod.MONTH)
MOMENTS = st.integers(utc("2020-01-01"), utc("2040-01-01"))


@given(MOMENTS, st.sampled_from(CALENDAR), st.sampled_from((*ZONES, "Pacific/Apia")))
def test_windows_meet_without_a_gap(at_s: int, period: BudgetPeriod, zone: str) -> None:
    budget = Budget(BudgetMeasure.USD, period, 1, zone)
    found = window_at("key", 1, budget, at_s)
    assert found.starts_s <= at_s < found.ends_s
    assert window_at("key", 1, budget, found.starts_s) == found
    assert window_at("key", 1, budget, found.ends_s - 1) == found
    assert window_at("key", 1, budget, found.ends_s).starts_s == found.ends_s


def test_budgets_are_written_in_one_way() -> None:
    told = ["1000 requests/day@UTC", "2000000tokens / day", "50.00 usd/month@Europe/Berlin"]
    assert canonical_budgets(told) == [
        "50 usd/month@Europe/Berlin",
        "2000000 tokens/day",
        "1000 requests/day",
    ]
    assert [format_budget(one) for one in read_budgets(canonical_budgets(told))] == (
        canonical_budgets(told)
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "50", "50 usd", "50 usd/year", "-1 usd/day", "1.5 tokens/day", "1e3 usd/day"),
        *("5 usd/day@Nowhere/None", "5 usd/day@../../etc/passwd", "5 usd/day@Europe", "9" * 30),
        *("99999999999999999999 requests/day", "99999999999 usd/day"),
    ],
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_budget(text)


def test_there_is_one_budget_of_a_measure_and_period() -> None:
    with pytest.raises(ValueError, match="one budget of each"):
        canonical_budgets(["1 usd/day", "2 usd/day@Europe/Berlin"])


def test_a_stored_budget_of_an_unknown_zone_still_binds() -> None:
    assert read_budgets(["5 usd/day@Mars/Olympus"]) == (parse_budget("5 usd/day"),)
