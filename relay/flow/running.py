"""The one clock of all running calls: deadlines, stalls, keep-alive comments, revoked keys.

A sweep four times a second looks at every call, so that no call and no event needs a timer of its
own. What a sweep finds late, it finds at most a quarter of a second late. Where nothing runs,
nothing is swept: a worker without calls sleeps.

What a running stream would be charged is written down every few seconds, and to find that out takes
half a millisecond where its last events are many. Of streams that began together all are due
together: a turn of the loop sees to some of them, and the others' events go out in between.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from relay.clock import clock_s
from relay.config import Timeouts
from relay.errors import ChannelTimeout, DeadlineSpent, RelayError
from relay.flow.attempts.attempt import Attempt, LastWord
from relay.flow.call import Call
from relay.flow.deadlines import DeadlineTable
from relay.stage import COMMITTED
from relay.wire.dialects.known import TABLES

SWEEP_S: Final = 0.25
CHECK_SLICE_S: Final = 0.002
"""How long a turn of the loop writes down what streams would be charged."""


class RunningCalls:
    """All running calls of a worker.

    Args:
        timeouts: How long what may take.
        checkpoint: Told of each call whose client has output, again and again.
        strike_silence: Told of an attempt that is silent for long; tells whether its call should
            move on.
        checkpoint_s: How often `checkpoint` is told.
    """

    def __init__(
        self,
        timeouts: Timeouts,
        checkpoint: Callable[[Call], None],
        strike_silence: Callable[[Attempt], bool],
        checkpoint_s: float,
    ) -> None:
        self._timeouts = timeouts
        self._deadlines = DeadlineTable(timeouts)
        self._least_s = min(timeouts.trial_first_byte_s, self._deadlines.least_s)
        self._checkpoint = checkpoint
        self._strike_silence = strike_silence
        self._checkpoint_s = checkpoint_s
        self._calls: dict[bytes, Call] = {}
        self._due: deque[Call] = deque()
        """Calls whose checkpoint is due, in their order; where there are any the loop calls."""
        self._sweeps = False
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def start(self) -> None:
        """Sweep from now on, while there are calls."""
        self._sweeps = True

    def stop(self) -> None:
        """Sweep no more."""
        self._sweeps = False
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def add(self, call: Call) -> None:
        """Watch over a call until `remove`."""
        self._calls[call.id] = call
        if self._handle is None and self._sweeps:
            self._handle = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_again)

    def remove(self, call: Call) -> None:
        """Let go of a call."""
        self._calls.pop(call.id, None)

    def calls(self) -> list[Call]:
        """Return all running calls."""
        return list(self._calls.values())

    def end_where(self, condition: Callable[[Call], bool], error: RelayError) -> int:
        """End every call that meets `condition` with `error`; return how many."""
        found = [call for call in self._calls.values() if condition(call)]
        for call in found:
            call.end_early(error)
        return len(found)

    def _sweep_again(self) -> None:
        if not self._calls:
            self._handle = None
            return
        self._handle = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_again)
        self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now_s: float) -> None:
        """Look at every call once; a bug of ours that one of them meets ends that one only."""
        unheard: Exception | None = None
        called = bool(self._due)
        for call in self.calls():
            try:
                self._look(call, now_s)
            except Exception as error:  # noqa: BLE001 - told by its attempts, or raised below
                if not _is_told(call, error):
                    unheard = error
        if self._due and not called:
            self._check_some()
        if unheard is not None:
            raise unheard

    def _look(self, call: Call, now_s: float) -> None:
        if now_s - call.begun_s > self._timeouts.total_s:
            call.end_early(DeadlineSpent("The call took longer than the relay allows."))
            return
        for attempt in list(call.open_attempts):
            if attempt.stage is COMMITTED:
                self._look_at_stream(attempt, now_s)
            else:
                self._look_at_attempt(attempt, now_s)
            if not attempt.paused:
                self._look_for_last_word(attempt, now_s)
        if call.committed and now_s - (call.checked_s or call.begun_s) > self._checkpoint_s:
            call.checked_s = now_s
            self._due.append(call)
        self._speak(call, now_s)

    def _check_some(self) -> None:
        """Have some calls' checkpoints taken, those that are due for longest first."""
        ends_s = clock_s() + CHECK_SLICE_S
        due = self._due
        try:
            while due:
                call = due.popleft()
                if call.id in self._calls:  # it may have ended meanwhile
                    self._check(call)
                if clock_s() > ends_s:
                    break
        finally:  # whatever became of one, the others are written down
            if due:
                asyncio.get_running_loop().call_soon(self._check_some)

    def _check(self, call: Call) -> None:
        try:
            self._checkpoint(call)
        except Exception as error:
            if not _is_told(call, error):
                raise

    def _look_at_attempt(self, attempt: Attempt, now_s: float) -> None:
        """Nothing real has come of it yet: is it late? Comments and pings are signs of life."""
        if attempt.bytes_in != attempt.seen_bytes:
            attempt.seen_bytes = attempt.bytes_in
            attempt.moved_s = now_s
        silent_s = now_s - max(attempt.asked_s, attempt.moved_s)
        if silent_s <= self._least_s:
            return
        late = silent_s > self._timeouts.trial_first_byte_s and self._strike_silence(attempt)
        if late or silent_s > self._deadlines.first_s(attempt):
            attempt.lapse(ChannelTimeout("The upstream did not begin its answer in time."))

    def _look_for_last_word(self, attempt: Attempt, now_s: float) -> None:
        """End an answer that is whole, where its upstream leaves the connection open.

        A protocol's own last word ends it at the second look; behind a finish reason the usage is
        waited for a little.
        """
        told_bytes = attempt.bytes_in - attempt.life_bytes
        if told_bytes != attempt.told_bytes:
            attempt.told_bytes, attempt.told_s, attempt.ended = told_bytes, now_s, None
            return
        if attempt.ended is None:
            attempt.ended = attempt.last_word()
        if attempt.ended is LastWord.DUE or attempt.error is not None:
            return
        if attempt.ended is LastWord.FINAL or now_s - attempt.told_s > self._timeouts.last_word_s:
            attempt.lapse(ChannelTimeout("The upstream never ended its answer."))

    def _look_at_stream(self, attempt: Attempt, now_s: float) -> None:
        client = attempt.call.client
        unsent_bytes = client.unsent_bytes
        if not unsent_bytes or unsent_bytes < attempt.unsent_bytes or not attempt.taken_s:
            attempt.taken_s = now_s
        attempt.unsent_bytes = unsent_bytes
        if attempt.bytes_in != attempt.seen_bytes:
            attempt.seen_bytes = attempt.bytes_in
            attempt.moved_s = now_s
            if not attempt.translates:  # else it says itself when it has sent something
                attempt.call.response.spoke_s = now_s
        elif attempt.paused:
            attempt.moved_s = attempt.taken_s
        silent_s = now_s - attempt.moved_s
        if unsent_bytes and now_s - attempt.taken_s > self._timeouts.write_s:
            client.cut()
        elif attempt.paused or silent_s <= self._least_s:
            return
        elif silent_s > self._deadlines.gap_s(attempt):
            attempt.lapse(ChannelTimeout("The upstream fell silent in the middle of its answer."))

    def _speak(self, call: Call, now_s: float) -> None:
        """Say something to the client of a silent stream.

        A comment sends the head, but no part of an answer: another channel may still begin one
        behind it. Only the status of a failure is lost; it is told in band. A client that has not
        taken what was sent before needs none, and must not seem to move by it.
        """
        response = call.response
        since_s = response.spoke_s or call.begun_s
        if (
            call.request.stream
            and not call.client.unsent_bytes
            and now_s - since_s > self._timeouts.keepalive_comment_s
        ):
            response.spoke_s = now_s
            comment = TABLES[call.head.dialect].keep_alive
            if comment is not None:
                response.send_comment(comment)


def _is_told(call: Call, error: Exception) -> bool:
    """Tell whether an attempt of the call ends it for a bug of ours that it has met."""
    heard = [one.on_fault(error) for one in list(call.open_attempts)]
    return any(heard)
