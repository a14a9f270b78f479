"""The health of every (channel, model) that this worker knows, shared with the other workers.

The exchange tells it of every attempt: `start` before asking, then `succeed` at the first output or
`fail`; a stream that breaks after its first output fails as well. Picking asks `standing`. Each
worker decides by itself; what it found travels as a compact message (`encode`, `merge`), the
newest finding about a channel wins. That the last channel of a model is never left out is not
decided here but where channels are picked.
"""

from collections.abc import Container, Mapping
from typing import Final, NamedTuple

from relay.routing.breaker import Availability, Breaker, BreakerState, Signal
from relay.routing.finding import Finding, encode_findings, read_findings
from relay.routing.policy import BLAME, US_PER_S, Policy, Reason
from relay.routing.table import Outcome

ANY_MODEL: Final = ""
"""Stands for all models of a channel: a refused credential takes them all out."""
SHARED_S: Final = 300
"""How long a finding is told to others; a worker that missed it this long has its own."""

SKEW_US: Final = 100_000
"""A finding counts as newer only by more than this: stamps pass through two clocks each way, and
our own message, coming back, must not undo the trial that is running."""


class Failure(NamedTuple):
    """How an attempt failed.

    `started_us`: what was given to `start`. `retry_after_s`: what the upstream asked for.
    """

    outcome: Outcome
    started_us: int
    retry_after_s: float | None = None


class HealthChange(NamedTuple):
    """A breaker changed its state: for the log, the metrics, and others to be told.

    `model`: "" = all models of the channel. `alarm`: an operator has to act.
    """

    channel_id: int
    model: str
    before: BreakerState
    after: BreakerState
    reason: Reason
    alarm: bool


class Condition(NamedTuple):
    """What `relay channel list` shows of a channel's model that is not in full service.

    `model`: "" = all models. `trial_in_s`: seconds until the next trial may begin, 0 = it is due.
    `openings`: how often it opened in a row.
    """

    channel_id: int
    model: str
    state: BreakerState
    reason: Reason
    trial_in_s: float
    openings: int


class Health:
    """All breakers of a worker. Times are microseconds of the caller's monotonic clock."""

    __slots__ = ("_breakers", "_policy", "_served", "troubled")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._breakers: dict[tuple[int, str], Breaker] = {}
        self._served: Mapping[int, Container[str]] | None = None
        self.troubled: dict[int, int] = {}
        """Channel id -> its breakers that are not closed; holds no zero, so `in` is an answer."""

    # --- asked when picking ------------------------------------------------------------------

    def availability(self, channel_id: int, model: str, now_us: int) -> Availability:
        """Return whether a call may go to the channel; the worse of its model's and its own."""
        worst = Availability.READY
        if channel_id in self.troubled:
            for breaker in self._both(channel_id, model):
                availability = breaker.availability(now_us)
                if availability > worst:
                    worst = availability
        return worst

    def due_us(self, channel_id: int, model: str) -> int:
        """Return when the channel may be tried again; 0 = it is in service."""
        if channel_id not in self.troubled:
            return 0
        both = self._both(channel_id, model)
        return max((b.due_us for b in both if b.state is not BreakerState.CLOSED), default=0)

    def is_suspect(self, channel_id: int, model: str, now_us: int) -> bool:
        """Tell whether the channel failed lately: asking it again may feed a storm."""
        both = self._both(channel_id, model)
        return any(
            b.state is not BreakerState.CLOSED or b.is_suspect(self._policy, now_us) for b in both
        )

    def is_trial(self, channel_id: int, model: str, started_us: int) -> bool:
        """Tell whether the call that began then is a trial that runs."""
        return any(b.is_trial(started_us) for b in self._both(channel_id, model))

    # --- told by the exchange ---------------------------------------------------------------

    def start(self, channel_id: int, model: str, now_us: int) -> tuple[HealthChange, ...]:
        """Note that a call is about to ask the channel; return what that changed.

        Anything: it is the trial that was due, and others should know before they try as well.
        """
        if channel_id not in self.troubled:
            return ()
        changes = []
        for name in (model, ANY_MODEL):
            breaker = self._breakers.get((channel_id, name))
            if breaker is not None and breaker.availability(now_us) is Availability.TRIAL:
                before = breaker.state
                breaker.try_out(self._policy, now_us)
                changes.append(self._changed(channel_id, name, breaker, before))
        return tuple(changes)

    def succeed(
        self, channel_id: int, model: str, *, started_us: int, now_us: int
    ) -> tuple[HealthChange, ...]:
        """Note the first output of a call that began at `started_us`; return what it changed.

        A call that began before the channel was taken out proves nothing and changes nothing.
        """
        self._breaker(channel_id, model).count(self._policy, now_us, struck=False)
        if channel_id not in self.troubled:
            return ()
        changes = []
        for name in (model, ANY_MODEL):
            breaker = self._breakers.get((channel_id, name))
            if breaker is None or breaker.state is BreakerState.CLOSED:
                continue
            if started_us >= breaker.opened_us:
                before = breaker.state
                breaker.move(Signal.SUCCESS, now_us)
                changes.append(self._changed(channel_id, name, breaker, before))
        return tuple(changes)

    def fail(
        self, channel_id: int, model: str, failure: Failure, *, now_us: int, dice: float
    ) -> tuple[HealthChange, ...]:
        """Note a failed attempt; return what it changed.

        What is not the channel's fault never counts; where it ends a trial, the next call may try.
        """
        if not self._serves(channel_id, model):
            return ()  # it ran on through a change of the catalog
        reason = BLAME.get(failure.outcome)
        guilty = ANY_MODEL if reason is Reason.DENIED else model
        changes = []
        for name in (model, ANY_MODEL):
            blamed = reason is not None and name == guilty
            key = (channel_id, name)
            breaker = self._breaker(*key) if blamed else self._breakers.get(key)
            if breaker is None:
                continue
            before = breaker.state
            if blamed:
                self._blame(breaker, failure, now_us, dice)
            elif breaker.is_trial(failure.started_us):
                breaker.release(now_us)
            if breaker.state is not before:
                changes.append(self._changed(channel_id, name, breaker, before))
        return tuple(changes)

    def rest(
        self, channel_id: int, model: str, spent_s: float, *, now_us: int, dice: float
    ) -> tuple[HealthChange, ...]:
        """Leave the channel alone until its quota refills: its answer said that it is used up.

        Only where it is in service: what took it out knows better when it may be back.
        """
        breaker = self._breaker(channel_id, model)
        if breaker.state is not BreakerState.CLOSED:
            return ()
        wait_s = min(spent_s, self._policy.spent_s_max)
        breaker.trip(self._policy, Reason.LIMITED, now_us, retry_after_s=wait_s, dice=dice)
        return (self._changed(channel_id, model, breaker, BreakerState.CLOSED),)

    def hasten(self, channel_id: int, now_us: int) -> None:
        """Make the channel's next trial due: a cheap probe has just seen it answer.

        Where the upstream itself asked us to wait, we wait.
        """
        for (owner, _), breaker in self._breakers.items():
            waits = breaker.state is BreakerState.OPEN and breaker.reason is not Reason.LIMITED
            if owner == channel_id and waits:
                breaker.due_us = min(breaker.due_us, now_us)

    # --- shared with other workers ----------------------------------------------------------

    def encode(self, *, now_us: int, wall_us: int) -> bytes:
        """Return what others should know, as a message for `merge`.

        Args:
            now_us: The caller's monotonic clock.
            wall_us: Microseconds since 1970 UTC at the same moment.
        """
        shift_us = wall_us - now_us
        oldest_us = now_us - SHARED_S * US_PER_S
        findings = [
            Finding(
                channel_id=channel_id,
                model=model,
                state=b.state,
                reason=b.reason,
                openings=b.openings,
                changed_us=b.changed_us + shift_us,
                due_us=b.due_us + shift_us,
            )
            for (channel_id, model), b in self._breakers.items()
            if b.openings and (b.state is not BreakerState.CLOSED or b.changed_us >= oldest_us)
        ]
        return encode_findings(findings)

    def merge(self, message: bytes, *, now_us: int, wall_us: int) -> tuple[HealthChange, ...]:
        """Take over what another worker found later than we did; return what that changed.

        A clock that is off can neither take a channel out for longer than any wait of our own,
        nor make a finding newer than now. What the catalog no longer has is not taken over: no
        call would ever close it again, and two workers would remind each other of it for ever.

        Raises:
            ValueError: Not a message of `encode`.
        """
        findings = read_findings(message)
        latest_us = now_us + int(self._policy.retry_after_s_max * US_PER_S)
        changes = []
        for finding in findings:
            if not self._serves(finding.channel_id, finding.model):
                continue
            changed_us = min(finding.changed_us - wall_us + now_us, now_us)
            due_us = min(finding.due_us - wall_us + now_us, latest_us)
            breaker = self._breaker(finding.channel_id, finding.model)
            if changed_us <= breaker.changed_us + SKEW_US:
                continue
            before = breaker.state
            if _asks_longer(before, breaker, finding):
                due_us = max(due_us, breaker.due_us)
            breaker.adopt(finding.state, finding.reason, changed_us, due_us)
            breaker.openings = finding.openings
            if breaker.state is not before:
                changes.append(self._changed(finding.channel_id, finding.model, breaker, before))
        return tuple(changes)

    # --- shown and kept small ---------------------------------------------------------------

    def describe(self, now_us: int) -> list[Condition]:
        """Return all that is not in full service, by channel and model."""
        return sorted(
            Condition(
                channel_id=channel_id,
                model=model,
                state=b.state,
                reason=b.reason,
                trial_in_s=max(b.due_us - now_us, 0) / US_PER_S,
                openings=b.openings,
            )
            for (channel_id, model), b in self._breakers.items()
            if b.state is not BreakerState.CLOSED
        )

    def prune(self, served: Mapping[int, Container[str]]) -> None:
        """Keep to the catalog, which has changed: forget what it no longer has.

        Args:
            served: Channel id -> the public names of the models that it serves.
        """
        self._served = served
        for key in [key for key in self._breakers if not self._serves(*key)]:
            del self._breakers[key]
        self.troubled.clear()
        for (channel_id, _), breaker in self._breakers.items():
            if breaker.state is not BreakerState.CLOSED:
                self.troubled[channel_id] = self.troubled.get(channel_id, 0) + 1

    # ----------------------------------------------------------------------------------------

    def _serves(self, channel_id: int, model: str) -> bool:
        """Tell whether the catalog, where one is known, has the channel and the model on it."""
        if self._served is None:
            return True
        models = self._served.get(channel_id)
        return models is not None and (model == ANY_MODEL or model in models)

    def _breaker(self, channel_id: int, model: str) -> Breaker:
        breaker = self._breakers.get((channel_id, model))
        if breaker is None:
            breaker = self._breakers[channel_id, model] = Breaker()
        return breaker

    def _both(self, channel_id: int, model: str) -> list[Breaker]:
        """Return the breakers that a call for the model has to pass."""
        breakers = self._breakers
        found = (breakers.get((channel_id, model)), breakers.get((channel_id, ANY_MODEL)))
        return [breaker for breaker in found if breaker is not None]

    def _blame(self, breaker: Breaker, failure: Failure, now_us: int, dice: float) -> None:
        """Count a failure that is the channel's fault, and open the breaker if that is enough."""
        policy = self._policy
        wait_s = failure.retry_after_s
        reason = BLAME[failure.outcome]
        if reason is Reason.FAILING and wait_s is not None:
            reason = Reason.LIMITED
        if breaker.state is BreakerState.CLOSED:
            breaker.count(policy, now_us, struck=True)
            if reason is Reason.FAILING and not breaker.should_trip(policy):
                return
        elif not breaker.is_trial(failure.started_us):
            # Began before it opened, or went there for want of another: no news but a longer wait.
            if wait_s and breaker.state is BreakerState.OPEN:
                asked_us = policy.wait_us(reason, 1, retry_after_s=wait_s, dice=dice)
                breaker.due_us = max(breaker.due_us, now_us + asked_us)
            return
        breaker.trip(policy, reason, now_us, retry_after_s=wait_s, dice=dice)

    def _changed(
        self, channel_id: int, model: str, breaker: Breaker, before: BreakerState
    ) -> HealthChange:
        """Keep `troubled` true after a breaker moved, and say what happened."""
        after = breaker.state
        step = (before is BreakerState.CLOSED) - (after is BreakerState.CLOSED)
        count = self.troubled.get(channel_id, 0) + step
        if count:
            self.troubled[channel_id] = count
        else:
            self.troubled.pop(channel_id, None)
        alarm = before is BreakerState.CLOSED and breaker.reason is Reason.DENIED
        return HealthChange(channel_id, model, before, after, breaker.reason, alarm)


def _asks_longer(before: BreakerState, breaker: Breaker, finding: Finding) -> bool:
    """Tell whether both of us were asked by the upstream to wait: then the longer wait counts."""
    open_states = before is BreakerState.OPEN and finding.state is BreakerState.OPEN
    return open_states and breaker.reason is finding.reason is Reason.LIMITED
