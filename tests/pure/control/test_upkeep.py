"""The maintenance window opens once a day by its own clock, also when that is put forward."""

import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import Config, Maintenance
from relay.control.upkeep import seconds_to_window


def seconds(window: str, zone: str, now: str) -> float:
    maintenance = Maintenance(window=window, zone=zone)
    config = msgspec.structs.replace(Config(), maintenance=maintenance)
    return seconds_to_window(config, datetime.datetime.fromisoformat(now))


@pytest.mark.parametrize(
    ("window", "zone", "now", "expected_s"),
    [
        ("01:00-05:00", "UTC", "2026-05-17T00:59:00Z", 60),
        ("01:00-05:00", "UTC", "2026-05-17T01:00:00Z", 86_400),
        ("01:00-05:00", "UTC", "2026-05-17T04:00:00Z", 75_600),
        ("01:00-05:00", "Asia/Shanghai", "2026-05-17T16:59:00Z", 60),
        # The clock goes from 02:00 to 03:00 on that night: half past two is half past three.
        ("02:30-05:00", "Europe/Berlin", "2026-03-29T00:30:00Z", 3_600),
        # It goes from 03:00 back to 02:00: the first half past two counts.
        ("02:30-05:00", "Europe/Berlin", "2026-10-25T00:00:00Z", 1_800),
    ],
)
def test_the_next_opening(window: str, zone: str, now: str, expected_s: float) -> None:
    assert seconds(window, zone, now) == expected_s


@given(
    st.datetimes(
        min_value=datetime.datetime(2026, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
        max_value=datetime.datetime(2027, 12, 31),  # noqa: DTZ001
        timezones=st.just(datetime.UTC),
    ),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe"]),
)
def test_it_is_never_more_than_a_day_and_an_hour_away(now: datetime.datetime, zone: str) -> None:
    assert 0 < seconds("02:30-05:00", zone, now.isoformat()) <= 90_000
