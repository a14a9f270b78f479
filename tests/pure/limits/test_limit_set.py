"""Goal: a limit set says what a call costs each bucket, and never keeps a small key out.

Method: limit sets of known limits; then any limits, weights and calls.
"""

from hypothesis import given
from hypothesis import strategies as st

from relay.limits.limit_set import Grant, LimitSet
from relay.limits.scopes import Measure, Scope, Terms, Weights, limit_of, limits_of
from relay.model import Account, Allowance, Key, Line, OnLoss
from relay.units import PPM

SOME = Allowance(tpm=60_000, rpm=60, concurrency=3)
DEAR = Terms(weights=Weights(output_ppm=5 * PPM))


def test_costs_stand_in_the_order_of_the_buckets() -> None:
    limit_set = LimitSet(
        (
            limit_of(Scope.LINE, 1, SOME, DEAR),
            limit_of(Scope.ACCOUNT, 2, SOME),
            limit_of(Scope.KEY, 2, Allowance(tpm=10), part="key3"),
        )
    )
    assert not limit_set.empty
    costs = dict(zip(limit_set.buckets, limit_set.costs((100, 40, 10)), strict=True))
    said = {(b.scope, b.measure): cost for b, cost in costs.items()}
    assert said == {
        (Scope.LINE, Measure.REQUESTS): 1,
        (Scope.ACCOUNT, Measure.REQUESTS): 1,
        (Scope.LINE, Measure.TOKENS): 110,
        (Scope.ACCOUNT, Measure.TOKENS): 70,
        (Scope.KEY, Measure.TOKENS): 70,
    }
    assert [concurrency.scope for concurrency in limit_set.concurrencies] == [
        Scope.LINE,
        Scope.ACCOUNT,
    ]


def test_nothing_limits_a_call_without_limits() -> None:
    limit_set = LimitSet((limit_of(Scope.LINE, 1, Allowance()),))
    assert limit_set.empty and limit_set.costs((5, 0, 5)) == []
    assert limit_set.fit(10**9, 10**9) == 10**9


@given(
    st.lists(
        st.tuples(st.integers(1, 10**8), st.sampled_from([0, PPM // 3, PPM, 5 * PPM])), max_size=4
    ),
    st.integers(1, 10**6),
    st.integers(0, 10**6),
)
def test_the_answer_never_keeps_a_call_out(
    limits: list[tuple[int, int]], asked: int, answer: int
) -> None:
    """Where the prompt fits into every bucket, the reservation does."""
    limit_set = LimitSet(
        tuple(
            limit_of(
                Scope.KEY,
                1,
                Allowance(tpm=tpm),
                Terms(weights=Weights(output_ppm=ppm)),
                part=str(n),
            )
            for n, (tpm, ppm) in enumerate(limits)
        )
    )
    fitted = limit_set.fit(asked, answer)
    assert 0 <= fitted <= answer
    for bucket, prompt, whole in zip(
        limit_set.buckets,
        limit_set.costs((asked, 0, 0)),
        limit_set.costs((asked, 0, fitted)),
        strict=True,
    ):
        if prompt <= bucket.rule.capacity:
            assert whole <= bucket.rule.capacity


def test_a_grant_is_what_was_taken() -> None:
    limit_set = LimitSet((limit_of(Scope.KEY, 1, SOME),))
    grant = Grant(limit_set, [1, 50], has_permits=True)
    assert (grant.limit_set, grant.costs, grant.has_permits) == (limit_set, [1, 50], True)


def test_everything_that_limits_a_call() -> None:
    line = Line(
        id=1,
        name="line",
        channel_ids=(),
        tpm=600_000,
        model_limits={"m": Allowance(rpm=7)},
        on_limiter_loss=OnLoss.CLOSED,
        output_weight_ppm=2 * PPM,
    )
    account = Account(id=2, name="acme", group_id=1, rpm=60)
    key = Key(id=3, account_id=2, name="k", digest=b"", last4="", concurrency=4)
    limits = limits_of(line, account, key, "m")
    assert [b.key for limit in limits for b in limit.buckets] == [
        "relay:{l:1}:tpm",
        "relay:{l:1}:m:rpm",
        "relay:{a:2}:rpm",
    ]
    assert [limit.concurrency.key for limit in limits if limit.concurrency] == [
        "relay:{a:2}:key3:seats"
    ]
    [tokens] = limits[0].buckets
    assert tokens.on_loss is OnLoss.CLOSED and tokens.weights.output_ppm == 2 * PPM
    assert limits[2].buckets[0].on_loss is OnLoss.SHARE
    assert (
        len(limits_of(line, account, key, "other")) == len(limits_of(line, account, key, None)) == 3
    )


def test_only_its_own_bytes_make_a_prompt_too_large() -> None:
    limits = LimitSet((limit_of(Scope.KEY, 1, Allowance(tpm=60_000)),))
    room = min(bucket.rule.capacity for bucket in limits.buckets)
    assert LimitSet(()).fit_input(10**9, 10) == 10**9
    assert limits.fit_input(room // 2, 10) == room // 2
    assert limits.fit_input(10 * room, 10) == room  # a guess is cut
    assert limits.fit_input(10 * room, 2 * room) == 2 * room  # what it is at least is not
