"""Goal: whoever retries waits longer each time, up to a bound, and logs a row of failures once.

Method: the rule over failures and dice; the counter over rows of failures.
"""

from hypothesis import given
from hypothesis import strategies as st

from relay.backoff import Backoff, backoff_s


def test_it_doubles_up_to_its_bound() -> None:
    waits = [backoff_s(failures, first_s=0.1, most_s=5.0) for failures in (0, 1, 2, 3, 1_000)]
    assert waits == [0.1, 0.1, 0.2, 0.4, 5.0]


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_the_dice_take_off_at_most_the_jitter(failures: int, jitter: float, dice: float) -> None:
    full_s = backoff_s(failures, first_s=0.25, most_s=2.0)
    wait_s = backoff_s(failures, first_s=0.25, most_s=2.0, jitter=jitter, dice=dice)
    assert full_s * (1 - jitter) * 0.999_999 <= wait_s <= full_s


def test_the_first_of_a_row_is_told_and_a_success_tells_how_many_there_were() -> None:
    backoff = Backoff(first_s=1.0, most_s=3.0)
    assert [backoff.fail() for _ in range(3)] == [True, False, False]
    assert backoff.wait_s() == 3.0
    assert [backoff.succeed(), backoff.succeed()] == [3, 0]
    assert backoff.wait_s() == 1.0
    assert backoff.fail()
