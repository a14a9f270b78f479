"""What a worker knows of its channels, and the choice among them: health, load, retry budget.

The rules are routing's; this holds their state, gives them clock and dice, and tells whoever
listens of every change. One balancer serves all calls of a worker.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from relay.clock import dice, now_us
from relay.config import Config
from relay.errors import ChannelForbade, ChannelSpent, ChannelTimeout, RelayError, Unavailable
from relay.flow.attempts.attempt import Attempt
from relay.flow.call import Call
from relay.flow.channel_log import ChannelLog
from relay.flow.counters import Counters
from relay.flow.reserve.channel_quotas import NO_QUOTAS, ChannelQuotas
from relay.model import Channel
from relay.routing.affinity import CACHED_TOKENS_MIN, Places
from relay.routing.breaker import Availability
from relay.routing.budget import RetryBudget
from relay.routing.health import ANY_MODEL, Failure, Health, HealthChange
from relay.routing.patience import Patience
from relay.routing.pick import Dice, Preference, choose
from relay.routing.policy import BLAME, US_PER_S, Policy, Reason
from relay.routing.table import CHANNEL_FAILURES, Outcome

FORBIDDEN_MIN: Final = 8
"""Refusals without a reason in a row, and nobody served in between, after which a channel is asked
itself (flow.witness)."""
RETRY_AFTER_S: Final = 5.0
"""What a client is told when no channel is left and none said when to come back."""


class Balancer:
    """Chooses channels and remembers how they did.

    Args:
        config: The whole of relay.toml.
        counters: What is counted.
        on_changes: Called with every change of a channel's health that this worker found.
        quotas: Of the channels: who has spent its own is not chosen.
    """

    def __init__(
        self,
        config: Config,
        counters: Counters,
        on_changes: Callable[[Iterable[HealthChange]], None],
        quotas: ChannelQuotas = NO_QUOTAS,
    ) -> None:
        limits, timeouts = config.switching, config.timeouts
        self.health = Health(Policy())
        self._attempts_max = limits.attempts_max
        least_us = int(timeouts.trial_first_byte_s * US_PER_S)
        # A stream shows how long a model thinks, an answer in one piece how long it talks as well.
        self._patience = {
            True: Patience(least_us, int(timeouts.first_byte_s * US_PER_S)),
            False: Patience(least_us, int(timeouts.answer_s * US_PER_S)),
        }
        self._limits = limits
        self._budgets: dict[int, RetryBudget] = {}
        """By line: one line's storm must not take the retries of another."""
        self._counters = counters
        self._on_changes = on_changes
        self._log = ChannelLog()
        self.quotas = quotas
        self._limited: frozenset[int] = frozenset()
        """Ids of the channels that have a quota of their own."""
        self._in_flight: defaultdict[int, int] = defaultdict(int)
        self._places = Places()
        self._forbidden: dict[tuple[int, str], tuple[int, int]] = {}
        """Channel and model -> the account that was last forbidden there, and how often any was
        in a row, until one is served."""
        self.on_forbidden: Callable[[Channel], None] | None = None
        """Told of a channel that forbids one call after the other and does not say why."""

    def choose(self, call: Call, among: tuple[Channel, ...] | None = None) -> Channel | None:
        """Return the channel to ask next, None when none is left.

        `among`: only these instead of all that serve the model.
        """
        if among is None:
            if call.rights.foreign:
                return self._choose_of_both(call)
            among = call.rights.channels
        return self._choose_among(call, among)

    def has_native(self, call: Call) -> bool:
        """Tell whether a channel of the client's dialect is in service, with quota left."""
        for channel in call.rights.channels:
            barred = channel.id in self._limited and self.quotas.bars(call, channel)
            if not barred and self._is_ready(channel, call):
                return True
        return False

    def _choose_of_both(self, call: Call) -> Channel | None:
        """Return a channel that speaks the client's dialect while one is well, else another."""
        own = self._choose_among(call, call.rights.channels)
        if own is not None and (not call.asked_channels or self._is_ready(own, call)):
            availability = self.health.availability(own.id, call.request.model, now_us())
            if availability is not Availability.COOLING:
                return own  # in service, or due for a trial, behind which the others stand
        able = self._translatable(call)
        other = self._choose_among(call, able) if able else None
        if own is None or (other is not None and self._is_ready(other, call)):
            return other
        return own

    def _translatable(self, call: Call) -> tuple[Channel, ...]:
        """Return the channels of other dialects that can be asked what the call asks."""
        plan = call.translation
        if plan is None:
            return ()
        return tuple(channel for channel in call.rights.foreign if plan.takes(channel))

    def _is_ready(self, channel: Channel, call: Call) -> bool:
        now = now_us()
        found = self.health.availability(channel.id, call.request.model, now)
        return found is Availability.READY

    def _choose_among(self, call: Call, channels: tuple[Channel, ...]) -> Channel | None:
        if self._limited:
            for channel in channels:
                if channel.id in self._limited and self.quotas.bars(call, channel):
                    channels = tuple(c for c in channels if not self.quotas.bars(call, c))
                    break
        if len(channels) == 1 and channels[0].id not in call.asked_channels:
            return channels[0]
        now, affinity, request = now_us(), call.affinity, call.request
        place = 0 if affinity is None else self._places.find(affinity, now)
        return choose(
            channels,
            Preference(request.model, call.asked_channels, affinity, place, request.input_estimate),
            health=self.health,
            in_flight=self._in_flight,
            now_us=now,
            dice=Dice(dice(), dice()),
        )

    def take_retry(self, call: Call, channel: Channel) -> bool:
        """Count a call's retry on `channel`, where it may be: none that fails too may be stormed.

        Returns:
            False: nothing was counted, and the call has to stay where it is.
        """
        now, model = now_us(), call.request.model
        suspect = self.health.is_suspect(channel.id, model, now)
        return self._budget_of(call).take(now, suspect=suspect)

    def _budget_of(self, call: Call) -> RetryBudget:
        line_id = call.rights.line.id if call.rights.line is not None else 0
        budget = self._budgets.get(line_id)
        if budget is None:
            limits = self._limits
            budget = RetryBudget(limits.retry_share_max, limits.retries_min)
            self._budgets[line_id] = budget
        return budget

    def none_left(self, call: Call) -> RelayError:
        """Return what a call is told that no channel is left for."""
        spent = self.quotas.refusal(call)
        if spent is None:
            told = "No channel serves this model now."
            return Unavailable(told, retry_after_s=RETRY_AFTER_S)
        self.note_spent(call, spent)
        return spent

    def note_spent(self, call: Call, error: ChannelSpent) -> None:
        """Count a call that is refused as all its channels have spent their quota."""
        line = call.rights.line
        place = (line.name if line is not None else "", "channel", error.exhausted)
        self._counters.limited[place] += 1

    def note_splice(self, line: str, what: str) -> None:
        """Count a broken stream of a line: how it is carried on, or why it is not."""
        self._counters.splices[line, what] += 1

    def begin(self, attempt: Attempt) -> None:
        """Note that an attempt is about to ask its channel."""
        call, channel_id = attempt.call, attempt.channel.id
        if call.attempt_count <= 1:
            self._budget_of(call).begin(attempt.started_us)
        if channel_id not in call.asked_channels:
            call.asked_channels += (channel_id,)
        self._in_flight[channel_id] += 1
        self._counters.attempts += 1
        if self.health.troubled and channel_id in self.health.troubled:
            changes = self.health.start(channel_id, call.request.model, attempt.started_us)
            if changes:
                self._tell(attempt.channel, changes)

    def end(self, attempt: Attempt) -> None:
        """Note that an attempt is over, however it went."""
        if not attempt.late:
            self._in_flight[attempt.channel.id] -= 1

    def strike_silence(self, attempt: Attempt) -> bool:
        """Hold an attempt's silence against its channel; True where its call should move on.

        Silence longer than the model's is held against a channel in service, once, and is no load:
        what hangs there does not keep it busy. On a channel out of service the call need not wait
        where a good one is left.
        """
        call, channel = attempt.call, attempt.channel
        now = now_us()
        doubted = (
            self.health.availability(channel.id, call.request.model, now) is not Availability.READY
        )
        patience = self._patience[call.request.stream]
        since_us = max(attempt.started_us, int(attempt.moved_s * US_PER_S))
        if now - since_us < patience.limit_us(call.request.model, doubted=doubted):
            return False
        if not attempt.late:
            attempt.late = True
            self._in_flight[channel.id] -= 1
            if not doubted:
                attempt.struck = True
                silent = ChannelTimeout("The upstream is silent for longer than its model ever is.")
                self._blame(attempt, Outcome.STALLED, silent)
        return doubted and self._has_better(attempt, now)

    def _has_better(self, attempt: Attempt, now: int) -> bool:
        """Tell whether a channel in service is left to the attempt's call, and a try.

        A trial may move onto any; other calls, which are many, only where that feeds no storm.
        """
        call, health = attempt.call, self.health
        if call.attempt_count >= self._attempts_max:
            return False
        trial = health.is_trial(attempt.channel.id, call.request.model, attempt.started_us)
        return any(
            other.id not in call.asked_channels
            and health.availability(other.id, call.request.model, now) is Availability.READY
            and (trial or not health.is_suspect(other.id, call.request.model, now))
            for other in (*call.rights.channels, *self._translatable(call))
        )

    def succeed(self, attempt: Attempt) -> None:
        """Note an attempt's first output."""
        call = attempt.call
        channel_id, model, started_us = attempt.channel.id, call.request.model, attempt.started_us
        now = int(call.first_byte_s * 1e6)
        if now < started_us:
            now = now_us()  # it carries on what another attempt began
        self._patience[call.request.stream].note(model, now - started_us)
        if call.affinity is not None and call.request.input_estimate >= CACHED_TOKENS_MIN:
            self._places.note(call.affinity, channel_id, now)
        if self._forbidden:
            self._forbidden.pop((channel_id, model), None)
        changes = self.health.succeed(channel_id, model, started_us=started_us, now_us=now)
        if attempt.spent_s is not None:
            spent_s = attempt.spent_s
            changes += self.health.rest(channel_id, model, spent_s, now_us=now, dice=dice())
        if changes:
            self._tell(attempt.channel, changes)

    def fail(self, attempt: Attempt, outcome: Outcome, error: RelayError) -> None:
        """Note how an attempt failed; what is not its channel's fault is not held against it."""
        channel = attempt.channel
        if outcome in CHANNEL_FAILURES:
            self._counters.upstream_errors[channel.name, error.code or error.kind] += 1
        if outcome is Outcome.FORBIDDEN and self._is_witnessed(attempt, error):
            outcome = Outcome.SERVER_ERROR
        if not (attempt.struck and BLAME.get(outcome) is Reason.FAILING):
            self._blame(attempt, outcome, error)

    def _is_witnessed(self, attempt: Attempt, error: RelayError) -> bool:
        """Tell whether another account was forbidden there as well, and nobody served since.

        One account's prompts can have a firewall answer so as often as it likes.
        """
        account = attempt.call.rights.account
        if account is None or error.code != ChannelForbade.code:
            return False
        name = (attempt.channel.id, attempt.call.request.model)
        before, count = self._forbidden.get(name, (account.id, 0))
        self._forbidden[name] = account.id, count + 1
        if count + 1 >= FORBIDDEN_MIN and self.on_forbidden is not None:
            self.on_forbidden(attempt.channel)
        return before != account.id

    def testify(self, channel: Channel) -> None:
        """Take a channel out that refuses us whoever's call it is (flow.witness)."""
        now = now_us()
        failure = Failure(Outcome.DENIED, now, None)
        changes = self.health.fail(channel.id, ANY_MODEL, failure, now_us=now, dice=dice())
        if changes:
            self._tell(channel, changes)

    def _blame(self, attempt: Attempt, outcome: Outcome, error: RelayError) -> None:
        changes = self.health.fail(
            attempt.channel.id,
            attempt.call.request.model,
            Failure(outcome, attempt.started_us, error.retry_after_s),
            now_us=now_us(),
            dice=dice(),
        )
        if changes:
            self._tell(attempt.channel, changes)

    def _tell(self, channel: Channel, changes: tuple[HealthChange, ...]) -> None:
        """Tell of what this worker found out."""
        for change in changes:
            self._log.tell(channel, change)
        self._on_changes(changes)

    def keep(self, channels: Mapping[int, Channel]) -> None:
        """Keep to the channels and models of the catalog, which has changed."""
        served = {channel.id: channel.models for channel in channels.values()}
        self._limited = frozenset(channel.id for channel in channels.values() if channel.limited)
        self.health.prune(served)
        self._forbidden.clear()
        models = {model for models in served.values() for model in models}
        for patience in self._patience.values():
            patience.keep(models)
