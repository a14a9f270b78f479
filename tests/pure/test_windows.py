"""Goal: each night opens and closes once by its zone's clock, also where that is put on or back.

Method: nights written down by hand from the zones' rules, and what must hold for any moment.
"""

import datetime
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.windows import next_night, nights

NIGHT = "01:00-05:00"


def span(window: str, zone: str, now: str) -> tuple[str, str]:
    found = next_night(window, zone, datetime.datetime.fromisoformat(now))
    return f"{found.opens:%Y-%m-%dT%H:%M}", f"{found.closes:%Y-%m-%dT%H:%M}"


@pytest.mark.parametrize(
    ("zone", "now", "opens", "closes"),
    [
        ("UTC", "2026-05-17T00:59:00Z", "2026-05-17T01:00", "2026-05-17T05:00"),
        # One that is open is the next one, until it closes.
        ("UTC", "2026-05-17T01:00:00Z", "2026-05-17T01:00", "2026-05-17T05:00"),
        ("UTC", "2026-05-17T04:59:00Z", "2026-05-17T01:00", "2026-05-17T05:00"),
        ("UTC", "2026-05-17T05:00:00Z", "2026-05-18T01:00", "2026-05-18T05:00"),
        ("Asia/Shanghai", "2026-05-17T16:59:00Z", "2026-05-17T17:00", "2026-05-17T21:00"),
        # 02:00 -> 03:00: three hours; 03:00 -> 02:00: five; the nights beside them have four.
        ("Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T00:00", "2026-03-29T03:00"),
        ("Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-24T23:00", "2026-10-25T04:00"),
        ("Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-26T00:00", "2026-10-26T04:00"),
        ("America/New_York", "2026-03-08T05:00:00Z", "2026-03-08T06:00", "2026-03-08T09:00"),
        # The clock goes from 02:00 back to 01:00: the night begins the first time it says one.
        ("America/New_York", "2026-11-01T04:00:00Z", "2026-11-01T05:00", "2026-11-01T10:00"),
        ("America/New_York", "2026-11-02T04:00:00Z", "2026-11-02T06:00", "2026-11-02T10:00"),
        # Half an hour, and the year's other end: 02:00 -> 02:30 in October, back in April.
        ("Australia/Lord_Howe", "2026-10-03T12:00:00Z", "2026-10-03T14:30", "2026-10-03T18:00"),
        ("Australia/Lord_Howe", "2026-04-04T12:00:00Z", "2026-04-04T14:00", "2026-04-04T18:30"),
    ],
)
def test_a_night_is_as_long_as_the_clock_says(zone: str, now: str, opens: str, closes: str) -> None:
    assert span(NIGHT, zone, now) == (opens, closes)


@pytest.mark.parametrize(
    ("window", "opens", "closes"),
    [
        # What the clock skips begins or ends when it jumps: 02:00 is followed by 03:00, 01:00 UTC.
        ("02:30-05:00", "2026-03-29T01:00", "2026-03-29T03:00"),
        ("01:00-02:30", "2026-03-29T00:00", "2026-03-29T01:00"),
        # All of it is skipped: the next night is the next day's.
        ("02:00-03:00", "2026-03-30T00:00", "2026-03-30T01:00"),
        ("02:15-02:45", "2026-03-30T00:15", "2026-03-30T00:45"),
        ("23:00-04:00", "2026-03-28T22:00", "2026-03-29T02:00"),
    ],
)
def test_a_window_that_the_clock_skips(window: str, opens: str, closes: str) -> None:
    assert span(window, "Europe/Berlin", "2026-03-28T21:00:00Z") == (opens, closes)


def test_what_the_clock_shows_twice_is_meant_the_first_time() -> None:
    assert span("02:30-02:45", "Europe/Berlin", "2026-10-24T23:00:00Z") == (
        "2026-10-25T00:30",
        "2026-10-25T00:45",
    )


@given(
    st.datetimes(
        min_value=datetime.datetime(2026, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
        max_value=datetime.datetime(2027, 12, 31),  # noqa: DTZ001
        timezones=st.just(datetime.UTC),
    ),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe"]),
    st.sampled_from([NIGHT, "02:30-05:00", "22:00-01:30", "02:15-02:45"]),
)
def test_nights_follow_each_other_for_ever(now: datetime.datetime, zone: str, window: str) -> None:
    found = list(itertools.islice(nights(window, zone, now), 4))
    assert now < found[0].closes
    for one, other in itertools.pairwise(found):
        assert one.opens < one.closes < other.opens
        assert other.opens - one.opens <= datetime.timedelta(hours=49)
