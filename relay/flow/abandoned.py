"""Answers whose client has left, read to their end without it, because their provider bills them.

    client gone --abort_bills = "full"--> read on --whole-----> charged exactly
                +--usage is due---------> read on +--too long-> charged as delivered
                +--> cancelled, charged as delivered

Its usage is due where a stream has said its last word and only the count is missing: whoever leaves
there has all of the answer. A plain answer is read on before it has begun, too: there is nothing of
it to deliver until it is whole. Nothing is kept of such an answer but its usage. Their number,
their time and their bytes are bounded (`[billing]`); what a provider bills beyond that is the
operator's.

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
from relay.stage import ASKED, COMMITTED, HEADED

SWEEP_S: Final = 0.25
DUE_S: Final = 2.0
"""What a usage takes that follows the last word; it comes within the same second."""
DUE_BYTES: Final = 64 * 1024


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
        if attempt.error is not None:
            return False
        due = call.committed and attempt.usage_is_due()
        if not due and not self._bills_on(call, attempt):
            return False
        if len(self._ends) >= self._limits.drains_max:
            return False
        now_s = clock_s()
        answer = attempt.measure(call.bytes_out, call.events_out)
        call.abandoned = Delivery(call.bytes_out, answer)
        if not self._ends:
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        limits = self._limits
        drain_s = min(DUE_S, limits.drain_s) if due else limits.drain_s
        drain_bytes = min(DUE_BYTES, limits.drain_bytes_max) if due else limits.drain_bytes_max
        self._ends[attempt] = (now_s + drain_s, attempt.bytes_in + drain_bytes)
        attempt.report = self._end
        attempt.resume()
        return True

    def _bills_on(self, call: Call, attempt: Attempt) -> bool:
        """Tell whether the provider bills the rest of an answer, and the client will pay for it."""
        if call.request.stream:
            begun = call.committed and attempt.stage is COMMITTED
        else:
            begun = attempt.stage in (ASKED, HEADED, COMMITTED)
            if call.background is not None:
                return begun  # its provider goes on whoever listens: its id has to be known
        return drains(attempt.channel.abort_bills, delivered=begun)

    def _end(self, attempt: Attempt, error: RelayError | None) -> None:
        """The answer is whole, and settled by that; or it ends here."""
        del self._ends[attempt]
        call = attempt.call
        if error is not None:
            self._asker.judge(attempt, error)
        if call.background is None or not call.background.taken:  # else it is settled when it ends
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
