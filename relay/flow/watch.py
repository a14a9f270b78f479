"""The one clock of all running calls: deadlines, stalls, keep-alive comments, revoked keys.

A sweep four times a second looks at every call, so that no call and no event needs a timer of its
own. What a sweep finds late, it finds at most a quarter of a second late.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from relay.call import Stage
from relay.config import Timeouts
from relay.errors import ChannelTimeout, DeadlineSpent, RelayError
from relay.flow.active import ActiveCall
from relay.flow.pump import Pump
from relay.wire.answer import KEEPALIVE_COMMENT

SWEEP_S: Final = 0.25


class Vigil:
    """What the watch remembers of one call between two sweeps."""

    __slots__ = ("asked_s", "call", "moved_s", "pump", "seen_bytes", "spoke_s", "unsent_bytes")

    def __init__(self, call: ActiveCall, pump: Pump, now_s: float) -> None:
        self.call = call
        self.pump = pump
        self.asked_s = now_s
        self.moved_s = now_s
        self.spoke_s = now_s
        self.seen_bytes = 0
        self.unsent_bytes = 0


class Watch:
    """All running calls of a worker."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._vigils: dict[int, Vigil] = {}
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._vigils)

    def start(self) -> None:
        """Begin to sweep."""
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(SWEEP_S, self._sweep_again)

    def stop(self) -> None:
        """Sweep no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def add(self, call: ActiveCall, pump: Pump, now_s: float) -> Vigil:
        """Watch over a call until `remove`."""
        vigil = self._vigils[call.number] = Vigil(call, pump, now_s)
        return vigil

    def remove(self, call: ActiveCall) -> None:
        """Let go of a call."""
        self._vigils.pop(call.number, None)

    def end_where(self, condition: Callable[[ActiveCall], bool], error: RelayError) -> int:
        """End every call that meets `condition` with `error`; return how many."""
        found = [vigil.call for vigil in self._vigils.values() if condition(vigil.call)]
        for call in found:
            call.end_early(error)
        return len(found)

    def _sweep_again(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_again)
        self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now_s: float) -> None:
        """Look at every call once."""
        for vigil in list(self._vigils.values()):
            if now_s - vigil.call.begun_s > self._timeouts.total_s:
                vigil.call.end_early(DeadlineSpent("The call took longer than the relay allows."))
            elif vigil.call.stage is Stage.COMMITTED:
                self._look_at_stream(vigil, now_s)
            else:
                self._look_at_attempt(vigil, now_s)

    def _look_at_attempt(self, vigil: Vigil, now_s: float) -> None:
        """Nothing real has come yet: is the attempt late, has the client waited too long?"""
        if now_s - vigil.asked_s > self._timeouts.first_byte_s:
            vigil.pump.fail(ChannelTimeout("The upstream did not begin its answer in time."))
        elif vigil.call.stream and now_s - vigil.spoke_s > self._timeouts.keepalive_comment_s:
            # A comment sends the head, but no part of an answer: another channel may still begin
            # one behind it. Only the status of a failure is lost; it is told in band.
            vigil.spoke_s = now_s
            vigil.pump.outlet.send_comment(KEEPALIVE_COMMENT)

    def _look_at_stream(self, vigil: Vigil, now_s: float) -> None:
        pump, client = vigil.pump, vigil.call.client
        if pump.bytes_in != vigil.seen_bytes:
            vigil.seen_bytes = pump.bytes_in
            vigil.moved_s = vigil.spoke_s = now_s
        elif pump.paused:
            unsent_bytes = client.unsent_bytes
            if unsent_bytes != vigil.unsent_bytes:
                vigil.unsent_bytes = unsent_bytes
                vigil.moved_s = now_s
            elif now_s - vigil.moved_s > self._timeouts.write_s:
                client.cut()
        elif now_s - vigil.moved_s > self._timeouts.gap_s:
            pump.fail(ChannelTimeout("The upstream fell silent in the middle of its answer."))
        elif vigil.call.stream and now_s - vigil.spoke_s > self._timeouts.keepalive_comment_s:
            vigil.spoke_s = now_s
            pump.outlet.send_comment(KEEPALIVE_COMMENT)
