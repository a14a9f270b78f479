"""Retries stay within their budget however calls come: seeded and random schedules, counted."""

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.routing.budget import BACKOFF_S_MAX, WINDOW_S, Effort, RetryBudget
from relay.routing.policy import US_PER_S

START_US = 50 * US_PER_S


def test_a_few_retries_are_always_granted_and_come_back_with_the_window() -> None:
    budget = RetryBudget(0.2, 3)
    assert [budget.take(START_US, suspect=True) for _ in range(5)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert budget.take(START_US + WINDOW_S * US_PER_S, suspect=True)


def test_without_a_minimum_a_quiet_worker_retries_nothing() -> None:
    assert not RetryBudget(0.2, 0).take(START_US, suspect=True)


def test_retries_are_a_share_of_the_calls() -> None:
    budget = RetryBudget(0.2, 3)
    for _ in range(1_000):
        budget.begin(START_US)
    assert sum(budget.take(START_US, suspect=True) for _ in range(1_000)) == 200


@settings(max_examples=100)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3 * US_PER_S), st.integers(0, 20), st.integers(0, 20)),
        max_size=40,
    )
)
def test_every_window_keeps_the_share(steps: list[tuple[int, int, int]]) -> None:
    budget, now_us = RetryBudget(0.2, 3), START_US
    calls: list[int] = []
    granted: list[int] = []
    for wait_us, begun, wanted in steps:
        now_us += wait_us
        for _ in range(begun):
            budget.begin(now_us)
            calls.append(now_us)
        granted += [now_us for _ in range(wanted) if budget.take(now_us, suspect=True)]
        since_us = now_us - WINDOW_S * US_PER_S
        # Two windows of half overlap, so that any whole window lies within two of the budget's.
        near = sum(1 for at in granted if at > since_us)
        base = sum(1 for at in calls if at > since_us - WINDOW_S * US_PER_S)
        assert near <= 2 * max(0.2 * base, 3)


def test_over_a_long_storm_attempts_stay_within_the_promise() -> None:
    # Every call fails at once and wants two retries: 200 calls a second for 60 s.
    budget, calls, retries = RetryBudget(0.2, 3), 0, 0
    for tick in range(60 * 200):
        now_us = START_US + tick * US_PER_S // 200
        budget.begin(now_us)
        calls += 1
        retries += sum(budget.take(now_us, suspect=True) for _ in range(2))
    assert calls + retries <= 1.2 * calls + 3
    assert retries >= 0.15 * calls


def test_a_call_has_a_bound_of_tries_and_of_time() -> None:
    effort = Effort(3, START_US + 60 * US_PER_S)
    for _ in range(3):
        assert effort.left(START_US)
        assert not effort.left(START_US + 60 * US_PER_S)
        effort.begin()
    assert not effort.left(START_US)


def test_an_attempt_never_lasts_beyond_the_call() -> None:
    effort = Effort(3, START_US + 60 * US_PER_S)
    assert effort.deadline_of_attempt_us(START_US, 10.0) == START_US + 10 * US_PER_S
    assert effort.deadline_of_attempt_us(START_US, 100.0) == START_US + 60 * US_PER_S


@given(
    attempts=st.integers(0, 40), die=st.floats(0, 1, exclude_max=True), left_s=st.integers(-5, 9)
)
def test_back_off_is_bounded_by_its_maximum_and_by_the_deadline(
    attempts: int, die: float, left_s: int
) -> None:
    effort = Effort(100, START_US + left_s * US_PER_S)
    for _ in range(attempts):
        effort.begin()
    wait_us = effort.backoff_us(START_US, die)
    assert 0 <= wait_us <= min(BACKOFF_S_MAX * US_PER_S, max(left_s, 0) * US_PER_S)
    if attempts <= 1:
        assert wait_us == 0


def test_back_off_doubles_and_is_jittered() -> None:
    effort = Effort(10, START_US + 60 * US_PER_S)
    longest = []
    for _ in range(6):
        effort.begin()
        longest.append(effort.backoff_us(START_US, 1 - 1e-9) // 1_000 + 1)
        assert effort.backoff_us(START_US, 0.0) == 0
    assert longest == [1, 100, 200, 400, 800, 1_600]


def test_only_a_retry_onto_a_failing_channel_needs_leave_but_all_count() -> None:
    budget = RetryBudget(0.2, 3)
    assert budget.take(START_US, suspect=True)
    for _ in range(50):
        assert budget.take(START_US, suspect=False)
    assert not budget.take(START_US, suspect=True)
