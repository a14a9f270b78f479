"""How full a worker is, and which calls it sends away for that. Pure.

Bodies that take much of its memory, or calls that take many of its connections, send calls away:
training first, then standard. Calls of dedicated lines are never sent away here: what they were
sold bounds them. A worker that is late is another matter (edge.overload).
"""

from typing import Final

BEAT_S: Final = 0.05
TAKEN_MAX: Final = (1.0, 0.8, 0.5)
"""By class: what of memory and connections may be taken before its calls are sent away; what is
left then is there for the classes above it."""
DEDICATED: Final = 0
TRAINING: Final = 2


class Pressure:
    """The pressure of one worker."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = 0.0
        """What bodies take of the memory that they may take, or calls of the connections."""

    @property
    def felt(self) -> bool:
        """Whether anybody is sent away."""
        return self.taken > TAKEN_MAX[TRAINING]

    def beat(self, taken: float) -> None:
        """Take in how much of memory or connections is taken."""
        self.taken = taken

    def sheds(self, rank: int) -> bool:
        """Tell whether calls of a class are sent away.

        `rank`: 0 dedicated, 1 standard, 2 training.
        """
        return rank != DEDICATED and self.taken > TAKEN_MAX[rank]
