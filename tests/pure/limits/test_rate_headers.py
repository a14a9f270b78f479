"""Goal: clients are told the limit that binds, in the form of their dialect.

Method: tables of durations and of standings.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.limits.bucket import Rule
from relay.limits.rate_headers import (
    BucketLevel,
    go_duration,
    rate_headers,
    tightest,
)
from relay.limits.scopes import Bucket, Measure, Scope
from relay.model import Dialect
from relay.wire.dialects.known import TABLES

OPENAI = TABLES[Dialect.OPENAI].rate_names
ANTHROPIC = TABLES[Dialect.ANTHROPIC].rate_names


def bucket(per_minute: int, measure: Measure = Measure.TOKENS) -> Bucket:
    return Bucket(f"k{per_minute}", "t", Scope.KEY, measure, Rule(per_minute, 6_000))


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, b"0s"),
        (-5, b"0s"),
        (20, b"20ms"),
        (999, b"999ms"),
        (1_000, b"1s"),
        (1_500, b"1.5s"),
        (1_050, b"1.05s"),
        (60_000, b"1m0s"),
        (360_000, b"6m0s"),
        (61_250, b"1m1.25s"),
        (3_600_000, b"1h0m0s"),
        (7_384_001, b"2h3m4.001s"),
    ],
)
def test_durations_look_like_those_of_go(ms: int, text: bytes) -> None:
    assert go_duration(ms) == text


def test_the_tightest_bucket_is_told() -> None:
    standings = [
        BucketLevel(bucket(600_000), 5_900),
        BucketLevel(bucket(6_000), 0),
        BucketLevel(bucket(600, Measure.REQUESTS), 100),
    ]
    assert rate_headers(standings, OPENAI, None) == [
        (b"x-ratelimit-limit-requests", b"600"),
        (b"x-ratelimit-remaining-requests", b"59"),
        (b"x-ratelimit-reset-requests", b"100ms"),
        (b"x-ratelimit-limit-tokens", b"600000"),
        (b"x-ratelimit-remaining-tokens", b"1000"),
        (b"x-ratelimit-reset-tokens", b"5.9s"),
    ]


def test_the_other_dialect_tells_a_time() -> None:
    headers = rate_headers([BucketLevel(bucket(60_000), 1_500)], ANTHROPIC, 1_760_000_000_000)
    assert headers == [
        (b"anthropic-ratelimit-tokens-limit", b"60000"),
        (b"anthropic-ratelimit-tokens-remaining", b"4500"),
        (b"anthropic-ratelimit-tokens-reset", b"2025-10-09T08:53:22Z"),
    ]


def test_no_limit_is_not_told() -> None:
    assert rate_headers([], OPENAI, None) == [] and rate_headers([], ANTHROPIC, 0) == []
    assert tightest([], Measure.TOKENS) is None


@given(st.floats(-1_000, 200_000), st.integers(-10_000, 10_000))
def test_remaining_is_never_negative_nor_above_the_bucket(used_ms: float, leased: int) -> None:
    standing = BucketLevel(bucket(60_000), used_ms, leased)
    assert 0 <= standing.remaining <= 6_000
    assert standing.reset_ms >= 0
