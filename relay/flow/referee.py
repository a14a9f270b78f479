"""What a worker knows of its channels, and the choice among them: health, load, retry budget.

The rules are routing's; this holds their state, gives them clock and dice, and tells whoever
listens of every change. One referee serves all calls of a worker.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable

from relay.config import Switching
from relay.errors import RelayError
from relay.flow.active import ActiveCall
from relay.flow.attempt import Attempt
from relay.flow.counters import Counters
from relay.flow.quotas import NO_QUOTAS
from relay.model import Channel
from relay.routing.breaker import Policy
from relay.routing.budget import RetryBudget
from relay.routing.health import Change, Failure, Health
from relay.routing.pick import Dice, Wish, choose
from relay.routing.table import CHANNEL_FAILURES, Outcome


class Referee:
    """Chooses channels and remembers how they did.

    Args:
        limits: `[switching]`.
        counters: What is counted.
        on_changes: Called with every change of a channel's health that this worker found.
    """

    def __init__(
        self,
        limits: Switching,
        counters: Counters,
        on_changes: Callable[[Iterable[Change]], None],
    ) -> None:
        self.health = Health(Policy())
        self._budget = RetryBudget(limits.retry_share_max, limits.retries_min)
        self._counters = counters
        self._on_changes = on_changes
        self.quotas = NO_QUOTAS
        """Of the channels: who has spent its own is not chosen. To be set before the first call."""
        self._in_flight: defaultdict[int, int] = defaultdict(int)

    def choose(self, call: ActiveCall, among: tuple[Channel, ...] | None = None) -> Channel | None:
        """Return the channel to ask next, None when none is left.

        `among`: only these instead of all that serve the model.
        """
        channels = call.channels if among is None else among
        for channel in channels:
            if channel.limited and self.quotas.bars(call, channel):
                channels = tuple(c for c in channels if not self.quotas.bars(call, c))
                break
        if len(channels) == 1 and channels[0].id not in call.tried:
            return channels[0]
        return choose(
            channels,
            Wish(call.model, call.tried, call.affinity),
            health=self.health,
            in_flight=self._in_flight,
            now_us=now_us(),
            dice=Dice(random.random(), random.random()),  # noqa: S311 - a load balancer's
        )

    def grants_retry(self, channel: Channel, model: str) -> bool:
        """Tell whether a retry may go to `channel`: one that fails as well must not be stormed."""
        now = now_us()
        if not self.health.is_suspect(channel.id, model, now):
            return True
        return self._budget.take(now)

    def begin(self, attempt: Attempt) -> None:
        """Note that an attempt is about to ask its channel."""
        call, channel_id = attempt.call, attempt.channel.id
        if call.attempts <= 1:
            self._budget.begin(attempt.started_us)
        call.tried.add(channel_id)
        self._in_flight[channel_id] += 1
        self._counters.attempts += 1
        if self.health.troubled and channel_id in self.health.troubled:
            self.health.start(channel_id, call.model, attempt.started_us)

    def end(self, attempt: Attempt) -> None:
        """Note that an attempt is over, however it went."""
        self._in_flight[attempt.channel.id] -= 1

    def succeed(self, attempt: Attempt) -> None:
        """Note an attempt's first output."""
        call = attempt.call
        changes = self.health.succeed(
            attempt.channel.id,
            call.model,
            started_us=attempt.started_us,
            now_us=int(call.first_byte_s * 1e6),
        )
        if changes:
            self._on_changes(changes)

    def fail(self, attempt: Attempt, outcome: Outcome, error: RelayError) -> None:
        """Note how an attempt failed; what is not its channel's fault is not held against it."""
        channel = attempt.channel
        if outcome in CHANNEL_FAILURES:
            self._counters.upstream_errors[channel.name, error.code or error.kind] += 1
        changes = self.health.fail(
            channel.id,
            attempt.call.model,
            Failure(outcome, attempt.started_us, error.retry_after_s),
            now_us=now_us(),
            dice=random.random(),  # noqa: S311 - jitter
        )
        if changes:
            self._on_changes(changes)

    def forget(self, channel_ids: Container[int]) -> None:
        """Forget channels that are not in `channel_ids`: the catalog has changed."""
        self.health.prune(channel_ids)


def now_us() -> int:
    """Return microseconds of the loop's clock, by which health is kept."""
    return int(time.monotonic() * 1e6)
