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

import msgspec

from relay.routing.table import Outcome

US_PER_S: Final = 1_000_000


class State(enum.Enum):
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


class Reason(enum.StrEnum):
    """Why a breaker is open."""

    FAILING = "failing"
    LIMITED = "limited"
    """429, or an explicit Retry-After."""
    DENIED = "denied"
    """401, 402, 403: needs an operator, so the breaker that opens raises an alarm."""


class Standing(enum.IntEnum):
    """What a breaker says to a call that looks for a channel; the higher the worse."""

    READY = 0
    TRIAL = 1
    """The wait is over: one call may find out, with another channel behind it."""
    COOLING = 2


class IllegalMoveError(Exception):
    """A breaker was moved in a way that TRANSITIONS does not know: a bug of the relay."""


TRANSITIONS: Final = {
    (State.CLOSED, Signal.TRIP): State.OPEN,
    (State.OPEN, Signal.TRIAL): State.HALF_OPEN,
    (State.OPEN, Signal.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Signal.TRIAL): State.HALF_OPEN,
    (State.HALF_OPEN, Signal.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Signal.TRIP): State.OPEN,
    (State.HALF_OPEN, Signal.RELEASE): State.OPEN,
}

BLAME: Final = {
    Outcome.REFUSED: Reason.FAILING,
    Outcome.SERVER_ERROR: Reason.FAILING,
    Outcome.ERROR_EVENT: Reason.FAILING,
    Outcome.CUT: Reason.FAILING,
    Outcome.STALLED: Reason.FAILING,
    Outcome.LIMITED: Reason.LIMITED,
    Outcome.DENIED: Reason.DENIED,
}
"""The outcomes that count against a channel. MODEL_GONE does not: any client can provoke a 404 by
asking a good channel at an endpoint that it lacks, and must not take it from all others so."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """When a breaker opens, and for how long.

    A wait doubles with each opening in a row, up to its maximum, and is then cut by up to a half
    at random, so that workers do not come back in step. The promise is traffic within 120 s of
    healing, worst case, and 30 s typically. Worst is a trial that hangs until `trial_s` lets the
    next one beside it, or fails late and is waited for by `open_s_max` again; typical is half of a
    wait, and what the next call takes to come by.
    """

    strikes_max: int = 3
    """Failures in a row that open it."""
    window_s: float = 10.0
    """The failure share is taken over the last half to whole of this."""
    calls_min: int = 10
    """Calls in the window below which the share says nothing."""
    strike_share: float = 0.5
    """Failed calls in the window, of all, that open it."""
    suspect_share: float = 0.1
    """More than this, and a retry onto the channel may feed a storm. An isolated failure of a busy
    channel stays below: it must not keep the calls of a dead one from moving there."""
    open_s: float = 5.0
    open_s_max: float = 40.0
    limited_s: float = 1.0
    """First wait after a 429 that names no time: a rate limit refills by the second."""
    denied_s: float = 60.0
    """First wait after 401, 402, 403: somebody has to act before it heals."""
    denied_s_max: float = 110.0
    """With the next call to come by it stays below 120 s."""
    retry_after_s_max: float = 120.0
    """An upstream may ask for no more; the official clients give up beyond 120 s as well."""
    spent_s_max: float = 30.0
    """Longest rest for a quota that was used up without a refusal: its reset is when it is full
    again, and half a quota serves calls as well."""
    trial_s: float = 15.0
    """After this a trial without a verdict no longer keeps the next one waiting."""
    calm_s: float = 60.0
    """Closed for this long, the next opening starts from the first wait again."""

    def wait_us(
        self, reason: Reason, openings: int, *, retry_after_s: float | None, dice: float
    ) -> int:
        """Return how long the `openings`th opening in a row lasts, in microseconds.

        Args:
            reason: Why it opened.
            openings: 1 for the first.
            retry_after_s: What the upstream asked for: never cut short, but capped. 0 asks for
                nothing.
            dice: In [0, 1).
        """
        if retry_after_s:
            asked_s = min(retry_after_s * (1 + dice / 10), self.retry_after_s_max)
            return int(asked_s * US_PER_S)
        first_s, most_s = {
            Reason.FAILING: (self.open_s, self.open_s_max),
            Reason.LIMITED: (self.limited_s, self.open_s_max),
            Reason.DENIED: (self.denied_s, self.denied_s_max),
        }[reason]
        longest_s = min(first_s * 2.0 ** min(openings - 1, 16), most_s)
        return int(longest_s * (0.5 + dice / 2) * US_PER_S)


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
        self.state = State.CLOSED
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

    def standing(self, now_us: int) -> Standing:
        """Return what it says to a call that looks for a channel."""
        if self.state is State.CLOSED:
            return Standing.READY
        return Standing.TRIAL if now_us >= self.due_us else Standing.COOLING

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
        calm = self.state is State.CLOSED and now_us - self.changed_us >= calm_us
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
        return self.state is State.HALF_OPEN and self.trial_us == started_us

    def adopt(self, state: State, reason: Reason, changed_us: int, due_us: int) -> None:
        """Take over what another worker found; its running trial is a wait for us."""
        self.state = State.OPEN if state is State.HALF_OPEN else state
        self.reason = reason
        self.changed_us = changed_us
        self.opened_us = changed_us
        self.due_us = due_us
        self.strikes_in_row = self.calls = self.strikes = 0
        self.calls_before = self.strikes_before = 0
