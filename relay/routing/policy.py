"""What counts against a channel, when its breaker opens for it, and for how long."""

import enum
from typing import Final

import msgspec

from relay.backoff import backoff_s
from relay.routing.table import Outcome

US_PER_S: Final = 1_000_000


class Reason(enum.StrEnum):
    """Why a breaker is open."""

    FAILING = "failing"
    LIMITED = "limited"
    """429, or an explicit Retry-After."""
    DENIED = "denied"
    """Its credential: needs an operator, so the breaker that opens raises an alarm."""


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
asking a good channel at an endpoint that it lacks, and must not take it from all others so. Nor
does FORBIDDEN, by itself: a prompt that a firewall does not like is enough for it."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """When a breaker opens, and for how long.

    A wait doubles with each opening in a row, up to its maximum, and is then cut by up to a half
    at random, so that workers do not come back in step. The promise is traffic within 120 s of
    healing, worst case, and 30 s typically. Worst is a trial that hangs until `trial_s` lets the
    next one beside it, or fails late and is waited for by `open_s_max` again; typical is half of a
    wait, and what the next call takes to come by.

    Source: docs/reliability.md, "Health".
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
        wait_s = backoff_s(openings, first_s=first_s, most_s=most_s, jitter=0.5, dice=dice)
        return int(wait_s * US_PER_S)
