"""How late the loop is, and for how long without a break. Pure.

A loop that is always full is now late, now in time, as a beat falls behind or before its large
turns: so what counts is the mean of the last beats. A burst raises it, and it falls within the
second; a queue that stands keeps it up.
"""

import math
from typing import Final

PART: Final = 0.25
"""What a beat counts of the mean."""
LATE_MAX_S: Final = 0.25
"""One beat counts at most as so late: one collection of garbage is no queue."""


class Lateness:
    """The lateness of one loop.

    Args:
        bound_s: Below it a loop is in time.
    """

    __slots__ = ("_bound_s", "_since_s", "mean_s")

    def __init__(self, bound_s: float) -> None:
        self._bound_s = bound_s
        self.mean_s = 0.0
        """Of the last beats, seconds."""
        self._since_s = math.inf
        """Since when it has been late without a break."""

    def note(self, late_s: float, now_s: float) -> None:
        """Take in how late a beat came."""
        self.mean_s += PART * (min(late_s, LATE_MAX_S) - self.mean_s)
        if self.mean_s <= self._bound_s:
            self._since_s = math.inf
        elif self._since_s == math.inf:
            self._since_s = now_s

    def stood_s(self, now_s: float) -> float:
        """Return for how long it has been late without a break, seconds."""
        return max(now_s - self._since_s, 0.0)

    def forget(self) -> None:
        """Begin anew: nothing was noted for a while."""
        self.mean_s = 0.0
        self._since_s = math.inf
