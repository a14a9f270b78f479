r"""What a call has to pay before a channel is asked: tokens of its limits, money of its account.

    take ----> all tolls taken: ask at once
      \--> one cannot tell: pay() waits for it, in the call's own task
    update     while a long stream runs: what it has used so far
    close      once, when the call is settled: what it used in place of what was taken

A call remembers how many tolls it has paid (`ActiveCall.paid`), so that whatever ends it, each of
those is closed, and none that it never paid.
"""

from collections.abc import Sequence

from relay.flow.active import ActiveCall
from relay.flow.ports import Toll
from relay.usage import Usage


class Tolls:
    """All tolls of a worker, in the order in which a call pays them."""

    def __init__(self, tolls: Sequence[Toll]) -> None:
        self._tolls = tuple(tolls)

    def take(self, call: ActiveCall) -> bool:
        """Pay what can be paid without waiting; True when all is paid.

        Raises:
            RelayError: The call may not run.
        """
        for toll in self._tolls[call.paid :]:
            if not toll.take(call):
                return False
            call.paid += 1
        return True

    async def pay(self, call: ActiveCall) -> None:
        """Pay all, waiting where that is needed.

        Raises:
            RelayError: The call may not run.
        """
        while not self.take(call):
            await self._tolls[call.paid].wait(call)
            call.paid += 1

    def update(self, call: ActiveCall, usage: Usage) -> None:
        """Tell what a running call has used so far."""
        for toll in self._tolls[: call.paid]:
            toll.update(call, usage)

    def close(self, call: ActiveCall, usage: Usage, cost_nanos: int) -> None:
        """End what the call has paid: it used `usage`, charged at `cost_nanos`."""
        paid, call.paid = call.paid, 0
        for toll in self._tolls[:paid]:
            toll.close(call, usage, cost_nanos)
