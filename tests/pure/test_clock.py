"""Whoever looks around every so often does so on a beat of its process, and never twice at once."""

import pytest

from relay.clock import clock_s, until_beat_s


@pytest.mark.parametrize("every_s", [0.05, 0.5, 1.0, 2.0, 10.0])
def test_waits_are_about_as_long_as_asked_and_end_together(every_s: float) -> None:
    ends = []
    for _ in range(50):
        wait_s = until_beat_s(every_s)
        assert every_s / 8 < wait_s <= every_s * 9 / 8
        ends.append(clock_s() + wait_s)
    apart = [(end - ends[0]) % every_s for end in ends]
    assert all(min(one, every_s - one) < every_s / 50 for one in apart)
