"""Goal: reservations start sensibly, learn what is used, and never shut a small key out.

Method: calls with known usage are learned, and the next reservation is compared with them.
"""

from hypothesis import given
from hypothesis import strategies as st

from relay.limits.estimate import RATIO_MAX, RATIO_MIN, SHARED_MAX, Estimator
from relay.usage import Usage


def test_the_first_guess() -> None:
    guess = Estimator().guess(1, "m")
    assert guess.input_tokens(4_000) == 1_000
    assert guess.input_tokens(0) == 1
    assert guess.input_tokens(400, images=2) == 2_100
    assert guess.output_tokens(None) == 750


def test_max_tokens_and_choices_bound_the_output() -> None:
    guess = Estimator().guess(1, "m")
    assert guess.output_tokens(100) == 100
    assert guess.output_tokens(100, choices=3) == 300


def test_what_calls_use_is_learned() -> None:
    estimator = Estimator()
    for _ in range(400):
        estimator.guess(1, "m").learn(1_000, Usage(input_tokens=400, output_tokens=80))
    assert 395 <= estimator.guess(1, "m").input_tokens(1_000) <= 400
    assert estimator.guess(1, "m").output_tokens(None) == 120
    assert estimator.guess(2, "m").output_tokens(None) == 120, "another key, same model"
    assert estimator.guess(1, "other").output_tokens(None) == 750


def test_choices_are_learned_one_by_one() -> None:
    guess = Estimator().guess(1, "m")
    guess.learn(1_000, Usage(input_tokens=250, output_tokens=90), choices=3)
    assert guess.output_tokens(None) == 45


def test_what_teaches_nothing() -> None:
    guess = Estimator().guess(1, "m")
    guess.learn(1_000, Usage(input_tokens=500, output_tokens=9, estimated=True))
    assert guess.output_tokens(None) == 750
    guess.learn(10, Usage(input_tokens=500, output_tokens=9))
    guess.learn(1_000, Usage(input_tokens=500, image_input_tokens=500))
    assert guess.input_tokens(1_000) == 250


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=50))
def test_ratios_stay_in_their_bounds(calls: list[tuple[int, int]]) -> None:
    guess = Estimator().guess(1, "m")
    for text_bytes, tokens in calls:
        guess.learn(text_bytes, Usage(input_tokens=tokens))
    assert RATIO_MIN * 10_000 - 1 <= guess.input_tokens(10_000) <= RATIO_MAX * 10_000


def test_memory_is_bounded_and_what_is_held_goes_on_learning() -> None:
    estimator = Estimator(entries_max=4)
    held = estimator.guess(1, "m0")
    for number in range(1, 9):
        estimator.guess(1, f"m{number}").learn(1_000, Usage(input_tokens=400, output_tokens=10))
    assert len(estimator._guesses) == 4
    assert estimator.guess(1, "m8").output_tokens(None) == 15
    assert estimator.guess(1, "m1").output_tokens(None) == 750
    held.learn(1_000, Usage(input_tokens=400, output_tokens=10))
    assert held.output_tokens(None) == 15


def test_what_one_key_teaches_is_bounded_for_others() -> None:
    estimator = Estimator()
    for _ in range(1_000):
        estimator.guess(1, "m").learn(1_000, Usage(input_tokens=10**6, output_tokens=80))
    assert estimator.guess(1, "m").input_tokens(10_000) > RATIO_MAX * 10_000 - 10
    assert estimator.guess(2, "m").input_tokens(10_000) <= SHARED_MAX * 10_000


def test_pictures_teach_nothing_of_text() -> None:
    estimator = Estimator()
    for _ in range(30):
        guess = estimator.guess(1, "m")
        guess.learn(1_000, Usage(input_tokens=30_000, output_tokens=80), images=1)
    for key_id in (1, 2):
        assert estimator.guess(key_id, "m").input_tokens(1_000) == 250


def test_long_answers_under_way_raise_the_next_guess_until_they_have_ended() -> None:
    guess = Estimator().guess(1, "m")
    guess.running, guess.under_way = 10, 100_000
    assert guess.output_tokens(None) == 15_000 and guess.output_tokens(2_000) == 2_000
    guess.running = 3
    assert guess.output_tokens(None) == 750, "few say nothing about the next"
    guess.running = guess.under_way = 0
    assert guess.output_tokens(None) == 750
