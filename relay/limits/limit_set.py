"""All buckets and concurrency limits of a call in one object, made once and spent many times.

Buckets that count calls come first, then those that count tokens, by how they count them: so what
a call costs each of them is a list made of few numbers.
"""

from typing import TYPE_CHECKING, Final

from relay.limits.scopes import Bucket, ConcurrencyLimit, Limit, Measure, Weights
from relay.units import PPM

if TYPE_CHECKING:
    from relay.limits.lease import Lease

PLAIN: Final = Weights()

Tokens = tuple[int, int, int]
"""(input, cached part of the input, output), estimated or used."""
Costs = list[int]
"""What a call costs each bucket of a limit set, in the limit set's order."""


class LimitSet:
    """What one kind of call draws on.

    Args:
        limits: Those of its line, model, account and key, or that of one channel.
    """

    __slots__ = (
        "_classes",
        "_ones",
        "_plain",
        "buckets",
        "concurrencies",
        "empty",
        "epoch",
        "leases",
    )

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        found = [bucket for limit in limits for bucket in limit.buckets]
        calls = [bucket for bucket in found if bucket.measure is Measure.REQUESTS]
        classes: dict[Weights, list[Bucket]] = {}
        for bucket in found:
            if bucket.measure is Measure.TOKENS:
                classes.setdefault(bucket.weights, []).append(bucket)
        self.buckets = (*calls, *(bucket for same in classes.values() for bucket in same))
        self.concurrencies: tuple[ConcurrencyLimit, ...] = tuple(
            limit.concurrency for limit in limits if limit.concurrency
        )
        self._ones: Costs = [1] * len(calls)
        self._classes = tuple(
            (None if weights == PLAIN else weights, len(same), _capacity(same))
            for weights, same in classes.items()
        )
        same = len(self._classes) == 1 and self._classes[0][0] is None
        self._plain = self._classes[0][1] if same else 0
        self.empty = not (self.buckets or self.concurrencies)
        """Whether nothing limits the call."""
        self.leases: list[Lease] = []
        """The broker's, as long as its epoch is this one."""
        self.epoch = -1

    def costs(self, tokens: Tokens) -> Costs:
        """Return what a call of so many tokens costs each bucket."""
        if self._plain:  # every bucket counts tokens as they are: the usual case
            return self._ones + [tokens[0] - tokens[1] + tokens[2]] * self._plain
        costs = self._ones
        for weights, count, _ in self._classes:
            plain = tokens[0] - tokens[1] + tokens[2]
            cost = plain if weights is None else weights.cost(*tokens)
            costs = costs + [cost] * count
        return costs

    def fit_input(self, input_tokens: int, least_tokens: int) -> int:
        """Return how much of a guessed prompt is set aside, so that every bucket can ever hold it.

        What it has to be at least, by its own bytes, is never cut: only that can be too large for
        ever, and what others taught the guess cannot make it so.
        """
        for weights, _, capacity in self._classes:
            if weights is None:
                left = capacity
            elif weights.input_ppm > 0:
                left = capacity * PPM // weights.input_ppm
            else:
                continue
            if left < input_tokens:
                input_tokens = max(least_tokens, left)
        return input_tokens

    def fit(self, input_tokens: int, output_tokens: int) -> int:
        """Return how much output can be set aside, so that every bucket can ever hold the call.

        Without this a small key could never send its first call. A bucket that the input alone
        does not fit leaves no room for output: it refuses the call.
        """
        for weights, _, capacity in self._classes:
            if weights is None:
                left = capacity - input_tokens
            elif weights.output_ppm > 0:
                left = capacity * PPM - input_tokens * weights.input_ppm
                left //= weights.output_ppm
            else:
                continue
            if left < output_tokens:
                output_tokens = max(0, left)
        return output_tokens


class Grant:
    """What a running call has taken; to be settled and released by the one who was given it."""

    __slots__ = ("costs", "has_permits", "limit_set", "told")

    def __init__(self, limit_set: LimitSet, costs: Costs, *, has_permits: bool) -> None:
        self.limit_set = limit_set
        self.costs = costs
        self.has_permits = has_permits
        self.told = 0
        """Output tokens that the call's guess counts as under way."""


def _capacity(buckets: list[Bucket]) -> int:
    """Return what the smallest of buckets can hold."""
    return min(bucket.rule.capacity for bucket in buckets)
