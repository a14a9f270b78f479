"""Where channels that go out of service and come back are told of: never so often as to fill a log.

A channel that fails and recovers with every other call changes some times a second. Of one channel
some lines a minute are told; how many were not comes with the next one.
"""

import logging
from typing import Final

from relay.clock import clock_s
from relay.model import Channel
from relay.routing.breaker import BreakerState
from relay.routing.health import HealthChange
from relay.routing.policy import Reason

LINES_MAX: Final = 10
WINDOW_S: Final = 60.0
CHANNELS_MAX: Final = 10_000

_log = logging.getLogger("relay.flow.balancer")


class _Told:
    """Lines of one channel since `since_s`."""

    __slots__ = ("lines", "since_s", "untold")

    def __init__(self, now_s: float) -> None:
        self.since_s = now_s
        self.lines = 0
        self.untold = 0


class ChannelLog:
    """Tells what a worker found out about its channels."""

    def __init__(self) -> None:
        self._told: dict[int, _Told] = {}

    def tell(self, channel: Channel, change: HealthChange) -> None:
        """Log what an operator looks for.

        A rest that an upstream asked for is daily business and not logged.
        """
        if change.reason is Reason.LIMITED:
            return
        left = change.before is BreakerState.CLOSED
        if not left and change.after is not BreakerState.CLOSED:
            return
        untold = self._count(channel.id)
        if untold is None:
            return
        extra: dict[str, object] = {"channel": channel.name}
        if untold:
            extra["count"] = untold
        if left:
            _log.warning("a channel is out of service", extra={**extra, "reason": change.reason})
        else:
            _log.warning("a channel is back in service", extra=extra)

    def _count(self, channel_id: int) -> int | None:
        """Return how many lines were left out before this one; None: it is left out too."""
        now_s = clock_s()
        told = self._told.get(channel_id)
        if told is None:
            if len(self._told) >= CHANNELS_MAX:
                self._told.clear()
            told = self._told[channel_id] = _Told(now_s)
        if now_s - told.since_s > WINDOW_S:
            told.since_s, told.lines = now_s, 0
        if told.lines >= LINES_MAX:
            told.untold += 1
            return None
        told.lines += 1
        untold, told.untold = told.untold, 0
        return untold
