"""How fast long work goes beside what people wait for: as fast as it needs to, or half of that.

A process that waits for a processor knows by this that others want it, whoever they are and
whatever rules share it out. So who has a lot to do looks how long it had to wait while it did a bit
of it, and rests in proportion: as long as it worked on a full machine, and on an idle one just so
that it is no faster than it needs to be, since whoever comes next finds a processor free then.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

SHARE_MAX: Final = 0.1
"""Who waits for so much of the time rests as long as it worked."""
WAITING: Final = Path("/proc/thread-self/schedstat")
"""Nanoseconds on a processor, nanoseconds in wait for one, turns. Source: Linux,
Documentation/scheduler/sched-stats.rst."""


class Pace:
    """The pace of one piece of work.

    Args:
        now_s: A clock that never jumps.
        waited_s: For how long this thread has waited for a processor, ever.
    """

    def __init__(self, now_s: Callable[[], float], waited_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._waited_s = waited_s
        self.begin()

    def begin(self) -> None:
        """Begin a bit of the work."""
        self._began_s = self._now_s()
        self._waited_before_s = self._waited_s()

    def worked_s(self) -> float:
        """Return how long this bit has taken until now."""
        return self._now_s() - self._began_s

    def rest_s(self, least_s: float) -> float:
        """Return for how long to rest after this bit, which need not be over before `least_s`."""
        worked_s = self.worked_s()
        waited_s = self._waited_s() - self._waited_before_s
        return max(least_s - worked_s, min(worked_s, waited_s / SHARE_MAX), 0.0)


def read_waited_s(path: Path = WAITING) -> float:
    """Return for how long the calling thread has waited for a processor; 0.0: nobody tells."""
    try:
        return int(path.read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
