"""A breaker follows its table and its waits are bounded: every move asked, waits over all dice."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.routing.breaker import (
    TRANSITIONS,
    Availability,
    Breaker,
    BreakerState,
    IllegalMoveError,
    Signal,
)
from relay.routing.policy import BLAME, US_PER_S, Policy, Reason
from relay.routing.table import CHANNEL_FAILURES, Outcome

POLICY = Policy()
NOW_US = 1_000 * US_PER_S


def in_state(state: BreakerState) -> Breaker:
    breaker = Breaker()
    if state is not BreakerState.CLOSED:
        breaker.trip(POLICY, Reason.FAILING, NOW_US, retry_after_s=None, dice=0.0)
    if state is BreakerState.HALF_OPEN:
        breaker.try_out(POLICY, NOW_US)
    assert breaker.state is state
    return breaker


@pytest.mark.parametrize(("state", "signal"), list(itertools.product(BreakerState, Signal)))
def test_every_move_is_in_the_table_or_refused(state: BreakerState, signal: Signal) -> None:
    breaker = in_state(state)
    if (state, signal) in TRANSITIONS:
        breaker.move(signal, NOW_US)
        assert breaker.state is TRANSITIONS[state, signal]
    else:
        with pytest.raises(IllegalMoveError, match=f"{signal.name} .* {state.name}"):
            breaker.move(signal, NOW_US)
        assert breaker.state is state


def test_only_the_channels_failures_are_blamed() -> None:
    assert set(BLAME) == CHANNEL_FAILURES - {Outcome.MODEL_GONE, Outcome.FORBIDDEN}


def test_three_in_a_row_trip_it_and_a_success_between_does_not() -> None:
    breaker = Breaker()
    for struck in (True, True, False, True, True):
        breaker.count(POLICY, NOW_US, struck=struck)
        assert not breaker.should_trip(POLICY)
    breaker.count(POLICY, NOW_US, struck=True)
    assert breaker.should_trip(POLICY)


def test_half_of_ten_trip_it_and_half_of_nine_do_not() -> None:
    breaker = Breaker()
    for count in range(1, 11):
        breaker.count(POLICY, NOW_US, struck=count % 2 == 0)
        assert breaker.should_trip(POLICY) is (count == 10)


def test_the_window_forgets() -> None:
    breaker = Breaker()
    for count in range(9):
        breaker.count(POLICY, NOW_US, struck=count % 2 == 0)
    half_us = 5 * US_PER_S
    for later_us, calls in ((half_us, 10), (2 * half_us, 2), (9 * half_us, 1)):
        breaker.count(POLICY, NOW_US + later_us, struck=False)
        assert breaker.calls + breaker.calls_before == calls


@given(
    openings=st.integers(1, 2_000),
    die=st.floats(0, 1, exclude_max=True),
    reason=st.sampled_from(Reason),
)
def test_waits_double_up_to_their_maximum_and_are_cut_by_half_at_most(
    openings: int, die: float, reason: Reason
) -> None:
    first_s = {Reason.FAILING: 5.0, Reason.LIMITED: 1.0, Reason.DENIED: 60.0}[reason]
    most_s = 110.0 if reason is Reason.DENIED else 40.0
    longest_us = min(first_s * 2.0 ** min(openings - 1, 99), most_s) * US_PER_S
    wait_us = POLICY.wait_us(reason, openings, retry_after_s=None, dice=die)
    assert longest_us // 2 <= wait_us <= longest_us


@given(asked_s=st.floats(0, 1e9), die=st.floats(0, 1, exclude_max=True))
def test_retry_after_is_never_cut_short_but_capped(asked_s: float, die: float) -> None:
    wait_us = POLICY.wait_us(Reason.LIMITED, 9, retry_after_s=asked_s, dice=die)
    assert int(min(asked_s, 120.0) * US_PER_S) <= wait_us <= 120 * US_PER_S


def test_openings_in_a_row_wait_longer_until_it_was_calm() -> None:
    breaker, now_us = Breaker(), NOW_US
    for opening in range(1, 15):
        breaker.trip(POLICY, Reason.FAILING, now_us, retry_after_s=None, dice=0.0)
        assert breaker.openings == opening
        assert breaker.due_us - now_us == min(5 * 2 ** (opening - 1), 40) * US_PER_S // 2
        now_us = breaker.due_us
        breaker.try_out(POLICY, now_us)
        if opening % 2:  # it closes for a moment, then fails again
            breaker.move(Signal.SUCCESS, now_us)
            now_us += 10 * US_PER_S
    breaker.move(Signal.SUCCESS, now_us)
    breaker.trip(POLICY, Reason.FAILING, now_us + 60 * US_PER_S, retry_after_s=None, dice=0.0)
    assert breaker.openings == 1


@pytest.mark.parametrize("asked_s", [0.25, 7.0])
def test_a_wait_that_the_upstream_named_makes_the_next_one_no_longer(asked_s: float) -> None:
    breaker, now_us = Breaker(), NOW_US
    for _ in range(5):
        breaker.trip(POLICY, Reason.LIMITED, now_us, retry_after_s=asked_s, dice=0.0)
        assert breaker.due_us - now_us == asked_s * US_PER_S
        assert breaker.openings == 1
        now_us = breaker.due_us
        breaker.try_out(POLICY, now_us)


def test_who_asks_for_no_wait_at_all_gets_the_usual_one() -> None:
    assert POLICY.wait_us(Reason.LIMITED, 2, retry_after_s=0.0, dice=0.0) == US_PER_S


def test_standing_follows_the_wait_and_the_trial() -> None:
    assert Breaker().availability(NOW_US) is Availability.READY
    breaker = in_state(BreakerState.OPEN)
    assert breaker.availability(breaker.due_us - 1) is Availability.COOLING
    assert breaker.availability(breaker.due_us) is Availability.TRIAL
    started_us = breaker.due_us
    breaker.try_out(POLICY, started_us)
    assert breaker.is_trial(started_us)
    assert not breaker.is_trial(started_us - 1)
    assert breaker.availability(started_us) is Availability.COOLING
    assert breaker.availability(started_us + 15 * US_PER_S) is Availability.TRIAL
    breaker.release(started_us + 1)
    assert breaker.availability(started_us + 1) is Availability.TRIAL
    assert not breaker.is_trial(started_us)
