"""The quotas of upstreams: tokens, requests and permits of a channel, shared by all lines on it.

What is reserved for dedicated lines is lent to the others while it is idle: relay.limits.lending.

A channel whose quota is known to be spent is not chosen; one that turns out to be spent when it is
about to be asked is left for another, as if it had refused, but it is not held against it. What an
attempt took is settled when that attempt ends, whatever became of the call.
"""

from typing import Final

from relay.errors import ChannelLimited, ChannelOutrun, ChannelSpent
from relay.flow.attempts.attempt import Attempt
from relay.flow.call import Call
from relay.flow.reserve.limits import at_least, expect, used
from relay.flow.settle import usage_of
from relay.limits.decision import Denied
from relay.limits.estimate import Estimator
from relay.limits.lending import Bids, all_bids, bid_of
from relay.limits.limit_set import Costs, Grant, LimitSet, Tokens
from relay.limits.scopes import Bid, Bucket, Scope, limit_of
from relay.model import Channel, Snapshot
from relay.ports import Limiter
from relay.stage import COMMITTED

UNLIMITED: Final = LimitSet(())
FREE: Final = Grant(UNLIMITED, [], has_permits=False)
"""What an attempt holds of a channel without a quota."""
HOLD_MS_MAX: Final = 60_000


class ChannelQuotas:
    """The quotas of all channels of one worker.

    Args:
        limiter: Where they are kept; None = no channel has one.
        estimator: What this worker knows of models and keys.
    """

    def __init__(self, limiter: Limiter | None, estimator: Estimator) -> None:
        self._limiter = limiter
        self._estimator = estimator
        self._bids: dict[int, Bids] = {}
        self._limit_sets: dict[tuple[int, int], tuple[Channel, Bid, LimitSet]] = {}
        """By channel and rank of the bidder."""
        self.waited: dict[int, set[int]] = {}
        """By line: channels that its calls wait for; who comes now is behind them."""

    def swap(self, snapshot: Snapshot) -> None:
        """Let lines share channels as `snapshot` says."""
        if self._limiter is not None:
            self._bids = all_bids(snapshot)

    def bars(self, call: Call, channel: Channel) -> Denied | None:
        """Return why a channel need not be asked now: its quota is known to be spent."""
        limit_set = self._limit_set(call, channel)
        if limit_set.empty or self._limiter is None:
            return None
        return self._limiter.foresee(limit_set, self._costs(call, limit_set))

    def refusal(self, call: Call) -> ChannelSpent | None:
        """Return what a call is told whose channels are all spent; None where that is not so."""
        denied = self.barring(call)
        return spent_for(denied) if denied is not None else None

    def barring(self, call: Call) -> Denied | None:
        """Return what is known to bar a call's channels, of several what ends first."""
        least: Denied | None = None
        for channel in (*call.rights.channels, *call.rights.foreign):
            denied = self.bars(call, channel)
            if denied is not None and (least is None or denied.wait_ms < least.wait_ms):
                least = denied
        return least

    def take(self, call: Call, channel: Channel) -> Grant | None:
        """Take what an attempt may use, if that is leased; None: `wait` has to decide."""
        limit_set = self._limit_set(call, channel)
        if limit_set.empty or self._limiter is None:
            return FREE
        if self.waited and self._is_waited_for(call, channel):
            return None
        decision = self._limiter.admit(limit_set, self._costs(call, limit_set))
        return decision if isinstance(decision, Grant) else None

    def _is_waited_for(self, call: Call, channel: Channel) -> bool:
        line = call.rights.line
        return line is not None and channel.id in self.waited.get(line.id, ())

    async def wait(self, call: Call, channel: Channel) -> Grant:
        """Take what an attempt may use as soon as that can be decided.

        Raises:
            ChannelSpent: CHANNEL; another channel may do better.
        """
        decision = await self.decide(call, channel)
        if isinstance(decision, Denied):
            raise spent_for(decision)
        return decision

    async def decide(self, call: Call, channel: Channel) -> Grant | Denied:
        """Take what an attempt may use as soon as that can be decided, or tell why it may not."""
        limit_set = self._limit_set(call, channel)
        if limit_set.empty or self._limiter is None:
            return FREE
        costs = self._costs(call, limit_set)
        decision = self._limiter.admit(limit_set, costs)
        if decision is None:
            decision = await self._limiter.wait(limit_set, costs)
        return decision

    def give_back(self, grant: Grant) -> None:
        """Return all that was taken for an attempt that was not made."""
        if grant is not FREE and self._limiter is not None:
            self._limiter.settle(grant, [0] * len(grant.costs))
            self._limiter.release(grant)

    def close(self, attempt: Attempt) -> None:
        """Book what an attempt used of its channel's quota; a second time does nothing."""
        grant, attempt.quota = attempt.quota, None
        if grant is None or grant is FREE or self._limiter is None:
            return
        self._limiter.settle(grant, grant.limit_set.costs(_used_of(attempt)))
        self._limiter.release(grant)
        error = attempt.error
        if isinstance(error, ChannelLimited) and error.retry_after_s:
            wait_ms = min(int(error.retry_after_s * 1_000), HOLD_MS_MAX)
            for (channel_id, _), (_, _, limit_set) in self._limit_sets.items():
                if channel_id == attempt.channel.id:  # whatever class of line has leased of it
                    self._limiter.hold_back(limit_set, wait_ms)

    def _costs(self, call: Call, limit_set: LimitSet) -> Costs:
        tokens = call.reserved
        if not tokens[0]:  # nothing else limits the call
            assert call.rights.key is not None
            tokens = expect(
                call, self._estimator.guess(call.rights.key.id, call.request.model), limit_set
            )
            call.reserved = tokens
        return limit_set.costs((tokens[0], 0, limit_set.fit(tokens[0], tokens[2])))

    def _limit_set(self, call: Call, channel: Channel) -> LimitSet:
        if not (channel.tpm or channel.rpm or channel.concurrency):
            return UNLIMITED  # `channel.limited`, which would be a call for each attempt
        bid = bid_of(self._bids, channel, call.rights.line)
        known = self._limit_sets.get((channel.id, bid.rank))
        if known is not None and known[0] is channel and known[1] is bid:
            return known[2]
        limit_set = LimitSet((limit_of(Scope.CHANNEL, channel.id, channel, bid=bid),))
        self._limit_sets[channel.id, bid.rank] = channel, bid, limit_set
        return limit_set


NO_QUOTAS: Final = ChannelQuotas(None, Estimator())
"""The quotas of a data plane whose channels have none."""


def _used_of(attempt: Attempt) -> Tokens:
    """Return what an attempt used of its channel's quota; the channel has read what it took on."""
    call, error = attempt.call, attempt.error
    if error is None:
        return used(call, usage_of(call))
    if attempt.stage is COMMITTED:
        return at_least(call.reserved, usage_of(call))
    return (call.reserved[0], 0, 0) if isinstance(error, ChannelOutrun) else (0, 0, 0)


def spent_for(denied: Denied) -> ChannelSpent:
    """Return what a call is told whose channels' quota is spent."""
    error = ChannelSpent(
        "The upstream's own quota for this model is spent now; try again.",
        retry_after_s=max(denied.wait_ms, 1) / 1_000,
    )
    limit = denied.limit
    error.exhausted = limit.measure.value if isinstance(limit, Bucket) else "concurrency"
    return error
