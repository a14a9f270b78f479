"""Goal: a bucket lets through its rate and its burst, and nothing else.

Method: the reference is asked on a clock of the test's; laws are checked over random questions.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.limits.bucket import (
    DEBT_MS_MAX,
    MINUTE_MS,
    ROOM_PARTS,
    BucketQuestion,
    BucketRefusal,
    BucketReply,
    BucketRequest,
    Buckets,
    CallRequest,
    Rule,
    Share,
    read_reply,
)

RULE = Rule(60_000, 6_000)
"""One token a millisecond, six thousand at most."""


def full() -> Buckets:
    buckets = Buckets()
    buckets.born_ms = 0.0
    return buckets


def ask(
    buckets: Buckets,
    now_ms: float,
    cost: int,
    *,
    rule: Rule = RULE,
    want: int = 0,
    force: bool = False,
) -> BucketReply:
    question = BucketQuestion(
        (BucketRequest("b", rule, want),), (CallRequest(((0, cost),), force),)
    )
    return read_reply(question, buckets.answer(question, now_ms))


def test_a_full_bucket_gives_its_burst_then_its_rate() -> None:
    buckets = full()
    assert ask(buckets, 10_000, 6_000).decisions == (None,)
    assert ask(buckets, 10_000, 100).decisions == (BucketRefusal(0, 100),)
    assert ask(buckets, 10_100, 100).decisions == (None,)
    assert ask(buckets, 10_100, 1).decisions == (BucketRefusal(0, 1),)


def test_all_or_nothing_and_the_longest_wait_binds() -> None:
    buckets = full()
    requests = (BucketRequest("a", RULE), BucketRequest("b", RULE))
    first = BucketQuestion(requests, (CallRequest(((0, 6_000), (1, 5_000))),))
    assert buckets.answer(first, 10_000)[0] == 0
    second = BucketQuestion(
        requests, (CallRequest(((0, 50), (1, 1_500))), CallRequest(((1, 1_000),)))
    )
    reply = read_reply(second, buckets.answer(second, 10_000))
    assert reply.decisions == (BucketRefusal(1, 500), None)
    assert reply.shares == (Share(0, 6_000), Share(0, 6_000))


def test_data_that_are_lost_leave_the_bucket_empty() -> None:
    assert ask(Buckets(), 10_000, 1).decisions == (BucketRefusal(0, 1),)


@pytest.mark.parametrize("back_ms", [3_600_000, 86_400_000])
def test_a_clock_that_is_set_back_leaves_the_bucket_empty_and_it_fills(back_ms: int) -> None:
    buckets = full()
    now_ms = 100_000_000.0
    assert ask(buckets, now_ms, 6_000).decisions == (None,)
    now_ms -= back_ms
    assert ask(buckets, now_ms, 1).decisions == (BucketRefusal(0, 1),)
    assert ask(buckets, now_ms + 100, 100).decisions == (None,)
    assert ask(buckets, now_ms + 100, 1).decisions == (BucketRefusal(0, 1),)
    assert ask(buckets, now_ms + 6_100, 6_000).decisions == (None,)


def test_a_bucket_of_a_redis_that_was_new_before_its_clock_was_set_back() -> None:
    buckets = Buckets()
    ask(buckets, 100_000_000, 0)
    now_ms = 100_000_000 - 3_600_000
    assert ask(buckets, now_ms, 1).decisions == (BucketRefusal(0, 1),)
    assert ask(buckets, now_ms + 6_000, 6_000).decisions == (None,)


def test_a_step_back_of_seconds_forgives_no_debt() -> None:
    buckets = full()
    ask(buckets, 10_000, 10**9, force=True)
    assert ask(buckets, 6_000, 1).decisions == (BucketRefusal(0, DEBT_MS_MAX + 4_001),)


def test_leases_come_from_a_part_of_the_room() -> None:
    reply = ask(full(), 10_000, 0, want=10_000)
    assert reply.shares == (Share(6_000 // ROOM_PARTS, 6_000 // ROOM_PARTS),)
    assert ask(full(), 10_000, 5_999, want=5).shares == (Share(0, 5_999),)


def test_debt_is_kept_but_bounded() -> None:
    buckets = full()
    reply = ask(buckets, 10_000, 10**9, force=True)
    assert reply.shares[0].used_ms == RULE.burst_ms + DEBT_MS_MAX
    assert ask(buckets, 10_000, 1).decisions == (BucketRefusal(0, DEBT_MS_MAX + 1),)


def test_what_is_given_back_fills_no_more_than_the_bucket() -> None:
    buckets = full()
    assert ask(buckets, 10_000, -5, force=True).shares == (Share(0, 0),)
    assert buckets.tats == {}


def test_a_fair_bucket_takes_large_calls_on_credit() -> None:
    rule = Rule(60_000, 6_000, fair=1_000)
    buckets = full()
    assert ask(buckets, 10_000, 5_000, rule=rule).decisions == (None,)
    assert ask(buckets, 10_000, 50_000, rule=rule).decisions == (None,)
    assert ask(buckets, 10_000, 1, rule=rule).decisions != (None,)


def test_what_can_never_pass() -> None:
    assert RULE.fits(6_000) and not RULE.fits(6_001)
    assert Rule(60_000, 6_000, 1_000).fits(66_000)
    assert not Rule(60_000, 6_000, 1_000).fits(66_001)
    assert RULE.remaining(-5.0) == 6_005 and RULE.remaining(9_000) == 0


def test_the_script_is_told_in_flat_integers() -> None:
    requests = (BucketRequest("a", RULE, 7), BucketRequest("b", Rule(1, 2, 3)))
    calls = (CallRequest(((0, -5),), force=True), CallRequest(((1, 6), (0, 1))))
    told = BucketQuestion(requests, calls).flatten()
    head = [60_000, 6_000, 7, 0, 0, 1, 2, 0, 3, 0]
    assert told == [*head, 1, 1, 1, -5, 0, 2, 2, 6, 1, 1]


@pytest.mark.parametrize("flat", [[], [0, 0], [0, 0, 0, 0], ["0", 0, 0], [True, 0, 0]])
def test_a_reply_that_does_not_fit_is_refused(flat: list[int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        read_reply(BucketQuestion((BucketRequest("b", RULE),), (CallRequest(((0, 1),)),)), flat)


steps = st.lists(
    st.tuples(st.integers(0, 3_000), st.integers(0, 7_000), st.integers(0, 2_000)), max_size=60
)


@given(steps, st.sampled_from([1, 60, 60_000, 9_999_999]))
def test_never_more_than_rate_and_burst(found: list[tuple[int, int, int]], limit: int) -> None:
    rule = Rule(limit, 6_000)
    buckets, now_ms, spent = full(), 10_000.0, 0
    for pause_ms, cost, want in found:
        now_ms += pause_ms
        reply = ask(buckets, now_ms, cost, rule=rule, want=want)
        spent += (cost if reply.decisions == (None,) else 0) + reply.shares[0].leased
        passed_ms = now_ms - 10_000 + rule.burst_ms
        assert spent <= passed_ms * limit / MINUTE_MS + 1e-3
