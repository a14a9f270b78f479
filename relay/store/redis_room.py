"""Whether Redis has room for what calls can do without: it may take half of what Redis may take.

Limits live in the same Redis, and one that is full refuses their writes. Who made what, and what
was thought, is written for each call of a kind, for days: so it gives way long before that.
"""

import logging
from typing import Any, Final

from relay.clock import clock_s

LOOK_S: Final = 1.0
"""How often Redis is asked; in that time workers write some tens of MB at most."""
SHARE_MAX: Final = 0.5
ASK: Final = ("INFO", "memory")

_log = logging.getLogger(__name__)


class RedisRoom:
    """What is known of the memory of one Redis.

    Args:
        what: Is not kept while it is short, as the log says it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._looked_s = 0.0
        self.is_there = True

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask again; True once for each time."""
        now_s = clock_s()
        if now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        return True

    def hear(self, told: Any) -> None:
        """Take in what INFO says; what cannot be read changes nothing."""
        used, most = _numbers(told)
        if used is None or most is None:
            return
        there = not most or used < SHARE_MAX * most
        if there != self.is_there:
            event = "Redis has room again" if there else "Redis is half full: no more is kept"
            _log.warning(event, extra={"reason": self._what})
        self.is_there = there


def _numbers(told: Any) -> tuple[int | None, int | None]:
    """Return bytes in use, and the most there may be; 0 = as many as there are."""
    if isinstance(told, bytes):
        told = told.decode("latin-1")
    if isinstance(told, str):
        lines = (line.partition(":") for line in told.splitlines())
        told = {name: value for name, _, value in lines}
    if not isinstance(told, dict):
        return None, None
    found = [told.get(name) for name in ("used_memory", "maxmemory")]
    used, most = (int(one) if str(one).isdigit() else None for one in found)  # type: ignore[arg-type]
    return used, most
