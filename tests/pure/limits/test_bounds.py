"""Goal: what a limit lets through in its worst minute is what is promised for its size.

Method: one bucket by the rule of each size, asked for calls as fast as it grants them after it was
idle; the worst 60 s on its clock. A small limit holds what a large prompt needs, so its worst
minute is twice its limit.
"""

import pytest

from relay.limits.bucket import MINUTE_MS, BucketQuestion, BucketRequest, Buckets, CallRequest
from relay.limits.scopes import Scope, tokens_rule

STEP_MS = 50.0


def worst_minute(scope: Scope, tpm: int) -> float:
    """Return the most tokens granted in any 60 s, as a part of the limit."""
    rule, buckets, cost = tokens_rule(scope, tpm), Buckets(), max(tpm // 2_000, 1)
    buckets.born_ms = -1e9
    granted: list[tuple[float, int]] = []
    question = BucketQuestion(
        (BucketRequest("b", rule),), tuple(CallRequest(((0, cost),)) for _ in range(100))
    )
    now_ms = 0.0
    while now_ms < 2 * MINUTE_MS:
        codes = buckets.answer(question, now_ms)[:100]
        granted.append((now_ms, cost * codes.count(0)))
        now_ms += STEP_MS
    width = int(MINUTE_MS / STEP_MS)
    tokens = [amount for _, amount in granted]
    return max(sum(tokens[at : at + width]) for at in range(len(tokens) - width)) / tpm


@pytest.mark.parametrize(
    ("scope", "tpm", "bound"),
    [
        (Scope.LINE, 30_000_000, 1.10),
        (Scope.LINE, 1_000_000, 1.10),
        (Scope.ACCOUNT, 30_000_000, 1.10),
        (Scope.ACCOUNT, 1_600_000, 1.10),
        (Scope.ACCOUNT, 1_000_000, 1.16),
        (Scope.KEY, 600_000, 1.27),
        (Scope.KEY, 320_000, 1.50),
        (Scope.KEY, 160_000, 2.0),
        (Scope.KEY, 60_000, 2.0),
        (Scope.KEY, 10_000, 2.0),
    ],
)
def test_the_worst_minute_is_bounded_by_size(scope: Scope, tpm: int, bound: float) -> None:
    assert bound - 0.02 <= worst_minute(scope, tpm) <= bound + 0.005
