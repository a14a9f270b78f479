"""Goal: a percentile is never off by more than the stated bound.

Method: hypothesis, beside a sorted list.
"""

import math

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.histogram import (
    RELATIVE_ERROR_MAX,
    VALUE_MAX,
    Histogram,
    middle_of,
    slot_of,
)

VALUES = st.lists(st.integers(0, VALUE_MAX), min_size=1, max_size=200)
PERCENTS = st.sampled_from([0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0])


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(st.integers(0, VALUE_MAX))
def test_a_slot_stands_for_its_values_within_the_bound(value: int) -> None:
    assert abs(middle_of(slot_of(value)) - value) <= value * RELATIVE_ERROR_MAX


@given(st.integers(0, VALUE_MAX - 1))
def test_slots_are_in_the_order_of_their_values_and_leave_none_out(value: int) -> None:
    assert slot_of(value + 1) - slot_of(value) in (0, 1)


@given(VALUES, PERCENTS)
def test_a_percentile_is_that_of_the_sorted_list_within_the_bound(
    values: list[int], percent: float
) -> None:
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    found = filled(values).percentile(percent)
    assert abs(found - exact) <= exact * RELATIVE_ERROR_MAX + 1e-9


@given(VALUES, VALUES, PERCENTS)
def test_merging_is_as_if_all_had_been_recorded_in_one(
    first: list[int], second: list[int], percent: float
) -> None:
    merged = filled(first)
    merged.merge(Histogram.from_json(filled(second).to_json()))
    whole = filled(first + second)
    assert merged.percentile(percent) == whole.percentile(percent)
    assert (merged.count, merged.total) == (whole.count, whole.total)
    assert (merged.min, merged.max) == (whole.min, whole.max)


def test_nothing_recorded_is_unknown_and_merging_nothing_changes_nothing() -> None:
    empty, one = Histogram(), filled([7])
    one.merge(empty)
    assert empty.percentile(99) == 0
    assert (one.min, one.max, one.count) == (7, 7, 1)
    assert empty.summarise()["avg"] is None
    assert empty.summarise()["p99"] is None


def test_what_is_negative_or_too_great_is_counted_at_the_edge() -> None:
    histogram = filled([-5, VALUE_MAX * 4])
    assert histogram.min == 0
    assert histogram.max == VALUE_MAX * 4
    assert histogram.percentile(50) == 0
