"""Every way of naming a time is read, every other says nothing, and nothing lasts for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.refusals.quota_headers import WAIT_S_MAX, rest_of_quota, retry_after

NOW_S = 1_792_000_000.0
"""Wed, 14 Oct 2026 17:46:40 GMT."""
DATE = (b"date", b"Wed, 14 Oct 2026 17:46:40 GMT")
AHEAD = (b"date", b"Wed, 14 Oct 2026 18:46:40 GMT")


def asked(*values: tuple[bytes, bytes]) -> float | None:
    return retry_after(dict(values), now_s=NOW_S)


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (b"7", 7.0),
        (b"1.5", 1.5),
        (b" 3 ", 3.0),
        (b"0", 0.0),
        (b"999999", WAIT_S_MAX),
        (b"Wed, 14 Oct 2026 17:47:10 GMT", 30.0),
        (b"Wednesday, 14-Oct-26 17:47:10 GMT", 30.0),
        (b"Wed Oct 14 17:47:10 2026", 30.0),
        (b"Wed, 14 Oct 2026 17:40:00 GMT", 0.0),
        (b"Wed, 14 Oct 2099 17:40:00 GMT", WAIT_S_MAX),
    ],
)
def test_retry_after(value: bytes, wait_s: float) -> None:
    assert asked((b"retry-after", value)) == wait_s


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"-1",
        b"inf",
        b"nan",
        b"1e3",
        b"soon",
        b"\xff\xfe",
        b"1_0",
        b"9" * 400,
        b"GMT",
        b"1.2.3",
    ],
)
def test_what_is_no_time_says_nothing(value: bytes) -> None:
    assert asked((b"retry-after", value)) is None
    assert asked((b"retry-after-ms", value)) is None


def test_milliseconds_are_the_finer_word() -> None:
    assert asked((b"retry-after", b"7"), (b"retry-after-ms", b"250")) == 0.25
    assert asked((b"retry-after", b"7"), (b"retry-after-ms", b"soon")) == 7.0
    assert asked() is None


def test_a_date_is_counted_from_the_upstream_s_own_clock() -> None:
    late = (b"retry-after", b"Wed, 14 Oct 2026 18:47:00 GMT")
    assert asked(late, AHEAD) == asked(AHEAD, late) == 20.0
    assert asked(late, (b"date", b"yesterday")) == WAIT_S_MAX


@pytest.mark.parametrize(
    ("left", "reset", "wait_s"),
    [
        (b"x-ratelimit-remaining-requests", (b"x-ratelimit-reset-requests", b"1s"), 1.0),
        (b"x-ratelimit-remaining-tokens", (b"x-ratelimit-reset-tokens", b"6m0s"), 360.0),
        (b"x-ratelimit-remaining-tokens", (b"x-ratelimit-reset-tokens", b"120ms"), 0.12),
        (b"x-ratelimit-remaining-tokens", (b"x-ratelimit-reset-tokens", b"1h2m3.5s"), 3600.0),
        (b"x-ratelimit-remaining-tokens", (b"x-ratelimit-reset-tokens", b"7.66s"), 7.66),
        (b"x-ratelimit-remaining", (b"x-ratelimit-reset", b"12"), 12.0),
        (b"x-ratelimit-remaining", (b"x-ratelimit-reset", b"1792000005"), 5.0),
        (b"x-ratelimit-remaining", (b"x-ratelimit-reset", b"1792000005500"), 5.5),
        (b"ratelimit-remaining", (b"ratelimit-reset", b"50"), 50.0),
        (
            b"anthropic-ratelimit-requests-remaining",
            (b"anthropic-ratelimit-requests-reset", b"2026-10-14T17:47:10Z"),
            30.0,
        ),
        (
            b"anthropic-ratelimit-input-tokens-remaining",
            (b"anthropic-ratelimit-input-tokens-reset", b"2026-10-14T19:47:10+02:00"),
            30.0,
        ),
    ],
)
def test_a_quota_that_is_used_up(left: bytes, reset: tuple[bytes, bytes], wait_s: float) -> None:
    said = dict([reset, DATE])
    assert rest_of_quota({left: b"0"} | said, now_s=0.0) == pytest.approx(wait_s)
    assert rest_of_quota({left: b"1"} | said, now_s=0.0) is None


def test_of_several_the_longest_counts_and_without_a_reset_nothing_does() -> None:
    left = {b"x-ratelimit-remaining-requests": b"0", b"x-ratelimit-remaining-tokens": b"0"}
    resets = {b"x-ratelimit-reset-requests": b"2s", b"x-ratelimit-reset-tokens": b"9s"}
    assert rest_of_quota(left | resets, now_s=NOW_S) == 9.0
    assert rest_of_quota(left, now_s=NOW_S) is None
    assert rest_of_quota({b"x-cache-hits": b"0"}, now_s=NOW_S) is None


@given(
    value=st.binary(max_size=70) | st.text(max_size=70).map(str.encode), now_s=st.floats(0, 1e11)
)
def test_garbage_is_bounded(value: bytes, now_s: float) -> None:
    left = {b"x-ratelimit-remaining": b"0", b"x-ratelimit-reset": value, b"date": value}
    for found in (rest_of_quota(left, now_s=now_s), asked((b"retry-after", value))):
        assert found is None or 0 <= found <= WAIT_S_MAX
