"""Where bugs of ours are told: so often that nobody can fill the log with one."""

import logging
from typing import Final

from relay.clock import clock_s
from relay.errors import OwnFault

LINES_PER_S_MAX: Final = 10

_log = logging.getLogger("relay.flow")


class BugLog:
    """Tells of failures that nobody foresaw."""

    def __init__(self) -> None:
        self._second = 0
        self._told = 0
        self._untold = 0

    def tell(self, error: BaseException, request_id: str) -> None:
        """Log where a bug showed itself; its text stays out of it: it may quote the request."""
        second = int(clock_s())
        if second != self._second:
            self._second, self._told = second, 0
        self._untold += 1
        if self._told < LINES_PER_S_MAX:
            self._told += 1
            # Reduced by event_log to its class and places.
            said = {"request": request_id, "count": self._untold}
            _log.error("unexpected failure", exc_info=error, extra=said)
            self._untold = 0

    def tell_cause(self, fault: OwnFault, request_id: str) -> None:
        """Log what an attempt ended by, once; its frames hold the call, and are let go."""
        cause, fault.__cause__ = fault.__cause__, None
        if cause is not None:
            self.tell(cause, request_id)
