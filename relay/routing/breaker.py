"""One breaker: when a channel's model is left alone, and when it is tried again.

    CLOSED     --trip-->     OPEN         three failures in a row, half of ten, a 429, a 401
    OPEN       --trial-->    HALF_OPEN    the wait is over and a call comes by
    HALF_OPEN  --success-->  CLOSED       and OPEN --success--> CLOSED, for a call of last resort
    HALF_OPEN  --trip-->     OPEN         with twice the wait
    HALF_OPEN  --release-->  OPEN         the trial ended without a verdict: the next call tries
    HALF_OPEN  --trial-->    HALF_OPEN    the trial before hangs: another one goes beside it

Every transition is in TRANSITIONS; `Breaker.move` is the only one who follows them, `adopt` takes
over what another worker found. Time and dice are arguments; times are microseconds of one
monotonic clock.
"""

import enum
from typing import Final

from relay.routing.policy import US_PER_S, Policy, Reason


class BreakerState(enum.Enum):
    """Whether calls go to the channel."""

    CLOSED = "closed"
    """In service."""
    OPEN = "open"
    """Left alone until the wait is over."""
    HALF_OPEN = "half_open"
    """One real call is finding out."""


class Signal(enum.Enum):
    """What moves a breaker."""

    TRIP = "trip"
    TRIAL = "trial"
    SUCCESS = "success"
    RELEASE = "release"
    """The trial ended without a verdict: its client left, or its request was wrong."""


class Availability(enum.IntEnum):
    """What a breaker says to a call that looks for a channel; the higher the worse."""

    READY = 0
    TRIAL = 1
    """The wait is over: one call may find out, with another channel behind it."""
    COOLING = 2


class IllegalMoveError(Exception):
    """A breaker was moved in a way that TRANSITIONS does not know: a bug of the relay."""


TRANSITIONS: Final = {
    (BreakerState.CLOSED, Signal.TRIP): BreakerState.OPEN,
    (BreakerState.OPEN, Signal.TRIAL): BreakerState.HALF_OPEN,
    (BreakerState.OPEN, Signal.SUCCESS): BreakerState.CLOSED,
    (BreakerState.HALF_OPEN, Signal.TRIAL): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, Signal.SUCCESS): BreakerState.CLOSED,
    (BreakerState.HALF_OPEN, Signal.TRIP): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, Signal.RELEASE): BreakerState.OPEN,
}


class Breaker:
    """The state of one (channel, model), and the counts that decide about it."""

    __slots__ = (
        "calls",
        "calls_before",
        "changed_us",
        "due_us",
        "opened_us",
        "openings",
        "pane_us",
        "reason",
        "state",
        "strikes",
        "strikes_before",
        "strikes_in_row",
        "trial_us",
    )

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self.reason = Reason.FAILING
        self.openings = 0
        self.changed_us = 0
        """When the state last changed; 0 = never."""
        self.opened_us = 0
        """When it last tripped: what began before says nothing about how the channel is now."""
        self.due_us = 0
        """OPEN: the end of the wait. HALF_OPEN: when the next trial may begin."""
        self.trial_us = 0
        """When the running trial began: it is known by this."""
        self.strikes_in_row = 0
        self.pane_us = 0
        self.calls = 0
        self.strikes = 0
        self.calls_before = 0
        self.strikes_before = 0

    def availability(self, now_us: int) -> Availability:
        """Return what it says to a call that looks for a channel."""
        if self.state is BreakerState.CLOSED:
            return Availability.READY
        return Availability.TRIAL if now_us >= self.due_us else Availability.COOLING

    def count(self, policy: Policy, now_us: int, *, struck: bool) -> None:
        """Note how a call went, in two panes that together are the window."""
        width_us = int(policy.window_s * US_PER_S / 2)
        age_us = now_us - self.pane_us
        if age_us >= width_us:
            kept = age_us < 2 * width_us
            self.calls_before = self.calls if kept else 0
            self.strikes_before = self.strikes if kept else 0
            self.calls = self.strikes = 0
            self.pane_us = now_us - age_us % width_us
        self.calls += 1
        if struck:
            self.strikes += 1
            self.strikes_in_row += 1
        else:
            self.strikes_in_row = 0

    def is_suspect(self, policy: Policy, now_us: int) -> bool:
        """Tell whether it failed lately, beyond what happens to any channel."""
        window_us = int(policy.window_s * US_PER_S)
        if self.openings and now_us - self.opened_us < window_us:
            return True
        calls = self.calls + self.calls_before
        strikes = self.strikes + self.strikes_before
        return now_us - self.pane_us < window_us and strikes > policy.suspect_share * calls

    def should_trip(self, policy: Policy) -> bool:
        """Tell whether the counts are bad enough to open it."""
        if self.strikes_in_row >= policy.strikes_max:
            return True
        calls = self.calls + self.calls_before
        strikes = self.strikes + self.strikes_before
        return calls >= policy.calls_min and strikes >= policy.strike_share * calls

    def move(self, signal: Signal, now_us: int) -> None:
        """Follow TRANSITIONS.

        Raises:
            IllegalMoveError: The table does not know this one.
        """
        target = TRANSITIONS.get((self.state, signal))
        if target is None:
            raise IllegalMoveError(f"{signal.name} cannot move a breaker that is {self.state.name}")
        self.state = target
        self.changed_us = now_us
        self.strikes_in_row = self.calls = self.strikes = 0
        self.calls_before = self.strikes_before = 0

    def trip(
        self,
        policy: Policy,
        reason: Reason,
        now_us: int,
        *,
        retry_after_s: float | None,
        dice: float,
    ) -> None:
        """Open it; openings in a row wait longer and longer."""
        calm_us = int(policy.calm_s * US_PER_S)
        calm = self.state is BreakerState.CLOSED and now_us - self.changed_us >= calm_us
        self.move(Signal.TRIP, now_us)
        if calm:
            self.openings = 0
        if not retry_after_s or not self.openings:
            self.openings += 1  # a wait that the upstream named says nothing about the next one
        self.reason = reason
        self.opened_us = now_us
        wait_us = policy.wait_us(reason, self.openings, retry_after_s=retry_after_s, dice=dice)
        self.due_us = now_us + wait_us

    def try_out(self, policy: Policy, now_us: int) -> None:
        """Begin a trial: the call that started at `now_us` is going to find out."""
        self.move(Signal.TRIAL, now_us)
        self.trial_us = now_us
        self.due_us = now_us + int(policy.trial_s * US_PER_S)

    def release(self, now_us: int) -> None:
        """End a trial that gave no verdict; the next call may try at once."""
        self.move(Signal.RELEASE, now_us)
        self.due_us = now_us

    def is_trial(self, started_us: int) -> bool:
        """Tell whether the call that started then is the running trial."""
        return self.state is BreakerState.HALF_OPEN and self.trial_us == started_us

    def adopt(self, state: BreakerState, reason: Reason, changed_us: int, due_us: int) -> None:
        """Take over what another worker found; its running trial is a wait for us."""
        self.state = BreakerState.OPEN if state is BreakerState.HALF_OPEN else state
        self.reason = reason
        self.changed_us = changed_us
        self.opened_us = changed_us
        self.due_us = due_us
        self.strikes_in_row = self.calls = self.strikes = 0
        self.calls_before = self.strikes_before = 0
