"""How much of a lateness is a worker's own: not that of others on its processor.

Who waits for a processor that others have is late as well, and sends nobody away for it. Who waits
because its quota is used up did that work itself; but one such wait is how a worker with a quota
lives, and no sign that it cannot follow.
"""

import time
from typing import Final

from relay.clock import clock_s
from relay.edge.overload.quota import Quota, Waits
from relay.limits.pressure import BEAT_S

OWN_SHARE: Final = 0.6
"""What part of a beat the worker must have worked, or waited for its own quota, for its lateness to
count."""
STALE_S: Final = 1.0
"""A queue in the kernel that is so old counts whoever has the processor: its clients give up."""
WORTH_ASKING_S: Final = 0.005
"""A smaller lateness is nobody's matter."""


class OwnTime:
    """The time of one worker, from beat to beat.

    Args:
        quota: How long this process has waited for its quota.
    """

    def __init__(self, quota: Quota | None = None) -> None:
        self._quota = quota or Quota()
        self._cpu_s = 0.0
        self._waits, self._waits_s = Waits(0, 0.0), 0.0
        """What the quota said last, and when."""

    def begin(self) -> None:
        """Count from now on."""
        self._cpu_s = time.process_time()

    def own_lateness_s(self, late_s: float, queued_s: float) -> float:
        """Return how late this worker is by its own work.

        Args:
            late_s: How late a beat came.
            queued_s: For how long who was taken last had waited in the kernel.
        """
        cpu_s = time.process_time()
        worked_s, self._cpu_s = cpu_s - self._cpu_s, cpu_s
        elapsed_s = BEAT_S + late_s
        if queued_s > STALE_S:
            return queued_s
        late_s = max(late_s, queued_s)
        if late_s < WORTH_ASKING_S:
            return 0.0
        if worked_s > OWN_SHARE * elapsed_s:
            return late_s
        before, before_s = self._waits, self._waits_s
        self._waits, self._waits_s = self._quota.waits(), clock_s()
        count = self._waits.times - before.times
        waited_s = self._waits.waited_s - before.waited_s
        recent = self._waits_s - before_s < 4 * elapsed_s  # else they say nothing of now
        least_s = OWN_SHARE * max(elapsed_s, self._waits_s - before_s)
        if not recent or count <= 0 or worked_s + waited_s < least_s:
            return 0.0
        return max(late_s - waited_s / count, 0.0)
