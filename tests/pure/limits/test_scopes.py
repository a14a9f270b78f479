"""Goal: a call draws on the right buckets, each deep enough and under the right hash tag.

Method: limits of all scopes, asked over the range of their numbers.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.limits.bucket import MINUTE_MS
from relay.limits.scopes import (
    BURST_MS_MAX,
    FAIR_TOKENS,
    LARGE_TPM,
    LINE_BURST_MS,
    Scope,
    Terms,
    Weights,
    hash_slot,
    limit_of,
    requests_rule,
    tokens_rule,
)
from relay.model import Allowance, Line, OnLoss
from relay.units import PPM

LINE = Line(id=7, name="acme", channel_ids=(1,), tpm=30_000_000, rpm=60_000, concurrency=500)


def test_a_dedicated_line() -> None:
    limit = limit_of(Scope.LINE, LINE.id, LINE)
    tokens, requests = limit.buckets
    assert tokens.key == "relay:{l:7}:tpm" and requests.key == "relay:{l:7}:rpm"
    assert (tokens.rule.burst_ms, tokens.rule.fair) == (LINE_BURST_MS, FAIR_TOKENS)
    assert limit.concurrency is not None
    assert (limit.concurrency.key, limit.concurrency.permits) == ("relay:{l:7}:seats", 500)


def test_no_limit_is_no_bucket() -> None:
    limit = limit_of(Scope.CHANNEL, 3, Allowance())
    assert limit.buckets == () and limit.concurrency is None


def test_what_one_script_touches_lies_in_one_slot() -> None:
    some = Allowance(tpm=10_000, rpm=60, concurrency=3)
    line = limit_of(Scope.LINE, 7, LINE)
    model = limit_of(Scope.MODEL, 7, some, part="gpt-4o")
    account = limit_of(Scope.ACCOUNT, 2, some)
    key = limit_of(Scope.KEY, 2, some, part="key9")
    channel = limit_of(Scope.CHANNEL, 1, some)
    slots = [
        {hash_slot(bucket.key) for limit in limits for bucket in limit.buckets}
        for limits in ((line, model), (account, key), (channel,))
    ]
    assert [len(slot) for slot in slots] == [1, 1, 1]
    keys = [
        bucket.key for limit in (line, model, account, key, channel) for bucket in limit.buckets
    ]
    assert len(set(keys)) == 10


@pytest.mark.parametrize(
    ("key", "slot"), [("123456789", 12_739), ("{user1000}.following", 3_443), ("foo{}{bar}", 8_363)]
)
def test_slots_are_those_of_the_cluster(key: str, slot: int) -> None:
    assert hash_slot(key) == slot


@given(st.integers(1, 2**40), st.sampled_from(Scope))
def test_a_small_bucket_is_deep_and_a_large_one_is_not(tpm: int, scope: Scope) -> None:
    rule = tokens_rule(scope, tpm)
    assert rule.burst_ms <= BURST_MS_MAX
    if scope is Scope.LINE and tpm >= LARGE_TPM:
        assert rule.burst_ms == LINE_BURST_MS and rule.fits(rule.capacity + tpm)
    else:
        assert rule.fits(min(tpm, 128_000) * rule.burst_ms // MINUTE_MS)
        assert rule.capacity >= min(tpm, 128_000) * rule.burst_ms // BURST_MS_MAX


@given(st.integers(1, 2**40))
def test_one_call_always_fits(rpm: int) -> None:
    assert requests_rule(rpm).fits(1)


def test_tokens_are_counted_as_the_contract_says() -> None:
    assert Weights().cost(1_000, 400, 50) == 650
    dear = Weights(output_ppm=5 * PPM, cached_ppm=PPM // 10)
    assert dear.cost(1_000, 400, 50) == 600 + 40 + 250
    assert Weights(cached_ppm=1).cost(1, 1, 0) == 1


def test_buckets_follow_the_terms() -> None:
    terms = Terms(weights=Weights(output_ppm=2 * PPM), on_loss=OnLoss.OPEN)
    limit = limit_of(Scope.LINE, 7, LINE, terms)
    assert [bucket.weights for bucket in limit.buckets] == [terms.weights] * 2
    assert {bucket.on_loss for bucket in limit.buckets} == {OnLoss.OPEN}
