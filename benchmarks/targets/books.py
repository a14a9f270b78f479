"""Whether every call that was made is in the request log, once: nothing lost, nothing twice."""

import time
from typing import Any, Final

from benchmarks.targets.place import Server

_WAIT_S: Final = 15.0
_PAUSE_S: Final = 0.5


class Books:
    """The request log of a target, beside what was asked of it.

    Args:
        server: It need not keep a log; then there is nothing to check.
    """

    def __init__(self, server: Server) -> None:
        self.asked = 0
        """Calls that were sent to it; to be counted by whoever sends them."""
        self._logged = server.logged
        self._before = server.logged() if server.logged is not None else 0

    def check(self) -> dict[str, Any]:
        """Return `log_rows_missing` (below 0: too many), waiting for rows that are on their way."""
        if self._logged is None:
            return {}
        until_s = time.monotonic() + _WAIT_S
        while True:
            missing = self._before + self.asked - self._logged()
            if missing <= 0 or time.monotonic() > until_s:
                return {"log_rows_missing": missing}
            time.sleep(_PAUSE_S)
