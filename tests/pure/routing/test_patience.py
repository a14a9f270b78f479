"""Silence is judged by how long answers of the model really take."""

from hypothesis import given
from hypothesis import strategies as st

from relay.routing.patience import TIMES, Patience

LEAST_US, MOST_US = 10_000_000, 120_000_000


def patience(*took_us: int) -> Patience:
    found = Patience(LEAST_US, MOST_US)
    for one in took_us:
        found.note("m", one)
    return found


def test_of_a_model_that_has_not_answered_yet_only_a_doubted_channel_is_suspected() -> None:
    assert patience().limit_us("m", doubted=False) == MOST_US
    assert patience().limit_us("m", doubted=True) == LEAST_US
    assert patience(1).limit_us("another", doubted=False) == MOST_US


def test_a_quick_model_gets_the_least_and_a_slow_one_what_it_takes() -> None:
    for doubted in (False, True):
        assert patience(200_000).limit_us("m", doubted=doubted) == LEAST_US
        assert patience(20_000_000).limit_us("m", doubted=doubted) == TIMES * 20_000_000
        assert patience(90_000_000).limit_us("m", doubted=doubted) == MOST_US


def test_one_slow_answer_among_many_is_remembered_for_a_while() -> None:
    assert patience(30_000_000, *[500_000] * 10).limit_us("m", doubted=False) > 70_000_000
    assert patience(30_000_000, *[500_000] * 500).limit_us("m", doubted=False) == LEAST_US


@given(st.lists(st.integers(0, 10**9)))
def test_it_stays_between_its_bounds(took_us: list[int]) -> None:
    assert LEAST_US <= patience(*took_us).limit_us("m", doubted=True) <= MOST_US


def test_a_deadline_below_the_least_is_the_bound_of_both() -> None:
    short = Patience(LEAST_US, 1_000_000)
    assert short.limit_us("m", doubted=True) == short.limit_us("m", doubted=False) == 1_000_000
    short.note("m", 900_000)
    assert short.limit_us("m", doubted=True) == 1_000_000


def test_what_left_the_catalog_is_forgotten() -> None:
    found = patience(20_000_000)
    found.keep({"m"})
    assert found.limit_us("m", doubted=False) == TIMES * 20_000_000
    found.keep(set())
    assert found.limit_us("m", doubted=False) == MOST_US
