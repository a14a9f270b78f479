"""Goal: `relay top` shows what happened between two readings of /metrics, and nothing else.

Method: two texts as Prometheus would read them; figures worked out by hand.
"""

import math

import pytest

from relay.cli.figures import compare, read_scrape
from relay.cli.host.top import Keys, busiest, draw

BEFORE = """
relay_requests_total{code="2xx",endpoint="chat",line="town"} 100
relay_requests_total{code="5xx",endpoint="chat",line="town"} 10
relay_requests_total{code="2xx",endpoint="chat",line="acme"} 900
relay_events_total 1000
relay_tokens_total{type="input"} 50
relay_line_tokens_total{line="town"} 30
relay_limited_total{exhausted="tpm",line="town",scope="key"} 4
relay_upstream_errors_total{channel="a",reason="refused"} 5
relay_ttfb_seconds_bucket{le="0.1"} 10
relay_ttfb_seconds_bucket{le="1"} 20
relay_ttfb_seconds_bucket{le="+Inf"} 20
relay_channel_state{channel="a",model="*"} 0
"""
NOW = """
relay_requests_total{code="2xx",endpoint="chat",line="town"} 120
relay_requests_total{code="5xx",endpoint="chat",line="town"} 14
relay_requests_total{code="2xx",endpoint="chat",line="acme"} 904
relay_events_total 3000
relay_tokens_total{type="input"} 250
relay_line_tokens_total{line="town"} 130
relay_limited_total{exhausted="tpm",line="town",scope="key"} 6
relay_upstream_errors_total{channel="a",reason="refused"} 5
relay_upstream_errors_total{channel="a",reason="timeout"} 8
relay_ttfb_seconds_bucket{le="0.1"} 60
relay_ttfb_seconds_bucket{le="1"} 119
relay_ttfb_seconds_bucket{le="+Inf"} 120
relay_channel_state{channel="a",model="*"} 2
relay_channel_state{channel="a",model="m"} 1
relay_channel_state{channel="b",model="*"} 0
relay_inflight{worker="0"} 3
relay_inflight{worker="1"} 4
relay_connections{worker="0"} 9
relay_loop_lag_seconds{worker="0"} 0.002
relay_loop_lag_seconds{worker="1"} 0.004
relay_resident_memory_bytes{worker="1"} 104857600
relay_log_lag_bytes 2048
relay_limiter_lost{worker="1"} 1
"""


def test_what_happened_in_two_seconds() -> None:
    frame = compare(read_scrape(BEFORE), read_scrape(NOW), 2.0)
    assert frame.calls_per_s == 14.0
    assert frame.events_per_s == 1000.0
    assert frame.tokens_per_minute == 6000.0
    assert frame.errors_per_s == 2.0
    assert frame.limited_per_s == 1.0
    assert (frame.calls_under_way, frame.connections) == (7, 9)
    assert frame.loop_lag_ms_max == pytest.approx(4.0)
    assert frame.first_byte_ms == (100.0, 1000.0)
    assert frame.overhead_ms is None, "nothing was measured: not 0"
    assert frame.log_lag_bytes == 2048
    assert frame.limiter_lost_workers == 1
    assert [line.line for line in frame.lines] == ["town", "acme"], "the busiest first"
    town = frame.lines[0]
    assert (town.calls_per_s, town.tokens_per_minute, town.limited_per_s) == (12.0, 3000.0, 1.0)
    first, second = frame.channels
    assert (first.channel, first.state, first.models_in_trouble) == ("a", "open", 1)
    assert (first.failures_per_s, first.reason) == (4.0, "timeout")
    assert (second.channel, second.state, second.reason) == ("b", "in service", "")
    assert [(one.worker, one.calls, one.memory_mib) for one in frame.workers] == [
        ("0", 3, 0),
        ("1", 4, 100),
    ]


def test_a_relay_that_was_restarted_shows_no_negative_rate() -> None:
    frame = compare(read_scrape(NOW), read_scrape(BEFORE), 2.0)
    assert frame.calls_per_s >= 0
    assert frame.events_per_s == 500.0


def test_a_call_slower_than_every_bound() -> None:
    slow = 'relay_ttfb_seconds_bucket{le="1"} 0\nrelay_ttfb_seconds_bucket{le="+Inf"} 1\n'
    frame = compare(read_scrape(""), read_scrape(slow), 1.0)
    assert frame.first_byte_ms == (math.inf, math.inf)
    draw(frame, Keys(0, []), 5)


def test_a_relay_without_calls() -> None:
    frame = compare(read_scrape(""), read_scrape(""), 1.0)
    assert frame.calls_per_s == 0
    assert (frame.lines, frame.channels, frame.workers) == ([], [], [])


def test_the_busiest_keys() -> None:
    calls = [
        {"account": "acme", "key_name": "ci", "input_tokens": 5, "output_tokens": None},
        {"account": "bolt", "key_name": "web", "input_tokens": 1, "output_tokens": 1},
        {"account": "acme", "key_name": "ci", "input_tokens": 7, "output_tokens": 2},
    ]
    assert busiest(calls) == Keys(3, [("acme/ci", 2, 14), ("bolt/web", 1, 2)])
