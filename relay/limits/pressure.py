"""How hard pressed a worker is, and which calls it sends away for that. Pure.

Pressure is a number from 0 to 2: up to 1 that share of the calls of training lines is sent away,
above it all of those and the rest as a share of standard ones. It rises with each beat that comes
late, the later the faster, and falls with each that comes in time; so the share that is let in
finds the rate that the worker can carry. Bodies that take much of its memory, or calls that take
many of its connections, send calls away directly. Calls of dedicated lines are never sent away
here: what they were sold bounds them.
"""

from typing import Final

BEAT_S: Final = 0.05
RISE: Final = 0.1
"""Pressure rises by this for each bound of lateness that a beat is late,"""
RISE_MAX: Final = 0.4
"""...and at most by this: one collection of garbage must not send everybody away."""
FALL: Final = 0.04
PRESSURE_MAX: Final = 1.95
"""A twentieth of the standard calls are let in always: else nothing would show that it is over."""
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

    __slots__ = ("_late_s", "_owed", "taken", "value")

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self.value = 0.0
        self.taken = 0.0
        """What bodies take of the memory that they may take, or calls of the connections."""
        self._owed = [0.0, 0.0, 0.0]
        """By class: what share of a call is due to be sent away."""

    @property
    def felt(self) -> bool:
        """Whether anybody might be sent away."""
        return self.value > 0.0 or self.taken > TAKEN_MAX[TRAINING]

    def beat(self, late_s: float, taken: float) -> None:
        """Take in how late a beat came, and how much of memory or connections is taken."""
        self.taken = taken
        if late_s > self._late_s > 0:
            rise = min(RISE * late_s / self._late_s, RISE_MAX)
            self.value = min(self.value + rise, PRESSURE_MAX)
        else:
            self.value = max(self.value - FALL, 0.0)

    def sheds(self, rank: int) -> bool:
        """Tell whether the next call of a class is sent away.

        Args:
            rank: 0 dedicated, 1 standard, 2 training.
        """
        if rank == DEDICATED:
            return False
        if self.taken > TAKEN_MAX[rank]:
            return True
        share = min(max(self.value - (TRAINING - rank), 0.0), 1.0)
        owed = self._owed[rank] + share
        if owed < 1.0:
            self._owed[rank] = owed
            return False
        self._owed[rank] = owed - 1.0
        return True
