"""Workers share what they find about channels: two of them, with clocks of their own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.routing.breaker import Availability, BreakerState
from relay.routing.health import Health, HealthChange
from relay.routing.policy import US_PER_S, Policy
from tests.pure.routing.test_health import NOW_US, due_us, fail, opened

WALL_US = 1_700_000_000 * US_PER_S
OTHER_CLOCK_US = 77 * US_PER_S


def tell(teller: Health, listener: Health, *, at_us: int) -> tuple[HealthChange, ...]:
    """Have the listener, whose monotonic clock is another one, hear all that the teller knows."""
    wall_us = WALL_US + at_us
    message = teller.encode(now_us=at_us, wall_us=wall_us)
    return listener.merge(message, now_us=at_us + OTHER_CLOCK_US, wall_us=wall_us)


def test_what_one_worker_finds_the_other_knows() -> None:
    here, there = opened(), Health(Policy())
    (change,) = tell(here, there, at_us=NOW_US + 5)
    assert (change.before, change.after) == (BreakerState.CLOSED, BreakerState.OPEN)
    assert due_us(there) == due_us(here) + OTHER_CLOCK_US
    assert tell(here, there, at_us=NOW_US + 6) == ()
    at_us = due_us(here)
    here.start(1, "m", at_us)
    tell(here, there, at_us=at_us + 5)
    assert there.availability(1, "m", at_us + OTHER_CLOCK_US + 5) is Availability.COOLING
    here.succeed(1, "m", started_us=at_us, now_us=at_us + US_PER_S)
    (change,) = tell(here, there, at_us=at_us + US_PER_S)
    assert change.after is BreakerState.CLOSED
    assert there.troubled == {}


def test_our_own_message_coming_back_does_not_undo_a_running_trial() -> None:
    health = opened()
    at_us = due_us(health)
    health.start(1, "m", at_us)
    message = health.encode(now_us=at_us, wall_us=WALL_US)
    health.merge(message, now_us=at_us + 500, wall_us=WALL_US + 480)
    (change,) = health.succeed(1, "m", started_us=at_us, now_us=at_us + 900)
    assert change.before is BreakerState.HALF_OPEN


def test_old_news_is_neither_told_nor_believed() -> None:
    here, there = opened(), Health(Policy())
    at_us = due_us(here)
    here.start(1, "m", at_us)
    old = here.encode(now_us=at_us, wall_us=WALL_US + at_us)
    here.succeed(1, "m", started_us=at_us, now_us=at_us + US_PER_S)
    tell(here, there, at_us=at_us + US_PER_S)
    later_us = at_us + 2 * US_PER_S
    there.merge(old, now_us=later_us + OTHER_CLOCK_US, wall_us=WALL_US + later_us)
    assert there.availability(1, "m", later_us + OTHER_CLOCK_US) is Availability.READY
    assert tell(here, Health(Policy()), at_us=at_us + 900 * US_PER_S) == ()
    assert here.encode(now_us=at_us + 900 * US_PER_S, wall_us=WALL_US) == b"\x90"


def test_what_the_catalog_no_longer_has_is_not_taken_over() -> None:
    here, there = opened(), Health(Policy())
    there.prune({1: {"another"}, 2: {"m"}})
    assert tell(here, there, at_us=NOW_US + 5) == ()
    assert there.troubled == {}
    there.prune({1: {"m"}})
    assert len(tell(here, there, at_us=NOW_US + 5)) == 1


def test_what_another_worker_found_leaves_no_old_counts_behind() -> None:
    here, there = opened(), Health(Policy())
    fail(there, at_us=NOW_US)
    fail(there, at_us=NOW_US)
    tell(here, there, at_us=NOW_US + US_PER_S)
    at_us = due_us(here)
    here.start(1, "m", at_us)
    here.succeed(1, "m", started_us=at_us, now_us=at_us + 9)
    tell(here, there, at_us=at_us + 9)
    assert fail(there, at_us=at_us + OTHER_CLOCK_US + US_PER_S) == ()


@given(skew_us=st.integers(-(10**13), 10**13))
def test_a_wrong_clock_takes_nothing_out_for_longer_than_a_wait_of_our_own(skew_us: int) -> None:
    here, there = opened(), Health(Policy())
    message = here.encode(now_us=NOW_US, wall_us=WALL_US + skew_us)
    there.merge(message, now_us=NOW_US, wall_us=WALL_US)
    assert due_us(there) <= NOW_US + 120 * US_PER_S


@settings(max_examples=200)
@given(message=st.binary(max_size=200))
def test_a_garbled_message_is_a_value_error_or_nothing(message: bytes) -> None:
    health = Health(Policy())
    try:
        health.merge(message, now_us=NOW_US, wall_us=WALL_US)
    except ValueError:
        assert health.describe(NOW_US) == []


def test_a_message_that_is_no_health_is_refused_whole() -> None:
    with pytest.raises(ValueError, match="not a message"):
        Health(Policy()).merge(b"\x91\xa1\xff", now_us=NOW_US, wall_us=WALL_US)
