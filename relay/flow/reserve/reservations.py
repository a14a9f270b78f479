r"""What a call has to pay before a channel is asked: tokens of its limits, money of its account.

    take ----> all reservations taken: ask at once
      \--> one cannot tell: pay() waits for it, in the call's own task
    update     while a long stream runs: what it has used so far
    close      once, when the call is settled: what it used in place of what was taken

A call remembers how many reservations it has paid (`Call.paid`), so that whatever ends it, each of
those is closed, and none that it never paid.
"""

from collections.abc import Callable, Sequence

from relay.flow.call import Call
from relay.flow.ports import Reservation
from relay.usage import Usage


class Reservations:
    """All reservations of a worker, in the order in which a call pays them."""

    def __init__(self, reservations: Sequence[Reservation]) -> None:
        self._reservations = tuple(reservations)
        self.on_background: Callable[[Call], None] | None = None
        """Refuses calls whose responses go on without them, where there are too many of those."""

    def take(self, call: Call) -> bool:
        """Pay what can be paid without waiting; True when all is paid.

        Raises:
            RelayError: The call may not run.
        """
        if call.background is not None and self.on_background is not None:
            self.on_background(call)
        for reservation in self._reservations[call.reservations_taken :]:
            if not reservation.take(call):
                return False
            call.reservations_taken += 1
        return True

    async def pay(self, call: Call) -> None:
        """Pay all, waiting where that is needed.

        Raises:
            RelayError: The call may not run.
        """
        while not self.take(call):
            await self._reservations[call.reservations_taken].wait(call)
            call.reservations_taken += 1

    def update(self, call: Call, usage: Usage) -> None:
        """Tell what a running call has used so far."""
        for reservation in self._reservations[: call.reservations_taken]:
            reservation.update(call, usage)

    def close(self, call: Call, usage: Usage, cost_nanos: int) -> None:
        """End all that the call has paid: it used `usage`, charged at `cost_nanos`.

        A bug of ours in one of them leaves none of the others open.
        """
        reservations_taken, call.reservations_taken = call.reservations_taken, 0
        fault: Exception | None = None
        for reservation in self._reservations[:reservations_taken]:
            try:
                reservation.close(call, usage, cost_nanos)
            except Exception as error:  # noqa: BLE001 - raised when all are closed
                fault = error
        if fault is not None:
            raise fault
