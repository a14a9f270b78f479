"""Who is let in in overload, and when one begins and ends. Pure.

    open --- late without a break for LATE_S --> shut: strict
    shut --- in time, and nobody refused for QUIET_S --> open

Open, nobody is refused: a burst, however large, is worked off. What does not drain is overload,
and then a queue would only make all calls late: who finds no room is refused at once. Calls of
dedicated lines are always let in, and take room; training may take half of it.
"""

from typing import Final

from relay.edge.overload.allowance import Allowance
from relay.edge.overload.lateness import Lateness
from relay.limits.pressure import DEDICATED

LATE_S: Final = 1.5
STRICT_S: Final = 0.02
"""In overload a loop that is later lets in fewer."""
QUIET_S: Final = 1.0
PARTS: Final = (1.0, 1.0, 0.5)
"""By class: what of the room its calls may take."""


class Gate:
    """The gate of one worker.

    Args:
        late_s: A loop later than this is not in time; 0 = the gate is never shut.
    """

    __slots__ = (
        "_late_s",
        "_refused",
        "_refused_s",
        "_taken",
        "_wanted",
        "allowance",
        "lateness",
        "shut",
    )

    def __init__(self, late_s: float) -> None:
        self._late_s = late_s
        self.lateness = Lateness(late_s)
        self.allowance = Allowance()
        self.shut = False
        self._taken = 0
        """Calls that run, with those that were let in since they were counted."""
        self._refused = 0
        """Since the last beat."""
        self._wanted = False
        """More room was wanted since then than there was."""
        self._refused_s = 0.0
        """When anybody was refused last, as far as beats tell."""

    def beat(self, late_s: float, inflight: int, now_s: float) -> None:
        """Take in how late a beat came, and how many calls run; open or shut the gate."""
        self.lateness.note(late_s, now_s)
        if not self.shut:
            if self._late_s and self.lateness.stood_s(now_s) >= LATE_S:
                self.shut_now(inflight, now_s)
            return
        if self._refused:
            self._refused_s = now_s
        self.allowance.beat(late_s, STRICT_S, inflight, wanted=self._wanted)
        self._refused = 0
        self._wanted = False
        self.shut = now_s - self._refused_s < QUIET_S or self.lateness.mean_s > self._late_s

    def shut_now(self, inflight: int, now_s: float) -> None:
        """Begin an overload."""
        self.shut = True
        self._refused = 0
        self._refused_s = now_s
        self.allowance.begin(inflight)
        self.count(inflight)

    def count(self, inflight: int) -> None:
        """Count anew how many calls run."""
        self._taken = inflight

    def lets_in(self, rank: int, *, late: bool = False) -> bool:
        """Tell whether the next call of a class is let in; only where the gate is shut.

        Args:
            rank: 0 dedicated, 1 standard, 2 training.
            late: It has waited for so long that others who came later go before it.
        """
        full = late or self._taken >= PARTS[rank] * self.allowance.calls_max
        if full and rank != DEDICATED:
            self._refused += 1
            self._wanted = self._wanted or not late
            return False
        self._taken += 1
        return True
