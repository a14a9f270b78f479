"""How many calls may run at once in overload: as many as leave the loop in time. Pure.

    late     --> fewer: a part of those that run now; then it is waited for that to show
    in time, and more room is wanted --> some more

One that ends makes room for one, so as many are let in as the worker has lately finished. A bound
on how many run follows long streams as well as short calls; one on how many begin would have let in
streams for a minute before it knew of them.
"""

from typing import Final

CALLS_MIN: Final = 16
"""So many may always run: they are not what keeps a worker late."""
FEWER: Final = 0.9
SOME: Final = 1.15
"""So much more or less is no difference."""
MORE: Final = 0.04
MORE_AT_FIRST: Final = 0.3
"""Until it was late for the first time."""
BEGINS_WITH: Final = 0.5
"""...of those that run when it begins: they are too many."""
WINDOW: Final = 4
"""Beats between two changes."""


class Allowance:
    """How many calls one worker may carry at once."""

    __slots__ = ("_beats", "_before_s", "_late_s", "_seeks", "_wanted", "calls_max")

    def __init__(self) -> None:
        self.calls_max = float(CALLS_MIN)
        self._beats = 0
        self._late_s = self._before_s = 0.0
        self._wanted = False
        self._seeks = False
        """Its bound is not known yet."""

    def begin(self, inflight: int) -> None:
        """Begin an overload with what runs now."""
        self.calls_max = max(BEGINS_WITH * inflight, float(CALLS_MIN))
        self._seeks = True
        self._beats = 0
        self._late_s = self._before_s = 0.0
        self._wanted = False

    def beat(self, late_s: float, strict_s: float, inflight: int, *, wanted: bool) -> None:
        """Take in how late a beat came, how many calls run, and whether more room was wanted."""
        self._beats += 1
        self._late_s += late_s
        self._wanted = self._wanted or wanted
        if self._beats < WINDOW:
            return
        late_s, before_s = self._late_s / WINDOW, self._before_s
        if late_s > strict_s:
            # Those above the bound have to end first, and what falls is left to fall.
            if inflight <= SOME * self.calls_max and late_s >= before_s / SOME:
                fewer = FEWER * min(self.calls_max, inflight)
                self.calls_max = max(fewer, float(CALLS_MIN))
                self._seeks = False
        elif self._wanted and SOME * inflight >= self.calls_max:
            more = MORE_AT_FIRST if self._seeks else MORE
            self.calls_max = max(self.calls_max, inflight)
            self.calls_max += max(1.0, more * self.calls_max)
        self._before_s = late_s
        self._beats = 0
        self._late_s = 0.0
        self._wanted = False
