"""Goal: what a model's whole streams teach makes estimates of its others better, and no more."""

import random

import pytest

from relay.billing.density import EVERY, FIRST, RATIO_MAX, RATIO_MIN, SEEN_MIN, Densities
from relay.usage import Usage

ESTIMATE = 1_000


def taught(*ratios: float, reasoning: int = 0, audio: int = 0) -> Densities:
    densities = Densities()
    for ratio in ratios:
        densities.is_due("m")
        told = int(ESTIMATE * ratio)
        usage = Usage(9, 0, 0, told, reasoning, audio_output_tokens=audio)
        densities.learn("m", usage, ESTIMATE)
    return densities


def test_nothing_is_believed_of_a_model_before_four_streams() -> None:
    assert Densities().tokens("m", ESTIMATE) == ESTIMATE
    assert taught(*[1.2] * (SEEN_MIN - 1)).tokens("m", ESTIMATE) == ESTIMATE
    assert taught(*[1.2] * SEEN_MIN).tokens("m", ESTIMATE) == 1_200
    assert taught(*[1.2] * SEEN_MIN).tokens("another", ESTIMATE) == ESTIMATE


@pytest.mark.parametrize("true", [0.8, 0.9, 1.0, 1.1, 1.2])
def test_of_many_streams_the_tokenizers_own_ratio_is_found(true: float) -> None:
    dice = random.Random(str(true))
    ratios = [true * dice.uniform(0.9, 1.1) for _ in range(50)]
    assert taught(*ratios).tokens("m", ESTIMATE) == pytest.approx(true * ESTIMATE, rel=0.07)


@pytest.mark.parametrize(("ratio", "bound"), [(1.9, RATIO_MAX), (0.55, RATIO_MIN)])
def test_nobody_teaches_a_model_more_than_an_estimate_may_be_off_by(
    ratio: float, bound: float
) -> None:
    assert taught(*[ratio] * 1_000).tokens("m", ESTIMATE) == bound * ESTIMATE


def test_what_one_customer_teaches_last_is_a_fifth_of_what_is_believed() -> None:
    honest = taught(*[1.0] * 20)
    honest.learn("m", Usage(9, output_tokens=550), ESTIMATE)
    assert honest.tokens("m", ESTIMATE) >= 0.95 * ESTIMATE


@pytest.mark.parametrize("ratio", [0.1, 0.49, 2.1, 40.0])
def test_where_something_else_was_counted_nothing_is_learned(ratio: float) -> None:
    assert taught(*[ratio] * 50).tokens("m", ESTIMATE) == ESTIMATE


def test_thoughts_and_sound_are_no_text() -> None:
    hidden = taught(*[1.9] * 50, reasoning=500, audio=300)
    assert hidden.tokens("m", ESTIMATE) == 1.1 * ESTIMATE


def test_short_answers_and_estimates_teach_nothing() -> None:
    densities = Densities()
    for _ in range(50):
        densities.is_due("m")
        densities.learn("m", Usage(9, output_tokens=60), 50)
        densities.learn("m", Usage(9, output_tokens=1_200, estimated=True), ESTIMATE)
    assert densities.tokens("m", ESTIMATE) == ESTIMATE


def test_a_model_in_use_is_looked_at_once_in_sixty_four() -> None:
    densities = Densities()
    looked_at = sum(densities.is_due("m") for _ in range(EVERY * 10))
    assert looked_at == FIRST + 9  # whether it teaches anything or not


def test_memory_is_bounded() -> None:
    densities = Densities(models_max=3)
    for number in range(100):
        assert densities.is_due(f"m{number}")
    assert len(densities._known) == 3
