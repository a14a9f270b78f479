"""Answers whose client has left, read to their end without it, because their provider bills them.

    client gone --abort_bills = "full", part delivered--> read on --whole--> charged exactly
                +--> cancelled, charged as delivered          +--too long--> charged as delivered

Nothing is kept of such an answer but its usage. Their number, their time and their bytes are
bounded (`[billing]`); what a provider bills beyond that is the operator's.

Source: docs/streams.md, "Client gone".
"""

import asyncio
from collections.abc import Callable
from typing import Final

from relay.billing.hold import drains
from relay.clock import clock_s
from relay.config import Billing
from relay.errors import ClientGone, RelayError
from relay.flow.asker import Asker
from relay.flow.attempts.attempt import Attempt
from relay.flow.call import Call, Delivery
from relay.flow.settle import Settlement
from relay.stage import COMMITTED

SWEEP_S: Final = 0.25


class AbandonedAnswers:
    """All answers of a worker that are read without their client.

    Args:
        asker: Is told of the end of their attempts.
        settlement: Charges them.
        close: Called with a call when it is over.
        limits: `[billing]`.
    """

    def __init__(
        self,
        asker: Asker,
        settlement: Settlement,
        close: Callable[[Call], None],
        limits: Billing,
    ) -> None:
        self._asker = asker
        self._settlement = settlement
        self._close = close
        self._limits = limits
        self._ends: dict[Attempt, tuple[float, int]] = {}
        """Attempt -> the moment and the number of bytes at which it has to be over."""

    def __len__(self) -> int:
        return len(self._ends)

    def take_on(self, call: Call) -> bool:
        """Read on the answer of a call whose client has left, where that is worth it.

        After True the call is settled and closed from here, and nobody else may end its attempt.
        """
        if len(call.open_attempts) != 1 or call.settled or call.doom is not None:
            return False
        attempt = call.open_attempts[0]
        pays = drains(attempt.channel.abort_bills, delivered=call.committed)
        if not pays or attempt.stage is not COMMITTED or attempt.error is not None:
            return False
        if len(self._ends) >= self._limits.drains_max:
            return False
        now_s = clock_s()
        call.abandoned = Delivery(call.events_out, call.bytes_out)
        if not self._ends:
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        bytes_max = attempt.bytes_in + self._limits.drain_bytes_max
        self._ends[attempt] = (now_s + self._limits.drain_s, bytes_max)
        attempt.report = self._end
        attempt.resume()
        return True

    def _end(self, attempt: Attempt, error: RelayError | None) -> None:
        """The answer is whole, and settled by that; or it ends here."""
        del self._ends[attempt]
        call = attempt.call
        if error is not None:
            self._asker.judge(attempt, error)
        self._settlement.fail(call, _gone())
        self._asker.end(attempt)
        self._close(call)

    def _sweep(self) -> None:
        now_s = clock_s()
        for attempt, (end_s, bytes_max) in list(self._ends.items()):
            if now_s > end_s or attempt.bytes_in > bytes_max:
                attempt.fail(_gone())
        if self._ends:
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)


def _gone() -> ClientGone:
    return ClientGone("The client closed the connection.")
