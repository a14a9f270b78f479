"""Goal: reservations start sensibly, learn what is used, and never shut a small key out.

Method: calls with known usage are learned, and the next reservation is compared with them.
"""

from hypothesis import given
from hypothesis import strategies as st

from relay.call import Usage
from relay.limits.estimate import RATIO_MAX, RATIO_MIN, Estimator


def test_the_first_guess() -> None:
    estimator = Estimator()
    assert estimator.input_tokens("m", 4_000) == 1_000
    assert estimator.input_tokens("m", 0) == 1
    assert estimator.input_tokens("m", 400, images=2) == 2_100
    assert estimator.reserve(1, "m", 1_000, None).tokens == (1_000, 0, 750)


def test_max_tokens_and_choices_bound_the_output() -> None:
    estimator = Estimator()
    assert estimator.reserve(1, "m", 10, 100).output_tokens == 100
    assert estimator.reserve(1, "m", 10, 100, choices=3).output_tokens == 300


def test_what_calls_use_is_learned() -> None:
    estimator = Estimator()
    for _ in range(400):
        estimator.learn(1, "m", 1_000, Usage(input_tokens=400, output_tokens=80))
    assert 395 <= estimator.input_tokens("m", 1_000) <= 400
    assert estimator.reserve(1, "m", 10, None).output_tokens == 120
    assert estimator.reserve(2, "m", 10, None).output_tokens == 120, "another key, same model"
    assert estimator.reserve(1, "other", 10, None).output_tokens == 750


def test_what_teaches_nothing() -> None:
    estimator = Estimator()
    estimator.learn(1, "m", 1_000, Usage(input_tokens=500, output_tokens=9, estimated=True))
    assert estimator.reserve(1, "m", 10, None).output_tokens == 750
    estimator.learn(1, "m", 10, Usage(input_tokens=500, output_tokens=9))
    estimator.learn(1, "m", 1_000, Usage(input_tokens=500, image_input_tokens=500))
    assert estimator.input_tokens("m", 1_000) == 250


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=50))
def test_ratios_stay_in_their_bounds(calls: list[tuple[int, int]]) -> None:
    estimator = Estimator()
    for text_bytes, tokens in calls:
        estimator.learn(1, "m", text_bytes, Usage(input_tokens=tokens))
    assert RATIO_MIN * 10_000 - 1 <= estimator.input_tokens("m", 10_000) <= RATIO_MAX * 10_000


@given(st.integers(1, 10**6), st.none() | st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_output_never_keeps_a_call_out(tokens: int, most: int | None, capacity: int) -> None:
    """Where the prompt fits into the smallest bucket, the reservation does."""
    reserved = Estimator().reserve(1, "m", tokens, most, capacity=capacity)
    assert reserved.output_tokens >= 0
    assert tokens > capacity or sum(reserved.tokens) <= capacity


def test_memory_is_bounded() -> None:
    estimator = Estimator(entries_max=4)
    for number in range(9):
        estimator.learn(1, f"m{number}", 1_000, Usage(input_tokens=400, output_tokens=10))
    assert len(estimator._outputs) == 4 and len(estimator._ratios) == 4
    assert estimator.reserve(1, "m8", 1, None).output_tokens == 15
    assert estimator.reserve(1, "m0", 1, None).output_tokens == 750
