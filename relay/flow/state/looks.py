"""How a job stands: one look at it, and at what it has made where only that tells what it used.

    its channel --> goes on | does not know it | does not answer
                --> ended --> what it used, told with its end
                          --> results: read line by line, one job's at a time, never held whole

What has ended and cannot be read is not charged: it is asked for again, and its operator is told
(control.watch.host).
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final

from relay.errors import ChannelGarbled, RelayError
from relay.flow.state.fetch import fetch, fetch_lines
from relay.model import Channel
from relay.ports import Connections
from relay.wire.state.jobs import Job, JobEnd, Results

OK: Final = 200
NOT_FOUND: Final = 404
UNREAD_S: Final = 300.0
"""What was not looked at for so long is looked after by another worker."""
UNREAD_MAX: Final = 10_000


class Looks:
    """The looks of one worker.

    Args:
        connections: The pool of upstream connections.
        clock_s: Seconds of a clock that never jumps.
    """

    def __init__(self, connections: Connections, clock_s: Callable[[], float]) -> None:
        self._connections = connections
        self._clock_s = clock_s
        self._turn = asyncio.Lock()
        self._unread: dict[str, tuple[str, float]] = {}

    async def look(
        self, channel: Channel, job: Job, name: str, input_each: int
    ) -> tuple[int, JobEnd | None]:
        """Ask how a job stands; never raises for what a provider does.

        Args:
            channel: Where it was begun.
            job: Its kind.
            name: Its id there.
            input_each: About how many tokens were sent for each of its requests.

        Returns:
            The status of the answer, 0 = there was none; and how it ended, None: it goes on, or
            what it used cannot be read now.
        """
        status, body = 0, b""
        with contextlib.suppress(RelayError, TimeoutError):
            status, body = await fetch(self._connections, channel, job.path(name), job.lines)
        end, read = (job.read_end(body) if status == OK else None), status == OK
        if end is not None and end.results is not None:
            end = await self._read(channel, job, end.results(input_each))
            read = end is not None
        if read:
            self._unread.pop(name, None)
        elif job.watched and (name in self._unread or len(self._unread) < UNREAD_MAX):
            self._unread[name] = (channel.name, self._clock_s())
        return status, end

    def unread(self) -> dict[str, int]:
        """Return channel -> how many jobs of it cannot be charged now: they cannot be read."""
        since_s = self._clock_s() - UNREAD_S
        self._unread = {name: one for name, one in self._unread.items() if one[1] > since_s}
        return dict(Counter(channel for channel, _ in self._unread.values()))

    async def _read(self, channel: Channel, job: Job, results: Results) -> JobEnd | None:
        """Read what a job has made; None: that is not possible now."""
        status = 0 if results.path else NOT_FOUND
        try:
            if results.path:
                async with self._turn:
                    status = await fetch_lines(
                        self._connections, channel, results.path, results.take, job.lines
                    )
        except ChannelGarbled:
            status = NOT_FOUND
        except (RelayError, TimeoutError):
            pass
        usage = None
        if status == OK:
            usage = results.usage()
        elif status == NOT_FOUND:
            usage = results.told
        return None if usage is None else JobEnd(usage)
