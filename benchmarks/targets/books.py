"""Whether every call that was made is in the request log, once: nothing lost, nothing twice.

Of what an account is refused the relay writes down a bounded number of rows and counts the rest
(`relay_unlogged_refusals_total`): these are told apart, so that a row that is lost is still found.
"""

import time
from typing import Any, Final

from benchmarks.targets.place import Server

WAIT_S: Final = 15.0
PUBLISHED_S: Final = 1.5
"""Workers publish what they count once a second."""
_PAUSE_S: Final = 0.5


class Books:
    """The request log of a target, beside what was asked of it.

    Args:
        server: It need not keep a log; then there is nothing to check.
        beside: Others that write into the same log.
        wait_s: How long rows may be on their way.
        published_s: How old what workers say of their counts may be.
    """

    def __init__(
        self,
        server: Server,
        *beside: Server,
        wait_s: float = WAIT_S,
        published_s: float = PUBLISHED_S,
    ) -> None:
        self._wait_s = wait_s
        self._published_s = published_s
        self.asked = 0
        """Calls that were sent to all of them; to be counted by whoever sends them."""
        self._logged = server.logged
        self._servers = (server, *beside)
        self._before = server.logged() if server.logged is not None else 0
        self._bounded_before = self._count_bounded()

    def check(self) -> dict[str, Any]:
        """Return what is not in the log, waiting for rows that are on their way.

        `log_rows_missing`: below 0 there are too many. `log_rows_bounded`: refused calls that the
        relay says it has left out of the log; only where there are any.
        """
        if self._logged is None:
            return {}
        time.sleep(self._published_s)
        bounded = self._count_bounded() - self._bounded_before
        until_s = time.monotonic() + self._wait_s
        while True:
            missing = self._before + self.asked - bounded - self._logged()
            if missing <= 0 or time.monotonic() > until_s:
                found = {"log_rows_bounded": bounded} if bounded else {}
                return {"log_rows_missing": missing, **found}
            time.sleep(_PAUSE_S)

    def _count_bounded(self) -> int:
        return sum(one.bounded() for one in self._servers if one.bounded is not None)
