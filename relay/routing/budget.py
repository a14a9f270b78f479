"""How hard a call is tried, and how hard all calls of a worker together may be retried.

A storm is many calls retried onto channels that fail as well; it makes a bad hour of the upstream
worse. Moving the calls of one dead channel onto a healthy one is no storm, however many they are:
the healthy one sees each call once. So the budget refuses a retry only where the channel it goes to
has failed lately itself, though it counts them all; the tries and the time of a single call are
bounded always.
"""

from typing import Final

from relay.backoff import backoff_s
from relay.routing.policy import US_PER_S

WINDOW_S: Final = 10
BACKOFF_S: Final = 0.1
"""Longest wait before the second retry of a call; the first goes at once, to another channel."""
BACKOFF_S_MAX: Final = 2.0


class RetryBudget:
    """Retries of a worker: at most a share of its calls, but always a few.

    Calls and retries are counted over a window of 5 to 10 s, in two panes. Counting them, not
    those in flight, bounds the upstream's attempts: retries that fail fast are never many at once,
    however many there are in all.

    Args:
        share_max: Retries for each call that began in the window.
        retries_min: Retries in a window that are always granted.
    """

    __slots__ = ("_before", "_calls", "_pane_us", "_retries", "_retries_min", "_share_max")

    def __init__(self, share_max: float, retries_min: int) -> None:
        self._share_max = share_max
        self._retries_min = retries_min
        self._pane_us = 0
        self._calls = 0
        self._retries = 0
        self._before = (0, 0)

    def begin(self, now_us: int) -> None:
        """Note that a call begins."""
        self._roll(now_us)
        self._calls += 1

    def take(self, now_us: int, *, suspect: bool) -> bool:
        """Count a retry and return True; False, and nothing counted, where it may not be.

        Args:
            now_us: The monotonic clock.
            suspect: The channel it goes to has failed lately as well (`Health.is_suspect`): only
                such a retry needs leave.
        """
        self._roll(now_us)
        if suspect:
            calls = self._calls + self._before[0]
            retries = self._retries + self._before[1]
            if retries + 1 > max(self._share_max * calls, self._retries_min):
                return False
        self._retries += 1
        return True

    def _roll(self, now_us: int) -> None:
        width_us = WINDOW_S * US_PER_S // 2
        age_us = now_us - self._pane_us
        if age_us < width_us:
            return
        self._before = (self._calls, self._retries) if age_us < 2 * width_us else (0, 0)
        self._calls = self._retries = 0
        self._pane_us = now_us - age_us % width_us


class Effort:
    """The tries and the time that one call may still take.

    Args:
        attempts_max: Channels asked before the first event is out. A splice counts as an attempt,
            but needs none left: it has a bound of its own.
        deadline_us: When the whole call's time is spent, on the caller's monotonic clock.
    """

    __slots__ = ("attempts", "attempts_max", "deadline_us")

    def __init__(self, attempts_max: int, deadline_us: int) -> None:
        self.attempts = 0
        self.attempts_max = attempts_max
        self.deadline_us = deadline_us

    def begin(self) -> None:
        """Note that an attempt begins."""
        self.attempts += 1

    def left(self, now_us: int) -> bool:
        """Tell whether there are a try and time for another attempt."""
        return self.attempts < self.attempts_max and now_us < self.deadline_us

    def deadline_of_attempt_us(self, now_us: int, limit_s: float) -> int:
        """Return when an attempt that begins now has to show something; never past the call."""
        return min(now_us + int(limit_s * US_PER_S), self.deadline_us)

    def backoff_us(self, now_us: int, dice: float) -> int:
        """Return how long to wait before the next attempt; 0 for the first switch.

        It doubles with each attempt, and is drawn from the whole range down to 0, so that the
        calls which failed together do not come back together. It never passes the deadline.
        """
        if self.attempts <= 1:
            return 0
        wait_s = backoff_s(
            self.attempts - 1, first_s=BACKOFF_S, most_s=BACKOFF_S_MAX, jitter=1.0, dice=dice
        )
        wait_us = int(wait_s * US_PER_S)
        return max(min(wait_us, self.deadline_us - now_us), 0)
