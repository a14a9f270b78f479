"""What share of new connections a pressed worker has the kernel let in. Pure.

To take a connection, read its head and refuse it costs a tenth of a short call. So a crowd of ten
times what a worker carries would have it do little else than refuse. It spends some 3 % of its time
on that; who comes beyond is left to the kernel, and tries again by itself.

    let in = share of connections that the kernel lets in x share of their calls that is served
"""

from typing import Final

REFUSING_SHARE: Final = 0.03
"""Of the time that a worker works, what may go into refusals."""
WEIGHT: Final = 0.1
"""Of the newest beat in the means that are gone by: one brings a handful of calls."""
CHANGE_MIN: Final = 0.15
"""A share that differs by less from the one before is not worth telling the kernel."""


class Intake:
    """The share of one worker's new connections that it takes."""

    __slots__ = ("_begun", "_worked_s", "budget", "share")

    def __init__(self) -> None:
        self.share = 1.0
        self.budget = 0.0
        """How many may be refused in a beat."""
        self._begun = self._worked_s = 0.0

    def beat(self, begun: int, worked_s: float, refusal_s: float, let_in: float) -> None:
        """Take in a beat of the worker.

        Args:
            begun: New connections in it whose calls were not sent away.
            worked_s: Processor time that the worker used.
            refusal_s: What of that a refusal takes, with its connection.
            let_in: What share of those who want to ask is to be served.
        """
        self._begun += WEIGHT * (begun - self._begun)
        self._worked_s += WEIGHT * (worked_s - self._worked_s)
        self.budget = budget = REFUSING_SHARE * self._worked_s / refusal_s
        served = self._begun / (self._begun + budget) if self._begun > 0 else 1.0
        share = min(let_in / served, 1.0)
        if share == 1.0 or abs(share - self.share) > CHANGE_MIN * self.share:
            self.share = share
