"""What the workers together say of the channels' health: for lists, metrics and alarms, no calls.

An overview hears every worker's messages (`Health.encode`) and keeps the newest finding about each
(channel, model). It has one clock only, microseconds since 1970 UTC, because whoever looks on asks
no channel and so has no breaker of its own to keep in step.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from relay.routing.breaker import BreakerState
from relay.routing.finding import Finding, read_findings
from relay.routing.health import ANY_MODEL, SKEW_US, Condition, HealthChange
from relay.routing.policy import US_PER_S, Reason

FORGOTTEN_S: Final = 15
"""Workers in trouble tell of it every 5 s; what is not told for so long is no longer so."""

_GOOD: Final = {BreakerState.CLOSED: 2, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 0}


class Outlook(NamedTuple):
    """How a channel, or one model of it, stands.

    `reason` and `trial_in_s` (seconds until the next trial may begin) are None while CLOSED.
    """

    state: BreakerState
    reason: Reason | None = None
    trial_in_s: float | None = None


IN_SERVICE: Final = Outlook(BreakerState.CLOSED)


class Overview:
    """The newest finding about every (channel, model) that a worker tells of."""

    __slots__ = ("_heard",)

    def __init__(self) -> None:
        self._heard: dict[tuple[int, str], tuple[Finding, int]] = {}
        """The newest finding, and when anybody last told of this (channel, model)."""

    def hear(self, message: bytes, wall_us: int) -> tuple[HealthChange, ...]:
        """Take over what is newer than what was known; return what that changed.

        Only the first worker that tells of an opening changes something, so its alarm comes once.

        Raises:
            ValueError: Not a message of `Health.encode`.
        """
        findings = read_findings(message)
        self._forget_what_nobody_tells(wall_us)
        changes = []
        for finding in findings:
            key = (finding.channel_id, finding.model)
            known = self._heard[key][0] if key in self._heard else None
            newest = finding if known is None or _supersedes(finding, known) else known
            self._heard[key] = (newest, wall_us)
            before = BreakerState.CLOSED if known is None else known.state
            if newest.state is not before:
                alarm = before is BreakerState.CLOSED and newest.reason is Reason.DENIED
                changes.append(HealthChange(*key, before, newest.state, newest.reason, alarm))
        return tuple(changes)

    def conditions(self, wall_us: int) -> list[Condition]:
        """Return how everything stands that is or was in trouble, by channel and model."""
        self._forget_what_nobody_tells(wall_us)
        found = (
            Condition(
                channel_id=finding.channel_id,
                model=finding.model,
                state=finding.state,
                reason=finding.reason,
                trial_in_s=max(finding.due_us - wall_us, 0) / US_PER_S,
                openings=finding.openings,
            )
            for finding, _ in self._heard.values()
        )
        return sorted(found, key=lambda condition: condition[:2])

    def _forget_what_nobody_tells(self, wall_us: int) -> None:
        """Drop what was open in workers that are gone: no one would ever tell that it closed."""
        oldest_us = wall_us - FORGOTTEN_S * US_PER_S
        gone = [
            key
            for key, (finding, heard_us) in self._heard.items()
            if finding.state is not BreakerState.CLOSED and heard_us < oldest_us
        ]
        for key in gone:
            del self._heard[key]


def look_at(
    models: Iterable[str], conditions: Iterable[Condition]
) -> tuple[Outlook, Mapping[str, Outlook]]:
    """Return how a channel stands as a whole, and the models of which something else is true.

    The whole is as good as its best model: a channel is out only when all of it is out.

    Args:
        models: Public names of what it serves; at least one.
        conditions: Of this channel alone.
    """
    found = {condition.model: _outlook(condition) for condition in conditions}
    whole = found.get(ANY_MODEL, IN_SERVICE)
    each = {model: min(found.get(model, IN_SERVICE), whole, key=_rank) for model in models}
    best = max(each.values(), key=_rank, default=whole)
    return best, {model: o for model, o in sorted(each.items()) if o.state is not best.state}


def _outlook(condition: Condition) -> Outlook:
    if condition.state is BreakerState.CLOSED:
        return IN_SERVICE
    return Outlook(condition.state, condition.reason, condition.trial_in_s)


def _rank(outlook: Outlook) -> tuple[int, float]:
    """Order outlooks from the worst to the best: of two alike, the sooner trial is better."""
    return _GOOD[outlook.state], -(outlook.trial_in_s or 0)


def _supersedes(finding: Finding, known: Finding) -> bool:
    """Tell whether `finding` is the later one, or the original of the same one.

    Who hears of a trial takes it for a wait until the trial's deadline, and passes it on as that:
    of two findings with one deadline the half-open one is the original.
    """
    if {finding.state, known.state} == {BreakerState.OPEN, BreakerState.HALF_OPEN}:
        if abs(finding.due_us - known.due_us) <= SKEW_US:
            return finding.state is BreakerState.HALF_OPEN
    elif finding.state is known.state:
        return finding.changed_us >= known.changed_us
    return finding.changed_us > known.changed_us
