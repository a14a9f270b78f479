"""Channel health: what counts, what opens and what heals a channel: one report at a time."""

import pytest

from relay.routing.breaker import Availability, BreakerState
from relay.routing.health import Condition, Failure, Health, HealthChange
from relay.routing.policy import US_PER_S, Policy, Reason
from relay.routing.table import Outcome

NOW_US = 10_000 * US_PER_S
BLAMELESS = [
    Outcome.MODEL_GONE,
    Outcome.CLIENT_FAULT,
    Outcome.CLIENT_GONE,
    Outcome.OUT_OF_TIME,
    Outcome.REVOKED,
    Outcome.SHUT_DOWN,
    Outcome.OWN_FAULT,
    Outcome.DRAINED,
]


def fail(
    health: Health,
    outcome: Outcome = Outcome.SERVER_ERROR,
    *,
    at_us: int = NOW_US,
    started_us: int | None = None,
    retry_after_s: float | None = None,
    model: str = "m",
) -> tuple[HealthChange, ...]:
    failure = Failure(outcome, at_us if started_us is None else started_us, retry_after_s)
    return health.fail(1, model, failure, now_us=at_us, dice=0.0)


def opened(*, model: str = "m") -> Health:
    health = Health(Policy())
    for _ in range(3):
        fail(health, model=model)
    assert health.availability(1, model, NOW_US) is Availability.COOLING
    return health


def due_us(health: Health, model: str = "m") -> int:
    return health.due_us(1, model)


# --- what counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", BLAMELESS)
def test_what_is_not_the_channels_fault_never_counts(outcome: Outcome) -> None:
    health = Health(Policy())
    for _ in range(100):
        assert fail(health, outcome) == ()
    assert health.availability(1, "m", NOW_US) is Availability.READY
    assert not health.is_suspect(1, "m", NOW_US)


def test_three_failures_in_a_row_open_that_model_only() -> None:
    health = Health(Policy())
    assert fail(health) == fail(health) == ()
    assert health.is_suspect(1, "m", NOW_US)
    assert fail(health) == (
        HealthChange(1, "m", BreakerState.CLOSED, BreakerState.OPEN, Reason.FAILING, alarm=False),
    )
    assert health.availability(1, "m", NOW_US) is Availability.COOLING
    assert health.availability(1, "other", NOW_US) is Availability.READY
    assert health.availability(2, "m", NOW_US) is Availability.READY


def test_half_of_the_calls_failing_opens_it() -> None:
    health = Health(Policy())
    for _ in range(4):
        fail(health)
        health.succeed(1, "m", started_us=NOW_US, now_us=NOW_US)
    health.succeed(1, "m", started_us=NOW_US, now_us=NOW_US)
    assert len(fail(health)) == 1


def test_a_429_opens_it_at_once_for_as_long_as_it_asks() -> None:
    health = Health(Policy())
    (change,) = fail(health, Outcome.LIMITED, retry_after_s=7.0)
    assert (change.after, change.reason, change.alarm) == (BreakerState.OPEN, Reason.LIMITED, False)
    assert due_us(health) == NOW_US + 7 * US_PER_S


def test_any_failure_that_names_a_time_is_believed() -> None:
    health = Health(Policy())
    (change,) = fail(health, Outcome.SERVER_ERROR, retry_after_s=1e6)
    assert change.reason is Reason.LIMITED
    assert due_us(health) == NOW_US + 120 * US_PER_S


@pytest.mark.parametrize("retry_after_s", [None, 60.0])
def test_a_refused_credential_takes_all_models_out_and_raises_one_alarm(
    retry_after_s: float | None,
) -> None:
    health = Health(Policy())
    (change,) = fail(health, Outcome.DENIED, retry_after_s=retry_after_s)
    assert change == HealthChange(
        1, "", BreakerState.CLOSED, BreakerState.OPEN, Reason.DENIED, alarm=True
    )
    for model in ("m", "another"):
        assert health.availability(1, model, NOW_US) is Availability.COOLING
    # Calls that were under way come back refused as well, and a trial may be: no second alarm.
    assert fail(health, Outcome.DENIED, started_us=NOW_US - 5) == ()
    later_us = due_us(health)
    assert health.start(1, "another", later_us)
    (change,) = fail(health, Outcome.DENIED, at_us=later_us + 9, started_us=later_us)
    assert (change.before, change.after, change.alarm) == (
        BreakerState.HALF_OPEN,
        BreakerState.OPEN,
        False,
    )
    later_us = due_us(health)
    assert health.start(1, "m", later_us)
    (change,) = health.succeed(1, "m", started_us=later_us, now_us=later_us + 9)
    assert (change.model, change.after) == ("", BreakerState.CLOSED)
    assert health.troubled == {}


# --- trials ---------------------------------------------------------------------------------------


def test_one_trial_at_a_time_and_its_success_closes() -> None:
    health = opened()
    at_us = due_us(health)
    assert not health.start(1, "m", at_us - 1)
    (change,) = health.start(1, "m", at_us)
    assert (change.before, change.after) == (BreakerState.OPEN, BreakerState.HALF_OPEN)
    assert health.is_trial(1, "m", at_us)
    assert not health.is_trial(1, "m", at_us + 1)
    assert health.availability(1, "m", at_us + 1) is Availability.COOLING
    assert not health.start(1, "m", at_us + 1)
    (change,) = health.succeed(1, "m", started_us=at_us, now_us=at_us + 5)
    assert (change.before, change.after) == (BreakerState.HALF_OPEN, BreakerState.CLOSED)
    assert health.availability(1, "m", at_us + 5) is Availability.READY
    assert health.due_us(1, "m") == 0
    assert not health.start(1, "m", at_us + 5)


def test_a_failed_trial_waits_twice_as_long() -> None:
    health = opened()
    first_us = due_us(health) - NOW_US
    at_us = due_us(health)
    health.start(1, "m", at_us)
    fail(health, at_us=at_us, started_us=at_us)
    assert due_us(health) - at_us == 2 * first_us


@pytest.mark.parametrize("outcome", BLAMELESS)
def test_a_trial_without_a_verdict_lets_the_next_call_try(outcome: Outcome) -> None:
    health = opened()
    at_us = due_us(health)
    health.start(1, "m", at_us)
    (change,) = fail(health, outcome, at_us=at_us + 1, started_us=at_us)
    assert change.after is BreakerState.OPEN
    assert health.availability(1, "m", at_us + 1) is Availability.TRIAL


def test_a_trial_that_hangs_keeps_the_next_one_waiting_only_so_long() -> None:
    health = opened()
    first_us = due_us(health)
    health.start(1, "m", first_us)
    second_us = first_us + 30 * US_PER_S
    assert health.start(1, "m", second_us)
    fail(health, Outcome.STALLED, at_us=second_us + 1, started_us=first_us)
    assert health.availability(1, "m", second_us + 1) is Availability.COOLING
    assert health.succeed(1, "m", started_us=first_us, now_us=second_us + 2)  # late, but good news


def test_what_began_before_it_opened_says_nothing() -> None:
    health = opened()
    before_us, wait_until_us = NOW_US - 1, due_us(health)
    assert health.succeed(1, "m", started_us=before_us, now_us=NOW_US + 1) == ()
    assert fail(health, at_us=NOW_US + 1, started_us=before_us) == ()
    assert due_us(health) == wait_until_us


def test_a_call_of_last_resort_that_succeeds_closes_it() -> None:
    health = opened()
    (change,) = health.succeed(1, "m", started_us=NOW_US + 1, now_us=NOW_US + 9)
    assert (change.before, change.after) == (BreakerState.OPEN, BreakerState.CLOSED)


def test_a_models_trial_ends_when_the_credential_is_refused() -> None:
    health = opened()
    at_us = due_us(health)
    health.start(1, "m", at_us)
    changes = fail(health, Outcome.DENIED, at_us=at_us + 1, started_us=at_us)
    assert {(change.model, change.after) for change in changes} == {
        ("m", BreakerState.OPEN),
        ("", BreakerState.OPEN),
    }
    assert health.troubled == {1: 2}


def test_a_channel_stands_as_badly_as_the_worse_of_its_breakers() -> None:
    health = opened()
    fail(health, Outcome.DENIED)  # the channel's own wait is longer than its model's
    model_due_us = NOW_US + 5 * US_PER_S
    assert health.availability(1, "m", model_due_us) is Availability.COOLING
    assert due_us(health) == NOW_US + 30 * US_PER_S
    # Both are due: the call tries both, and its client leaves: the next one may.
    assert health.start(1, "m", due_us(health))
    at_us = due_us(health) - 15 * US_PER_S
    changes = fail(health, Outcome.CLIENT_GONE, at_us=at_us + 1, started_us=at_us)
    assert [change.model for change in changes] == ["m", ""]
    assert fail(health, Outcome.CLIENT_GONE, at_us=at_us + 2) == ()
    # The model answers badly, so its credential is not what is wrong: undecided, try again.
    assert health.start(1, "m", at_us + 3)
    fail(health, at_us=at_us + 4, started_us=at_us + 3)
    assert health.availability(1, "m", at_us + 4) is Availability.COOLING
    assert health.availability(1, "another", at_us + 4) is Availability.TRIAL


def test_suspicion_fades() -> None:
    health = Health(Policy())
    fail(health)
    assert health.is_suspect(1, "m", NOW_US + 4 * US_PER_S)
    assert not health.is_suspect(1, "m", NOW_US + 20 * US_PER_S)
    assert not health.is_suspect(2, "m", NOW_US)


def test_an_isolated_failure_of_a_busy_channel_is_not_suspect() -> None:
    health = Health(Policy())
    for _ in range(9):
        health.succeed(1, "m", started_us=NOW_US, now_us=NOW_US)
    fail(health)
    assert not health.is_suspect(1, "m", NOW_US)
    fail(health)
    assert health.is_suspect(1, "m", NOW_US)


def test_one_model_in_trouble_makes_no_other_suspect() -> None:
    health = opened(model="ill")
    assert health.is_suspect(1, "ill", NOW_US)
    assert not health.is_suspect(1, "m", NOW_US)
    fail(health, Outcome.DENIED)
    assert health.is_suspect(1, "m", NOW_US)


def test_a_channel_that_was_out_a_moment_ago_is_suspect() -> None:
    health = opened()
    assert health.is_suspect(1, "m", NOW_US)
    health.succeed(1, "m", started_us=NOW_US + 1, now_us=NOW_US + 1)
    assert health.is_suspect(1, "m", NOW_US + 9 * US_PER_S)
    assert not health.is_suspect(1, "m", NOW_US + 10 * US_PER_S)


def test_a_probe_hastens_a_trial_but_not_one_the_upstream_put_off() -> None:
    health = opened()
    health.hasten(2, NOW_US + 1)
    assert health.availability(1, "m", NOW_US + 1) is Availability.COOLING
    health.hasten(1, NOW_US + 1)
    assert health.availability(1, "m", NOW_US + 1) is Availability.TRIAL
    limited = Health(Policy())
    fail(limited, Outcome.LIMITED, retry_after_s=9.0)
    limited.hasten(1, NOW_US + 1)
    assert limited.availability(1, "m", NOW_US + 1) is Availability.COOLING


# --- shown and kept small -------------------------------------------------------------------------


def test_describe_shows_what_is_not_in_full_service() -> None:
    health = opened()
    health.succeed(1, "fine", started_us=NOW_US, now_us=NOW_US)
    assert health.describe(NOW_US) == [Condition(1, "m", BreakerState.OPEN, Reason.FAILING, 2.5, 1)]
    assert health.describe(NOW_US + 9 * US_PER_S)[0].trial_in_s == 0.0


def test_what_left_the_catalog_is_forgotten() -> None:
    health = opened()
    fail(health, Outcome.LIMITED, model="gone")
    assert health.troubled == {1: 2}
    health.prune({1: {"m"}, 2: {"m"}})
    assert health.availability(1, "m", NOW_US) is Availability.COOLING
    assert health.availability(1, "gone", NOW_US) is Availability.READY
    assert health.troubled == {1: 1}
    # A call for it that was still running fails now: nothing would ever close what this opened.
    assert fail(health, Outcome.LIMITED, model="gone") == ()
    health.prune({2: {"m"}})
    assert health.describe(NOW_US) == []
    assert health.troubled == {}


# --- a quota that is used up ----------------------------------------------------------------------


def test_a_channel_whose_quota_is_used_up_rests_until_it_refills() -> None:
    health = Health(Policy())
    (change,) = health.rest(1, "m", 2.0, now_us=NOW_US, dice=0.0)
    assert (change.after, change.reason, change.alarm) == (BreakerState.OPEN, Reason.LIMITED, False)
    assert health.availability(1, "m", NOW_US + 2 * US_PER_S - 1) is Availability.COOLING
    assert health.availability(1, "m", NOW_US + 2 * US_PER_S) is Availability.TRIAL
    assert health.availability(1, "other", NOW_US) is Availability.READY


def test_a_long_rest_is_cut_short_and_what_is_out_already_stays_out_as_long_as_it_was() -> None:
    health = Health(Policy())
    health.rest(1, "m", 3_600.0, now_us=NOW_US, dice=0.9)
    assert due_us(health) == NOW_US + Policy().spent_s_max * US_PER_S * 1.09
    broken = opened()
    before_us = due_us(broken)
    assert broken.rest(1, "m", 9.0, now_us=NOW_US, dice=0.0) == ()
    assert due_us(broken) == before_us
