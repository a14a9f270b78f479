"""How hard pressed a worker is, and which calls it sends away for that. Pure.

Pressure is a number from 0 to 2: up to 1 that share of the calls of training lines is sent away,
above it all of those, and of standard ones all but LET_IN_MIN ** (pressure - 1). It rises with each
beat that comes late, the later the faster, and falls with each that comes in time; so the share
that is let in finds the rate that the worker can carry. What it changes shows when the calls that
run have ended: so it is changed by little while the worker is busy, and after a rise not at once
again. Bodies that take much of its memory, or calls that take many of its connections, send calls
away directly. Calls of dedicated lines are never sent away here: what they were sold bounds them.
"""

from typing import Final

BEAT_S: Final = 0.05
RISE: Final = 0.1
"""Pressure rises by this for each bound of lateness that a beat is late,"""
RISE_MAX: Final = 0.4
"""...and at most by this: one collection of garbage must not send everybody away."""
RISE_STANDARD: Final = 0.05
RISE_STANDARD_MAX: Final = 0.2
"""The same where standard calls are sent away: 18 and 44 % fewer are let in,"""
RESTS: Final = 3
"""...and then so many beats tell nothing new."""
FALL: Final = 0.04
FALL_BUSY: Final = 0.008
"""Where the worker has no time left: 3 % more are let in."""
LET_IN_MIN: Final = 0.02
PRESSURE_MAX: Final = 2.0
"""A fiftieth of the standard calls is let in always: else nothing would show that it is over."""
TAKEN_MAX: Final = (1.0, 0.8, 0.5)
"""By class: what of memory and connections may be taken before its calls are sent away; what is
left then is there for the classes above it."""
DEDICATED: Final = 0
TRAINING: Final = 2


class Pressure:
    """The pressure of one worker.

    Args:
        late_s: A beat later than this raises it; 0 = none does.
    """

    __slots__ = ("_late_s", "_owed", "_rests", "taken", "thinned", "value")

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self.value = 0.0
        self.taken = 0.0
        """What bodies take of the memory that they may take, or calls of the connections."""
        self.thinned = 1.0
        """The share of new connections that come to ask at all (limits.intake)."""
        self._rests = 0
        self._owed = [0.0, 0.0, 0.0]
        """By class: what share of a call is due to be sent away."""

    @property
    def felt(self) -> bool:
        """Whether anybody might be sent away."""
        return self.value > 0.0 or self.taken > TAKEN_MAX[TRAINING]

    @property
    def let_in(self) -> float:
        """Which share of the standard calls is not sent away."""
        return float(LET_IN_MIN ** max(self.value - 1.0, 0.0))

    def beat(self, late_s: float, taken: float, *, busy: bool = False) -> None:
        """Take in how late a beat came, and how much of memory or connections is taken.

        `busy`: the worker had no time left in it, late or not.
        """
        self.taken = taken
        rests, self._rests = self._rests, max(self._rests - 1, 0)
        if late_s > self._late_s > 0:
            if not rests:
                self._rise(late_s / self._late_s)
        else:
            self.value = max(self.value - (FALL_BUSY if busy else FALL), 0.0)

    def _rise(self, bounds: float) -> None:
        """Rise, as many bounds late."""
        if self.value < 1.0:
            self.value += min(RISE * bounds, RISE_MAX)
            return
        rise = min(RISE_STANDARD * bounds, RISE_STANDARD_MAX)
        self.value = min(self.value + rise, PRESSURE_MAX)
        self._rests = RESTS

    def sheds(self, rank: int, *, fresh: bool = False) -> bool:
        """Tell whether the next call of a class is sent away.

        Args:
            rank: 0 dedicated, 1 standard, 2 training.
            fresh: It is the first of its connection, so it is one of those that came to ask.
        """
        if rank == DEDICATED:
            return False
        if self.taken > TAKEN_MAX[rank]:
            return True
        if rank == TRAINING:
            share = min(self.value, 1.0)
        else:
            share = 1.0 - min(self.let_in / (self.thinned if fresh else 1.0), 1.0)
        owed = self._owed[rank] + share
        if owed < 1.0:
            self._owed[rank] = owed
            return False
        self._owed[rank] = owed - 1.0
        return True
